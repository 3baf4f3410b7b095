"""What a finished training says when it is asked: did the chosen answers fall, and is it a bug?"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toyalign.errors import ToyalignError
from toyalign.llm.story import Entry, sentence
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.problems.bandit import adjacent_arms
from toyalign.simulate import simulate

SETTINGS = "toyalign.json"
_CLOSE = 0.01  # of a known start value, relatively
_MOST = 64  # times ln 2 that are still recognised
_MARGIN = 1e-3  # of the first margin, nats times beta
_STARTS = 20  # of the toy


def read_log(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was asked for, where it is known, and the logged entries that have a loss.

    Args:
        folder: of a run: with `log.csv` of ours, or `trainer_state.json`, its own or that of the
            last checkpoint in it.

    Raises:
        ToyalignError: if there is no log, or it cannot be read, or it has no losses.
    """
    if not folder.is_dir():
        raise ToyalignError(f"there is no folder {str(folder)!r}")
    settings: dict[str, Any] = {}
    if (folder / SETTINGS).is_file():
        settings = _json(folder / SETTINGS)
    states = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    if (folder / "log.csv").is_file():
        import pandas as pd

        rows = pd.read_csv(folder / "log.csv").to_dict("records")
        entries = [{str(k): v for k, v in row.items() if v == v} for row in rows]
    elif states:
        newest = max(states, key=lambda path: path.stat().st_mtime)
        entries = _json(newest).get("log_history", [])
    else:
        raise ToyalignError(f"{folder} has no log.csv and no trainer_state.json")
    found = [entry for entry in entries if "loss" in entry]
    if not found:
        raise ToyalignError(f"the log in {folder} has no losses")
    return settings, found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ToyalignError(f"{path} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise ToyalignError(f"{path} is not the file that a training writes")
    return found


def diagnosis(settings: dict[str, Any], entries: Sequence[Entry]) -> str:
    """What became of the chosen answers, and what the first loss gives away.

    Args:
        settings: what was asked for, as `read_log` finds it; empty where it is not known.
        entries: the log's entries with a loss, in order.
    """
    lines = [sentence(settings.get("objective", "the objective"), entries)]
    first = entries[0]
    margin = first.get("rewards/margins")
    fresh = first.get("step", 0) <= 1  # a later entry says nothing of the start
    if fresh and margin is not None and abs(margin) > _MARGIN:
        lines.append(
            f"the first margin is {margin:.3g} and not 0: the reference is not the model that "
            "training starts from, or runs in another precision"
        )
    if settings.get("start"):
        said, known = settings["start"]
        fresh = False  # nothing is left to guess
        if abs(said - known) > _CLOSE * max(1.0, abs(known)):
            lines.append(
                f"the loss started at {said:.6g}, and would be {known:.6g} where policy = reference"
            )
    times = first["loss"] / math.log(2)
    whole = round(times)
    if fresh and margin is not None and 2 <= whole <= _MOST and abs(times - whole) < _CLOSE:
        lines.append(
            f"the first loss is {whole} times ln 2: a loss of the DPO family starts at ln 2, so "
            "something is added up that should be averaged (accumulated parts, or packed rows)"
        )
    return "\n".join(lines)


def in_the_toy(objective: str | Loss | Objective, hyper: dict[str, Any] | None = None) -> str:
    """What the same loss does to a chosen answer among ten, with and without anything shared.

    Args:
        objective: a name, `path/to/file.py:function`, or a function.
        hyper: its hyperparameters.

    Returns:
        A sentence; for an objective that does not learn from pairs, why there is none.
    """
    card = get_objective(objective)
    if card.kind != "pairs" or "fixed" not in card.sources:
        return f"the toy of pairs says nothing of {card.name}, which learns from {card.kind}"
    moved = {}
    for policy in ("features", "tabular"):
        problem = adjacent_arms(spread=1.0)
        found = simulate(card, problem, policy=policy, seeds=_STARTS, marks=2, **(hyper or {}))
        moved[policy] = np.diff(found.measured()["chosen_logps"][[0, -1]], axis=0)[0]
    shared, own = (np.median(moved[policy]) for policy in ("features", "tabular"))
    fell = (moved["features"] < 0).mean()
    return (
        f"in the toy, ten answers of which neighbours share features, {card.name} moves the chosen "
        f"answer by {shared:+.2g} nats (median of {_STARTS} starts; it falls in {fell:.0%}), "
        f"and by {own:+.2g} where nothing is shared"
    )
