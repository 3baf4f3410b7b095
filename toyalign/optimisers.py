"""The optimisers: a few in-place tensor operations, with a learning rate per run.

Everything is elementwise, so runs stay independent and a run gives the same numbers alone and in a
batch, which fused kernels do not promise.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError, unknown


@dataclass(frozen=True)
class SGD:
    """θ ← θ − lr·g. The default: what has no gradient does not move."""

    def state(self, theta: Tensor) -> list[Tensor]:
        """Nothing to remember."""
        return []

    def step(self, theta: Tensor, grad: Tensor, lr: Tensor, state: list[Tensor], t: int) -> None:
        """Move theta in place; lr is [run, 1]."""
        theta.sub_(grad * lr)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), as `torch.optim.Adam` computes it.

    Trap: a gradient far below `eps` is left alone, one far above is scaled to size one. With the
    customary 1e-8, exact gradients that should vanish are moved by rounding, and near an interior
    optimum the steps dither by about the learning rate. For conclusions about small changes use
    SGD, or eps of 1e-4 or more.

    Args:
        eps: added to the root of the second moment.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
    """

    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999

    def state(self, theta: Tensor) -> list[Tensor]:
        """First and second moments."""
        return [torch.zeros_like(theta), torch.zeros_like(theta)]

    def step(self, theta: Tensor, grad: Tensor, lr: Tensor, state: list[Tensor], t: int) -> None:
        """Move theta in place; lr is [run, 1], t counts from 0."""
        first, second = state
        first.lerp_(grad, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        # The bias corrections 1 − βᵗ, moved out of the element-wise work.
        root = (1 - self.beta2 ** (t + 1)) ** 0.5
        scale = root / (1 - self.beta1 ** (t + 1))
        denominator = second.sqrt().add_(self.eps * root)
        theta.addcmul_(first.div(denominator), lr, value=-scale)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton 2012), as `torch.optim.RMSprop` computes it.

    Args:
        eps: added to the root of the second moment; the trap of `Adam` is here too.
        alpha: decay of the second moment.
    """

    eps: float = 1e-8
    alpha: float = 0.99

    def state(self, theta: Tensor) -> list[Tensor]:
        """The second moment."""
        return [torch.zeros_like(theta)]

    def step(self, theta: Tensor, grad: Tensor, lr: Tensor, state: list[Tensor], t: int) -> None:
        """Move theta in place; lr is [run, 1]."""
        (second,) = state
        second.mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        theta.addcmul_(grad.div(second.sqrt().add_(self.eps)), lr, value=-1)


Optimiser = SGD | Adam | RMSprop
OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}


def get_optimiser(which: Any) -> Optimiser:
    """An optimiser by name, or as it is if it already is one.

    Raises:
        ToyalignError: for an unknown name, with the nearest one.
    """
    if isinstance(which, str):
        if which not in OPTIMISERS:
            raise unknown("optimiser", which, OPTIMISERS)
        return OPTIMISERS[which]()
    if not hasattr(which, "step"):
        raise ToyalignError(f"{which!r} is not an optimiser: it has no method step")
    return which


def clip_per_run(grad: Tensor, limit: float) -> Tensor:
    """Scale each run's gradient [run, ...] to a norm of at most `limit`; runs do not mix."""
    norm = grad.flatten(1).square().sum(1, keepdim=True).sqrt()
    return grad * (limit / norm.clamp_min(limit)).view(-1, *[1] * (grad.ndim - 1))
