"""Rankings: how alike two orders of the same things are, and how sure one can be of it.

Kendall's τ counts pairs of things: the share in the same order less the share in opposite orders.
τ = 0.5 without ties means that three pairs of four are in the same order. Two kinds of interval
answer two questions: would other seeds give another τ, and would other things?
"""

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toyalign.intervals import Estimate

Array = NDArray[np.float64]
DRAWS = 2000  # resamples of a bootstrap, and orders of a permutation test


def kendall(one: ArrayLike, other: ArrayLike) -> Array:
    """Kendall's τ-b between two rankings, which makes allowance for ties: −1 to 1.

    Args:
        one: [..., thing], any numbers that order the things.
        other: [..., thing], the others; leading axes are broadcast.

    Returns:
        [...]; NaN where all things are tied. Two draws of the same thing are tied in both rankings
        and count for nothing, so that a bootstrap over things is fair.
    """
    first, second = (_signs(np.asarray(values, dtype=float)) for values in (one, other))
    untied = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / np.where(untied > 0, untied, np.nan)


def over_seeds(one: ArrayLike, other: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """τ between the means over seeds, with the 95 % interval of a bootstrap over the seeds.

    Both worlds' seeds are drawn anew, independently. With few seeds the interval is too narrow.

    Args:
        one: [seed, thing].
        other: [seed, thing]; it may have another number of seeds.
        draws: resamples.
        seed: of the resampling.
    """
    rng, drawn = np.random.default_rng(seed), []
    tables = [np.asarray(values, dtype=float) for values in (one, other)]
    for table in tables:
        picks = rng.integers(len(table), size=(draws, len(table)))
        drawn.append(table[picks].mean(1))
    centre = kendall(*(table.mean(0) for table in tables))
    return _estimate(centre, kendall(*drawn), min(len(table) for table in tables))


def over_things(one: ArrayLike, other: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """τ with the 95 % interval of a bootstrap over the things.

    Args:
        one: [thing].
        other: [thing].
        draws: resamples.
        seed: of the resampling.
    """
    first, second = (np.asarray(values, dtype=float) for values in (one, other))
    picks = _picks(len(first), draws, seed)
    return _estimate(kendall(first, second), kendall(first[picks], second[picks]), len(first))


def gain_over_things(
    better: ArrayLike, worse: ArrayLike, truth: ArrayLike, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """τ(better, truth) − τ(worse, truth), by a bootstrap over the things, the same for both."""
    a, b, c = (np.asarray(values, dtype=float) for values in (better, worse, truth))
    picks = _picks(len(c), draws, seed)
    gains = kendall(a[picks], c[picks]) - kendall(b[picks], c[picks])
    return _estimate(kendall(a, c) - kendall(b, c), gains, len(c))


def chance(one: ArrayLike, other: ArrayLike, draws: int = DRAWS, seed: int = 0) -> float:
    """How likely a τ at least as large is if the things are named at random (one-sided).

    Args:
        one: [thing].
        other: [thing].
        draws: random orders; the smallest possible answer is 1/(draws + 1). NaN without a τ.
        seed: of the orders.
    """
    first, second = (np.asarray(values, dtype=float) for values in (one, other))
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(len(first)), (draws, 1)), axis=1)
    found = kendall(first[orders], second)
    own = kendall(first, second)
    if np.isnan(own):
        return float("nan")
    return float((1 + (found >= own - 1e-12).sum()) / (draws + 1))


def halves(table: ArrayLike) -> Estimate:
    """τ of one half of the seeds with the other half: mean, least and largest over all splits.

    A ranking that does not agree with itself cannot be foretold. It is a rough ceiling: the mean
    over all seeds is steadier than either half.

    Args:
        table: [seed, thing], at least two seeds; of an odd number, one is left out in turn.
    """
    values = np.asarray(table, dtype=float)
    count = len(values)
    found = []
    for left in combinations(range(count), count // 2):
        rest = [seed for seed in range(count) if seed not in left]
        for right in combinations(rest, count // 2):
            if left[0] < right[0]:
                both = (values[list(half)].mean(0) for half in (left, right))
                found.append(float(kendall(*both)))
    return Estimate(float(np.mean(found)), float(np.min(found)), float(np.max(found)), len(found))


def _signs(values: Array) -> Array:
    """[..., pair]: which of the two things of every pair comes first."""
    left, right = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., left] - values[..., right])


def _picks(things: int, draws: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(things, size=(draws, things))


def _estimate(centre: Array, drawn: Array, n: int) -> Estimate:
    known = drawn[~np.isnan(drawn)]  # a resample of nothing but ties has no τ
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Estimate(float(centre), float(low), float(high), n)
