"""Shapes as types. They are documentation; the tests switch their enforcement on."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

Row = Float[Tensor, "run row"]
Count = Real[Tensor, "run row"]
Token = Float[Tensor, "run row token"]
Mask = Real[Tensor, "run row token"]
Distribution = Float[Tensor, "run row *token action"]
PerDistribution = Float[Tensor, "run row *token"]
Column = Float[Tensor, "run 1"]
Hyper = float | Column  # one value for all runs, or a column with one value per run


def over(hyper: Hyper, like: Tensor) -> Tensor:
    """A hyperparameter as a tensor that broadcasts over `like`, whatever trailing axes that has.

    A column [run, 1] fits [run, row] as it is; losses on tokens or whole distributions need this.
    """
    value = torch.as_tensor(hyper, dtype=like.dtype, device=like.device)
    return value.reshape(-1, *[1] * (like.ndim - 1))


TAME = 30.0  # exp(30) is 1e13: far beyond any ratio of interest, far from float32's overflow


def tame_exp(x: Tensor) -> Tensor:
    """exp(x) for x ≤ 30, continued by its tangent: finite where exp overflows, and never flat.

    Clamping instead would make the gradient vanish exactly where a policy has gone farthest. On the
    way to 10⁴ nats the value stays below 10¹⁸, which float32 can hold.
    """
    near = x.clamp(max=TAME)
    return near.exp() * (1 + (x - near))  # exact below: x − x is 0
