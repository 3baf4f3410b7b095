"""Data sources: what is refused, which rows are made, when they are new and what they cost."""

import numpy as np
import pytest
import torch
from collected import ARMS, collector, rows_of

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.problems.exact import preference
from toyalign.problems.sources import Collector, labelled
from toyalign.rows import Rows
from toyalign.streams import Streams

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


def test_labelled_rows_carry_half_the_weight_of_their_pair():
    pairs = Rows(
        weight=torch.tensor([[0.75, 0.25]]),
        cells=torch.tensor([[[3, 0], [2, 1]]]),
        sides=("chosen_", "rejected_"),
    )
    rows = labelled(pairs)
    assert rows.sides == ("",)
    assert rows.cells.tolist() == [[[3, 2, 0, 1]]]
    assert rows.values["labels"].tolist() == [[1, 0, 1, 0]]
    assert rows.weight.tolist() == [[0.375, 0.375, 0.125, 0.125]]


@pytest.mark.parametrize("exact", [True, False])
def test_pairs_come_with_the_rewards_that_the_loss_asks_for(exact):
    problem = ta.Bandit((0.5, 0.3, 0.2), rewards=(0.0, 1.0, 2.0))
    needs = ["chosen_logps", "chosen_rewards", "rejected_rewards"]
    streams = Streams([0, 1])
    world = problem.world(streams)
    source = ta.Source("reference", exact=exact)
    collector = Collector(source, needs, world, world.reference_logits, streams)
    rows = collector.rows(0, world.reference_logits)
    for place, side in enumerate(rows.sides):
        cells = rows.cells[:, place].expand(2, -1)
        expected = torch.tensor([0.0, 1.0, 2.0]).double()[cells]
        assert torch.equal(rows.values[f"{side}rewards"], expected)
    assert set(rows.values) == {"chosen_rewards", "rejected_rewards"}


@pytest.mark.parametrize(
    ("name", "advantage"), [("grpo", "group"), ("rloo", "rloo"), ("dr_grpo", "mean")]
)
def test_an_objective_names_the_advantages_it_wants(name, advantage):
    asked = {"steps": 3, "seeds": 2, "policy": "tabular", "problem": "near"}
    own, said, other = (
        ta.simulate(name, source=ta.Source("policy", False, advantage=kind), **asked).theta
        for kind in ("", advantage, "raw")
    )
    assert np.array_equal(own, said) and not np.array_equal(own, other)
