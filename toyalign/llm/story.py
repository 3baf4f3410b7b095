"""What a training log says of the chosen answers, in a sentence and a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]


def sentence(name: str, entries: Sequence[Entry]) -> str:
    """What became of the chosen answers' log-probability, and since when.

    Single batches are noisy: beginning and end are means over a tenth of the steps.

    Args:
        name: of the objective.
        entries: the log's entries with a loss, in order.
    """
    if not entries:
        return f"{name}: nothing was logged."
    last = entries[-_tenth(entries) :]
    text = f"{name}: the loss went from {entries[0]['loss']:.3f} to {_mean(last, 'loss'):.3f}"
    judged = [entry for entry in entries if "reward" in entry]
    if judged:
        count = _tenth(judged)
        began, ended = (_mean(part, "reward") for part in (judged[:count], judged[-count:]))
        return f"{text}; the mean reward went from {began:.3g} to {ended:.3g}."
    if "logps/chosen" not in entries[-1]:
        return f"{text} in {entries[-1].get('step', len(entries))} steps."
    if not any("rewards/chosen" in entry for entry in entries):  # batches differ too much
        return f"{text}; there is no reference to say whether the chosen answers fell."
    since = fell_since(entries)
    if since is None:
        found = "the chosen answers did not fall below the reference"
    else:
        found = f"the chosen answers have been below the reference since step {since}"
    both = ""
    if "both/fell" in entries[-1]:
        both = f"; in {_mean(last, 'both/fell'):.0%} of the last pairs both answers fell"
    margin = ""
    if "rewards/margins" in entries[-1]:
        margin = f", with a margin of {_mean(last, 'rewards/margins'):.3g}"
    reward = _mean(last, "rewards/chosen")
    return f"{text}; {found} (reward {reward:+.3g} at the end{margin}){both}."


def fell_since(entries: Sequence[Entry]) -> int | None:
    """The step since which the chosen answers' reward has been negative, or None.

    Of every step the mean over the tenth of the steps that ends there is looked at.
    """
    known = [entry for entry in entries if "rewards/chosen" in entry]
    count, since = _tenth(known), None
    for place, entry in enumerate(known):
        reward = _mean(known[max(0, place + 1 - count) : place + 1], "rewards/chosen")
        if reward >= 0:
            since = None
        elif since is None:
            since = int(entry.get("step", place))
    return since


def _tenth(entries: Sequence[Entry]) -> int:
    return max(1, len(entries) // 10)


def _mean(entries: Sequence[Entry], name: str) -> float:
    return float(np.mean([entry[name] for entry in entries if name in entry]))


def story_figure(entries: Sequence[Entry]) -> "Figure":
    """Over the steps: implicit rewards and log-probabilities of pairs, or rewards of responses."""
    from matplotlib.ticker import MaxNLocator

    from toyalign import plotting

    pairs = (("chosen", plotting.CHOSEN, "-"), ("rejected", plotting.REJECTED, "--"))
    single = (("", plotting.CHOSEN, "-"),)
    panels = [
        ("rewards/{}", pairs, "implicit reward (β times nats)"),
        ("reward", single, "mean reward of the policy's responses"),
        ("logps/{}", pairs, "log-probability (nats)"),
        ("logps", single, "log-probability (nats)"),
        ("loss", single, "loss"),
    ]
    known = {name for entry in entries for name in entry}
    drawn = [panel for panel in panels if {panel[0], panel[0].format("chosen")} & known][:2]
    with plotting.house_style():
        figure, axes = plotting.new_figure(1, len(drawn), width=3.2, height=2.3)
        for ax, (name, sides, label) in zip(axes.flat, drawn, strict=True):
            for side, colour, style in sides:
                key = name.format(side)
                found = [(e.get("step", i), e[key]) for i, e in enumerate(entries) if key in e]
                if found:
                    steps, values = np.transpose(found)
                    ax.plot(steps, values, color=colour, ls=style, label=side)
            ax.set(xlabel="gradient step", ylabel=label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if name == "rewards/{}":
                ax.axhline(0, color=plotting.REFERENCE, ls=":", lw=0.9)
            if sides is pairs:
                ax.legend()
        plotting.label_panels(axes.flat)
    return figure
