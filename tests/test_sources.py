"""Data sources: what is refused, what is drawn, how often, and that draws agree with exact rows.

Draws are compared with probabilities by z-scores over fixed seeds. A correct program whose seeds
were chosen at random would fail one of these comparisons with the false-alarm rate that stands
beside each; with the seeds fixed they either always pass or always fail.
"""

import numpy as np
import pytest
import scipy.stats
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.objectives import get_objective
from toyalign.problems import sampled
from toyalign.problems.exact import preference
from toyalign.problems.sampled import draw
from toyalign.problems.sources import Collector
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table
from toyalign.streams import Streams

ARMS = ta.Bandit(
    (0.3, 0.25, 0.2, 0.15, 0.1),
    rewards=(0.2, 1.0, 0.2, 0.5, 1.5),
    pairs=((1, 0), (4, 2)),
)


def collector(problem, source, objective="dpo", seeds=(0,)):
    """A collector for an objective, and the reference's log-probabilities."""
    streams = Streams(list(seeds))
    world = problem.world(streams)
    needs = get_objective(objective).needs
    return Collector(source, needs, world, world.reference_logits, streams), world


def rows_of(problem, source, objective="dpo", seeds=(0,), step=0) -> Rows:
    made, world = collector(problem, source, objective, seeds)
    return made.rows(step, world.reference_logits)


# --- what makes no sense


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"origin": "policies"}, "unknown data source 'policies'; did you mean 'policy'"),
        ({"labels": "bradley"}, "unknown labels 'bradley'; did you mean 'bradley_terry'"),
        ({"advantage": "grpo"}, "unknown advantage 'grpo'"),
        ({"prompts": -1}, "prompts must be 0 or more, not -1"),
        ({"minibatch": -2}, "minibatch must be 0 or more, not -2"),
        ({"responses": 0}, "responses must be at least 1, not 0"),
        ({"reuse": 0}, "reuse must be at least 1, not 0"),
        ({"label_noise": 0.6}, "label_noise must be between 0 and 0.5, not 0.6"),
        ({"prompts": 4}, "for drawn responses: add exact=False"),
        ({"minibatch": 4}, "for drawn responses: add exact=False"),
        ({"min_gap": 0.1}, "for drawn responses: add exact=False"),
    ],
)
def test_a_source_that_makes_no_sense(fields, message):
    with pytest.raises(ToyalignError, match=message):
        ta.Source(**fields)


@pytest.mark.parametrize(
    ("problem", "source", "objective", "message"),
    [
        (
            ta.Bandit((0.5, 0.5), prompts=3),
            ta.Source("reference", exact=False, prompts=4),
            "dpo",
            "prompts=4 per collection is not a multiple of the problem's 3 contexts",
        ),
        (
            ARMS,
            ta.Source("reference", exact=False, prompts=6, minibatch=4),
            "dpo",
            "minibatch=4 does not divide the 6 prompts",
        ),
        (
            ARMS,
            ta.Source("reference", exact=False, responses=1),
            "dpo",
            "pairs need at least 2 responses per prompt",
        ),
        (ARMS, ta.Source("fixed"), "rwr", "uses rewards needs responses"),
        (ta.Bandit((0.5, 0.5)), ta.Source("fixed"), "dpo", "no pairs of its own: give Bandit"),
        (
            ta.far(prompts=11),
            ta.Source("reference"),
            "dpo",
            r"100 arms in 11 context\(s\) are 110,000 rows",
        ),
    ],
)
def test_rows_that_cannot_be_had(problem, source, objective, message):
    with pytest.raises(ToyalignError, match=message):
        rows_of(problem, source, objective)


# --- exact rows


def test_exact_pairs_are_all_ordered_pairs():
    rows = rows_of(ta.Bandit((0.5, 0.3, 0.2), rewards=(0.0, 1.0, 1.0)), ta.Source("reference"))
    weight = {
        (chosen, rejected): value
        for chosen, rejected, value in zip(
            *rows.cells[0].tolist(), rows.weight[0].tolist(), strict=True
        )
    }
    # Twice p p' where the first is better, once where the two are equal in reward, else nothing.
    assert weight[1, 0] == pytest.approx(2 * 0.3 * 0.5)
    assert weight[0, 1] == 0
    assert weight[1, 2] == weight[2, 1] == pytest.approx(0.3 * 0.2)
    assert weight[0, 0] == pytest.approx(0.25)
    assert sum(weight.values()) == pytest.approx(1)


@pytest.mark.parametrize("labels", ["reward", "bradley_terry"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_exact_weights_sum_to_one(labels, noise):
    source = ta.Source("reference", labels=labels, label_noise=noise)
    rows = rows_of(ta.Bandit((0.5, 0.3, 0.2), rewards=(0.0, 1.0, 3.0), prompts=2), source)
    assert rows.weight.sum().item() == pytest.approx(1)
    assert rows.count == 2 * 9
    assert (rows.cells[0, 0] // 3 == rows.cells[0, 1] // 3).all()  # never across contexts


def test_preference():
    better = torch.tensor([2.0, 0.0, -2.0], dtype=torch.float64)
    assert preference(better, "reward", 0.0).tolist() == [1, 0.5, 0]
    assert preference(better, "reward", 0.1).tolist() == pytest.approx([0.9, 0.5, 0.1])
    sigmoid = 1 / (1 + np.exp(-2))
    found = preference(better, "bradley_terry", 0.1).tolist()
    assert found == pytest.approx([0.8 * sigmoid + 0.1, 0.5, 0.9 - 0.8 * sigmoid])


def test_own_pairs_with_noise_have_both_labels():
    rows = rows_of(ARMS, ta.Source("fixed", label_noise=0.25))
    assert rows.cells.tolist() == [[[1, 4, 0, 2], [0, 2, 1, 4]]]
    assert rows.weight.tolist() == [[0.375, 0.375, 0.125, 0.125]]


def test_demonstrations_from_pairs_are_the_winners():
    source = ta.Source("reference")
    pairs, winners = rows_of(ARMS, source, "dpo"), rows_of(ARMS, source, "sft")
    assert winners.sides == ("",)
    assert torch.equal(winners.cells[:, 0], pairs.cells[:, 0])
    assert torch.equal(winners.weight, pairs.weight)


def test_raw_advantages_have_a_row_for_every_run():
    source = ta.Source("policy", advantage="raw")
    rows = rows_of(ARMS, source, "reinforce", seeds=range(3))
    assert rows.values["advantages"].shape == (3, 5)


# --- draws against exact rows


def table_gradients(objective: str, source: ta.Source, seeds) -> np.ndarray:
    """Gradient of the weighted loss on the policy's table of log-probabilities, [seed, arm]."""
    made, world = collector(ARMS, source, objective, seeds)
    card = get_objective(objective)
    # A policy off the reference, so that nothing cancels by symmetry.
    logits = world.reference_logits + torch.tensor([0.5, -0.3, 0.2, 0.0, -0.4])
    policy = torch.log_softmax(logits, -1)
    rows = made.rows(0, policy)
    leaf = policy.clone().requires_grad_()
    fixed = constants(card.needs, rows, world.reference_logits, world.actions)
    moving = [name for name in card.needs if name not in fixed]
    tensors = {**fixed, **from_table(moving, rows, leaf, world.actions)}
    loss = (rows.weight * card.fn(**tensors)).sum()
    (grad,) = torch.autograd.grad(loss, leaf)
    return grad.numpy()


def largest_z(drawn: np.ndarray, expected: np.ndarray) -> float:
    """How many standard errors the mean over seeds [seed, arm] lies from what is expected."""
    error = drawn.std(0, ddof=1) / len(drawn) ** 0.5
    random = error > 1e-12
    np.testing.assert_allclose(drawn.mean(0)[~random], expected[~random], atol=1e-12)
    return np.abs((drawn.mean(0) - expected)[random] / error[random]).max()


@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        ("dpo", {"origin": "reference", "responses": 3}),
        ("dpo", {"origin": "policy", "responses": 2}),
        ("dpo", {"origin": "reference", "labels": "bradley_terry", "label_noise": 0.2}),
        ("dpo", {"origin": "fixed", "label_noise": 0.2}),
        ("sft", {"origin": "fixed"}),
        ("sft", {"origin": "reference", "responses": 2}),
        ("rwr", {"origin": "reference"}),
        ("rwr", {"origin": "policy", "responses": 1}),
        ("best_of_n", {"origin": "reference", "responses": 4}),
        ("reinforce", {"origin": "policy", "advantage": "baseline"}),
        ("reinforce", {"origin": "policy", "advantage": "raw"}),
        ("reinforce", {"origin": "policy", "advantage": "rloo", "responses": 4}),
        ("reinforce_kl", {"origin": "policy", "responses": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value.values())),
)
def test_drawn_rows_agree_with_exact_rows(objective, fields):
    # 13 cases times 5 arms, |z| < 4.5: false alarm 13 * 5 * 6.8e-6 = 4.4e-4.
    (exact,) = table_gradients(objective, ta.Source(**fields), [0])
    drawn = table_gradients(objective, ta.Source(**fields, exact=False, prompts=4), range(3000))
    assert largest_z(drawn, 0 * exact) > 20  # there are enough draws to see a gradient
    assert largest_z(drawn, exact) < 4.5


def test_the_agreement_test_can_fail():
    # The group mean contains the sample itself, which shrinks the gradient by 1 - 1/N: that bias
    # of a quarter is far outside the bound.
    fields = {"origin": "policy", "advantage": "mean", "responses": 4}
    (exact,) = table_gradients("reinforce", ta.Source(**fields), [0])
    drawn = table_gradients("reinforce", ta.Source(**fields, exact=False, prompts=4), range(3000))
    assert largest_z(drawn, exact) > 4.5
    assert largest_z(drawn, 0.75 * exact) < 4.5


# --- drawing


@pytest.mark.parametrize("actions", [2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100, 127, 128, 129])
def test_bisection_chooses_what_searchsorted_chooses(monkeypatch, actions):
    random = np.random.default_rng(actions)
    probabilities = random.dirichlet(np.full(actions, 0.3), size=7)
    probabilities[0, : actions // 2] = 0  # impossible arms
    probabilities[0] /= probabilities[0].sum()
    probabilities[1] = np.eye(actions)[actions - 1]
    uniforms = random.random((7, 200))
    uniforms[:, 0], uniforms[:, 1] = 0.0, np.nextafter(1.0, 0.0)
    uniforms[2, 2] = probabilities[2].cumsum()[0]  # exactly on an edge
    tables, drawn = torch.from_numpy(probabilities), torch.from_numpy(uniforms)
    monkeypatch.setattr(sampled, "_BISECT_FROM", 10**9)
    searched = draw(tables, drawn)
    monkeypatch.setattr(sampled, "_BISECT_FROM", 0)
    bisected = draw(tables, drawn)
    assert torch.equal(searched, bisected)
    assert (tables.gather(1, searched) > 0).all()
    assert searched[1].unique().tolist() == [actions - 1]


@pytest.mark.parametrize("bisect_from", [0, 10**9])
def test_frequencies_are_the_probabilities(monkeypatch, bisect_from):
    monkeypatch.setattr(sampled, "_BISECT_FROM", bisect_from)
    probabilities = torch.tensor([[0.5, 0.25, 0.0, 0.15, 0.1]], dtype=torch.float64)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, 20_000)))
    counts = torch.bincount(draw(probabilities, uniforms)[0], minlength=5).numpy()
    assert counts[2] == 0
    kept = [0, 1, 3, 4]
    # false alarm 1e-4 for each of the two
    test = scipy.stats.chisquare(counts[kept], 20_000 * probabilities[0, kept].numpy())
    assert test.pvalue > 1e-4


def test_fixed_pairs_are_drawn_alike():
    source = ta.Source("fixed", exact=False, prompts=10_000)
    rows = rows_of(ARMS, source)
    assert rows.count == 10_000
    first = (rows.cells[0, 0] == 1).double().mean().item()
    assert set(map(tuple, rows.cells[0].T.tolist())) == {(1, 0), (4, 2)}
    assert abs(first - 0.5) < 4.5 * 0.5 / 100  # false alarm 6.8e-6


def test_demonstrations_are_drawn_alike():
    rows = rows_of(ARMS, ta.Source("fixed", exact=False, prompts=10_000), "sft")
    assert set(rows.cells.flatten().tolist()) == {1, 4}
    share = (rows.cells == 1).double().mean().item()
    assert abs(share - 0.5) < 4.5 * 0.5 / 100  # false alarm 6.8e-6


# --- labels


def wins_of_arm_one(**fields) -> float:
    """How often the better of two arms is the chosen one, among 10,000 unequal pairs or so."""
    problem = ta.Bandit((0.5, 0.5), rewards=(0.0, 1.0))
    source = ta.Source("reference", exact=False, prompts=20_000, responses=2, **fields)
    rows = rows_of(problem, source)
    chosen, rejected = rows.cells[0]
    return (chosen[chosen != rejected] == 1).double().mean().item()


@pytest.mark.parametrize(
    ("fields", "probability"),
    [
        ({}, 1.0),
        ({"label_noise": 0.2}, 0.8),
        ({"labels": "bradley_terry"}, 1 / (1 + np.exp(-1))),
        ({"labels": "bradley_terry", "label_noise": 0.2}, 0.6 / (1 + np.exp(-1)) + 0.2),
    ],
)
def test_how_often_the_better_answer_is_chosen(fields, probability):
    error = (probability * (1 - probability) / 9_700) ** 0.5
    # false alarm 6.8e-6 each
    assert abs(wins_of_arm_one(**fields) - probability) <= 4.5 * error


def test_all_pairs_of_a_group_are_formed():
    rows = rows_of(ARMS, ta.Source("reference", exact=False, prompts=3, responses=4))
    assert rows.count == 3 * 6
    reward = torch.tensor(ARMS.rewards)
    assert (reward[rows.cells[0, 0]] >= reward[rows.cells[0, 1]]).all()


def test_min_gap_drops_pairs_that_are_nearly_equal():
    source = ta.Source("reference", exact=False, prompts=50, responses=3, min_gap=0.6)
    rows = rows_of(ARMS, source, seeds=range(4))
    reward = torch.tensor(ARMS.rewards)
    gap = reward[rows.cells[:, 0]] - reward[rows.cells[:, 1]]
    assert ((rows.weight > 0) == (gap >= 0.6)).all()
    np.testing.assert_allclose(rows.weight.sum(1), 1, atol=1e-12)
    kept = rows.weight[0][rows.weight[0] > 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))


def test_min_gap_that_drops_everything_leaves_nothing_to_learn():
    source = ta.Source("reference", exact=False, prompts=2, responses=2, min_gap=10.0, minibatch=1)
    traj = ta.simulate("dpo", ARMS, source=source, steps=5)
    assert np.array_equal(traj.log_probs[-1], traj.log_probs[0])


# --- minibatches and freshness

PROMPTS = 8


def batches(objective: str, source: ta.Source, steps: int, seeds=(0, 1)) -> list[Rows]:
    problem = ta.Bandit((0.5, 0.3, 0.2), rewards=(0.0, 1.0, 2.0), prompts=PROMPTS)
    made, world = collector(problem, source, objective, seeds)
    return [made.rows(step, world.reference_logits) for step in range(steps)]


def prompts_of(rows: Rows, run: int) -> list[int]:
    return (rows.cells[run, 0] // 3).tolist()


@pytest.mark.parametrize(("objective", "per_prompt"), [("rwr", 3), ("dpo", 3)])
def test_every_pass_visits_every_prompt_once(objective, per_prompt):
    source = ta.Source("reference", exact=False, responses=3, minibatch=2)
    made = batches(objective, source, steps=12)
    orders = []
    for run in (0, 1):
        for start in (0, 4, 8):
            visited = [p for rows in made[start : start + 4] for p in prompts_of(rows, run)]
            assert sorted(visited) == sorted(list(range(PROMPTS)) * per_prompt)
            orders.append(tuple(visited))
    assert len(set(orders)) == 6  # a new order on every pass and in every run
    for rows in made:
        assert rows.count == 2 * per_prompt
        np.testing.assert_allclose(rows.weight.sum(1), 1, atol=1e-12)


def test_a_minibatch_keeps_rewards_with_their_responses():
    source = ta.Source("reference", exact=False, responses=3, minibatch=2)
    for rows in batches("rwr", source, steps=4):
        assert torch.equal(rows.values["rewards"], (rows.cells[:, 0] % 3).double())


def collected(rows: list[Rows]) -> list[tuple[int, ...]]:
    """The responses of each pass over a collection, whatever their order."""
    passes = [torch.cat([r.cells[0, 0] for r in rows[i : i + 4]]) for i in range(0, len(rows), 4)]
    return [tuple(responses.sort().values.tolist()) for responses in passes]


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"origin": "policy", "reuse": 3}, [1, 1, 1, 2, 2, 2]),
        ({"origin": "policy"}, [1, 2, 3, 4, 5, 6]),
        ({"origin": "reference"}, [1, 1, 1, 1, 1, 1]),
        ({"origin": "reference", "fresh": True, "reuse": 2}, [1, 1, 2, 2, 3, 3]),
    ],
)
def test_when_a_new_collection_is_drawn(fields, same):
    source = ta.Source(**fields, exact=False, responses=5, minibatch=2)
    found = collected(batches("rwr", source, steps=24))
    for i in range(6):
        for j in range(6):
            assert (found[i] == found[j]) == (same[i] == same[j])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # 8 prompts with 5 responses; 4 steps per pass
        ({"origin": "policy", "reuse": 3}, {0: 0, 1: 40, 12: 40, 13: 80, 24: 80}),
        ({"origin": "policy"}, {0: 0, 1: 40, 4: 40, 5: 80, 24: 240}),
        ({"origin": "reference"}, {0: 0, 1: 40, 24: 40}),
        ({"origin": "reference", "fresh": True, "reuse": 2}, {0: 0, 8: 40, 9: 80, 24: 120}),
    ],
)
def test_reward_queries(fields, expected):
    problem = ta.Bandit((0.5, 0.3, 0.2), rewards=(0.0, 1.0, 2.0), prompts=PROMPTS)
    source = ta.Source(**fields, exact=False, responses=5, minibatch=2)
    made, _ = collector(problem, source, "rwr")
    assert {step: made.queries(step) for step in expected} == expected


@pytest.mark.parametrize(
    ("objective", "source"),
    [("dpo", ta.Source("fixed", exact=False)), ("rwr", ta.Source("reference"))],
)
def test_data_that_needs_no_judge_costs_no_queries(objective, source):
    made, _ = collector(ARMS, source, objective)
    assert made.queries(10) == 0


def test_an_exact_policy_source_is_renewed_with_the_policy():
    made, world = collector(ARMS, ta.Source("policy"), "reinforce")
    first = made.rows(0, world.reference_logits)
    uniform = torch.full((1, 5), 0.2, dtype=torch.float64).log()
    second = made.rows(1, uniform)
    np.testing.assert_allclose(first.weight[0], ARMS.reference, atol=1e-15)
    np.testing.assert_allclose(second.weight[0], 0.2, atol=1e-15)
    assert torch.equal(second.behaviour, uniform)


def test_distributions_have_a_row_for_every_context():
    rows = rows_of(ta.Bandit((0.5, 0.5), target=(0.9, 0.1), prompts=3), ta.Source(), "jsd")
    assert rows.count == 3
    np.testing.assert_allclose(rows.values["target_log_probs"].exp()[0], [[0.9, 0.1]] * 3)
