"""What a training log says of the chosen answers, in a sentence and a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entry = Mapping[str, Any]
_END = 0.1  # share of the steps whose mean is the end: single batches are noisy


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
    if "reward" in last:
        began, ended = (_mean(part, "reward") for part in _ends(entries))
        spread = f"; {last['frac_reward_zero_std']:.0%} of the last prompts had equal rewards"
        return f"{text}; the mean reward went from {began:.3g} to {ended:.3g}{spread}."
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


def _ends(entries: Sequence[Entry]) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """The first and the last entries."""
    count = max(1, round(_END * len(entries)))
    return entries[:count], entries[-count:]


def _mean(entries: Sequence[Entry], name: str) -> float:
    return float(np.mean([entry[name] for entry in entries if name in entry]))


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
