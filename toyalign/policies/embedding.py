"""A hidden state read by fixed unembeddings: the smallest model with trained features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.policies import policy
from toyalign.policies.tabular import normalise
from toyalign.problems.world import World
from toyalign.streams import Streams


@policy
@dataclass(frozen=True)
class Embedding:
    """Logits W·h with the unembeddings W fixed and the hidden state h trained, θ [run, hidden].

    W and the start of h are the problem's (`no_never_yes`).

    Source: the unconstrained features of Razin et al. 2024, arXiv 2410.08847, with W held fixed.
    """

    def start(self, world: World, streams: Streams) -> Tensor:
        """The hidden state of the reference."""
        hidden = getattr(world, "hidden", None)
        if hidden is None:
            raise ToyalignError(
                "policy embedding reads a hidden state, and this problem has none: try "
                "problem no_never_yes"
            )
        return hidden.clone()

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. There is one context, and none is unseen."""
        weights: Tensor = world.unembeddings  # type: ignore[attr-defined]
        logits = torch.bmm(weights, theta.unsqueeze(-1)).squeeze(-1)
        return normalise(logits, world)
