"""Random numbers by name: one stream per run and purpose.

A seed names a run. Its random numbers depend on the seed and on what they are for, never on the
other runs of the batch, on the chunk, on the order or on the number of processes, so a run can be
taken out of a batch of thousands and repeated alone, bit for bit. Numbers are drawn in float64
whatever the precision of the study.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PURPOSES = (
    "reference",
    "states",
    "start",
    "responses",
    "labels",
    "noise",
    "order",
    "view",
    "quality",
    "evaluation",
)
_BLOCK_BYTES = 4 << 20
_BLOCK_DRAWS = 64


class Streams:
    """The random streams of some runs.

    Args:
        seeds: one seed per run; equal seeds (a sweep over settings) share their numbers.
    """

    def __init__(self, seeds: Sequence[int] | NDArray[np.integer]):
        self._seeds = tuple(int(seed) for seed in seeds)
        self._generators: dict[str, list[np.random.Generator]] = {}
        self._blocks: dict[str, NDArray[np.float64]] = {}
        self._used: dict[str, int] = {}

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self._seeds)

    def normals(self, purpose: str, count: int) -> NDArray[np.float64]:
        """Standard normal numbers, [run, count]."""
        return np.stack([g.standard_normal(count) for g in self._of(purpose)])

    def uniforms(self, purpose: str, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), [run, count]; ask for the same count at every call.

        They are drawn some calls ahead, because a call of a generator costs more than its numbers.
        """
        block = self._blocks.get(purpose)
        used = self._used.get(purpose, 0)
        if block is None or used == block.shape[1]:
            ahead = _BLOCK_BYTES // (8 * max(1, count * len(self._seeds)))
            draws = max(1, min(_BLOCK_DRAWS, ahead))
            block = np.empty((len(self._seeds), draws, count))
            for run, generator in enumerate(self._of(purpose)):
                generator.random(out=block[run])
            self._blocks[purpose], used = block, 0
        self._used[purpose] = used + 1
        return block[:, used]

    def _of(self, purpose: str) -> list[np.random.Generator]:
        if purpose not in self._generators:
            key = (PURPOSES.index(purpose),)
            self._generators[purpose] = [
                np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))
                for seed in self._seeds
            ]
        return self._generators[purpose]
