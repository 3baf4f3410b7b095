"""Measures by hand, with their units, and what they do with a run that has ended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toyalign import measures
from toyalign.trajectory import UNITS

P = np.log([0.5, 0.25, 0.25])
Q = np.log([0.25, 0.25, 0.5])
LOG2 = np.log(2)


def test_expected_reward():
    assert measures.expected_reward(P, [1, 2, 4]) == pytest.approx(2)


def test_kl_both_ways():
    r = np.log([0.5, 0.5, 0.0 + 1e-300])
    assert measures.kl(P, Q) == pytest.approx(0.25 * LOG2)
    assert measures.kl(P, P) == 0
    # 1/2 log(1) + 1/2 log(2) one way; the other way pays dearly for the missing arm
    assert measures.kl(r, P) == pytest.approx(0.5 * LOG2)
    assert measures.kl(P, r) > 100


def test_kl_of_arms_without_probability():
    with np.errstate(divide="ignore"):
        sure = np.log([1.0, 0.0])
    half = np.log([0.5, 0.5])
    assert measures.kl(sure, half) == pytest.approx(LOG2)
    assert measures.kl(half, sure) == np.inf
    assert measures.kl(sure, sure) == 0


def test_entropy_in_nats():
    assert measures.entropy(P) == pytest.approx(1.5 * LOG2)
    assert measures.entropy(np.log(np.full(100, 0.01))) == pytest.approx(np.log(100))


def test_total_variation():
    assert measures.total_variation(P, Q) == pytest.approx(0.25)
    assert measures.total_variation(P, P) == 0


def test_mass_moved_since_the_first_record():
    moved = measures.mass_moved(np.array([[P, Q], [Q, Q], [P, P]]))
    np.testing.assert_allclose(moved, [[0, 0], [0.25, 0], [0, 0.25]])


def test_mass_on_arms():
    assert measures.mass_on(P, [0, 2]) == pytest.approx(0.75)
    assert measures.mass_on_neither(P, [(0, 2)]) == pytest.approx(0.25)
    # an arm that is in several pairs counts once
    assert measures.mass_on_neither(P, [(0, 2), (0, 1)]) == pytest.approx(0)


def test_steps_to_a_level_interpolates():
    steps = [0, 10, 100]
    values = np.array([[0.0, 0.0, 5.0, 0.0], [1.0, 0.0, 5.0, 4.0], [2.0, 0.0, 5.0, 2.0]])
    found = measures.steps_to(steps, values, 1.5)
    np.testing.assert_allclose(found, [55, np.inf, 0, 3.75])


def test_steps_to_a_level_of_its_own_for_every_run():
    found = measures.steps_to([0, 4], np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0.5, 1.0]))
    np.testing.assert_allclose(found, [2, 4])


def test_steps_to_a_level_that_a_run_has_not_reached_when_it_ended():
    found = measures.steps_to([0, 1, 2], np.array([[0.0], [0.5], [np.nan]]), 0.9)
    assert found.tolist() == [np.inf]


def test_slope_per_step():
    found = measures.slope([0, 2, 10], np.array([[1.0, 0.0], [2.0, 0.0], [-2.0, 8.0]]))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], [[0.5, 0], [-0.5, 1]])


PAIRS = [(0, 1), (2, 1)]


def test_margin_is_a_mean_over_pairs():
    # ratios: (log 2, 0, -log 2)
    np.testing.assert_allclose(measures.log_ratio(P, Q), [LOG2, 0, -LOG2], atol=1e-15)
    assert measures.margin(P, Q, PAIRS[:1]) == pytest.approx(LOG2)
    assert measures.margin(P, Q, PAIRS) == pytest.approx(0, abs=1e-15)


def test_preference_accuracy():
    assert measures.preference_accuracy(P, Q, PAIRS) == 0.5
    assert measures.preference_accuracy(P, Q, PAIRS[:1]) == 1
    assert measures.preference_accuracy(P, P, PAIRS) == 0.5  # nothing learned yet: a coin toss


def test_ranking_accuracy():
    # Rewards (2, 1, 1): only arm 0 against the others counts; its ratio is the largest.
    assert measures.ranking_accuracy(P, Q, [2, 1, 1]) == 1
    assert measures.ranking_accuracy(P, Q, [0, 1, 1]) == 0
    # Rewards (0, 1, 2): (1,0) wrong with weight 1/16, (2,0) wrong with 1/8, (2,1) wrong with 1/8
    assert measures.ranking_accuracy(P, Q, [0, 1, 2]) == 0
    # Rewards (1, 0, 2): (0,1) right with 1/16; (2,0) wrong with 1/8, (2,1) wrong with 1/8
    assert measures.ranking_accuracy(P, Q, [1, 0, 2]) == pytest.approx(0.2)
    assert measures.ranking_accuracy(Q, Q, [1, 0, 2]) == 0.5


ONE = {
    "expected_reward": lambda p: measures.expected_reward(p, [1, 2, 4]),
    "kl to": lambda p: measures.kl(p, Q),
    "kl from": lambda p: measures.kl(np.broadcast_to(Q, p.shape), p),
    "entropy": measures.entropy,
    "total_variation": lambda p: measures.total_variation(p, Q),
    "mass_moved": measures.mass_moved,
    "mass_on": lambda p: measures.mass_on(p, [0, 1]),
    "mass_on_neither": lambda p: measures.mass_on_neither(p, [(0, 1)]),
    "margin": lambda p: measures.margin(p, Q, PAIRS),
    "preference_accuracy": lambda p: measures.preference_accuracy(p, Q, PAIRS),
    "ranking_accuracy": lambda p: measures.ranking_accuracy(p, Q, [0, 1, 2]),
}


@pytest.mark.parametrize("name", list(ONE))
def test_leading_axes_and_nan_pass_through(name):
    ended = np.stack([np.stack([P, Q]), np.stack([Q, np.full(3, np.nan)])])  # [mark, run, action]
    found = ONE[name](ended)
    assert found.shape == (2, 2)
    assert np.isnan(found[1, 1])
    assert np.isfinite(found[[0, 0, 1], [0, 1, 0]]).all()


logits = st.lists(st.floats(-300, 300), min_size=4, max_size=4).map(np.array)


@given(logits, logits)
def test_bounds(first, second):
    p, q = (x - np.logaddexp.reduce(x) for x in (first, second))
    assert measures.kl(p, q) >= -1e-9
    assert -1e-9 <= measures.entropy(p) <= np.log(4) + 1e-9
    variation = measures.total_variation(p, q)
    assert 0 <= variation <= 1 + 1e-12
    # Pinsker's inequality
    assert 2 * variation**2 <= measures.kl(p, q) + 1e-9


def test_every_unit_is_stated():
    assert all(UNITS.values())
    assert UNITS["chosen_slope"] == "nats per step"
    assert {UNITS[name] for name in ("kl_to_reference", "entropy", "margin")} == {"nats"}
