"""Intervals over runs, against tables and against their own promise."""

import numpy as np

from toyalign.intervals import mean_interval, share_interval


def test_a_mean_with_students_interval():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(0.975, 4) = 2.776445, standard error = sqrt(2.5 / 5)
    np.testing.assert_allclose(
        [found.mean, found.high], [3.0, 3.0 + 2.776445 * 0.5**0.5], atol=1e-5
    )
    assert found.n == 5 and abs(found.low + found.high - 6) < 1e-12


def test_equal_runs_and_single_runs_have_no_width():
    for values in ([2.0, 2.0, 2.0], [2.0]):
        found = mean_interval(values)
        assert found.low == found.mean == found.high == 2.0


def test_diverged_runs_are_left_out():
    assert mean_interval([1.0, np.nan, 3.0]).n == 2
    assert np.isnan(mean_interval([np.nan]).mean)


def test_a_share_with_wilsons_interval():
    found = share_interval([True] * 8 + [False] * 2)
    # Wilson: (p + z²/2n ± z sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964
    np.testing.assert_allclose([found.low, found.high], [0.490162, 0.943318], atol=1e-5)
    none = share_interval([False] * 100)
    assert none.mean == none.low == 0.0 and 0.03 < none.high < 0.04


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.Generator(np.random.SFC64(1))
    draws = rng.normal(size=(2000, 8))
    covered = [i.low <= 0 <= i.high for i in map(mean_interval, draws)]
    # 95 % of 2000 has a standard deviation of 0.5 %; four of them are 2 %.
    assert abs(np.mean(covered) - 0.95) < 0.02


def test_an_estimate_reads_as_a_sentence():
    assert str(share_interval([True, True])) == "1 [0.342, 1] (n = 2)"
