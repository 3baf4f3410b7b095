"""Arms that share parameters: neighbours resemble each other as much as one is told."""

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
class Features:
    """Logits that are linear in shared parameters: z = z_ref + Φ·θ, θ [run, cell], starting at 0.

    The features of arm i are a Gaussian bump around i, scaled to length one, so that two arms d
    apart have the inner product exp(−d² / (4·overlap²)) (away from the edges), whatever the
    overlap a step on one arm moves its own logit by the same amount, and only what spills over to
    its neighbours changes.

    Args:
        overlap: width of the bumps in arms; 0 makes the arms independent, as in `Tabular`.

    Raises:
        ToyalignError: if the overlap is negative.
    """

    overlap: float = 1.5

    def __post_init__(self) -> None:
        if not self.overlap >= 0:
            raise ToyalignError(f"overlap must be 0 or more, not {self.overlap}")

    def matrix(self, actions: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Φ, [action, feature]; its rows have length one."""
        place = torch.arange(actions, dtype=torch.float64)
        distance = place[:, None] - place
        bumps = torch.eye(actions, dtype=torch.float64)
        if self.overlap > 0:
            bumps = (-0.5 * (distance / self.overlap) ** 2).exp()
        return (bumps / bumps.norm(dim=1, keepdim=True)).to(dtype)

    def start(self, world: World, streams: Streams) -> Tensor:
        """Zeros: the policy is the reference."""
        return torch.zeros_like(world.reference_logits)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. Contexts share no parameters, so unseen ones keep the reference."""
        if unseen:
            return normalise(world.reference_logits, world)
        # A matrix product of its own for each run: one for all runs would round differently with
        # the number of runs, and a run would not be the same alone and in a batch.
        phi = self.matrix(world.actions, theta.dtype).expand(len(theta), -1, -1)
        shift = torch.bmm(theta.view(-1, world.contexts, world.actions), phi.transpose(1, 2))
        return normalise(world.reference_logits + shift.reshape(theta.shape), world)
