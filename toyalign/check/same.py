"""Is this the same loss as a built-in one? Value, gradient and trajectories side by side."""

from typing import Any

import torch

from toyalign.check.points import Tensors, far_apart, random_tensors
from toyalign.check.subject import Broken, Finding, Subject
from toyalign.errors import ToyalignError
from toyalign.objectives import get_objective
from toyalign.policies.features import Features
from toyalign.problems.bandit import adjacent_arms
from toyalign.simulate import simulate

_CLOSE = 1e-9
_WHY = "a loss that is meant to be a known one must agree with it everywhere"


def same_as(subject: Subject, name: str) -> Finding:
    """Compare a loss with a built-in one at the built-in's defaults.

    Raises:
        ToyalignError: for an unknown name, or losses on different kinds of data.
    """
    known = Subject(get_objective(name), subject.seed)
    if known.card.kind != subject.card.kind:
        raise ToyalignError(
            f"{subject.card.name} is a loss on {subject.card.kind} and {known.card.name} one on "
            f"{known.card.kind}: they cannot be compared"
        )
    try:
        seen = _compare(subject, known)
    except Broken as broken:
        return Finding(f"same as {known.card.name}", "fail", str(broken), _WHY)
    return Finding(f"same as {known.card.name}", "pass", seen, _WHY)


def _compare(subject: Subject, known: Subject) -> str:
    needs = list(dict.fromkeys([*known.needs, *subject.needs]))
    shared = {k: v for k, v in known.card.hyper.items() if k in subject.card.hyper}
    value = gradient = 0.0
    places = {
        "where policy = reference": random_tensors(needs, subject.seed, apart=0),
        "close to the reference": random_tensors(needs, subject.seed, apart=0.3),
        "at a random point": random_tensors(needs, subject.seed, apart=1.5),
        "with the padding on the left": random_tensors(needs, subject.seed, apart=1.0, left=True),
        "at log-ratios of ±100 nats": far_apart(needs, 100, 40),
    }
    for place, tensors in places.items():
        ours, theirs = (_of(one, tensors) for one in (subject, known))
        gradient = max(gradient, _gradient_gap(subject, known, ours, theirs, shared, place))
        mine, other = _per_row(subject, ours, shared), _per_row(known, theirs, {})
        off = _off(mine, other)
        if off > _CLOSE:
            raise Broken(
                f"the value differs {place}: {_at(mine, other)} (its gradient is the same there)"
            )
        value = max(value, off)
    path = _path_gap(subject, known, shared)
    return f"value to {value:.0e}, gradient to {gradient:.0e}, trajectories to {path:.0e} nats"


def _gradient_gap(
    subject: Subject,
    known: Subject,
    ours: Tensors,
    theirs: Tensors,
    shared: dict[str, Any],
    place: str,
) -> float:
    mine, other = subject.gradients(ours, **shared), known.gradients(theirs)
    worst = 0.0
    for name in sorted({*mine, *other}):
        if name not in mine or name not in other:
            only = subject if name in mine else known
            raise Broken(f"only {only.card.name} has a gradient on {name}")
        off = _off(mine[name], other[name])
        if off > _CLOSE:
            raise Broken(f"the gradient on {name} differs {place}: {_at(mine[name], other[name])}")
        worst = max(worst, off)
    return worst


def _path_gap(subject: Subject, known: Subject, shared: dict[str, Any]) -> float:
    """The largest distance between the two trajectories, nats; 0 where neither can be run."""
    ends = []
    for one, hyper in ((subject, shared), (known, {})):
        traj = simulate(
            one.card,
            adjacent_arms(spread=0.5),
            policy=Features(1.5),
            steps=100,
            lr=0.05,
            seeds=3,
            marks=10,
            **hyper,
        )
        ends.append(torch.from_numpy(traj.log_probs))
    gap = (ends[0] - ends[1]).abs().max().item()
    if not gap <= 1e-6:
        raise Broken(f"after 100 steps the trajectories are {gap:.3g} nats apart")
    return gap


def _of(subject: Subject, tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in subject.needs}


def _per_row(subject: Subject, tensors: Tensors, hyper: dict[str, Any]) -> torch.Tensor:
    total = subject.total(tensors, **hyper)
    return total.sum(-1) if total.ndim == 3 else total


def _off(one: torch.Tensor, other: torch.Tensor) -> float:
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    return (one - other).abs().max().item() / scale


def _at(one: torch.Tensor, other: torch.Tensor) -> str:
    """The two numbers where they differ most."""
    worst = int((one - other).abs().argmax())
    return f"{one.reshape(-1)[worst].item():.6g} instead of {other.reshape(-1)[worst].item():.6g}"
