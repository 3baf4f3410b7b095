"""A lake whose policy sees its moves so far and never the cell, as a language model would."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.problems import problem
from toyalign.problems.lake import Lake, Path, lake, optimal_policy
from toyalign.problems.lake_paths import demonstration, negative, starting_policy
from toyalign.problems.world import World
from toyalign.problems.writing import looked_at, opened, with_pairs
from toyalign.streams import Streams


@dataclass(frozen=True)
class LakeHistory:
    """Moves as tokens on a lake that is not slippery: a response is an episode.

    The policy is one that writes (`Transformer`) and starts from rollouts of a starting policy that
    does see the cells. The pair is the demonstration against a worse path, the reward of an episode
    1 if it reaches the goal.

    Args:
        map: as in `FrozenLake`.
        negative: the rejected path, likewise.
        start: the policy behind the texts: "rand", "noisy", "mix" or "bad".
        horizon: moves after which an episode is cut off.
        texts: episodes that the policy learns to write from.
        path_seed: of the random paths ("wander", "policy").
        name: what tables and figures call it.

    Raises:
        ToyalignError: for an unknown name, a map that has no such path, or a path that is longer
            than the horizon.
    """

    map: str | Sequence[str] = "4x4"
    negative: str = "hole"
    start: str = "noisy"
    horizon: int = 12
    texts: int = 1024
    path_seed: int = 0
    name: str = "lake_history"
    pairs: tuple[()] = field(default=(), init=False)
    has_pairs: bool = field(default=True, init=False)

    usual_policy: ClassVar[str] = "transformer"

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ToyalignError(f"texts must be at least 1, not {self.texts}")
        longest = max(len(self.demo.actions), len(self.other.actions))
        if self.horizon < longest:
            raise ToyalignError(f"horizon={self.horizon} cuts off a path of {longest} moves")

    @property
    def units(self) -> dict[str, str]:
        """The unit of everything in `measure`."""
        return {
            "success": "share of episodes",
            "wrong_moves": "share of moves",
            "moves": "moves",
            "kl_to_reference": "nats",
        }

    @cached_property
    def lake(self) -> Lake:
        """The map and its transitions."""
        return lake(self.map)

    @cached_property
    def demo(self) -> Path:
        """The demonstrated path: a shortest one."""
        return demonstration(self.lake)

    @cached_property
    def other(self) -> Path:
        """The rejected path."""
        rng = np.random.Generator(np.random.SFC64(self.path_seed))
        return negative(self.lake, self.negative, rng)

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The episodes of the starting policy and the pair, for the runs of these streams."""
        start = starting_policy(self.lake, self.start, self.demo, self.other)
        drawn = streams.uniforms("states", self.texts * self.horizon)
        corpus = self._episodes(start, drawn.reshape(streams.runs, self.texts, self.horizon))
        about = torch.zeros(self.texts, dtype=torch.long)
        world = opened(torch.from_numpy(corpus), about, 4, dtype, self._judge, self.inside)
        chosen, rejected = (
            torch.from_numpy(np.resize(np.append(path.actions, [0] * self.horizon), self.horizon))
            for path in (self.demo, self.other)
        )
        return with_pairs(world, chosen.view(1, 1, -1), rejected.view(1, 1, -1), self.inside)

    def measure(self, world: World, log_probs: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """Of episodes that the policy wrote: success, wrong moves, length, sampled KL.

        Args:
            world: of episodes that the policy wrote.
            log_probs: [run, cell], its table there.
            reference: [run, cell], the reference's.
        """
        rewards, ratio = looked_at(world, log_probs, reference)
        assert world.tokens is not None
        cells, alive = self._walk(world.tokens)
        wrong = torch.from_numpy(self._wrong)[cells, world.tokens] & alive
        moves = alive.sum((-1, -2)).to(log_probs.dtype)
        return {
            "success": rewards.mean(-1),
            "wrong_moves": wrong.sum((-1, -2)) / moves,
            "moves": moves / world.tokens.shape[1],
            "kl_to_reference": ratio.mean(-1),
        }

    def inside(self, tokens: Tensor) -> Tensor:
        """Which moves are made before the episode has ended, [run, response, token]."""
        return self._walk(tokens)[1]

    @cached_property
    def _wrong(self) -> NDArray[np.bool_]:
        """Which moves are not optimal where they are made, [cell, move]."""
        return optimal_policy(self.lake, path=self.demo) == 0

    def _walk(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The cell before each move, and whether the episode is still going on, [..., token]."""
        following = torch.from_numpy(self.lake.next_state)
        ends = torch.from_numpy(self.lake.terminal)
        cell = torch.full(tokens.shape[:-1], int(self.lake.start.argmax()))
        cells, alive = [], []
        for place in range(tokens.shape[-1]):
            cells.append(cell)
            alive.append(~ends[cell])
            cell = torch.where(alive[-1], following[cell, tokens[..., place]], cell)
        return torch.stack(cells, -1), torch.stack(alive, -1)

    def _judge(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """1 for the episodes that reach a goal, [run, response]."""
        cells, alive = self._walk(tokens)
        goals = torch.tensor([letter == "G" for row in self.lake.desc for letter in row])
        after = torch.from_numpy(self.lake.next_state)[cells, tokens]
        return (goals[after] & alive).any(-1).double()

    def _episodes(
        self, policy: NDArray[np.float64], uniforms: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Moves [run, episode, token] of a policy that sees the cells; after the end nothing."""
        cumulative = policy.cumsum(1)
        state = np.full(uniforms.shape[:2], int(self.lake.start.argmax()))
        moves = np.zeros(uniforms.shape, dtype=np.int64)
        for place in range(uniforms.shape[2]):
            drawn = (uniforms[..., place, None] >= cumulative[state]).sum(-1).clip(max=3)
            going = ~self.lake.terminal[state]
            moves[..., place] = np.where(going, drawn, 0)
            state = np.where(going, self.lake.next_state[state, drawn], state)
        return moves


@problem
def lake_history(**changes: Any) -> LakeHistory:
    """Frozen Lake told move by move: the policy remembers what it did and sees nothing else.

    Source: this package's own, to bring the Frozen Lake of Hua et al. 2024, arXiv 2405.11870,
    nearer to a language model.

    Args:
        **changes: fields of `LakeHistory` to set otherwise, for example map="fork5_7".
    """
    return LakeHistory(**changes)
