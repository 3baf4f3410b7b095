"""Finite differences of a loss, with what the loss holds constant held constant.

`x.detach()` is a legitimate part of a loss, and a difference quotient does not see it. So the loss
is called once to record whatever comes out of a detach, and again with those recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from toyalign.objectives.points import Tensors

_STEP = 1e-5  # nats
_STOPS = (
    torch.Tensor.detach,
    torch.detach,
    torch.Tensor.data.__get__,  # type: ignore[attr-defined]
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.__float__,
)


class _Tape(TorchFunctionMode):
    """Records the results of operations that stop the gradient, or plays them back.

    Args:
        without_grad: whether what is computed under `torch.no_grad()` counts as well. The forward
            of a `torch.autograd.Function` runs so, and is not held constant by it.
    """

    def __init__(self, without_grad: bool):
        super().__init__()
        self.without_grad = without_grad
        self.kept: list[Any] = []
        self.place = 0
        self.playing = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stops = func in _STOPS or (self.without_grad and not torch.is_grad_enabled())
        if stops and self.playing and self.place < len(self.kept):
            self.place += 1
            return self.kept[self.place - 1]
        result = func(*args, **(kwargs or {}))
        if stops and not self.playing:
            self.kept.append(result.clone() if isinstance(result, Tensor) else result)
        return result


def with_held(
    value: Callable[[Tensors], Tensor], tensors: Tensors, without_grad: bool
) -> Callable[[Tensors], Tensor]:
    """A function of the tensors in which all that stops the gradient is as it was at `tensors`."""
    tape = _Tape(without_grad)
    with torch.enable_grad(), tape:
        value(tensors)
    tape.playing = True

    def held(changed: Tensors) -> Tensor:
        tape.place = 0
        with torch.enable_grad(), tape:
            result = value(changed)
        return result.detach()

    return held


def differences(
    value: Callable[[Tensors], Tensor], tensors: Tensors, name: str
) -> tuple[Tensor, Tensor]:
    """Difference quotients of the summed value by each entry of a tensor, to either side.

    Args:
        value: the loss as a function of the tensors, float64.
        tensors: the point.
        name: the tensor to change.

    Returns:
        The quotient ahead and the one behind, shaped like the tensor.
    """
    here = value(tensors)
    ahead, behind = [], []
    for i in range(tensors[name].numel()):
        shift = torch.zeros_like(tensors[name]).view(-1)
        shift[i] = _STEP
        shift = shift.view_as(tensors[name])
        ahead.append((value({**tensors, name: tensors[name] + shift}) - here).sum() / _STEP)
        behind.append((here - value({**tensors, name: tensors[name] - shift})).sum() / _STEP)
    shape = tensors[name].shape
    return torch.stack(ahead).view(shape), torch.stack(behind).view(shape)
