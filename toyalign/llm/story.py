"""What a training log says of the chosen answers, in a sentence and a figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toyalign.errors import ToyalignError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]
_CLOSE = 0.01  # of a known start value, relatively


def sentence(name: str, entries: Sequence[Entry]) -> str:
    """What became of the chosen answers' log-probability, and since when.

    Args:
        name: of the objective.
        entries: the log's entries with a loss, in order.
    """
    if not entries:
        return f"{name}: nothing was logged."
    first, last = entries[0], entries[-1]
    text = f"{name}: the loss went from {first['loss']:.3f} to {last['loss']:.3f}"
    if "logps/chosen" not in last:
        return f"{text} in {last.get('step', len(entries))} steps."
    rewards = [entry["rewards/chosen"] for entry in entries if "rewards/chosen" in entry]
    since = fell_since(entries)
    if not rewards:  # without a reference batches differ too much to be compared
        return f"{text}; there is no reference to say whether the chosen answers fell."
    if since is None:
        found = "the chosen answers did not fall below the reference"
    else:
        found = f"the chosen answers have been below the reference since step {since}"
    both = last.get("both/fell")
    tail = "" if both is None else f"; in {both:.0%} of the last pairs both answers fell"
    margin = last.get("rewards/margins")
    wide = "" if margin is None else f", with a margin of {margin:.3g}"
    return f"{text}; {found} (reward {rewards[-1]:+.3g} at the end{wide}){tail}."


def fell_since(entries: Sequence[Entry]) -> int | None:
    """The step since which the chosen answers' reward has been negative, or None."""
    since = None
    for entry in entries:
        reward = entry.get("rewards/chosen")
        if reward is None:
            continue
        if reward < 0 and since is None:
            since = int(entry.get("step", 0))
        elif reward >= 0:
            since = None
    return since


def story_figure(entries: Sequence[Entry]) -> "Figure":
    """Rewards of chosen and rejected answers over the steps, and the log-probabilities."""
    from toyalign import plotting

    with plotting.house_style():
        figure, axes = plotting.new_figure(1, 2, width=3.2, height=2.3)
        looks = (("chosen", plotting.CHOSEN, "-"), ("rejected", plotting.REJECTED, "--"))
        for ax, kind, label in (
            (axes[0, 0], "rewards", "implicit reward β·log π/π_ref (nats)"),
            (axes[0, 1], "logps", "log-probability (nats)"),
        ):
            for side, colour, style in looks:
                found = [(e.get("step", i), e[f"{kind}/{side}"]) for i, e in enumerate(entries)
                         if f"{kind}/{side}" in e]  # fmt: skip
                if found:
                    steps, values = np.transpose(found)
                    ax.plot(steps, values, color=colour, ls=style, label=side)
            ax.set(xlabel="gradient step", ylabel=label)
        axes[0, 0].axhline(0, color=plotting.REFERENCE, ls=":", lw=0.9)
        if axes[0, 1].lines:
            axes[0, 1].legend()
        plotting.label_panels(axes.flat)
    return figure


def read_log(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The objective's name, where it is known, and the logged entries that have a loss.

    Args:
        folder: of a run: with `log.csv` of ours, or `trainer_state.json`, its own or that of the
            last checkpoint in it.

    Raises:
        ToyalignError: if there is no log, or it has no losses.
    """
    if not folder.is_dir():
        raise ToyalignError(f"there is no folder {str(folder)!r}")
    name, entries = "the objective", None
    settings = folder / "toyalign.json"
    if settings.is_file():
        name = json.loads(settings.read_text(encoding="utf-8"))["objective"]
    states = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    if (folder / "log.csv").is_file():
        import pandas as pd

        rows = pd.read_csv(folder / "log.csv").to_dict("records")
        entries = [{str(k): v for k, v in row.items() if v == v} for row in rows]
    elif states:
        newest = max(states, key=lambda path: path.stat().st_mtime)
        entries = json.loads(newest.read_text(encoding="utf-8"))["log_history"]
    if entries is None:
        raise ToyalignError(f"{folder} has no log.csv and no trainer_state.json")
    found = [entry for entry in entries if "loss" in entry]
    if not found:
        raise ToyalignError(f"the log in {folder} has no losses")
    return name, found


def diagnosis(name: str, entries: Sequence[Entry]) -> str:
    """What became of the chosen answers, and what the first loss gives away.

    Args:
        name: of the objective, or "the objective".
        entries: the log's entries with a loss, in order.
    """
    lines = [sentence(name, entries)]
    first = entries[0]
    margin = first.get("rewards/margins")
    if margin is not None and abs(margin) > 1e-3:
        lines.append(
            f"the first margin is {margin:.3g} and not 0: the reference is not the model that "
            "training starts from, or runs in another precision"
        )
    times = first["loss"] / math.log(2)
    whole = round(times)
    if margin is not None and whole > 1 and abs(times - whole) < _CLOSE * whole:
        lines.append(
            f"the first loss is {whole} times ln 2: a loss of the DPO family starts at ln 2, so "
            "something is added up that should be averaged (accumulated parts, or packed rows)"
        )
    return "\n".join(lines)
