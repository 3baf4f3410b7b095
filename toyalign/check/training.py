"""Small trainings on exact bandits: does the loss learn what its data asks for?"""

import warnings
from typing import Any

import numpy as np

from toyalign import measures
from toyalign.check.subject import Broken, Subject
from toyalign.objectives import Objective
from toyalign.optimisers import Adam
from toyalign.policies.features import Features
from toyalign.policies.tabular import Tabular
from toyalign.problems.bandit import Bandit
from toyalign.problems.sources import Source
from toyalign.simulate import simulate
from toyalign.trajectory import Trajectory

LRS = (0.01, 0.03, 0.1)
REWARDS = np.array([0.1, 1.3, -0.4, 0.6, 2.1, 0.4, 1.6, -0.9])
TARGET = np.array([1, 6, 1, 2, 10, 2, 9, 1]) / 32
EIGHT_ARMS = Bandit(
    reference=np.array([5, 4, 6, 3, 4, 5, 3, 2]) / 32,
    rewards=REWARDS,
    target=TARGET,
    spread=0.5,
    name="eight arms",
)


def usual_source(card: Objective) -> Source:
    """Where such a loss usually has its data: preferences are those of Bradley and Terry."""
    if card.kind in ("demonstrations", "distributions"):
        return Source("fixed")
    if card.kind == "samples" and "policy" in card.sources:
        return Source("policy")
    origin = "reference" if "reference" in card.sources else "policy"
    return Source(origin, labels="bradley_terry")


def train(card: Objective, problem: Bandit, **settings: Any) -> Trajectory:
    """`simulate` without its warnings.

    Raises:
        Broken: if the loss cannot be trained.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return simulate(card, problem, **settings)
    except Exception as error:
        text = " ".join(str(error).split())
        raise Broken(f"cannot be trained on {problem.name}: {text[:200]}") from error


def learns(subject: Subject) -> str:
    """On the exact bandit, what the data asks for ends above its start."""
    what = ""
    for policy in (Tabular(), Features(1.0)):
        traj = train(
            subject.card,
            EIGHT_ARMS,
            policy=policy,
            source=usual_source(subject.card),
            steps=60,
            lr=list(LRS),
            optimiser=Adam(),
            seeds=2,
            marks=2,
        )
        what, values = achievement(subject.card, traj)
        gains = (values[-1] - values[0]).reshape(len(LRS), -1).mean(1)
        for lr, gain in zip(LRS, gains, strict=True):
            if not gain > 1e-4:
                raise Broken(
                    f"{what} on the exact bandit changes by {gain:+.3g} in 60 steps of Adam, lr "
                    f"{lr:g}, {type(policy).__name__.lower()} policy"
                )
    return f"{what} rises at learning rates {LRS[0]:g} to {LRS[-1]:g}, tabular and with features"


def achievement(card: Objective, traj: Trajectory) -> tuple[str, measures.Array]:
    """What such a loss is to raise on `EIGHT_ARMS`, in words, and its values, [mark, run]."""
    log_probs, reference = traj.log_probs[:, :, 0], traj.reference[:, 0]
    if card.kind in ("pairs", "labelled"):
        ranked = [measures.ranking_accuracy(one, reference, REWARDS) for one in log_probs]
        return "expected preference accuracy", np.stack(ranked)
    if card.kind == "samples":
        return "expected reward", measures.expected_reward(log_probs, REWARDS)
    return "expected probability of a demonstration", measures.expected_reward(log_probs, TARGET)
