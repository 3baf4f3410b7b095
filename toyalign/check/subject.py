"""The subject of a check: a loss, how it is called, and what its contracts say about it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from toyalign.glossary import GLOSSARY, is_learned, parts
from toyalign.objectives import Objective
from toyalign.objectives.points import Tensors


class Broken(Exception):
    """What a contract says when the loss breaks it: what was seen, and where."""


class NotApplicable(Exception):
    """Why a contract has nothing to say about this loss."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one contract.

    Args:
        contract: its name.
        status: "pass", "fail", "declared" (broken by design, as the card says) or "not applicable".
        seen: what was seen, and where.
        why: the reason why it matters.
    """

    contract: str
    status: str
    seen: str
    why: str


class Subject:
    """A loss under examination.

    Args:
        card: the loss and its card.
        seed: of the points at which it is looked at.
    """

    def __init__(self, card: Objective, seed: int = 0):
        self.card, self.seed = card, seed
        self.needs = card.needs
        self.learned = [name for name in card.needs if is_learned(name)]

    @cached_property
    def has_tokens(self) -> bool:
        """Whether the loss looks at single tokens."""
        return any("token" in GLOSSARY[name].axes for name in self.needs)

    def result(self, tensors: Mapping[str, Tensor], **hyper: Any) -> Any:
        """Whatever the loss returns.

        Raises:
            Broken: if it raises.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.card.fn(**tensors, **{**self.card.hyper, **hyper})
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in list(tensors.items())[:2])
            dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
            raise Broken(
                f"raises {type(error).__name__}: {text[:160]} (called with {shapes}, {dtype})"
            ) from error

    def values(self, tensors: Mapping[str, Tensor], **hyper: Any) -> Tensor:
        """The loss, [run, row] or [run, row, token].

        Raises:
            Broken: if it returns anything else.
        """
        loss = self.result(tensors, **hyper)
        size = expected_shape(tensors, self.has_tokens)
        if not isinstance(loss, Tensor):
            raise Broken(f"returns {type(loss).__name__}, not a tensor")
        if loss.layout != torch.strided or not loss.is_floating_point() or loss.is_meta:
            kind = str(loss.dtype).removeprefix("torch.")
            raise Broken(f"returns a {kind} tensor ({loss.layout}), not plain real numbers")
        if tuple(loss.shape) not in size:
            wanted = " or ".join(str(list(shape)) for shape in size)
            raise Broken(
                f"returns shape {list(loss.shape)} where one value per row"
                f"{' or per token' if len(size) > 1 else ''}, {wanted}, is wanted"
            )
        return loss

    def total(self, tensors: Mapping[str, Tensor], **hyper: Any) -> Tensor:
        """The values with everything under the mask left out, as a caller reduces them."""
        return counted(self.values(tensors, **hyper), tensors)

    def gradients(self, tensors: Mapping[str, Tensor], **hyper: Any) -> Tensors:
        """The derivative of the summed loss by every log-probability of the policy.

        Raises:
            Broken: if the loss has no gradient at all.
        """
        leaves = {name: tensors[name].detach().clone().requires_grad_() for name in self.learned}
        loss = self.total({**tensors, **leaves}, **hyper)
        grads = differentiate(loss, list(leaves.values()))
        return {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
        }

    def row_gradients(self, build: Callable[..., Tensors], leaves: list[Tensor]) -> list[Tensor]:
        """The derivative of the summed loss by leaves from which `build` makes the tensors."""
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        grads = differentiate(self.total(build(*leaves)), leaves)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]


def differentiate(loss: Tensor, leaves: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The derivative of the summed loss by each leaf; None where it does not reach.

    Raises:
        Broken: if there is none, or it cannot be taken.
    """
    if not loss.requires_grad:
        raise Broken(
            "the value has no gradient: it does not depend on the policy, or everything that does "
            "has been detached"
        )
    try:
        return torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise Broken(f"its gradient cannot be taken: {text[:200]}") from error


def switches(card: Objective) -> list[dict[str, Any]]:
    """The defaults, and beside them each flag turned over and each 0 set to 1.

    What a hyperparameter or an input does may hang on another one that is off by default.
    """
    turned: list[dict[str, Any]] = [{}]
    for name, default in card.hyper.items():
        if isinstance(default, bool):
            turned.append({name: not default})
        elif isinstance(default, int | float) and default == 0:
            turned.append({name: 1.0})
    return turned


def expected_shape(tensors: Mapping[str, Tensor], has_tokens: bool) -> tuple[tuple[int, ...], ...]:
    """The shapes that a loss of these tensors may have."""
    whole = next(t.shape for n, t in tensors.items() if GLOSSARY[n].axes[1] == "row")
    rows = tuple(whole[:2])
    for name, tensor in tensors.items():
        if has_tokens and "token" in GLOSSARY[name].axes:
            return (rows, (*rows, tensor.shape[2]))
    return (rows,)


def counted(loss: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The loss with 0 for tokens that belong to no response."""
    if loss.ndim < 3:
        return loss
    for name, tensor in tensors.items():
        if parts(name)[2] == "mask":
            return torch.where(tensor > 0, loss, torch.zeros_like(loss))
    return loss


def where(tensors: Mapping[str, Tensor], run: int, row: int) -> str:
    """A row in words: how far each side is from the reference, or how likely it is."""
    words = []
    for name, tensor in tensors.items():
        prefix, side, quantity = parts(name)
        if prefix or quantity not in ("logps", "token_logps"):
            continue
        total = _total(tensor, run, row)
        reference = tensors.get(f"ref_{name}")
        what = side.rstrip("_") or "response"
        if reference is None:
            words.append(f"{what} log-prob {total:.6g}")
        else:
            words.append(f"{what} log-ratio {total - _total(reference, run, row):+.6g}")
    return ", ".join(words) or f"row {row}"


def _total(tensor: Tensor, run: int, row: int) -> float:
    return float(tensor[run, row].sum())
