"""A bigram table: the next token depends on the last one, in all responses alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toyalign.policies import policy
from toyalign.policies.tabular import normalise
from toyalign.problems.world import World
from toyalign.streams import Streams


@policy
@dataclass(frozen=True)
class Bigram:
    """Logits indexed by the previous token, shared by all responses; θ is [run, (V + 1)·V].

    z = z_ref + θ[previous token], θ starting at 0; the first token has a row of its own. A token
    that comes back takes part in several contexts, which couples positions: with data that share
    the table the chosen response can fall at any edit distance.

    Departure 1: as the other policies of sequences it shifts the frozen reference of each context,
    where a plain bigram model would be the same in all contexts of a token.
    """

    def start(self, world: World, streams: Streams) -> Tensor:
        """Zeros: the policy is the reference."""
        return world.reference_logits.new_zeros(world.runs, (world.actions + 1) * world.actions)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. In a world without sequences every context is a first token."""
        if unseen:
            return normalise(world.reference_logits, world)
        actions, runs = world.actions, len(theta)
        first = torch.full((1, world.contexts), actions)
        if world.tokens is not None:
            last = world.tokens.roll(1, -1).clone()
            last[..., 0] = actions
            first = last.flatten(1)
        rows = first.expand(runs, -1)
        # A product with a matrix of zeros and ones for each run, because the backward pass of a
        # look-up with many equal indices adds them one at a time.
        marks = torch.nn.functional.one_hot(rows, actions + 1).to(theta.dtype)
        shift = torch.bmm(marks, theta.view(runs, actions + 1, actions))
        return normalise(world.reference_logits + shift.flatten(1), world)
