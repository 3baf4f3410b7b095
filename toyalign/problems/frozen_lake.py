"""Frozen Lake as a problem for every objective: a trajectory is a response, a move a token.

A context is a cell of the map, so every log-probability is looked up in the policy's table of
moves in cells. The problem brings a demonstration (a shortest path) and a pair (that path against a
worse one), and any policy can be rolled out on it for its return.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.problems import problem
from toyalign.problems.lake import (
    Array,
    Lake,
    Path,
    lake,
    optimal_policy,
    reachable,
    return_within,
    transition_mse,
)
from toyalign.problems.lake_paths import demonstration, negative, starting_policy
from toyalign.problems.lake_rollouts import Tables, rollout, tables
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.streams import Streams

_LEAST = 1e-9  # probability that the target leaves to a move that is not optimal


@dataclass(frozen=True)
class FrozenLake:
    """A lake with a demonstration, a worse path and a policy to start from.

    Args:
        map: "4x4", "8x8" or another key of `lake.MAPS`, or the rows of a map.
        negative: the rejected path: "detour", "hole", "wrong_turn", "wander" or "policy".
        start: the starting policy: "rand", "noisy", "mix" or "bad".
        spread: standard deviation, in nats, of normal noise on the starting policy's logits: a
            start of its own for every seed.
        horizon: moves after which an episode is cut off.
        slippery: whether moves go astray; then there is no demonstration and no pair, since a path
            is no longer a choice, and only rollouts can be learned from.
        success_rate: how often a move on a slippery lake goes where it was meant to.
        path_seed: of the random paths ("wander", "policy").
        name: what tables and figures call it.

    Raises:
        ToyalignError: for an unknown name, or a map that has no such path.
    """

    map: str | Sequence[str] = "4x4"
    negative: str = "hole"
    start: str = "rand"
    spread: float = 0.1
    horizon: int = 40
    slippery: bool = False
    success_rate: float = 1 / 3
    path_seed: int = 0
    name: str = "frozen_lake"

    pairs: ClassVar[tuple[tuple[int, int], ...]] = ()
    units: ClassVar[dict[str, str]] = {
        "success": "probability",
        "transition_mse": "probability squared",
        "on_path_mse": "probability squared",
        "off_path_mse": "probability squared",
        "chosen_logps": "nats",
        "rejected_logps": "nats",
    }

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ToyalignError(f"horizon must be at least 1, not {self.horizon}")
        if not 0 <= self.spread < np.inf:
            raise ToyalignError(f"spread must be 0 or more, and finite, not {self.spread}")
        _ = self.begin  # whatever is wrong with the names shows at once

    @cached_property
    def lake(self) -> Lake:
        """The map and its transitions."""
        return lake(self.map, self.slippery, self.success_rate)

    @property
    def has_pairs(self) -> bool:
        """Whether there are paths to compare."""
        return not self.slippery

    @cached_property
    def demo(self) -> Path:
        """The demonstrated path: a shortest one."""
        return demonstration(self.lake)

    @cached_property
    def other(self) -> Path:
        """The rejected path."""
        rng = np.random.Generator(np.random.SFC64(self.path_seed))
        return negative(self.lake, self.negative, rng)

    @cached_property
    def begin(self) -> Array:
        """The starting policy without noise, [state, action]."""
        if self.slippery:
            return np.full((self.lake.states, 4), 0.25)
        return starting_policy(self.lake, self.start, self.demo, self.other)

    @cached_property
    def optimal(self) -> Array:
        """T*, [state, action]: ties are broken towards the demonstration, uniform elsewhere."""
        return optimal_policy(self.lake, path=None if self.slippery else self.demo)

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The problem as tensors, for the runs whose random streams are given."""
        count = self.lake.states
        logits = torch.from_numpy(np.log(self.begin))
        if self.spread:
            noise = torch.from_numpy(streams.normals("reference", 4 * count))
            logits = logits + self.spread * noise.view(-1, count, 4)
        logits = torch.log_softmax(logits.expand(streams.runs, -1, -1), -1)
        target = torch.from_numpy(self.optimal).clamp_min(_LEAST).log().flatten()[None]
        rows = demo = following = None
        if not self.slippery:
            rows = _rows([self.demo, self.other], dtype)
            demo = _rows([self.demo], dtype)
            following = torch.from_numpy(self.lake.next_state).flatten()
        return World(
            contexts=count,
            actions=4,
            reference_logits=logits.flatten(1).to(dtype),
            rewards=torch.from_numpy(self.lake.reward).flatten()[None].to(dtype),
            target_log_probs=target.to(dtype),
            demonstrations=torch.zeros(1, 4 * count, dtype=dtype),  # its rows stand below
            states=torch.eye(count, dtype=dtype).expand(streams.runs, -1, -1),
            pair_rows=rows,
            demonstration_rows=demo,
            respond=self._respond,
            next_context=following,
        )

    def measure(self, world: World, log_probs: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """Success within the horizon, distance to the optimal moves, and the two paths' log-probs.

        Args:
            world: from `world`.
            log_probs: [run, cell], the policy's.
            reference: [run, cell], where it started.
        """
        table = log_probs.double().numpy().reshape(len(log_probs), -1, 4)
        policy = np.exp(table)
        found = {"success": return_within(self.lake, policy, self.horizon)}
        for name, cells in self._regions.items():
            found[f"{name}_mse"] = transition_mse(policy, self.optimal, cells)
        if not self.slippery:
            for name, path in (("chosen_logps", self.demo), ("rejected_logps", self.other)):
                found[name] = table[:, path.states, path.actions].sum(1)
        return {name: torch.from_numpy(values) for name, values in found.items()}

    @cached_property
    def _regions(self) -> dict[str, NDArray[np.bool_]]:
        """The cells over which distances are taken, [state] each."""
        acting = reachable(self.lake)
        regions = {"transition": acting}
        if not self.slippery:
            on_path = np.isin(np.arange(len(acting)), self.demo.states)
            regions |= {"on_path": on_path, "off_path": acting & ~on_path}
        return {name: cells for name, cells in regions.items() if cells.any()}

    def _respond(
        self, probabilities: Tensor, groups: int, n: int, streams: Streams
    ) -> tuple[Rows, Tensor]:
        """Episodes of each run's own policy, and their returns."""
        count = groups * n
        each = 1 + 2 * self.horizon
        numbers = torch.from_numpy(streams.uniforms("responses", count * each))
        shape = (len(probabilities), count, each)
        cells, mask, returns = rollout(self._tables, probabilities, numbers.reshape(shape))
        weight = probabilities.new_full((1, count), 1 / count)
        return Rows(weight, cells.unsqueeze(1), mask=mask.unsqueeze(1)), returns

    @cached_property
    def _tables(self) -> Tables:
        return tables(self.lake)


def _rows(paths: Sequence[Path], dtype: torch.dtype) -> Rows:
    """One row: a path, or a pair of them, padded to the longer one."""
    longest = max(len(path.actions) for path in paths)
    cells = torch.zeros(1, len(paths), 1, longest, dtype=torch.long)
    mask = torch.zeros(1, len(paths), 1, longest, dtype=dtype)
    for side, path in enumerate(paths):
        length = len(path.actions)
        cells[0, side, 0, :length] = torch.from_numpy(path.states * 4 + path.actions)
        mask[0, side, 0, :length] = 1
    sides = ("chosen_", "rejected_") if len(paths) == 2 else ("",)
    return Rows(torch.ones(1, 1, dtype=dtype), cells, sides, mask=mask)


@problem
def frozen_lake(**changes: Any) -> FrozenLake:
    """Gymnasium's Frozen Lake: a path to the goal against one into a hole, and rollouts.

    Source: Hua et al. 2024, arXiv 2405.11870, section 5, which gives neither its map nor its paths.

    Args:
        **changes: fields of `FrozenLake` to set otherwise, for example map="8x8".
    """
    return FrozenLake(**changes)
