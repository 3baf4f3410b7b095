"""Contracts on the form of a loss: its signature, shapes, numbers, gradient, hyperparameters."""

import contextlib
import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from toyalign.check.held import differences, with_held
from toyalign.check.subject import Broken, NotApplicable, Subject, switches, where
from toyalign.glossary import parts
from toyalign.objectives.points import Point, Tensors, at_start, far_apart, random_tensors

_DTYPES = (torch.float64, torch.float32)
_REWARDED = {"rewards", "advantages", "best_weights", "old_logps", "old_token_logps"}
_ALIEN = {  # what no data source has for a loss on this kind of data
    "pairs": {*_REWARDED, "labels", "target_log_probs"},
    "labelled": {*_REWARDED, "target_log_probs"},
    "samples": {"target_log_probs"},
    "demonstrations": {"target_log_probs"},
    "distributions": set(),
}
_SIZES = ((2, 5, 4), (1, 1, 1), (3, 1, 4), (1, 6, 2), (4, 4, 4))  # runs, rows, tokens


def signature(subject: Subject) -> str:
    """Known names, and keyword-only hyperparameters with defaults.

    Whoever made the card has refused anything else; what is left to ask is whether there is
    something to learn.
    """
    alien = _ALIEN[subject.card.kind] & set(subject.needs)
    if alien:
        raise Broken(
            f"no data has {sorted(alien)[0]} beside {subject.needs[0]}: this is a loss on "
            f"{subject.card.kind}"
        )
    if not subject.learned:
        raise Broken(f"asks only for {', '.join(subject.needs)}, nothing that the policy makes")
    hyper = ", ".join(f"{k}={v}" for k, v in subject.card.hyper.items()) or "no hyperparameters"
    return f"{subject.card.kind}: {', '.join(subject.needs)}; {hyper}"


def shape(subject: Subject) -> str:
    """One value per row or per token, whatever the sizes."""
    kinds = set()
    for runs, rows, tokens in _SIZES:
        tensors = random_tensors(
            subject.needs, subject.seed, runs=runs, rows=rows, tokens=tokens, apart=1.0
        )
        kinds.add(subject.values(tensors).ndim)
    if len(kinds) > 1:
        raise Broken("returns one value per row for some sizes and one per token for others")
    return "[run, row, token]" if kinds == {3} else "[run, row]"


def finite(subject: Subject) -> str:
    """Value and gradient are finite wherever training may go, in both precisions."""
    count = 0
    for dtype in _DTYPES:
        for place, tensors in _everywhere(subject, dtype):
            name = str(dtype).removeprefix("torch.")
            _refuse("value", subject.total(tensors), tensors, f"{place}, {name}")
            for leaf, grad in subject.gradients(tensors).items():
                _refuse(f"gradient on {leaf}", grad, tensors, f"{place}, {name}")
            count += 1
    return f"at {count} points, up to log-ratios of ±10,000 nats and 4,000 tokens"


def _everywhere(subject: Subject, dtype: torch.dtype, longest: int = 4000) -> Iterator[Point]:
    """The start, random points, short and long responses, and far from the reference."""
    needs, seed = subject.needs, subject.seed
    yield Point("at policy = reference", random_tensors(needs, seed, apart=0, dtype=dtype))
    for apart in (0.05, 1.0, None):
        yield Point("at a random point", random_tensors(needs, seed + 1, apart=apart, dtype=dtype))
    for tokens in (1, 2, longest):
        some = random_tensors(needs, seed, rows=3, tokens=tokens, apart=0.02, dtype=dtype)
        yield Point(f"at responses of up to {tokens} tokens", some)
    sure = random_tensors(needs, seed, rows=3, apart=0.5, sure=True, dtype=dtype)
    yield Point("at tokens of probability 1 − 10⁻⁹", sure)
    for ratio, tokens in ((40, 4), (100, 40), (1000, 400), (1e4, longest)):
        far = far_apart(needs, ratio, tokens, dtype)
        yield Point(f"at log-ratios of ±{ratio:,.0f} nats ({tokens} tokens)", far)


def _refuse(what: str, numbers: Tensor, tensors: Tensors, place: str) -> None:
    bad = ~torch.isfinite(numbers)
    if bad.any():
        at = bad.nonzero()[0].tolist()
        rows = min(at[1], numbers.shape[1] - 1) if len(at) > 1 else 0
        raise Broken(f"{what} is {numbers[bad][0].item()} {place}: {where(tensors, at[0], rows)}")


def gradient(subject: Subject) -> str:
    """The gradient is the derivative of the value, reaches every input, and is there at once."""
    reached = dict.fromkeys(subject.learned, 0.0)
    for offset, apart in enumerate((1.0, None, 0.3)):
        tensors = random_tensors(
            subject.needs, subject.seed + offset, runs=1, rows=4, tokens=3, apart=apart
        )
        for name, grad in subject.gradients(tensors).items():
            reached[name] = max(reached[name], grad.abs().max().item())
        if apart == 1.0:
            worst = _compare(subject, tensors)
    start = random_tensors(subject.needs, subject.seed, runs=1, rows=4, tokens=3, apart=0)
    at_once = subject.gradients(start)
    if all(grad.abs().max() == 0 for grad in at_once.values()):
        raise Broken("the gradient is exactly zero at policy = reference: training never begins")
    for name, grad in at_once.items():
        reached[name] = max(reached[name], grad.abs().max().item())
    dead = [n for n, size in reached.items() if size == 0 and not _only_weighs(subject, n, start)]
    if dead:
        raise Broken(f"no gradient ever reaches {' and '.join(dead)} (a detach too many?)")
    return f"differences agree to {worst:.0e}{_kinks(subject, start, at_once)}"


def _only_weighs(subject: Subject, name: str, tensors: Tensors) -> bool:
    """Whether a whole distribution changes the value beside tokens that carry the gradient.

    A weight made from the distribution (an entropy, a divergence) is often held constant.
    """
    side, quantity = parts(name)[1:]
    if quantity != "log_probs" or not {f"{side}logps", f"{side}token_logps"} & set(subject.needs):
        return False
    other = {**tensors, name: torch.log_softmax(tensors[name] * 0.5, -1)}
    return not torch.equal(subject.total(other), subject.total(tensors))


def _compare(subject: Subject, tensors: Tensors) -> float:
    """The largest relative distance between gradient and difference quotient.

    Raises:
        Broken: where it is too large and there is no kink.
    """
    exact = subject.gradients(tensors)
    largest = 0.0
    for name, grad in exact.items():
        off = torch.full_like(grad, torch.inf)
        for without_grad in (True, False):
            held = with_held(subject.total, tensors, without_grad)
            ahead, behind = differences(held, tensors, name)
            scale = (1e-2 * grad.abs().max()).clamp(min=1e-6)
            low, high = torch.minimum(ahead, behind), torch.maximum(ahead, behind)
            central = (ahead + behind) / 2
            kinked = (high - low) > 1e-2 * scale
            nearest = torch.where(kinked, torch.minimum(torch.maximum(grad, low), high), central)
            distance = (grad - nearest).abs() / torch.maximum(scale, grad.abs())
            off = torch.minimum(off, distance)
            if off.max() <= 1e-4:
                break
        if off.max() > 1e-4:
            at = int(off.argmax())
            raise Broken(
                f"by {name} the gradient is {grad.view(-1)[at].item():.6g}, but the value changes "
                f"by {central.view(-1)[at].item():.6g} per nat"
            )
        largest = max(largest, off.max().item())
    return largest


def _kinks(subject: Subject, start: Tensors, exact: Tensors) -> str:
    """What the gradient takes where the loss has a kink at policy = reference, in words."""
    held = with_held(subject.total, start, without_grad=True)
    for name, grad in exact.items():
        ahead, behind = differences(held, start, name)
        jump = (ahead - behind).abs()
        if jump.max() > 1e-3 * max(1e-6, grad.abs().max().item()):
            at = int(jump.argmax())
            left, right, taken = (x.view(-1)[at].item() for x in (behind, ahead, grad))
            return (
                f"; kink at policy = reference: by {name} the derivative is {left:.3g} below and "
                f"{right:.3g} above, and the gradient takes {taken:.3g}"
            )
    return ""


def hyperparameters(subject: Subject) -> str:
    """Every hyperparameter changes the loss or its gradient somewhere."""
    if not subject.card.hyper:
        raise NotApplicable("it has none")
    points = [point.tensors for point in _everywhere(subject, torch.float64, longest=400)]
    wide = random_tensors(subject.needs, subject.seed, apart=3.0)
    loud = ("advantages", "rewards", "chosen_rewards", "kl_estimate")
    points += [wide, {k: 10 * v if k in loud else v for k, v in wide.items()}, at_start(wide)]
    before = [_outcome(subject, tensors, {}) for tensors in points]
    alive, silent = [], []
    for name, default in subject.card.hyper.items():
        others = _other_values(subject, name, default)
        if _has_effect(subject, name, others, points, before):
            alive.append(name)
        elif others and not _unknown_words(subject):
            tried = ", ".join(str(other) for other in others)
            raise Broken(f"{name} has no effect: {default} and {tried} give the same loss")
        else:  # its own other values are unknown, or a word that may switch it on has some
            silent.append(name)
    text = f"{', '.join(alive) or 'none'} seen to matter"
    return f"{text}; not tried: {', '.join(silent)}" if silent else text


def _unknown_words(subject: Subject) -> bool:
    """Whether a hyperparameter is a word whose other values nobody knows."""
    return any(
        isinstance(default, str) and not _other_values(subject, name, default)
        for name, default in subject.card.hyper.items()
    )


def _has_effect(
    subject: Subject, name: str, others: list[Any], points: list[Tensors], before: list[Any]
) -> bool:
    """Whether another value changes anything anywhere, some switch being turned perhaps."""
    for flags in switches(subject.card):
        for tensors, at_defaults in zip(points, before, strict=True):
            known = _outcome(subject, tensors, flags) if flags else at_defaults
            for other in others:
                if _differ(known, _outcome(subject, tensors, {**flags, name: other})):
                    return True
    return False


def _other_values(subject: Subject, name: str, default: Any) -> list[Any]:
    """Values that a hyperparameter may have beside its default."""
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int | float):
        if default == float("inf"):
            return [1.0, 0.1]
        return [2 * default, default / 2, default + 1, 10 * default, default + 0.1]
    if default is None:
        return [1.0, 0.1]
    with contextlib.suppress(Exception):
        hint = typing.get_type_hints(subject.card.fn)[name]
        return [value for value in typing.get_args(hint) if value != default]
    return []


def _outcome(subject: Subject, tensors: Tensors, hyper: dict[str, Any]) -> list[Tensor]:
    """Value and gradients; nothing where this setting is refused."""
    with contextlib.suppress(Broken):
        grads = subject.gradients(tensors, **hyper)
        return [subject.total(tensors, **hyper), *grads.values()]
    return []


def _differ(before: list[Tensor], after: list[Tensor]) -> bool:
    return bool(before and after) and any(
        not torch.allclose(x, y, rtol=1e-12, atol=0, equal_nan=True)
        for x, y in zip(before, after, strict=True)
    )
