"""A bandit of its own for every seed, three ways to get data, and what makes two runs the same."""

import numpy as np

import toyalign as ta

EXACT = ta.Source("reference")
DRAWN = ta.Source("reference", exact=False, prompts=6, responses=3, minibatch=2)
ON_POLICY = ta.Source("policy", exact=False, prompts=2, responses=4, reuse=2)


def start_of_its_own(arms: int = 10, **changes) -> ta.Bandit:
    """A bandit whose reference differs from seed to seed."""
    place = np.linspace(-2, 2, arms)
    settings = {
        "reference": np.exp(-(place**2)) / np.exp(-(place**2)).sum(),
        "rewards": np.exp(-((place - 1) ** 2)),
        "pairs": ((1, 0), (arms - 2, 1)),
        "spread": 0.5,
    }
    return ta.Bandit(**{**settings, **changes})


def assert_same_run(one: ta.Trajectory, i: int, other: ta.Trajectory, j: int) -> None:
    """Run i of one trajectory and run j of the other agree in every bit that was recorded."""
    assert one.runs["seed"][i] == other.runs["seed"][j]
    assert np.array_equal(one.log_probs[:, i], other.log_probs[:, j])
    assert np.array_equal(one.loss[:, i], other.loss[:, j])
    assert np.array_equal(one.theta[i], other.theta[j])
    assert np.array_equal(one.reference[i], other.reference[j])
    assert one.scores.keys() == other.scores.keys()
    for name in one.scores:
        assert np.array_equal(one.scores[name][:, i], other.scores[name][:, j]), name
    if one.unseen is not None:
        assert np.array_equal(one.unseen[:, i], other.unseen[:, j])
