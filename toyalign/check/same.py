"""Is this the same loss as a built-in one? Gradient, trajectories and value side by side.

Training follows the gradient, so the gradient and the trajectories must agree; a value that differs
alone is reported and accepted. Both losses are differentiated by the same leaves, the
log-probabilities of single tokens, so a loss on tokens can be compared with one on their sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from toyalign.check.subject import Broken, Finding, Subject, where
from toyalign.check.training import train
from toyalign.errors import ToyalignError
from toyalign.glossary import SIDES, is_learned, parts
from toyalign.objectives import get_objective
from toyalign.objectives.coefficients import compose
from toyalign.objectives.points import Tensors, far_apart, random_tensors
from toyalign.policies.features import Features
from toyalign.problems.bandit import adjacent_arms

_CLOSE = 1e-9
_APART = 1e-6  # nats, between two trajectories
_WHY = "a loss that is meant to be a known one must train as that one does, everywhere"


@dataclass(frozen=True)
class _Place:
    """Somewhere to look at both losses.

    Args:
        where: the place in words.
        tensors: all that either loss asks for.
        leaves: what both are differentiated by: the policy's log-probabilities of the tokens of
            each response, and its whole distributions.
        masks: [run, row, token] by side.
        sums: log-probabilities of whole responses, for the words about a row.
    """

    where: str
    tensors: Tensors
    leaves: Tensors
    masks: Tensors
    sums: Tensors


def counterpart(subject: Subject, name: str) -> Subject:
    """The built-in loss that another one is compared with.

    Raises:
        ToyalignError: for an unknown name, or losses on different kinds of data.
    """
    known = Subject(get_objective(name), subject.seed)
    if known.card.kind != subject.card.kind:
        raise ToyalignError(
            f"{subject.card.name} is a loss on {subject.card.kind} and {known.card.name} one on "
            f"{known.card.kind}: they cannot be compared"
        )
    return known


def same_as(subject: Subject, known: Subject) -> Finding:
    """Compare a loss with a built-in one at the built-in's defaults."""
    try:
        status, seen = "pass", _compare(subject, known)
    except Broken as broken:
        status, seen = "fail", str(broken)
    return Finding(f"same as {known.card.name}", status, seen, _WHY)


def _compare(subject: Subject, known: Subject) -> str:
    needs = list(dict.fromkeys([*known.needs, *subject.needs]))
    shared = {k: v for k, v in known.card.hyper.items() if k in subject.card.hyper}
    faults: dict[str, str] = {}
    gradient = value = 0.0
    numbers = ""
    places = _places(needs, subject.seed)
    for place in places:
        mine, ours = _look(subject, place, shared)
        other, theirs = _look(known, place, {})
        for leaf, grad in ours.items():
            off = _off(grad, theirs[leaf])
            gradient = max(gradient, off)
            if not off <= _CLOSE:
                faults.setdefault(place.where, _fault(place, leaf, needs, grad, theirs[leaf]))
        off = _off(mine, other)
        if not off <= max(value, _CLOSE):
            numbers = f"{_at(mine, other)} {place.where}"
        value = max(value, off)
    if faults:
        raise Broken(_told(faults, places))
    path = _path_gap(subject, known, shared)
    if numbers:
        return (
            f"the same gradient, to {gradient:.0e}, and the same trajectories, to {path:.0e} nats; "
            f"the value differs ({numbers}), which training does not see"
        )
    return f"value to {value:.0e}, gradient to {gradient:.0e}, trajectories to {path:.0e} nats"


def _places(needs: Sequence[str], seed: int) -> list[_Place]:
    near = partial(random_tensors, seed=seed)
    makers: dict[str, Callable[[Sequence[str]], Tensors]] = {
        "where policy = reference": partial(near, apart=0),
        "close to the reference": partial(near, apart=0.3),
        "at a random point": partial(near, apart=1.5),
        "with the padding on the left": partial(near, apart=1.0, left=True),
        "at log-ratios of ±100 nats": partial(far_apart, ratio=100, tokens=40),
    }
    learned = [name for name in needs if is_learned(name)]
    whole = [name for name in learned if parts(name)[2] == "log_probs"]
    sides = list(dict.fromkeys(parts(name)[1] for name in learned if name not in whole))
    compared = [f"ref_{side}" for side in sides if any(n.startswith(f"ref_{side}") for n in needs)]
    places = []
    for words, make in makers.items():
        tensors = make(needs)
        leaves = make([f"{side}token_logps" for side in sides])
        leaves |= {name: tensors[name] for name in whole}
        masks = {side: make([f"{side}mask"])[f"{side}mask"] for side in SIDES}
        sums = make([f"{whose}logps" for whose in (*sides, *compared)])
        places.append(_Place(words, tensors, leaves, masks, sums))
    return places


def _look(subject: Subject, place: _Place, hyper: dict[str, Any]) -> tuple[Tensor, Tensors]:
    """The value of each row, [run, row], and the gradient of their sum by every leaf."""
    if not subject.learned:
        raise Broken(f"asks only for {', '.join(subject.needs)}, nothing that the policy makes")
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in place.leaves.items()}
    tokens = {side: leaves.get(f"{side}token_logps", torch.empty(0)) for side in SIDES}
    given = {**place.tensors, **compose(subject.learned, tokens, place.masks, leaves)}
    loss = subject.values({name: given[name] for name in subject.needs}, **hyper)
    if loss.ndim == 3:
        mask = place.masks[parts(subject.learned[0])[1]]
        loss = torch.where(mask > 0, loss, torch.zeros_like(loss)).sum(-1)
    if not loss.requires_grad:
        raise Broken(f"the value of {subject.card.name} has no gradient")
    try:
        grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise Broken(f"its gradient cannot be taken: {text[:200]}") from error
    pairs = zip(leaves.items(), grads, strict=True)
    return loss.detach(), {
        name: torch.zeros_like(leaf) if grad is None else grad for (name, leaf), grad in pairs
    }


def _fault(place: _Place, leaf: str, needs: Sequence[str], mine: Tensor, other: Tensor) -> str:
    """On what, where and by how much the gradients differ."""
    worst = (mine - other).nan_to_num(nan=torch.inf).abs().argmax()
    run, row, *rest = (int(i) for i in torch.unravel_index(worst, mine.shape))
    side, quantity = parts(leaf)[1:]
    inside = place.masks[side][run, row]
    label, which, length = leaf, "", ""
    if leaf not in needs:  # both losses see sums, whose tokens all have the same gradient
        label, length = f"{side}logps", f"; length {int(inside.sum())}"
    elif quantity == "token_logps":
        token = f"token {int(inside[: rest[0] + 1].sum())} of {int(inside.sum())}"
        which = f" ({token if inside[rest[0]] > 0 else 'padding'})"
    return (
        f"the gradients on {label}{which} differ {place.where}: {_at(mine, other)} "
        f"({where(place.sums, run, row)}{length})"
    )


def _told(faults: dict[str, str], places: Sequence[_Place]) -> str:
    """The first place where the gradients differ, and those where they agree."""
    agreed = [place.where for place in places if place.where not in faults]
    but = f"; they agree {', '.join(agreed)}" if agreed else ""
    return next(iter(faults.values())) + but


def _path_gap(subject: Subject, known: Subject, shared: dict[str, Any]) -> float:
    """The largest distance between the two trajectories, nats."""
    ends = []
    for one, hyper in ((subject, shared), (known, {})):
        traj = train(
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
    if not gap <= _APART:
        raise Broken(f"after 100 steps the trajectories are {gap:.3g} nats apart")
    return gap


def _off(one: Tensor, other: Tensor) -> float:
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    return (one - other).abs().max().item() / scale


def _at(one: Tensor, other: Tensor) -> str:
    """The two numbers where they differ most."""
    worst = int((one - other).nan_to_num(nan=torch.inf).abs().argmax())
    ours, theirs = (0.0 + x.reshape(-1)[worst].item() for x in (one, other))  # no −0
    return f"{ours:.6g} instead of {theirs:.6g}"
