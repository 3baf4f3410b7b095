"""The simulator: problem, rows, named log-probabilities, loss, gradient, policy; again and again.

All runs (seeds times settings) are rows of one tensor. `train` below is the whole method; what
surrounds it only splits the runs into chunks and gathers their records.
"""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toyalign.chunks import chunk_size, map_chunks, tick
from toyalign.errors import ToyalignError, unknown
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.optimisers import Optimiser, clip_per_run, get_optimiser
from toyalign.policies import get_policy
from toyalign.problems import get_problem
from toyalign.problems.sources import Collector, Source
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table, reduce_rows
from toyalign.streams import Streams
from toyalign.trajectory import Trajectory

DTYPES = {"float64": torch.float64, "float32": torch.float32}


# Elementwise kernels treat a tensor's last few entries, up to one short of this many, with scalar
# code whose sigmoid or softplus rounds differently. Ghost runs at the end of every chunk take that
# place, so that a real run gives the same bits wherever it stands in a batch.
_VECTOR = 32


class DivergenceWarning(UserWarning):
    """Some runs ended in non-finite numbers; their records stop there."""


@dataclass(frozen=True)
class Plan:
    """Everything that a chunk of runs needs to know."""

    objective: Objective
    problem: Any
    policy: Any
    source: Source
    optimiser: Optimiser
    steps: int
    marks: tuple[int, ...]
    runs: Mapping[str, NDArray[Any]]
    hyper: Mapping[str, Any]  # columns [run] where swept, plain values elsewhere
    clip: float | None
    dtype: torch.dtype
    ghosts: int = 0


def simulate(
    objective: str | Loss | Objective,
    problem: Any = "adjacent_arms",
    *,
    policy: Any = "tabular",
    source: str | Source = "",
    steps: int = 1000,
    lr: float | Sequence[float] = 0.1,
    optimiser: str | Optimiser = "sgd",
    seeds: int | Sequence[int] = 1,
    marks: int | Sequence[int] = 50,
    clip: float | None = None,
    dtype: str = "float64",
    jobs: int = 1,
    chunk: int | None = None,
    progress: bool = False,
    **hyper: Any,
) -> Trajectory:
    """Train a policy on a problem with an objective, for many seeds and settings at once.

    Args:
        objective: a name ("dpo"), a function, or `path/to/file.py:function`.
        problem: a name ("far") or a `Bandit`.
        policy: a name ("tabular", "features", "mlp") or a policy object.
        source: where the data comes from: "fixed", "reference", "policy", or a `Source`.
        steps: gradient steps.
        lr: learning rate, or several to be crossed with everything else.
        optimiser: "sgd", "adam", "rmsprop", or an optimiser object with its own settings.
        seeds: the seeds, or how many to take from 0 on. A seed names a run: its numbers are the
            same alone and in any batch, chunk, order and number of jobs.
        marks: how many steps to record, logarithmically spaced, or the steps themselves.
        clip: largest norm of each run's gradient.
        dtype: "float64" or "float32".
        jobs: processes to share the runs among.
        chunk: runs per chunk; chosen by size if not given.
        progress: whether to report on standard error how far the work is.
        **hyper: hyperparameters of the objective; a list is crossed with everything else.

    Returns:
        The trajectories of all runs: settings in the order given, seeds innermost.

    Raises:
        ToyalignError: for unknown names, a data source that the objective does not allow, a loss
            of the wrong shape, or numbers that make no sense.
    """
    card = get_objective(objective)
    world_maker = get_problem(problem)
    settings = card.settings(hyper)
    if steps < 1:
        raise ToyalignError(f"steps must be at least 1, not {steps}")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if jobs < 1 or (chunk is not None and chunk < 1):
        raise ToyalignError("jobs and chunk must be at least 1")
    runs, swept = _grid(_seeds(seeds), lr, settings)
    plan = Plan(
        objective=card,
        problem=world_maker,
        policy=get_policy(policy),
        source=_source(source, card, world_maker),
        optimiser=get_optimiser(optimiser),
        steps=steps,
        marks=log_spaced(steps, marks),
        runs=runs,
        hyper={k: runs[k] if k in swept else v for k, v in settings.items()},
        clip=clip,
        dtype=DTYPES[dtype],
    )
    count = len(runs["seed"])
    row_count, numbers = _try_out(plan)
    plan = replace(plan, ghosts=-(-_VECTOR // row_count))
    size = chunk or chunk_size(numbers, plan.dtype)
    pieces = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return _gather(plan, pieces, map_chunks(train, plan, pieces, jobs, progress))


def train(plan: Plan, piece: slice) -> dict[str, Any]:
    """The method itself, for one chunk of runs. Returns the records, [mark, run, ...] each."""
    runs = list(range(*piece.indices(len(plan.runs["seed"]))))
    batch = runs + runs[-1:] * plan.ghosts
    streams = Streams(plan.runs["seed"][batch])
    world = plan.problem.world(streams, plan.dtype)
    hyper = _columns(plan, batch)
    lr = torch.from_numpy(plan.runs["lr"][batch]).to(plan.dtype).unsqueeze(1)
    needs, loss_of = plan.objective.needs, plan.objective.fn

    theta = plan.policy.start(world, streams)
    with torch.no_grad():
        reference = plan.policy.log_probs(theta, world)
    collector = Collector(plan.source, needs, world, reference, streams)
    state = plan.optimiser.state(theta)
    records = Records(plan, len(runs), world, reference)

    rows = None
    for step in range(plan.steps + 1):
        leaf = theta.detach().requires_grad_()
        log_probs = plan.policy.log_probs(leaf, world)
        previous, rows = rows, collector.rows(step, log_probs.detach())
        if rows is not previous:
            fixed = constants(needs, rows, reference, world.actions)
            moving = [name for name in needs if name not in fixed]
        tensors = {**fixed, **from_table(moving, rows, log_probs, world.actions)}
        loss = _checked(loss_of(**tensors, **hyper), plan, rows)
        if step in plan.marks:
            with torch.no_grad():
                beyond = None
                if world.unseen_states is not None:
                    beyond = plan.policy.log_probs(theta, world, unseen=True)
                alive = records.write(
                    step, reduce_rows(loss, rows), log_probs, tensors, rows, beyond
                )
            tick(step, plan.steps)
            if step == plan.steps or not alive:
                break
        # The gradient of the weighted sum over rows. Every run has its own parameters, so one
        # backward pass serves all runs and mixes none.
        weight = rows.weight.view(len(rows.weight), *loss.shape[1:]).expand_as(loss)
        (grad,) = torch.autograd.grad(loss, leaf, grad_outputs=weight)
        if plan.clip is not None:
            grad = clip_per_run(grad, plan.clip)
        plan.optimiser.step(theta, grad, lr, state, step)

    records.arrays["theta"] = theta[: len(runs)].numpy()
    records.arrays["queries"] = np.array([collector.queries(step) for step in plan.marks])
    return records.arrays


class Records:
    """Preallocated buffers for what is recorded of a chunk, [mark, run, ...]."""

    def __init__(self, plan: Plan, runs: int, world: Any, reference: Tensor):
        self._marks = plan.marks
        self._table = (runs, world.contexts, world.actions)
        kind = np.float64 if plan.dtype == torch.float64 else np.float32
        self._empty = lambda *shape: np.full((len(plan.marks), *shape), np.nan, dtype=kind)
        self.arrays: dict[str, Any] = {
            "log_probs": self._empty(*self._table),
            "loss": self._empty(runs),
            "scores": {},
            "unseen": None,
            "reference": reference[:runs].view(self._table).numpy(),
            "rewards": world.rewards[0, : world.actions].numpy(),
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
    ) -> bool:
        """Record a step; runs with non-finite numbers end here. Returns whether any run lives."""
        mark = self._marks.index(step)
        arrays, runs = self.arrays, self._table[0]
        log_probs = log_probs.detach()[:runs]
        bad = ~torch.isfinite(log_probs).all(1).numpy()
        ended = arrays["diverged_at"]
        ended[bad & (ended < 0)] = step
        arrays["log_probs"][mark] = log_probs.view(self._table).numpy()
        arrays["loss"][mark] = loss[:runs].numpy()
        for name, values in tensors.items():
            if name.endswith("logps") and not name.startswith("old_"):
                flat = values.detach().reshape(len(values), -1)
                mean = arrays["scores"].setdefault(name, self._empty(runs))
                mean[mark] = (rows.weight * flat).sum(1)[:runs].numpy()
        if unseen is not None:
            seen = unseen[:runs].view(runs, -1, self._table[2])
            if arrays["unseen"] is None:
                arrays["unseen"] = self._empty(*seen.shape)
            arrays["unseen"][mark] = seen.numpy()
        for name in ("log_probs", "loss", "unseen"):
            if arrays[name] is not None:
                arrays[name][mark, ended >= 0] = np.nan
        return not (ended >= 0).all()


def log_spaced(steps: int, marks: int | Sequence[int]) -> tuple[int, ...]:
    """The steps to record: 0, the last one, and others logarithmically spaced between.

    Raises:
        ToyalignError: if fewer than two are asked for, or one lies outside 0..steps.
    """
    if isinstance(marks, int):
        if marks < 2:
            raise ToyalignError(f"at least 2 records are needed (first and last), not {marks}")
        spaced = np.unique(np.round(np.geomspace(1, steps, max(marks - 1, 1))).astype(int))
        return (0, *(int(step) for step in (spaced if marks > 2 else [steps])))
    chosen = sorted({int(step) for step in marks} | {0, steps})
    if chosen[0] < 0 or chosen[-1] > steps:
        raise ToyalignError(f"marks must lie between 0 and steps={steps}, not {chosen}")
    return tuple(chosen)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    listed = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not listed or min(listed) < 0:
        raise ToyalignError(f"seeds must be a positive number or a list of seeds, not {seeds}")
    return listed


def _grid(
    seeds: list[int], lr: float | Sequence[float], settings: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], set[str]]:
    """The settings of every run, [run] each, and the names of the hyperparameters that vary."""
    axes = {
        name: list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        for name, value in {"lr": lr, **settings}.items()
    }
    for name, values in axes.items():
        if not values:
            raise ToyalignError(f"{name} is an empty list")
        for value in values:
            if isinstance(value, float | int) and not np.isfinite(value):
                raise ToyalignError(f"{name} must be a finite number, not {value}")
    rows = [
        (*combination, seed) for combination in itertools.product(*axes.values()) for seed in seeds
    ]
    columns = {
        name: np.array(column)
        for name, column in zip([*axes, "seed"], zip(*rows, strict=True), strict=True)
    }
    columns["lr"] = columns["lr"].astype(float)
    return columns, {name for name, values in axes.items() if len(values) > 1}


def _source(source: str | Source, card: Objective, problem: Any) -> Source:
    """The source with its origin settled, refused if the objective does not allow it."""
    chosen = Source(origin=source) if isinstance(source, str) else source
    if not chosen.origin:
        usable = [
            name
            for name in card.sources
            if not (
                name == "fixed"
                and (card.kind == "samples" or (card.kind == "pairs" and not problem.pairs))
            )
        ]
        chosen = replace(chosen, origin=usable[0])
    if chosen.origin not in card.sources:
        raise ToyalignError(
            f"{card.name} does not learn from source={chosen.origin!r}: its data must come from "
            f"{' or '.join(card.sources)}"
        )
    return chosen


def _columns(plan: Plan, batch: list[int]) -> dict[str, Any]:
    """Hyperparameters for the loss: a column [run, 1] where they vary, else the plain value."""
    return {
        name: torch.from_numpy(value[batch].astype(float)).to(plan.dtype).unsqueeze(1)
        if isinstance(value, np.ndarray)
        else value
        for name, value in plan.hyper.items()
    }


def _checked(loss: Any, plan: Plan, rows: Rows) -> Tensor:
    """Refuse a loss that has been reduced or broadcast; the caller does the reducing."""
    shape = tuple(getattr(loss, "shape", ()))
    if len(shape) not in (2, 3) or shape[1] != rows.count or shape[2:] not in ((), (1,)):
        raise ToyalignError(
            f"{plan.objective.name} returned shape {list(shape)}, but must return one value per "
            f"row, [run, row] = [any, {rows.count}], or per token: take no mean and no sum"
        )
    return loss


def _try_out(plan: Plan) -> tuple[int, int]:
    """Take the first step of one run, so that mistakes show at once.

    Returns:
        The number of rows, and the largest number of entries that a tensor has per run.
    """
    steps = replace(plan, steps=1, marks=(0,), runs={k: v[:1] for k, v in plan.runs.items()})
    seed = Streams(steps.runs["seed"])
    world = plan.problem.world(seed, plan.dtype)
    theta = plan.policy.start(world, seed)
    log_probs = plan.policy.log_probs(theta, world)
    needs = plan.objective.needs
    rows = Collector(plan.source, needs, world, log_probs, seed).rows(0, log_probs)
    tensors = constants(needs, rows, log_probs, world.actions)
    moving = [name for name in needs if name not in tensors]
    tensors |= from_table(moving, rows, log_probs, world.actions)
    _checked(plan.objective.fn(**tensors, **_columns(plan, [0])), plan, rows)
    widest = max(theta.shape[1], world.cells, rows.count * max(1, len(rows.sides)))
    return rows.count, widest


def _gather(plan: Plan, pieces: Sequence[slice], chunks: Iterator[dict[str, Any]]) -> Trajectory:
    """Put the chunks' records together."""
    count = len(plan.runs["seed"])
    whole: dict[str, Any] = {}
    for piece, part in zip(pieces, chunks, strict=True):
        part |= {f"scores/{name}": values for name, values in part.pop("scores").items()}
        for name, values in part.items():
            if values is None or name in ("rewards", "queries"):
                whole[name] = values
                continue
            axis = 0 if name in ("reference", "diverged_at", "theta") else 1
            if name not in whole:
                shape = list(values.shape)
                shape[axis] = count
                whole[name] = np.empty(shape, values.dtype)
            whole[name][(slice(None),) * axis + (piece,)] = values
    ended = whole["diverged_at"]
    if (ended >= 0).any():
        warnings.warn(
            f"{plan.objective.name}: {(ended >= 0).sum()} of {count} runs diverged (non-finite "
            f"log-probabilities), the first by step {ended[ended >= 0].min()}; their records stop "
            "there. A smaller learning rate may help",
            DivergenceWarning,
            stacklevel=3,
        )
    scores = {
        name.removeprefix("scores/"): whole.pop(name)
        for name in list(whole)
        if name.startswith("scores/")
    }
    return Trajectory(
        objective=plan.objective.name,
        problem=getattr(plan.problem, "name", type(plan.problem).__name__),
        policy=type(plan.policy).__name__.lower(),
        source=plan.source.origin + (" (exact)" if plan.source.exact else " (sampled)"),
        runs=plan.runs,
        steps=np.array(plan.marks),
        pairs=tuple(getattr(plan.problem, "pairs", ())),
        scores=scores,
        **whole,
    )
