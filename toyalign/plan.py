"""A plan: what a chunk of runs is told, and how the user's arguments become one."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toyalign.errors import ToyalignError
from toyalign.objectives import Objective
from toyalign.optimisers import Optimiser
from toyalign.problems.sources import Source
from toyalign.views import Residual

DTYPES = {"float64": torch.float64, "float32": torch.float32}


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
    max_grad_norm: float | None
    dtype: torch.dtype
    ghosts: int = 0
    view: Residual | None = None  # None is the plain view


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


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    listed = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not listed or min(listed) < 0:
        raise ToyalignError(f"seeds must be a positive number or a list of seeds, not {seeds}")
    return listed


def grid(
    seeds: list[int], lr: float | Sequence[float], settings: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Cross the settings with each other and with the seeds.

    Returns:
        The settings of every run, [run] each; and the hyperparameters for the loss, the same
        column where they vary and the plain value elsewhere.

    Raises:
        ToyalignError: for an empty list, a number that is not finite, or a negative lr.
    """
    axes = {
        name: list(value) if isinstance(value, list | np.ndarray) else [value]
        for name, value in {"lr": lr, **settings}.items()
    }
    for name, values in axes.items():
        if not values:
            raise ToyalignError(f"{name} is an empty list")
        for value in values:
            if isinstance(value, float | int) and not np.isfinite(value):
                raise ToyalignError(f"{name} must be a finite number, not {value}")
    if min(axes["lr"]) < 0:
        raise ToyalignError(f"lr must be 0 or more, not {min(axes['lr'])}")
    rows = [
        (*combination, seed) for combination in itertools.product(*axes.values()) for seed in seeds
    ]
    columns = {
        name: _column(values)
        for name, values in zip([*axes, "seed"], zip(*rows, strict=True), strict=True)
    }
    columns["lr"] = columns["lr"].astype(float)
    hyper = {k: columns[k] if len(axes[k]) > 1 else axes[k][0] for k in settings}
    return columns, hyper


def _column(values: Sequence[Any]) -> NDArray[Any]:
    """One value per run; a hyperparameter may be a tuple."""
    if not isinstance(values[0], tuple):
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def settled_source(source: str | Source, card: Objective, problem: Any) -> Source:
    """The source with its origin settled, refused if the objective does not allow it."""
    chosen = Source(origin=source) if isinstance(source, str) else source
    if not chosen.origin:
        written = getattr(problem, "usual_policy", "") == "transformer"
        alone = card.kind in ("demonstrations", "distributions")  # these need no pairs
        given = has_pairs(problem) or (alone and not written)
        fixed = given and card.kind != "samples"
        usable = [name for name in card.sources if name != "fixed" or fixed]
        if not usable:
            raise ToyalignError(
                f"{card.name} takes its data from source={' or '.join(card.sources)}, and this "
                "problem has no such data"
            )
        chosen = replace(chosen, origin=usable[0])
    if chosen.origin not in card.sources:
        raise ToyalignError(
            f"{card.name} does not learn from source={chosen.origin!r}: its data must come from "
            f"{' or '.join(card.sources)}"
        )
    return replace(chosen, advantage=chosen.advantage or card.advantage)


def settled_view(view: Residual | None, card: Objective) -> Residual | None:
    """The view of an objective: the one given, or the residual view's own settings."""
    if card.view == "plain":
        if view is not None:
            raise ToyalignError(f"{card.name} has the plain view: leave view out, or take ift")
        return None
    return view or Residual()


def has_pairs(problem: Any) -> bool:
    """Whether a problem brings preference pairs, of arms or of longer responses."""
    return bool(problem.pairs) or getattr(problem, "has_pairs", False)


def columns(plan: Plan, batch: list[int]) -> dict[str, Any]:
    """Hyperparameters for the loss: a column [run, 1] where they vary, else the plain value."""
    return {
        name: torch.from_numpy(value[batch].astype(float)).to(plan.dtype).unsqueeze(1)
        if isinstance(value, np.ndarray)
        else value
        for name, value in plan.hyper.items()
    }
