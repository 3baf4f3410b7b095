"""Views: other ways to make the log-probabilities that a loss asks for than one look at the data.

The residual view (Hua et al. 2024, arXiv 2405.11870, equation 17) shows the policy, in place of the
state that a demonstration passes through, a mixture of it with the state where the policy's own
previous move would have led. No gradient flows through that choice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError, unknown
from toyalign.problems.sampled import draw
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.streams import Streams

CHOICES = ("greedy", "sampled")


@dataclass(frozen=True)
class Residual:
    """How inputs are mixed.

    Args:
        lam: λ, the share of the policy's own state; 0 is the plain view.
        choice: the policy's own move: its most likely one ("greedy", as in paper and code) or one
            drawn anew at every step ("sampled").

    Raises:
        ToyalignError: for a share outside 0 to 1 or an unknown choice.
    """

    lam: float = 0.2
    choice: str = "greedy"

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ToyalignError(f"lam must be between 0 and 1, not {self.lam}")
        if self.choice not in CHOICES:
            raise unknown("choice", self.choice, CHOICES)

    def states(self, log_probs: Tensor, world: World, rows: Rows, streams: Streams) -> Tensor:
        """The mixed inputs, [run, row · token, feature], no gradient.

        Args:
            log_probs: [run, cell], the policy's, for its own moves.
            world: whose `states` are the inputs and whose `next_context` says where moves lead.
            rows: the demonstrations.
            streams: random numbers of "sampled".

        Raises:
            ToyalignError: if the problem does not say where moves lead.
        """
        if world.states is None or world.next_context is None or rows.cells is None:
            raise ToyalignError(
                "the residual view needs to know where a move leads, and this problem does not "
                "say: try problem frozen_lake"
            )
        runs = len(log_probs)
        contexts = (rows.cells[:, 0] // world.actions).expand(runs, -1, -1)
        moves = self._moves(log_probs.detach(), world, contexts, streams)
        reached = world.next_context[contexts * world.actions + moves]
        # The first token has no move before it.
        own = torch.cat([contexts[..., :1], reached[..., :-1]], -1)
        inputs = [_look_up(world.states, places.flatten(1)) for places in (contexts, own)]
        return (1 - self.lam) * inputs[0] + self.lam * inputs[1]

    def token_logps(
        self,
        policy: Any,
        theta: Tensor,
        log_probs: Tensor,
        world: World,
        rows: Rows,
        streams: Streams,
    ) -> Tensor:
        """Log-probability of every token given the mixed inputs, [run, row, token], nats.

        Raises:
            ToyalignError: if the policy reads no states, or the problem does not say where moves
                lead.
        """
        mixed = self.states(log_probs, world, rows, streams)
        if not hasattr(policy, "log_probs_at"):
            raise ToyalignError(
                f"policy {type(policy).__name__.lower()} has no residual view: it cannot be shown "
                "a mixture of states; try policy tabular"
            )
        assert rows.cells is not None and rows.mask is not None
        actions = (rows.cells[:, 0] % world.actions).expand(len(theta), -1, -1)
        table = policy.log_probs_at(theta, world, mixed)
        chosen = table.gather(2, actions.flatten(1).unsqueeze(-1)).view(actions.shape)
        return chosen * rows.mask[:, 0]

    def _moves(self, log_probs: Tensor, world: World, contexts: Tensor, streams: Streams) -> Tensor:
        """The policy's own move in every context, [run, row, token]."""
        table = log_probs.view(len(log_probs), world.contexts, world.actions)
        if self.choice == "greedy":
            best = table.argmax(-1)
        else:
            numbers = torch.from_numpy(streams.uniforms("view", world.contexts))
            flat = table.exp().flatten(0, 1)
            best = draw(flat, numbers.reshape(-1, 1)).view(table.shape[:2])
        return best.gather(1, contexts.flatten(1)).view(contexts.shape)


def _look_up(states: Tensor, places: Tensor) -> Tensor:
    """The states of some contexts, [run, place, feature]."""
    wide = places.unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.expand(len(places), -1, -1).gather(1, wide)
