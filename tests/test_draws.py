"""Draws have the probabilities that the exact rows state.

They are compared by z-scores over fixed seeds. A correct program whose seeds were chosen at random
would fail one of these comparisons with the false-alarm rate that stands beside each; with the
seeds fixed they either always pass or always fail.
"""

import numpy as np
import pytest
import scipy.stats
import torch
from collected import ARMS, collector, rows_of

import toyalign as ta
from toyalign.objectives import get_objective
from toyalign.problems import sampled
from toyalign.problems.sampled import draw
from toyalign.scoring import constants, from_table

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
