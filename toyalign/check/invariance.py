"""Contracts on what must not matter: other rows, padding, the call itself, a common constant."""

import contextlib
import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toyalign.check.held import with_held
from toyalign.check.subject import (
    Broken,
    NotApplicable,
    Subject,
    counted,
    differentiate,
    switches,
)
from toyalign.glossary import GLOSSARY, is_learned, parts
from toyalign.objectives.points import TOKENS, Tensors, random_tensors

_CLOSE = 1e-9
_LONG = 4000  # tokens


def rows(subject: Subject) -> str:
    """A row's value and gradient depend on that row alone, whatever its place."""
    runs, count = 3, 5
    tensors = random_tensors(subject.needs, subject.seed, runs=runs, rows=count, apart=1.0)
    together, grads = subject.total(tensors), subject.gradients(tensors)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = subject.total(_pick(tensors, order))
    if _off(moved, together[:, order]) > _CLOSE:
        raise Broken("another order of the rows gives other values")
    for run in range(runs):
        for row in range(count):
            alone = _pick(_pick(tensors, torch.tensor([run]), axis=0), torch.tensor([row]))
            value, own = subject.total(alone), subject.gradients(alone)
            if _off(value, together[run : run + 1, row : row + 1]) > _CLOSE:
                raise Broken(
                    f"a row's value is {_number(value)} alone and "
                    f"{_number(together[run, row])} beside {runs * count - 1} others"
                )
            for name, grad in own.items():
                if _off(grad, grads[name][run : run + 1, row : row + 1]) > _CLOSE:
                    raise Broken(
                        f"a row's gradient by {name} is {_number(grad)} alone and "
                        f"{_number(grads[name][run, row])} beside {runs * count - 1} others: the "
                        "values of other rows depend on it"
                    )
    return f"{runs * count} rows alone and together, in two orders"


def mask(subject: Subject) -> str:
    """Padding changes nothing, and every token of the response counts."""
    if not subject.has_tokens:
        raise NotApplicable("it sees no tokens")
    sides = {parts(name)[1] for name in subject.needs if "token" in GLOSSARY[name].axes}
    needs = [*subject.needs, *(f"{s}mask" for s in sides if f"{s}mask" not in subject.needs)]
    whole = random_tensors(needs, subject.seed, apart=0.05)
    inside = {side: whole[f"{side}mask"] > 0 for side in sides}
    _under_the_mask(subject, whole, inside)
    _every_token(subject, whole, inside, range(TOKENS))
    long = random_tensors(needs, subject.seed, rows=2, tokens=_LONG, apart=0.001)
    some = [0, 1, 100, 600, 1100, 2100, _LONG - 2, _LONG - 1]
    _every_token(subject, long, {side: long[f"{side}mask"] > 0 for side in sides}, some)
    for side, (before, after) in {"right": (0, 3), "left": (3, 0)}.items():
        padded = {
            name: _pad(value, name, before, after) if _on_tokens(name, value) else value
            for name, value in whole.items()
        }
        if _off(_row_sums(subject, padded), _row_sums(subject, whole)) > _CLOSE:
            raise Broken(f"three more padding positions on the {side} change the value")
    return "other numbers under the mask, three more paddings left and right, each token moved"


def _on_tokens(name: str, value: Tensor) -> bool:
    """Whether there is a token axis; `log_probs` has one beside `token_logps`."""
    return "token" in GLOSSARY[name].axes or value.ndim == 4


def _pad(value: Tensor, name: str, before: int, after: int) -> Tensor:
    """More positions on the token axis: no token there, and unremarkable numbers."""
    filling = 0.0 if parts(name)[2] == "mask" else -1.0
    trailing = (0, 0) * (value.ndim == 4)
    return torch.nn.functional.pad(value, (*trailing, before, after), value=filling)


def _own(subject: Subject, tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in subject.needs}


def _row_sums(subject: Subject, tensors: Tensors) -> Tensor:
    """The value of each row, tokens summed, by a mask that the loss may not have asked for."""
    loss = counted(subject.values(_own(subject, tensors)), tensors)
    return loss.sum(-1) if loss.ndim == 3 else loss


def _under_the_mask(subject: Subject, whole: Tensors, inside: Tensors) -> None:
    before = _row_sums(subject, whole)
    for filling in (0.0, -7.0, -500.0):
        changed = dict(whole)
        for name, value in whole.items():
            _, side, quantity = parts(name)
            if quantity == "token_logps":
                changed[name] = torch.where(inside[side], value, filling)
            elif quantity == "log_probs" and value.ndim == 4:
                other = torch.log_softmax(value * (1 + filling / 500), -1)
                changed[name] = torch.where(inside[side].unsqueeze(-1), value, other)
        after = _row_sums(subject, changed)
        if not torch.isfinite(after).all() or _off(after, before) > _CLOSE:
            raise Broken(
                f"a log-prob of {filling:g} under the mask changes the value from "
                f"{_number(before)} to {_number(after)}"
            )
        leaves = {name: changed[name].clone().requires_grad_() for name in subject.learned}
        grads = differentiate(_row_sums(subject, {**changed, **leaves}), list(leaves.values()))
        for name, grad in zip(leaves, grads, strict=True):
            side = parts(name)[1]
            if grad is not None and grad.ndim > 2 and side in inside:
                outside = grad[~inside[side]]
                if not bool((outside == 0).all()):
                    raise Broken(f"{name} has a gradient under the mask: {_number(outside)}")


def _every_token(
    subject: Subject, whole: Tensors, inside: Tensors, positions: Sequence[int]
) -> None:
    before = _row_sums(subject, whole)
    for name in subject.learned:
        _, side, quantity = parts(name)
        if quantity != "token_logps":
            continue
        counts = torch.stack(
            [_matters(subject, whole, before, name, position) for position in positions], -1
        )
        some = counts.any(-1, keepdim=True)
        missed = inside[side][..., list(positions)] & some & ~counts
        if not some.any():
            raise Broken(f"no token of {name} changes the value")
        if missed.any():
            run, row, position = missed.nonzero()[0].tolist()
            length = int(inside[side][run, row].sum())
            place = positions[position] + 1
            raise Broken(f"token {place} of {length} in {name} changes nothing")


def _matters(subject: Subject, whole: Tensors, before: Tensor, name: str, position: int) -> Tensor:
    """Whether a token counts in each row: a small or a large move of it changes the value.

    A token beyond a clip does not feel a small one.
    """
    changed = torch.zeros_like(before, dtype=torch.bool)
    for move in (-0.01, -1.0, 1.0):
        value = whole[name].clone()
        value[..., position] = (value[..., position] + move).clamp(max=-1e-6)
        changed |= _row_sums(subject, {**whole, name: value}) != before
    return changed


def purity(subject: Subject) -> str:
    """The loss changes nothing, remembers nothing, draws nothing, and keeps its precision."""
    tensors = random_tensors(subject.needs, subject.seed, apart=1.0)
    copies = {name: value.clone() for name, value in tensors.items()}
    first = subject.total(tensors)
    _differ_from(tensors, copies)
    subject.gradients(random_tensors(subject.needs, subject.seed + 7, rows=3, apart=1.0))
    second = subject.total(tensors)
    _differ_from(tensors, copies)
    if not torch.equal(first, second):
        raise Broken(f"the same input gives {_number(first)} first and {_number(second)} later")
    _leaves_global_state(subject, tensors)
    for dtype in (torch.float32, torch.float64):
        given = random_tensors(subject.needs, subject.seed, apart=1.0, dtype=dtype)
        got = subject.values(given).dtype
        if got != dtype:
            name = str(dtype).removeprefix("torch.")
            raise Broken(f"{name} goes in and {str(got).removeprefix('torch.')} comes out")
    _full_precision(subject, tensors)
    return "inputs untouched, same twice, float32 and float64 kept"


def _differ_from(tensors: Tensors, copies: Tensors) -> None:
    for name, copy in copies.items():
        if not torch.equal(tensors[name], copy):
            raise Broken(f"it changes its input {name} in place")


def _leaves_global_state(subject: Subject, tensors: Tensors) -> None:
    """Whether random numbers that the program draws later are what they would have been."""
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),  # noqa: NPY002
        random.getstate(),
    )
    try:
        torch.set_default_dtype(torch.float32)
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        random.random()  # a seed that an earlier call has set shows only now
        state = _global_state()
        subject.result(tensors)
        if _global_state() != state:
            raise Broken("it changes a global random state or default")
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _global_state() -> tuple[object, ...]:
    name, key, *rest = np.random.get_state()  # noqa: NPY002
    torch_state = tuple(torch.get_rng_state().tolist())
    modes = (torch.get_default_dtype(), torch.is_grad_enabled())
    return (name, tuple(key), *rest, random.getstate(), torch_state, modes)


def _full_precision(subject: Subject, tensors: Tensors) -> None:
    """A change of 1e-7 nats is seen as a thousandth of a change of 1e-4 is."""
    generator = torch.Generator().manual_seed(subject.seed)
    ways = {
        name: torch.randn(tensors[name].shape, generator=generator, dtype=torch.float64)
        for name in subject.learned
    }
    for without_grad in (True, False):
        held = with_held(subject.total, tensors, without_grad)
        here = held(tensors)
        coarse, fine = (
            (held({**tensors, **{k: tensors[k] + step * way for k, way in ways.items()}}) - here)
            / step
            for step in (1e-4, 1e-7)
        )
        scale = coarse.abs().max()
        off = (coarse - fine).abs().median() / scale.clamp(min=1e-30)
        noise = 1e-15 * here.abs().max() / 1e-7 / scale.clamp(min=1e-30)
        if off <= 0.02 + noise:
            return
    raise Broken(
        "in float64 the value does not follow a change of 1e-7 nats: something inside is computed "
        "in a lower precision"
    )


def reference(subject: Subject) -> str:
    """Policy and reference enter through their ratio, and the reference does enter."""
    sides = {
        parts(name)[1]
        for name in subject.learned
        if f"ref_{name}" in subject.needs and parts(name)[2] != "log_probs"
    }
    if not sides:
        raise NotApplicable("it compares no response with a reference")
    tensors = random_tensors(subject.needs, subject.seed, apart=0.7)
    before = subject.gradients(tensors)
    for side, times in itertools.product(sorted(sides), (1, 30)):
        constant = times * {"": -0.9, "chosen_": -1.3, "rejected_": -0.6}[side]
        after = subject.gradients(_shifted(tensors, side, constant))
        for name, grad in after.items():
            if _off(grad, before[name]) > 1e-7:
                raise Broken(
                    f"adding {constant:g} nats to the {side.rstrip('_') or 'response'} log-prob of "
                    f"policy and reference alike changes the gradient by {name} from "
                    f"{_number(before[name])} to {_number(grad)}"
                )
    _drift_is_subtracted(subject, tensors)
    _reference_matters(subject, tensors)
    return "adding a constant to policy and reference alike leaves the gradient as it was"


def _drift_is_subtracted(subject: Subject, tensors: Tensors) -> None:
    """A policy that has drifted everywhere alike, by as much as its estimate says, is the same."""
    drifts = [name for name in ("kl_estimate", "mean_log_ratio") if name in subject.needs]
    if not drifts or subject.has_tokens:
        return
    before = subject.gradients(tensors)
    moved = {**tensors, **{name: tensors[name] + 0.7 for name in [*subject.learned, *drifts]}}
    for name, grad in subject.gradients(moved).items():
        if _off(grad, before[name]) > 1e-7:
            raise Broken(
                f"{drifts[0]} is not taken off the log-ratio: adding 0.7 nats to both changes the "
                f"gradient by {name} from {_number(before[name])} to {_number(grad)}"
            )


def _shifted(tensors: Tensors, side: str, constant: float) -> Tensors:
    """A constant added to the log-probs of one side under policy, reference and sampler."""
    shifted = dict(tensors)
    for name in tensors:
        prefix, own, quantity = parts(name)
        if own == side and prefix in ("", "ref_", "old_") and "logps" in quantity:
            each = tensors[name].shape[2] if quantity == "token_logps" else 1
            shifted[name] = tensors[name] + constant / each
    return shifted


def _reference_matters(subject: Subject, tensors: Tensors) -> None:
    for name in subject.needs:
        if not name.startswith("ref_") or not is_learned(name.removeprefix("ref_")):
            continue
        other = {**tensors, name: tensors[name] - 0.5}
        if not any(_differs(subject, tensors, other, flags) for flags in switches(subject.card)):
            raise Broken(f"{name} changes neither the value nor the gradient")


def _differs(subject: Subject, tensors: Tensors, other: Tensors, flags: dict[str, Any]) -> bool:
    """Whether value or gradient is another one, with some switches turned."""
    with contextlib.suppress(Broken):
        one, two = subject.gradients(tensors, **flags), subject.gradients(other, **flags)
        same = all(torch.equal(grad, two[name]) for name, grad in one.items())
        return not (
            same and torch.equal(subject.total(tensors, **flags), subject.total(other, **flags))
        )
    return False


def _pick(tensors: Tensors, index: Tensor, axis: int = 1) -> Tensors:
    """Some rows (axis 1) or runs (axis 0) of every tensor."""
    return {
        name: value.index_select(axis, index)
        if axis == 0 or GLOSSARY[name].axes[1] == "row"
        else value
        for name, value in tensors.items()
    }


def _off(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest entry; infinite if anything is not finite."""
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    off = (one - other).abs().max().item() / scale
    return off if off == off else float("inf")


def _number(value: Tensor) -> str:
    """The first entry, in few digits."""
    return f"{value.reshape(-1)[0].item():.6g}"
