"""Which objectives are one term apart, found by trying: nobody keeps a list.

Two losses are the same if they push every token of every response alike, at random points, with
unequal lengths. A loss is one term away from another if one of its hyperparameters at 0 or 1 makes
it so.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from toyalign.objectives import OBJECTIVES, Loss, Objective, get_objective
from toyalign.objectives.coefficients import push_on_tokens
from toyalign.objectives.points import random_answers

_SPECIAL = (0.0, 1.0)
_POINTS = ((0, 0.7), (1, 2.0))  # seed, nats per token from the reference


def relatives(card: Objective) -> list[str]:
    """Sentences such as "With eps = 0 it is dpo", and the nearest other objective.

    Args:
        card: the objective.
    """
    others = [
        one
        for one in OBJECTIVES.values()
        if one.kind == card.kind and one.fn != card.fn and one.name == one.fn.__name__
    ]
    lines = []
    for hyper, value, name in _limits(card, others):
        lines.append(f"With {hyper} = {value:g} it is {name}.")
    for other in others:
        lines += [f"It is {other.name} with {h} = {v:g}." for h, v, _ in _limits(other, [card])]
    return [*lines, *_nearest(card, others)]


def _limits(card: Objective, others: list[Objective]) -> Iterator[tuple[str, float, str]]:
    """Hyperparameter, value and name where this objective becomes one of the others."""
    for hyper, default in card.hyper.items():
        if isinstance(default, bool | str):
            continue
        for value in _SPECIAL:
            changed = _pushes(card, {hyper: value}) if value != default else None
            if changed is None:
                continue
            for other in others:
                shared = {k: v for k, v in card.hyper.items() if k in other.hyper and k != hyper}
                theirs = _pushes(other, shared)
                if theirs is not None and (changed - theirs).norm() <= 1e-9 * theirs.norm():
                    yield hyper, value, other.name


def _nearest(card: Objective, others: list[Objective]) -> list[str]:
    """The objective whose pushes at the random points point most nearly the same way."""
    ours = _pushes(card, {})
    likeness = {}
    for other in others:
        theirs = _pushes(other, {})
        if ours is not None and theirs is not None:
            likeness[other.name] = _alike(ours, theirs)
    if not likeness:
        return []
    name = max(likeness, key=lambda key: likeness[key])
    if likeness[name] < 0.8:
        return ["Nothing else of its kind pushes in much the same way."]
    return [f"Its pushes are most like those of {name} (cosine {likeness[name]:.3f})."]


def _alike(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one, other) / (one.norm() * other.norm()).clamp(min=1e-300))


def _pushes(card: Objective, hyper: Mapping[str, Any]) -> Tensor | None:
    """The push on every token at the points, as one vector; None where a setting is refused."""
    return _cached(card.fn, tuple(sorted(hyper.items())))


@cache
def _cached(fn: Loss, hyper: tuple[tuple[str, Any], ...]) -> Tensor | None:
    card = get_objective(fn)
    found = []
    for seed, apart in _POINTS:
        answers = random_answers(card.needs, seed, apart=apart)
        try:
            found += push_on_tokens(card, answers, card.settings(dict(hyper)))
        except Exception:  # a special value may lie outside what the loss allows
            return None
    whole = torch.cat([push.flatten() for push in found])
    return whole if bool(torch.isfinite(whole).all()) and bool(whole.any()) else None
