"""Rankings: Kendall's tau against scipy, and intervals that mean what they say."""

import numpy as np
import pytest
from scipy import stats

from toyalign.rankings import chance, gain_over_things, halves, kendall, over_seeds, over_things


def test_tau_is_scipys_with_and_without_ties():
    rng = np.random.default_rng(0)
    for high in (4, 1000):
        one, other = rng.integers(high, size=(2, 6, 12))
        want = [stats.kendalltau(a, b).statistic for a, b in zip(one, other, strict=True)]
        assert np.allclose(kendall(one, other), want)


def test_all_tied_has_no_tau():
    assert np.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_a_thing_that_is_drawn_twice_counts_for_nothing():
    one, other = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
    twice = [0, 1, 2, 3, 3]
    weights = {(i, j): twice.count(i) * twice.count(j) for i in range(4) for j in range(i)}
    signs = {p: np.sign((one[p[0]] - one[p[1]]) * (other[p[0]] - other[p[1]])) for p in weights}
    want = sum(weights[p] * signs[p] for p in weights) / sum(weights.values())
    assert kendall(one[twice], other[twice]) == pytest.approx(want)


def test_seeds_without_noise_leave_no_doubt_and_noisy_ones_do():
    rng, things = np.random.default_rng(1), np.arange(10.0)
    same = over_seeds(np.tile(things, (4, 1)), np.tile(things, (3, 1)))
    assert (same.mean, same.low, same.high, same.n) == (1, 1, 1, 3)
    noisy = things + 3 * rng.normal(size=(4, 10))
    found = over_seeds(noisy, things + 3 * rng.normal(size=(4, 10)))
    assert found.low < found.mean < 1 and found.high - found.low > 0.1


def test_few_things_leave_more_doubt_than_many():
    rng = np.random.default_rng(2)
    one = rng.normal(size=200)
    other = one + rng.normal(size=200)
    few, many = over_things(one[:10], other[:10]), over_things(one, other, draws=300)
    assert few.high - few.low > 2 * (many.high - many.low) > 0
    assert many.low < kendall(one, other) < many.high


def test_the_interval_over_things_covers_what_it_should():
    """95 % of intervals hold the true tau; 2/π·arcsin(ρ) is that of two normal variables.

    Of 100 intervals fewer than 85 would be a miss with probability below 1e-4.
    """
    rng, rho = np.random.default_rng(3), 0.6
    want, held = 2 / np.pi * np.arcsin(rho), 0
    for trial in range(100):
        one, noise = rng.normal(size=(2, 30))
        found = over_things(one, rho * one + (1 - rho**2) ** 0.5 * noise, draws=300, seed=trial)
        held += found.low <= want <= found.high
    assert held >= 85


def test_chance_is_small_for_agreement_and_even_for_none():
    things = np.arange(12.0)
    assert chance(things, things, draws=999) == pytest.approx(0.001)
    assert chance(things, -things, draws=999) == pytest.approx(1.0)
    rng = np.random.default_rng(4)
    values = [chance(*rng.normal(size=(2, 8)), draws=200, seed=i) for i in range(200)]
    assert 0.4 < np.mean(values) < 0.6


def test_a_gain_has_the_sign_of_the_better_predictor():
    rng, truth = np.random.default_rng(5), np.arange(20.0)
    near, far = truth + rng.normal(size=20), truth + 20 * rng.normal(size=20)
    gain = gain_over_things(near, far, truth)
    assert gain.low > 0 and gain.mean == pytest.approx(
        float(kendall(near, truth) - kendall(far, truth))
    )


def test_halves_take_every_split_once():
    table = np.array([[0.0, 1, 2], [0, 4, 1], [2, 1, 0.5], [0, 1, 2]])
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    want = [kendall(table[list(a)].mean(0), table[list(b)].mean(0)) for a, b in splits]
    found = halves(table)
    assert found.n == 3 and found.mean == pytest.approx(np.mean(want))
    assert (found.low, found.high) == (pytest.approx(min(want)), pytest.approx(max(want)))
    assert halves(table[:2]).mean == pytest.approx(float(kendall(table[0], table[1])))


def test_without_a_tau_nothing_is_claimed():
    tied, things = np.zeros(5), np.arange(5.0)
    assert np.isnan(chance(tied, things)) and np.isnan(over_things(tied, things).low)
    assert np.isnan(over_seeds(np.zeros((2, 5)), np.tile(things, (2, 1))).mean)
    assert np.isnan(halves(np.zeros((2, 5))).high)
