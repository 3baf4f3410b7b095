"""Measures: pure functions of distributions over actions.

Log-probabilities are arrays [..., action] in nats; leading axes (recorded step, run, context) pass
through. A measure never sees the objective that made the distribution, so it cannot favour one.
NaN in (a run that has diverged) gives NaN out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def expected_reward(log_probs: ArrayLike, rewards: ArrayLike) -> Array:
    """E[R] = Σ π·R, in units of reward."""
    return (np.exp(log_probs) * np.asarray(rewards)).sum(-1)


def kl(log_probs: ArrayLike, other: ArrayLike) -> Array:
    """KL(p‖q) = Σ p·(log p − log q), in nats, from log p and log q.

    KL to the reference is `kl(policy, reference)`, the drift that RLHF penalises; KL from the
    reference is `kl(reference, policy)`. Infinite where q is zero and p is not.
    """
    log_p, log_q = np.asarray(log_probs, dtype=float), np.asarray(other, dtype=float)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), np.where(np.isnan(p), np.nan, 0.0))
    return terms.sum(-1)


def entropy(log_probs: ArrayLike) -> Array:
    """−Σ p·log p, in nats."""
    log_p = np.asarray(log_probs, dtype=float)
    return -kl(log_p, np.zeros_like(log_p))


def total_variation(log_probs: ArrayLike, other: ArrayLike) -> Array:
    """½·Σ|p − q|: the probability that would have to move to turn one into the other, 0 to 1."""
    return 0.5 * np.abs(np.exp(log_probs) - np.exp(other)).sum(-1)


def mass_moved(log_probs: ArrayLike) -> Array:
    """Probability that has changed arms since the first recorded step, 0 to 1.

    Args:
        log_probs: [mark, ..., action].
    """
    log_p = np.asarray(log_probs, dtype=float)
    return total_variation(log_p, log_p[:1])


def mass_on(log_probs: ArrayLike, arms: Sequence[int]) -> Array:
    """Probability of a set of arms, 0 to 1."""
    return np.exp(np.asarray(log_probs, dtype=float)[..., list(arms)]).sum(-1)


def mass_on_neither(log_probs: ArrayLike, pairs: Sequence[tuple[int, int]]) -> Array:
    """Probability of everything that is in no pair: neither a chosen nor a rejected answer."""
    return 1 - mass_on(log_probs, sorted({arm for pair in pairs for arm in pair}))


def steps_to(steps: ArrayLike, values: ArrayLike, level: ArrayLike) -> Array:
    """The step at which a recorded quantity first reaches a level, interpolated between records.

    Args:
        steps: [mark], recorded steps.
        values: [mark, ...], the quantity.
        level: what it must reach; broadcastable over the trailing axes.

    Returns:
        Steps, [...]; infinity where the level is not reached.
    """
    at, value = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    reached = value >= np.asarray(level, dtype=float)
    first = reached.argmax(0)
    before = np.maximum(first - 1, 0)
    high = np.take_along_axis(value, first[None], 0)[0]
    low = np.take_along_axis(value, before[None], 0)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(high > low, (level - low) / (high - low), 1.0)
    step = at[before] + share * (at[first] - at[before])
    return np.where(reached.any(0), np.where(first == 0, at[0], step), np.inf)


def slope(steps: ArrayLike, values: ArrayLike) -> Array:
    """Change per step between records: d(value)/dt, in the value's unit per step.

    Applied to the chosen log-probability it is d log π(chosen)/dt, in nats per step.

    Args:
        steps: [mark], increasing.
        values: [mark, ...].

    Returns:
        [mark, ...]; the first record has none and is NaN.
    """
    value = np.asarray(values, dtype=float)
    at = np.asarray(steps, dtype=float).reshape(-1, *[1] * (value.ndim - 1))
    return np.concatenate(
        [np.full_like(value[:1], np.nan), np.diff(value, axis=0) / np.diff(at, axis=0)]
    )


def log_ratio(log_probs: ArrayLike, reference: ArrayLike) -> Array:
    """log π/π_ref of every action, in nats. Times β it is DPO's implicit reward."""
    return np.asarray(log_probs, dtype=float) - np.asarray(reference, dtype=float)


def margin(log_probs: ArrayLike, reference: ArrayLike, pairs: Sequence[tuple[int, int]]) -> Array:
    """Log-ratio of the chosen less that of the rejected answer, in nats, averaged over pairs."""
    ratio = log_ratio(log_probs, reference)
    chosen, rejected = np.asarray(pairs).T
    return (ratio[..., chosen] - ratio[..., rejected]).mean(-1)


def preference_accuracy(
    log_probs: ArrayLike, reference: ArrayLike, pairs: Sequence[tuple[int, int]]
) -> Array:
    """Share of the pairs whose margin is positive, 0 to 1; a margin of exactly 0 counts ½."""
    ratio = log_ratio(log_probs, reference)
    chosen, rejected = np.asarray(pairs).T
    return (0.5 * (1 + np.sign(ratio[..., chosen] - ratio[..., rejected]))).mean(-1)


def ranking_accuracy(log_probs: ArrayLike, reference: ArrayLike, rewards: ArrayLike) -> Array:
    """Preference accuracy over all pairs of arms whose rewards differ, as the reference draws them.

    Two responses are drawn from the reference; given that their rewards differ, how likely is the
    better one to have the larger log-ratio? Exact; memory grows with the square of the arms.
    """
    rewards = np.asarray(rewards, dtype=float)
    ratio, weight = log_ratio(log_probs, reference), np.exp(reference)
    better = (rewards[:, None] > rewards[None, :]).astype(float)
    right = 0.5 * (1 + np.sign(ratio[..., :, None] - ratio[..., None, :]))
    both = weight[..., :, None] * weight[..., None, :] * better
    return (right * both).sum((-1, -2)) / both.sum((-1, -2))
