"""The bandit: its numbers in closed form, its arrays, and the world it makes."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.measures import entropy
from toyalign.problems import PROBLEMS, get_problem
from toyalign.problems.bandit import gaussian_reward, squashed_cauchy
from toyalign.streams import Streams

SMALL = (0.5, 0.3, 0.2)


# --- the 100-arm bandit


def test_reference_of_the_100_arms():
    reference = squashed_cauchy()
    assert reference.sum() == pytest.approx(1, abs=1e-12)
    assert entropy(np.log(reference)) == pytest.approx(4.117, abs=5e-4)
    for arm, probability in ((0, 0.0781), (20, 0.0243), (70, 0.0021)):
        assert reference[arm] == pytest.approx(probability, abs=5e-5)


def test_reference_is_a_difference_of_the_distribution_function():
    # Bin 50 is [0, .02]: with F(x) = 1/2 + atan((atanh(x) + .7) / .4) / pi
    upper, lower = (0.5 + np.arctan((np.arctanh(x) + 0.7) / 0.4) / np.pi for x in (0.02, 0.0))
    assert squashed_cauchy()[50] == pytest.approx(upper - lower, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "peak", "expected", "best_of_ten"),
    [(ta.far, 70, 0.0390, 0.3135), (ta.near, 20, 0.3772, 0.9401)],
)
def test_far_and_near(make, peak, expected, best_of_ten):
    problem = make()
    assert problem.arms == 100
    assert problem.rewards.argmax() == peak
    assert problem.rewards[peak] == 1
    assert problem.rewards[peak + 10] == pytest.approx(np.exp(-1), abs=1e-15)
    assert problem.reference @ problem.rewards == pytest.approx(expected, abs=5e-5)
    assert problem.best_of(1) == pytest.approx(expected, abs=5e-5)
    assert problem.best_of(10) == pytest.approx(best_of_ten, abs=5e-5)


@pytest.mark.parametrize("make", [ta.far, ta.near])
def test_best_of_is_the_area_above_the_distribution_of_the_best(make):
    # E[max] = integral of P(max > r) over r from 0 to 1: a step function between the rewards.
    problem = make()
    levels = np.concatenate([[0.0], np.unique(problem.rewards)])
    above = [1 - problem.reference[problem.rewards <= level].sum() ** 10 for level in levels[:-1]]
    assert problem.best_of(10) == pytest.approx(np.diff(levels) @ above, abs=1e-12)


def test_best_of_counts_every_draw():
    # Rewards 0, 1, 1 with probabilities 1/2, 3/10, 1/5: the best of two is 0 only for two zeros.
    problem = ta.Bandit(SMALL, rewards=(0, 1, 1))
    assert problem.best_of(2) == pytest.approx(0.75, abs=1e-15)
    assert problem.best_of(200) == pytest.approx(1, abs=1e-15)


def test_optimum_tilts_the_reference():
    # exp(R / beta) = (1, 2, 4) for beta = 1/2: weights (.5, .6, .8) over 1.9
    problem = ta.Bandit(SMALL, rewards=np.log([1, 2, 4]) / 2)
    np.testing.assert_allclose(problem.optimum(0.5), np.array([5, 6, 8]) / 19, atol=1e-15)
    np.testing.assert_allclose(problem.optimum(1e9), SMALL, atol=1e-8)
    assert problem.optimum(1e-3)[2] == pytest.approx(1, abs=1e-12)


def test_gaussian_reward_width():
    assert gaussian_reward(5, peak=2, width=2.0).tolist() == pytest.approx(
        [np.exp(-1), np.exp(-0.25), 1, np.exp(-0.25), np.exp(-1)]
    )


# --- named problems


@pytest.mark.parametrize("name", [n for n in PROBLEMS if isinstance(get_problem(n), ta.Bandit)])
def test_every_named_bandit_is_complete(name):
    problem = get_problem(name)
    assert problem.name == name
    assert problem.reference.sum() == pytest.approx(1)
    assert np.ptp(problem.rewards) > 0
    assert PROBLEMS[name].__doc__
    assert getattr(ta, name)().arms == problem.arms


def test_a_hyphen_in_a_name_is_an_underscore():
    assert get_problem("two-modes").name == "two_modes"
    with pytest.raises(ToyalignError, match="unknown problem 'fra'; did you mean 'far'"):
        get_problem("fra")


def test_a_problem_from_a_users_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import toyalign as ta\n\ndef coin():\n    return ta.Bandit((0.5, 0.5))\n")
    assert get_problem(f"{path}:coin").arms == 2


def test_adjacent_arms():
    problem = ta.adjacent_arms()
    assert problem.pairs == ((4, 5),)
    assert problem.rewards.argmax() == 4
    assert problem.reference.argmax() == 2  # two to the left of the chosen arm
    with pytest.raises(ToyalignError, match="at least 3 arms, not 2"):
        ta.adjacent_arms(arms=2)


def test_two_modes():
    problem = ta.two_modes()
    left, right = problem.target[5], problem.target[15]
    assert left == pytest.approx(right, rel=1e-9)
    assert problem.reference[5] > 10 * problem.reference[15]


def test_named_problems_take_changes():
    assert ta.far(prompts=3, state_size=2).prompts == 3
    assert ta.two_modes(arms=8, temperature=0.5).temperature == 0.5


# --- arrays that make no sense


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"reference": (0.5, 0.4)},
            "must be probabilities that sum to 1; these sum to 0.9",
        ),
        ({"reference": (1.2, -0.2)}, "the smallest is -0.2"),
        ({"reference": (1.0, 0.0)}, "reference probabilities must be positive"),
        ({"reference": (np.nan, 0.5)}, "reference must be probabilities"),
        ({"reference": (1.0,)}, "at least two probabilities"),
        ({"reference": ((0.5, 0.5),)}, "at least two probabilities"),
        ({"rewards": (1.0, 2.0)}, r"rewards has shape \(2,\), but the reference has 3 arms"),
        ({"rewards": (1.0, np.nan, 0.0)}, "rewards must be finite"),
        ({"target": (0.5, 0.5)}, r"target has shape \(2,\), but the reference has 3 arms"),
        ({"target": (0.5, 0.5, 0.5)}, "target must be probabilities that sum to 1"),
        ({"pairs": ((0, 3),)}, r"pair \(0, 3\) is not a \(chosen, rejected\) pair of arms 0..2"),
        ({"pairs": ((-1, 1),)}, r"pair \(-1, 1\) is not"),
        ({"prompts": 0}, "at least one prompt, not 0"),
    ],
)
def test_bad_arrays(arrays, message):
    with pytest.raises(ToyalignError, match=message):
        ta.Bandit(**{"reference": SMALL, **arrays})


def test_arrays_are_normalised_and_kept_apart():
    problem = ta.Bandit(np.array([0.5, 0.5 + 1e-7]))
    assert problem.reference.sum() == 1
    assert problem.rewards.tolist() == [0, 0]


# --- the world


def world(problem: ta.Bandit, seeds=(0, 1)):
    return problem.world(Streams(seeds))


def test_world_of_a_plain_bandit():
    made = world(ta.Bandit(SMALL, rewards=(0.0, 1.0, 2.0), temperature=0.5))
    assert (made.contexts, made.actions, made.cells, made.runs) == (1, 3, 3, 2)
    np.testing.assert_allclose(made.reference_logits.exp(), [SMALL, SMALL], atol=1e-15)
    assert made.rewards.tolist() == [[0, 1, 2]]
    optimum = ta.Bandit(SMALL, rewards=(0.0, 1.0, 2.0)).optimum(0.5)
    np.testing.assert_allclose(made.target_log_probs.exp()[0], optimum, atol=1e-15)
    np.testing.assert_allclose(made.demonstrations[0], optimum, atol=1e-15)
    assert made.pairs is None
    assert made.states is None


def test_demonstrations_are_the_chosen_arms_of_the_pairs():
    made = world(ta.Bandit(SMALL, pairs=((0, 1), (0, 2), (1, 2))))
    np.testing.assert_allclose(made.demonstrations, [[2 / 3, 1 / 3, 0]], atol=1e-15)
    assert made.pairs.tolist() == [[[0, 0, 1], [1, 2, 2]]]


def test_a_given_target_is_what_is_demonstrated():
    made = world(ta.Bandit(SMALL, pairs=((0, 1),), target=(0.1, 0.2, 0.7)))
    np.testing.assert_allclose(made.demonstrations, [[0.1, 0.2, 0.7]], atol=1e-15)


def test_contexts_repeat_the_bandit():
    problem = ta.Bandit(SMALL, pairs=((0, 1),), prompts=2, state_size=4, unseen=3)
    made = world(problem)
    assert made.cells == 6
    assert made.pairs.tolist() == [[[0, 3], [1, 4]]]
    assert made.demonstrations.sum().item() == pytest.approx(1)
    assert made.states.shape == (2, 2, 4)
    assert made.unseen_states.shape == (2, 3, 4)
    assert ((made.states >= 0) & (made.states < 1)).all()
    assert not torch.equal(made.states[0], made.states[1])


def test_unseen_contexts_do_not_change_the_seen_ones():
    few, many = (world(ta.Bandit(SMALL, state_size=4, unseen=n)) for n in (0, 5))
    assert few.unseen_states is None
    assert torch.equal(few.states, many.states)


def test_spread_gives_every_seed_a_start_of_its_own():
    made = world(ta.Bandit(SMALL, spread=0.7), seeds=range(400))
    assert not torch.equal(made.reference_logits[0], made.reference_logits[1])
    np.testing.assert_allclose(made.reference_logits.exp().sum(1), 1, atol=1e-12)
    # Differences of logits have standard deviation .7 sqrt(2); 400 seeds know it to about 4 %.
    gap = made.reference_logits[:, 0] - made.reference_logits[:, 1] - np.log(0.5 / 0.3)
    assert gap.std().item() == pytest.approx(0.7 * np.sqrt(2), rel=0.15)
    assert abs(gap.mean().item()) < 4 * 0.7 * np.sqrt(2) / 20
    again = world(ta.Bandit(SMALL, spread=0.7), seeds=(399,))
    assert torch.equal(again.reference_logits[0], made.reference_logits[399])
