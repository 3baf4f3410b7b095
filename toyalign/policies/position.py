"""Logits of sequences: one set for every prefix, or in part shared by all prefixes of a position.

Both keep the reference frozen and learn a shift of it, so that they start at it exactly.
"""

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
class Prefix:
    """Independent logits for every prefix; equal prefixes of a prompt have the same ones.

    z = z_ref + θ[prefix], θ [run, cell] starting at 0. Where a response of several tokens has its
    contexts to itself this is `tabular`; there too, in a world without sequences.
    """

    def start(self, world: World, streams: Streams) -> Tensor:
        """Zeros: the policy is the reference."""
        return torch.zeros_like(world.reference_logits)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. Unseen contexts keep the reference: a table says nothing of them."""
        if unseen:
            return normalise(world.reference_logits, world)
        shift = theta if world.nodes is None else _taken(theta, world.nodes, world.actions)
        return normalise(world.reference_logits + shift, world)


@policy
@dataclass(frozen=True)
class Position:
    """Logits that the prefixes of a prompt share, as far as they stand at the same position.

    z = z_ref + √ρ·b[prompt, position] + √(1−ρ)·c[prefix], θ = (b, c) starting at 0, so that a step
    on one context moves the logits of itself by the same amount whatever ρ is, and those of another
    prefix at its position by ρ times that. At ρ = 0 this is `prefix`.

    Args:
        rho: ρ, kernel similarity of different prefixes at one position, 0 to 1.

    Raises:
        ToyalignError: if ρ lies outside [0, 1].

    Source: the sharing that equation 2 of Pal et al. 2024, arXiv 2402.13228, takes for granted
    (ρ = 1); the kernel is this package's own.
    """

    rho: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ToyalignError(f"rho must lie between 0 and 1, not {self.rho}")

    def start(self, world: World, streams: Streams) -> Tensor:
        """Zeros, [run, 2·cell]: the policy is the reference."""
        return torch.zeros_like(world.reference_logits).repeat(1, 2)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. In a world without sequences every context is a prompt of its own."""
        if unseen:
            return normalise(world.reference_logits, world)
        shared, own = theta.chunk(2, 1)
        if world.nodes is not None and world.prompts is not None and world.tokens is not None:
            wide = world.tokens.shape[-1]
            places = world.prompts.unsqueeze(-1) * wide + torch.arange(wide)
            shared = _taken(shared, places.flatten(1), world.actions)
            own = _taken(own, world.nodes, world.actions)
        shift = self.rho**0.5 * shared + (1 - self.rho) ** 0.5 * own
        return normalise(world.reference_logits + shift, world)


def _taken(theta: Tensor, places: Tensor, actions: int) -> Tensor:
    """The logits [run, cell] of contexts that find theirs at the places [run or 1, context]."""
    runs = len(theta)
    wide = places.expand(runs, -1).unsqueeze(-1).expand(-1, -1, actions)
    return theta.view(runs, -1, actions).gather(1, wide).flatten(1)
