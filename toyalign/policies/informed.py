"""A policy that knows a little about quality, and more of it behind a prompt that asks for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.policies import policy
from toyalign.policies.features import Features
from toyalign.policies.tabular import normalise
from toyalign.problems.world import World
from toyalign.streams import Streams


@policy
@dataclass(frozen=True)
class Informed(Features):
    """Shared features and one direction more: how good the policy believes an answer to be.

    z = z_ref + Φ·θ + c·q·θ_q, with q what it knows of the quality (`World.quality`) and c how much
    of that the context brings up: `plain` in general, `behind` after a quality prompt. θ_q is
    shared by both, so that training on plain prompts also changes what is said behind the prompt,
    and most where q is large. Theta is [run, cell + 1], starting at 0. Behind the prompt the
    reference's logits have `tilt`·q on top, which cancels in every log-ratio.

    Args:
        overlap: as in `Features`.
        plain: c in a plain context.
        behind: c behind the quality prompt.
        tilt: how much the reference knows to use of the quality when it is asked for, in nats.

    Raises:
        ToyalignError: in a world that says nothing of quality.

    Source: a toy of this package's own for the quality prompt of Yu et al. 2024, arXiv 2405.21040,
    section 3.2, whose language models read a sentence there.
    """

    plain: float = 0.3
    behind: float = 1.0
    tilt: float = 1.0

    def start(self, world: World, streams: Streams) -> Tensor:
        """Zeros: the policy is the reference."""
        _known(world)
        zeros = torch.zeros_like(world.reference_logits)
        return torch.cat([zeros, zeros[:, :1]], 1)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats, in plain contexts; unseen ones keep the reference."""
        if unseen:
            return normalise(world.reference_logits, world)
        return normalise(self._shifted(theta, world, self.plain), world)

    def prompted(self, theta: Tensor, world: World) -> Tensor:
        """[run, cell], nats, behind the quality prompt."""
        shifted = self._shifted(theta, world, self.behind)
        return normalise(shifted + self.tilt * _known(world), world)

    def _shifted(self, theta: Tensor, world: World, gain: float) -> Tensor:
        """Logits up to a constant, [run, cell]."""
        own = super().log_probs(theta[:, :-1], world)
        return own + gain * _known(world) * theta[:, -1:]


def _known(world: World) -> Tensor:
    if world.quality is None:
        raise ToyalignError(
            "policy informed reads known quality, and this problem has none: try problem "
            "graded_arms, or give a bandit its knowledge"
        )
    return world.quality
