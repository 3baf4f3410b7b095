"""Automatic mutants: a loss with one planted mistake, made by wrapping the function.

A mutant has the signature of the loss it is made from, so it goes through the same contracts.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch.overrides import TorchFunctionMode

from toyalign.check.subject import Subject
from toyalign.glossary import is_learned, parts
from toyalign.objectives import Objective
from toyalign.objectives.points import random_tensors

Change = Callable[[dict], dict]


def mutants(card: Objective) -> Iterator[tuple[str, Objective]]:
    """Every mutant of a loss that changes what it computes, with a name for the mistake."""
    for name, mutant in _all(card):
        if _differs(card, mutant):
            yield name, mutant


def _all(card: Objective) -> Iterator[tuple[str, Objective]]:
    fn, needs = card.fn, card.needs
    yield "flipped sign", _with(card, lambda **given: -fn(**given))
    yield "mean for rows", _with(card, lambda **given: fn(**given).mean())
    yield "batch centred", _with(card, lambda **given: _centred(fn(**given)))
    yield "single precision", _with(card, lambda **given: _single(fn, given))
    references = [name for name in needs if name.startswith("ref_") and "log_probs" not in name]
    if references:
        yield "dropped reference", _given(card, lambda t: t | {n: 0 * t[n] for n in references})
    for one, other in _sides(needs, references):
        yield "crossed reference", _given(card, lambda t, a=one, b=other: t | {a: t[b], b: t[a]})
        break
    learned = [name for name in needs if is_learned(name)]
    pairs = list(_sides(needs, learned))
    if pairs:
        swap = {a: b for a, b in pairs} | {b: a for a, b in pairs}
        yield "swapped sides", _given(card, lambda t: t | {a: t[b] for a, b in swap.items()})
    for name in learned:
        if parts(name)[2] != "log_probs":
            yield f"detached {name}", _given(card, lambda t, n=name: t | {n: t[n].detach()})
    masks = [name for name in needs if parts(name)[2] == "mask"]
    if masks:
        yield (
            "dropped mask",
            _given(card, lambda t: t | {m: torch.ones_like(t[m]) for m in masks}),
        )
        yield "shifted mask", _given(card, lambda t: t | {m: t[m].roll(1, -1) for m in masks})
    lengths = [name for name in needs if parts(name)[2] == "lengths"]
    if lengths:
        whole = lambda t, m: torch.full_like(t[m], float(t[m].max()))  # noqa: E731
        yield "padded length", _given(card, lambda t: t | {m: whole(t, m) for m in lengths})
    for hyper, default in card.hyper.items():
        dead = lambda k=hyper, v=default, **given: fn(**{**given, k: v})  # noqa: E731
        yield f"dropped {hyper}", _with(card, dead)
    if card.tie:
        yield "wrong tie", _with(card, lambda **given: _tied_otherwise(fn, given))
    for name in ("advantages", "rewards"):
        if name in needs:
            yield f"|{name}|", _given(card, lambda t, n=name: t | {n: t[n].abs()})
    if "labels" in needs:
        yield "flipped labels", _given(card, lambda t: t | {"labels": 1 - t["labels"]})
    for old in ("old_logps", "old_token_logps"):
        if old in needs:
            new = old.removeprefix("old_")
            yield "inverted ratio", _given(card, lambda t, o=old, n=new: t | {o: t[n], n: t[o]})


def _with(card: Objective, fn: Callable[..., torch.Tensor]) -> Objective:
    return replace(card, fn=fn)


def _given(card: Objective, change: Change) -> Objective:
    fn = card.fn
    return replace(card, fn=lambda **given: fn(**change(given)))


def _sides(needs, names) -> Iterator[tuple[str, str]]:
    for name in names:
        other = name.replace("chosen_", "rejected_")
        if other != name and other in needs:
            yield name, other


def _centred(loss: torch.Tensor) -> torch.Tensor:
    return loss - loss.mean(1, keepdim=True) + 0.5 * loss.mean(1, keepdim=True)


def _single(fn, given) -> torch.Tensor:
    dtype = next(v.dtype for v in given.values() if isinstance(v, torch.Tensor))
    low = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    return fn(**low).to(dtype)


class _OtherTie(TorchFunctionMode):
    """relu, whose derivative at 0 is 0, and clamp(min=0), whose derivative is 1, change places."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.relu, torch.nn.functional.relu):
            return args[0].clamp(min=0)
        if func is torch.Tensor.clamp and kwargs == {"min": 0}:
            return torch.nn.functional.threshold(args[0], 0.0, 0.0)
        return func(*args, **kwargs)


def _tied_otherwise(fn, given) -> torch.Tensor:
    with _OtherTie():
        return fn(**given)


def _differs(card: Objective, mutant: Objective) -> bool:
    """Whether value or gradient, or the effect of a hyperparameter, is another one."""
    for seed, apart in ((0, 1.0), (1, 0.0), (2, None)):
        tensors = random_tensors(card.needs, seed, apart=apart)
        for hyper in ({}, *({k: 1.7 * v} for k, v in card.hyper.items() if isinstance(v, float))):
            try:
                one = [Subject(card).total(tensors, **hyper)]
                one += Subject(card).gradients(tensors, **hyper).values()
                other = [Subject(mutant).total(tensors, **hyper)]
                other += Subject(mutant).gradients(tensors, **hyper).values()
            except Exception:
                return True
            if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
                return True
    return False
