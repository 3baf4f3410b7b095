"""Records: what is kept of every chunk of runs, and how it becomes a trajectory."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toyalign.plan import Plan
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.trajectory import Trajectory

MOST_CELLS = 4096  # of longer responses a larger table is not kept, only what is measured of it


class DivergenceWarning(UserWarning):
    """Some runs ended in non-finite numbers; their records stop there."""


class Records:
    """Preallocated buffers for what is recorded of a chunk, [mark, run, ...]."""

    def __init__(self, plan: Plan, runs: int, world: World):
        self._marks = plan.marks
        # A table of newly written responses is another one at every collection.
        passing = world.write is not None or (world.sequential and world.cells > MOST_CELLS)
        kept = 0 if passing else world.contexts
        self._table = (runs, kept, world.actions)
        kind = np.float64 if plan.dtype == torch.float64 else np.float32
        self._empty = lambda *shape: np.full((len(plan.marks), *shape), np.nan, dtype=kind)
        self.arrays: dict[str, Any] = {
            "log_probs": self._empty(*self._table),
            "loss": self._empty(runs),
            "scores": {},
            "unseen": None,
            "rewards": None if world.sequential else world.rewards[0, : world.actions].numpy(),
            "measured": {},
            "diverged_at": np.full(runs, -1),
        }

    def write(
        self,
        step: int,
        loss: Tensor,
        log_probs: Tensor,
        tensors: Mapping[str, Tensor],
        rows: Rows,
        unseen: Tensor | None,
        measured: Mapping[str, Tensor],
    ) -> bool:
        """Record a step; runs with non-finite numbers end here. Returns whether any run lives."""
        mark = self._marks.index(step)
        arrays, runs = self.arrays, self._table[0]
        log_probs = log_probs.detach()[:runs]
        bad = ~torch.isfinite(log_probs).all(1).numpy()
        ended = arrays["diverged_at"]
        ended[bad & (ended < 0)] = step
        if self._table[1]:
            arrays["log_probs"][mark] = log_probs.view(self._table).numpy()
        arrays["loss"][mark] = loss[:runs].numpy()
        for name, values in tensors.items():
            if name.endswith("logps") and not name.startswith("old_"):
                whole = values.detach() if values.ndim == 2 else values.detach().sum(-1)
                mean = arrays["scores"].setdefault(name, self._empty(runs))
                mean[mark] = (rows.weight * whole).sum(1)[:runs].numpy()
        if unseen is not None:
            seen = unseen[:runs].view(runs, -1, self._table[2])
            if arrays["unseen"] is None:
                arrays["unseen"] = self._empty(*seen.shape)
            arrays["unseen"][mark] = seen.numpy()
        for name, per_run in measured.items():
            arrays["measured"].setdefault(name, self._empty(runs))[mark] = per_run[:runs].numpy()
        for array in (
            *(arrays[k] for k in ("log_probs", "loss", "unseen")),
            *arrays["scores"].values(),
            *arrays["measured"].values(),
        ):
            if array is not None:
                array[mark, ended >= 0] = np.nan
        return not (ended >= 0).all()


def gather(plan: Plan, pieces: Sequence[slice], chunks: Iterator[dict[str, Any]]) -> Trajectory:
    """Put the chunks' records together."""
    count = len(plan.runs["seed"])
    whole: dict[str, Any] = {}
    for piece, part in zip(pieces, chunks, strict=True):
        for kind in ("scores", "measured"):
            part |= {f"{kind}/{name}": values for name, values in part.pop(kind).items()}
        for name, values in part.items():
            if values is None or name in ("rewards", "queries"):
                whole[name] = values
                continue
            axis = 0 if name in ("diverged_at", "theta") else 1
            if name not in whole:
                shape = list(values.shape)
                shape[axis] = count
                whole[name] = np.empty(shape, values.dtype)
            whole[name][(slice(None),) * axis + (piece,)] = values
        del part, values  # before the next chunk takes its memory
    ended = whole["diverged_at"]
    if (ended >= 0).any():
        warnings.warn(
            f"{plan.objective.name}: {(ended >= 0).sum()} of {count} runs diverged (non-finite "
            f"log-probabilities), the first by step {ended[ended >= 0].min()}; their records stop "
            "there. A smaller learning rate may help",
            DivergenceWarning,
            stacklevel=3,
        )
    scores, own = (
        {n.removeprefix(kind): whole.pop(n) for n in list(whole) if n.startswith(kind)}
        for kind in ("scores/", "measured/")
    )
    return Trajectory(
        objective=plan.objective.name,
        problem=getattr(plan.problem, "name", type(plan.problem).__name__),
        policy=type(plan.policy).__name__.lower(),
        source=plan.source.origin + (" (exact)" if plan.source.exact else " (sampled)"),
        runs=plan.runs,
        steps=np.array(plan.marks),
        pairs=tuple(getattr(plan.problem, "pairs", ())),
        scores=scores,
        own_measures=own,
        own_units=getattr(plan.problem, "units", {}),
        reference=whole["log_probs"][0],  # training starts at the reference
        **whole,
    )
