"""Probes that train: where the mass goes, how fast, how far, and from which data."""

from typing import Any

import numpy as np
from scipy.special import log_softmax

from toyalign import measures
from toyalign.check.subject import NotApplicable, Subject
from toyalign.check.training import EIGHT_ARMS, REWARDS, achievement, train, usual_source
from toyalign.objectives import Objective
from toyalign.optimisers import Adam
from toyalign.policies.features import Features
from toyalign.policies.tabular import Tabular
from toyalign.problems.bandit import Bandit, adjacent_arms
from toyalign.problems.sources import Source
from toyalign.trajectory import Trajectory

# Adam moves all losses alike at first; its epsilon leaves alone what no gradient reaches.
_OPTIMISER = Adam(eps=1e-4)
_REST = 0.5  # nats: the largest step that counts as rest
_RARE, _LIKELY = 0.02, 0.86


def _given(card: Objective) -> str:
    """The problem's own data where the loss takes it, and else what it usually takes."""
    return "fixed" if "fixed" in card.sources and card.kind != "samples" else ""


def displacement(subject: Subject) -> tuple[float, str]:
    """Change of the chosen answer's log-prob where neighbouring arms share features."""
    traj = train(
        subject.card,
        adjacent_arms(spread=0.5),
        policy=Features(1.5),
        source=_given(subject.card),
        steps=200,
        lr=0.03,
        optimiser=_OPTIMISER,
        seeds=8,
        marks=2,
    )
    ((chosen, rejected),) = traj.pairs
    moved = np.exp(traj.log_probs[-1, :, 0]) - np.exp(traj.log_probs[0, :, 0])
    gain = moved.mean(0)
    where = int(gain.argmax())
    who = {chosen: "the chosen answer", rejected: "the rejected answer"}.get(
        where, f"arm {where}, which is neither answer"
    )
    logps = traj.pair_logps()[0]
    change = float((logps[-1] - logps[0]).mean())
    return change, f"most mass, {gain[where]:+.2f}, went to {who} (mean of 8 starts)"


def relocation(subject: Subject) -> tuple[float, str]:
    """Steps to move the mass from a likely to a rare arm, over steps for the way back."""
    lr = _first_step(subject, 0.05)
    away = _steps_to_half(subject, _RARE, lr, 1000)
    back = _steps_to_half(subject, _LIKELY, lr, 200)
    if np.isinf(back):
        raise NotApplicable("in 200 steps not even an arm of 44 % gets half of the mass")
    to = f"{away:.0f} steps" if np.isfinite(away) else "more than 1000 steps"
    return away / back, (
        f"{to} until an arm of 2 % has half of the mass, {back:.0f} for one of 44 %: the larger, "
        "the more it seeks what is likely already"
    )


def _steps_to_half(subject: Subject, start: float, lr: float, steps: int) -> float:
    """SGD steps until the wanted arm has half of the mass, from a start of little or of much.

    On the way to a likely arm, another one has a little more mass to begin with.
    """
    other = _LIKELY + _RARE - start
    wanted, rest = (start, other) if start < 0.5 else (0.44, 0.44)
    reference = np.array([wanted, rest, *[(1 - wanted - rest) / 4] * 4])
    problem = Bandit(
        reference=reference,
        rewards=np.eye(6)[0],
        target=np.array([0.9, *[0.02] * 5]),
        pairs=[(0, 1)],
        name="two arms",
    )
    traj = train(
        subject.card,
        problem,
        policy=Tabular(),
        source=_given(subject.card),
        lr=lr,
        steps=steps,
        marks=60,
    )
    mass = np.exp(traj.log_probs[:, :, 0, 0])
    return float(measures.steps_to(traj.steps, mass, 0.5)[0])


def _first_step(subject: Subject, size: float) -> float:
    """A learning rate at which the first step on an even bandit moves a logit by `size` nats."""
    problem = Bandit(
        reference=np.full(6, 1 / 6),
        rewards=np.eye(6)[0],
        target=np.array([0.9, *[0.02] * 5]),
        pairs=[(0, 1)],
        name="even arms",
    )
    source = _given(subject.card)
    traj = train(subject.card, problem, policy=Tabular(), source=source, steps=1, lr=1e-3, marks=2)
    moved = np.abs(traj.log_probs[1] - traj.log_probs[0]).max()
    if not moved > 0:
        raise NotApplicable("the first step moves nothing")
    return float(1e-3 * size / moved)


def _on_preferences(card: Objective, **settings: Any) -> Trajectory:
    """A training on the eight arms from Bradley and Terry's labels, or from rewards."""
    if card.kind == "distributions":
        raise NotApplicable("its target is a distribution, not a reward")
    source = usual_source(card)
    if card.kind == "demonstrations":  # on the chosen answers
        source = Source("reference", labels="bradley_terry")
    return train(
        card,
        EIGHT_ARMS,
        policy=Tabular(),
        source=source,
        optimiser=_OPTIMISER,
        seeds=2,
        **settings,
    )


def tilted_reference(subject: Subject) -> tuple[float, str]:
    """Distance of where training ends to the nearest π_ref·exp(R/β), on exact preferences."""
    traj = _on_preferences(subject.card, steps=800, lr=0.05, marks=2)
    betas = np.geomspace(0.01, 30, 300)
    reference = traj.reference[:, 0]  # [run, action]
    tilted = reference[None] + REWARDS / betas[:, None, None]
    tilted = log_softmax(tilted, axis=-1)
    moved = measures.total_variation(traj.log_probs[-1, :, 0], reference).mean()
    if not moved >= 0.1:
        raise NotApplicable(f"in 800 steps of Adam it moves only {moved:.2g} of the mass")
    distance = measures.total_variation(traj.log_probs[-1, :, 0], tilted).mean(1)
    best = int(distance.argmin())
    return float(distance[best]), (
        f"after 800 steps of Adam that moved {moved:.2g} of the mass; nearest at "
        f"β = {betas[best]:.2g}"
    )


def drift(subject: Subject) -> tuple[float, str]:
    """KL to the reference when responses beat the reference's in 60 % of comparisons."""
    traj = _on_preferences(subject.card, steps=400, lr=0.02, marks=40)
    policy, reference = np.exp(traj.log_probs[:, :, 0]), np.exp(traj.reference[:, 0])
    beats = 0.5 * (1 + np.sign(REWARDS[:, None] - REWARDS[None]))
    wins = np.einsum("mra,ab,rb->mr", policy, beats, reference).mean(1)
    kl = measures.kl(traj.log_probs[:, :, 0], traj.reference[:, 0]).mean(1)
    if not (wins >= 0.6).any():
        raise NotApplicable(f"it wins at most {wins.max():.0%} of comparisons in 400 steps")
    at = int((wins >= 0.6).argmax())
    share = (0.6 - wins[at - 1]) / (wins[at] - wins[at - 1])
    value = kl[at - 1] + share * (kl[at] - kl[at - 1])
    return float(value), "KL(π‖π_ref) on eight arms; less is closer to the reference"


def data_source(subject: Subject) -> tuple[float, str]:
    """Expected reward reached with the policy's own data, less that with the reference's."""
    card = subject.card
    if card.kind == "distributions" or not {"reference", "policy"} <= set(card.sources):
        raise NotApplicable("its data comes from one place only")
    ends = []
    for source in (Source("reference"), Source("policy", reuse=20), Source("policy")):
        traj = train(
            card,
            EIGHT_ARMS,
            policy=Tabular(),
            source=source,
            steps=200,
            lr=0.03,
            optimiser=_OPTIMISER,
            seeds=2,
            marks=2,
        )
        ends.append(measures.expected_reward(traj.final[:, 0], REWARDS).mean())
    offline, stale, fresh = ends
    return float(fresh - offline), (
        f"reward {offline:.2f} offline, {stale:.2f} stale (renewed every 20 steps), {fresh:.2f} "
        "on-policy, after 200 steps"
    )


def stable_steps(subject: Subject) -> tuple[float, str]:
    """Largest first step, in nats of a logit, with which SGD learns and comes to rest."""
    card = subject.card
    base = _first_step(subject, 1.0)
    sizes = np.geomspace(0.01, 100, 13)
    traj = train(
        card,
        EIGHT_ARMS,
        policy=Features(1.0),
        source=usual_source(card),
        lr=[float(base * size) for size in sizes],
        steps=60,
        seeds=2,
        marks=[59, 60],
    )
    _, reached = achievement(card, traj)
    last = np.abs(traj.log_probs[-1] - traj.log_probs[-2]).max((-1, -2))
    fine = (reached[-1] > reached[0]) & (last < _REST) & ~traj.diverged
    fine = fine.reshape(len(sizes), -1).all(1)
    if not fine[0]:
        return 0.0, "even from a first step of 0.01 nats SGD does not learn and come to rest"
    if fine.all():
        return float("inf"), "SGD learns and comes to rest with every first step up to 100 nats"
    return float(sizes[int((~fine).argmax()) - 1]), (
        f"with larger first steps SGD learns nothing or still moves {_REST:g} nats a step after 60"
    )
