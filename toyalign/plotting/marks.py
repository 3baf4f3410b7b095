"""The marks: mass bars, log-prob traces, curves with intervals, dots with intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from toyalign.plotting.style import (
    CHOSEN,
    DASHES,
    GAINER,
    MARKERS,
    OTHERS,
    REFERENCE,
    REJECTED,
    colour_of,
)
from toyalign.trajectory import Trajectory


def mass_bars(
    ax: Axes,
    probabilities: ArrayLike,
    reference: ArrayLike,
    chosen: Sequence[int] = (),
    rejected: Sequence[int] = (),
) -> None:
    """The probability of every arm as bars, the reference as a dashed line.

    Args:
        ax: where to draw.
        probabilities: [action].
        reference: [action].
        chosen: arms drawn in the colour of chosen answers.
        rejected: arms drawn in the colour of rejected answers, and hatched.
    """
    mass, before = np.asarray(probabilities), np.asarray(reference)
    arms = np.arange(len(mass))
    role = [CHOSEN if a in chosen else REJECTED if a in rejected else OTHERS for a in arms]
    bars = ax.bar(arms, mass, color=role, width=0.85 if len(arms) <= 40 else 1.0)
    for arm in rejected:
        bars[arm].set_hatch("////")
    ax.stairs(
        before, np.arange(len(arms) + 1) - 0.5, color=REFERENCE, ls="--", lw=1.1, baseline=None
    )
    ax.set_xlim(-0.7, len(arms) - 0.3)
    ax.grid(False, axis="x")
    ax.set_xlabel("arm")
    ax.set_ylabel("probability")


def traces(ax: Axes, trajectory: Trajectory) -> None:
    """Log-probability of chosen, rejected and the biggest other gainer over the steps.

    With several runs the change since each run's start is drawn: the line is the mean over runs,
    the band reaches from the 10th to the 90th percentile. A problem without pairs shows the arm
    that gained most and the one that lost most.
    """
    steps = trajectory.steps
    several = trajectory.log_probs.shape[1] > 1
    for label, colour, values in followed(trajectory):
        if several:
            values = values - values[0]
            low, high = np.nanpercentile(values, [10, 90], axis=1)
            ax.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
        else:
            ax.axhline(values[0, 0], color=colour, ls="--", lw=0.9)
        ax.plot(steps, np.nanmean(values, 1), color=colour, label=label)
    if several:
        ax.axhline(0, color=REFERENCE, ls="--", lw=0.9)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(0, steps[-1])
    ax.set_xlabel("gradient step")
    change = "change of log-prob (nats)" if several else "log-probability (nats)"
    ax.set_ylabel(change)


def followed(trajectory: Trajectory) -> list[tuple[str, str, np.ndarray]]:
    """What a trace follows: label, colour and log-probability [mark, run] of each answer."""
    probabilities = np.exp(trajectory.log_probs).mean(2)  # [mark, run, action], over contexts
    floor = np.finfo(float).tiny  # an arm that has vanished altogether still has a logarithm
    log_probs = np.log(np.maximum(probabilities, floor))
    gain = np.nanmean(probabilities[-1] - probabilities[0], 0)
    if not trajectory.pairs:
        up, down = int(gain.argmax()), int(gain.argmin())
        return [
            (f"arm {up} (gains most)", CHOSEN, log_probs[..., up]),
            (f"arm {down} (loses most)", REJECTED, log_probs[..., down]),
        ]
    chosen, rejected = trajectory.pair_logps()
    gain[sorted({arm for pair in trajectory.pairs for arm in pair})] = -np.inf
    best = int(gain.argmax())
    return [
        (f"arm {best} (neither)", GAINER, log_probs[..., best]),
        ("chosen", CHOSEN, chosen),
        ("rejected", REJECTED, rejected),
    ]


def curves(
    ax: Axes, table: pd.DataFrame, x: str, hue: str = "objective", markers: bool = True
) -> None:
    """One line per value of `hue`, with bands for the intervals over runs.

    Args:
        ax: where to draw.
        table: columns x, hue, mean, low, high.
        x: the column of the abscissa.
        hue: the column that tells the lines apart; objectives keep their colours.
        markers: whether the points are marked; if not, the lines are dashed differently.
    """
    for index, (name, group) in enumerate(table.groupby(hue, sort=False)):
        group = group.sort_values(x)
        colour = colour_of(str(name))
        ax.fill_between(group[x], group["low"], group["high"], color=colour, alpha=0.2, lw=0)
        marker = MARKERS[index % len(MARKERS)] if markers else None
        dashes = "-" if markers else DASHES[index % len(DASHES)]  # equal curves stay visible
        ax.plot(group[x], group["mean"], ls=dashes, color=colour, label=str(name), marker=marker)
    ax.set_xlabel(x)


def dots(ax: Axes, table: pd.DataFrame, y: str = "objective", hue: str | None = None) -> None:
    """A dot with its interval for every row, one line of dots per value of `y`, first one on top.

    Args:
        ax: where to draw.
        table: columns y, mean, low, high and, if given, hue.
        y: the column that names the lines.
        hue: a column whose values get their own marker, filled for the last one.
    """
    names = list(dict.fromkeys(table[y]))
    groups = [(None, table)] if hue is None else list(table.groupby(hue, sort=False))
    for index, (value, group) in enumerate(groups):
        place = np.array([names.index(name) for name in group[y]], dtype=float)
        place += 0.22 * (index - (len(groups) - 1) / 2)
        error = np.clip([group["mean"] - group["low"], group["high"] - group["mean"]], 0, None)
        ax.errorbar(
            group["mean"],
            place,
            xerr=error,
            fmt=MARKERS[index % len(MARKERS)],
            color=("#000000", CHOSEN, REJECTED)[index % 3] if len(groups) > 1 else "#000000",
            mfc="white" if len(groups) > 1 and index == 0 else None,
            lw=1.2,
            label=None if value is None else str(value),
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
