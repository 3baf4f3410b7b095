"""What a loss asks for: the push on each log-probability, before any policy has its say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.objectives import Objective

Array = NDArray[np.float64]


def push(
    card: Objective, tensors: Mapping[str, Tensor], hyper: Mapping[str, Any]
) -> dict[str, Tensor]:
    """−dL/d(log-probability) for every log-probability of the policy: positive means up.

    Args:
        card: the objective.
        tensors: what its signature asks for.
        hyper: its hyperparameters.

    Returns:
        One tensor for each trainable name, shaped like it.
    """
    moving = [name for name in card.needs if is_trainable(name)]
    leaves = {name: tensors[name].detach().clone().requires_grad_() for name in moving}
    loss = card.fn(**{**tensors, **leaves}, **hyper)
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaves[name]) if grad is None else -grad
        for name, grad in zip(moving, grads, strict=True)
    }


def is_trainable(name: str) -> bool:
    """Whether a glossary name is a log-probability of the policy being trained."""
    return name.endswith(("logps", "log_probs")) and not name.startswith(
        ("ref_", "old_", "target_")
    )


def push_on_pair(
    card: Objective,
    chosen_ratio: Array,
    rejected_ratio: Array,
    reference: tuple[float, float],
    hyper: Mapping[str, Any],
) -> tuple[Array, Array]:
    """The push on the chosen and on the rejected answer over the plane of their log-ratios.

    A loss on single responses pushes the chosen answer only; all answers are one token long.

    Args:
        card: an objective on pairs or demonstrations.
        chosen_ratio: log π/π_ref of the chosen answer, nats, any shape.
        rejected_ratio: the same of the rejected answer.
        reference: log π_ref of the chosen and of the rejected answer, nats.
        hyper: the objective's hyperparameters.

    Raises:
        ToyalignError: for objectives on rewards or whole distributions.
    """
    if card.kind not in ("pairs", "demonstrations"):
        raise ToyalignError(f"{card.name} is not a loss on pairs or demonstrations")
    ratios = {"chosen_": chosen_ratio, "rejected_": rejected_ratio, "": chosen_ratio}
    tensors = {}
    for name in card.needs:
        side = next((s for s in ("chosen_", "rejected_") if s in name), "")
        ratio = torch.as_tensor(ratios[side], dtype=torch.float64).reshape(1, -1)
        ref = reference[side == "rejected_"]
        if name.endswith(("mask", "lengths")):
            value = torch.ones_like(ratio)
        else:
            value = torch.full_like(ratio, ref) if name.startswith("ref_") else ratio + ref
        tensors[name] = value.unsqueeze(-1) if "token" in name or "mask" in name else value
    pushes = push(card, tensors, hyper)
    total = {"chosen": np.zeros(chosen_ratio.size), "rejected": np.zeros(chosen_ratio.size)}
    for name, value in pushes.items():
        total["rejected" if name.startswith("rejected_") else "chosen"] += value.numpy().ravel()
    return total["chosen"].reshape(chosen_ratio.shape), total["rejected"].reshape(
        chosen_ratio.shape
    )
