"""A logit of its own for every action in every context: nothing is shared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toyalign.policies import policy
from toyalign.problems.world import World
from toyalign.streams import Streams


def normalise(logits: Tensor, world: World) -> Tensor:
    """Logits [run, cell] to log-probabilities [run, cell], context by context."""
    if logits.shape[1] == world.actions:
        return torch.log_softmax(logits, -1)
    shaped = logits.view(len(logits), -1, world.actions)
    return torch.log_softmax(shaped, -1).view(logits.shape)


@policy
@dataclass(frozen=True)
class Tabular:
    """Independent softmax logits; theta is [run, cell]."""

    def start(self, world: World, streams: Streams) -> Tensor:
        """The reference's logits."""
        return world.reference_logits.clone()

    def log_probs_at(self, theta: Tensor, world: World, states: Tensor) -> Tensor:
        """[run, place, action], nats, where the policy is shown mixtures of one-hot contexts.

        Args:
            states: [run, place, context], the share of each context in the mixture; its logits
                mix alike.
        """
        return torch.log_softmax(torch.bmm(states, theta.view(len(theta), -1, world.actions)), -1)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. Unseen contexts keep the reference: a table says nothing of them."""
        return normalise(world.reference_logits if unseen else theta, world)
