"""Random tensors for any signature, and a loss's gradient; the check's own, under short names."""

from collections.abc import Callable

import torch
from torch import Tensor

from toyalign.glossary import is_learned
from toyalign.objectives import Objective
from toyalign.objectives.points import Tensors, random_tensors

tensors = random_tensors


def gradients(loss: Callable[..., Tensor], inputs: Tensors, **hyper: object) -> Tensors:
    """dL/d(log-probability) for the sum of the loss's values, by tensor."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in inputs if is_learned(name)}
    values = loss(**{**inputs, **leaves}, **hyper)
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaves[name]) if grad is None else grad
        for name, grad in zip(leaves, found, strict=True)
    }


def call(card: Objective, inputs: Tensors, **hyper: object) -> Tensor:
    """The loss with its default hyperparameters, where none are given."""
    return card.fn(**inputs, **card.settings(hyper))
