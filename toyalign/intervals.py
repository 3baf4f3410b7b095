"""Intervals over runs: how far a number would move with other seeds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A mean or a share over runs, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] (n = {self.n})"


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean over runs with Student's 95 % interval. Values that do not vary have a width of zero.

    Args:
        values: [run]; NaN (diverged runs) are left out.
    """
    from scipy import stats

    array = np.asarray(values, dtype=float)
    array = array[~np.isnan(array)]
    n = len(array)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(array.mean())
    half = 0.0
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def share_interval(hits: ArrayLike) -> Estimate:
    """Share of runs in which something happened, with Wilson's 95 % interval.

    Args:
        hits: [run], booleans.
    """
    from scipy import stats

    array = np.asarray(hits, dtype=bool)
    result = stats.binomtest(int(array.sum()), len(array)).proportion_ci(method="wilson")
    return Estimate(float(array.mean()), float(result.low), float(result.high), len(array))


def correlation(one: ArrayLike, other: ArrayLike) -> Estimate:
    """Pearson's correlation with its 95 % interval by Fisher's transformation; n is at least 4."""
    from scipy import stats

    x, y = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    found = stats.pearsonr(x, y)
    ends = found.confidence_interval(0.95)
    return Estimate(float(found.statistic), float(ends.low), float(ends.high), len(x))


def exactly(value: float) -> Estimate:
    """A number without spread: nothing was sampled."""
    return Estimate(float(value), float(value), float(value), 1)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b of independent runs; the half-widths of the intervals add in squares."""
    half = float(np.hypot(a.high - a.mean, b.high - b.mean))
    mean = a.mean - b.mean
    return Estimate(mean, mean - half, mean + half, min(a.n, b.n))


def opposite(a: Estimate) -> Estimate:
    """−a."""
    return Estimate(-a.mean, -a.high, -a.low, a.n)
