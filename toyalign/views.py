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
SCHEDULES = ("static", "linear", "noisy")


@dataclass(frozen=True)
class Residual:
    """How inputs are mixed.

    Args:
        lam: λ, the share of the policy's own state; 0 is the plain view.
        choice: the policy's own move: its most likely one ("greedy", as in paper and code) or one
            drawn anew at every step ("sampled").
        schedule: whether λ stays ("static"), grows from 0 over the first `warmup` steps
            ("linear"), or is multiplied at every step by 1 + z/2 with a standard normal z of each
            run and held between 0 and 1 ("noisy"); all three are options of the released code.
        warmup: steps of "linear".

    Raises:
        ToyalignError: for a share outside 0 to 1, an unknown choice or schedule, or no warmup.
    """

    lam: float = 0.2
    choice: str = "greedy"
    schedule: str = "static"
    warmup: int = 150

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ToyalignError(f"lam must be between 0 and 1, not {self.lam}")
        if self.choice not in CHOICES:
            raise unknown("choice", self.choice, CHOICES)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.warmup < 1:
            raise ToyalignError(f"warmup must be at least 1 step, not {self.warmup}")

    def share(self, step: int, streams: Streams) -> Tensor:
        """λ at a step, [run or 1, 1, 1]."""
        if self.schedule == "linear":
            grown = self.lam * min(1.0, step / self.warmup)
            return torch.tensor(grown, dtype=torch.float64).view(1, 1, 1)
        if self.schedule == "noisy":
            noise = torch.from_numpy(streams.normals("view", 1)).unsqueeze(-1)
            return (self.lam * (1 + noise / 2)).clamp(0, 1)
        return torch.tensor(self.lam, dtype=torch.float64).view(1, 1, 1)

    def states(
        self, log_probs: Tensor, world: World, rows: Rows, streams: Streams, step: int = 0
    ) -> Tensor:
        """The mixed inputs, [run, row · token, feature], no gradient.

        Args:
            log_probs: [run, cell], the policy's, for its own moves.
            world: whose `states` are the inputs and whose `next_context` says where moves lead.
            rows: the demonstrations.
            streams: random numbers of "sampled" and "noisy".
            step: number of the gradient step, from 0.

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
        lam = self.share(step, streams).to(inputs[0].dtype)
        return (1 - lam) * inputs[0] + lam * inputs[1]

    def token_logps(
        self,
        policy: Any,
        theta: Tensor,
        log_probs: Tensor,
        world: World,
        rows: Rows,
        streams: Streams,
        step: int = 0,
    ) -> Tensor:
        """Log-probability of every token given the mixed inputs, [run, row, token], nats.

        Raises:
            ToyalignError: if the policy reads no states, or the problem does not say where moves
                lead.
        """
        mixed = self.states(log_probs, world, rows, streams, step)
        if not hasattr(policy, "log_probs_at"):
            raise ToyalignError(
                f"policy {type(policy).__name__.lower()} has no residual view: it cannot be shown "
                "a mixture of states; try policy tabular or mlp"
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
