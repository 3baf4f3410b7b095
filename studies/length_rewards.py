"""Short answers, or usual ones: who gets there by a learned reward, and from what data?

The synthetic length problems of Tajwar et al. 2024 (arXiv 2404.14367, section 5) with a network of
the size of GPT-nano that writes up to sixteen tokens. A linear reward model is learned from pairs.
Min: the shorter response is preferred, and the reference hardly writes short ones. Mode: the one
nearer to the usual length, where the reference already is. Skew: the shorter one again, but all
pairs are short, and nobody has said anything about long responses, which the reference writes.

Departures: 1. texts are lengths drawn from a bell around eight and words that mean nothing. 2. The
truncation behind Skew is not published; here lengths of pairs fall off exponentially. 3. The reward
model is linear, so that what it has learned of short responses goes on to long ones. 4. Every
method has one learning rate.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, difference, mean_interval
from toyalign.problems.lengths import RULES, lengths
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import estimate, last, of_row, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 3
    """Runs of every setting: texts, pairs, reward model and network of their own."""
    steps: int = 40
    """Gradient steps of Adam."""
    lr: float = 1e-3
    """Learning rate."""
    fits: int = 150
    """Steps by which the network learns to write."""
    marks: int = 8
    """Steps at which the policy writes to be measured."""
    prompts: int = 8
    """Prompts per minibatch, with eight responses each."""
    stale: tuple[int, ...] = (1, 4, 16)
    """B / M: minibatches per collection, each used once."""
    reuse: tuple[int, ...] = (1, 2, 4, 8)
    """T: passes over a collection of one minibatch."""


PRESETS = {
    "full": Params(),
    "fast": Params(seeds=2, steps=3, fits=5, marks=2, prompts=2, stale=(1, 4), reuse=(1, 4)),
}
METHODS = {  # label: objective, data, hyperparameters
    "Pref-FT, offline": ("sft", "fixed", {}),
    "DPO, offline": ("dpo", "fixed", {"beta": 0.1}),
    "Best-of-N": ("best_of_n", "policy", {}),
    "RWR": ("rwr", "policy", {"tau": 1.0}),
    "REINFORCE": ("reinforce", "policy", {}),
    "PPO": ("ppo_clip", "policy", {}),
    "DPO": ("dpo", "policy", {"beta": 0.1}),
}
SWEPT = ("Best-of-N", "RWR", "REINFORCE", "PPO")


# %% Simulation
def train(params: Params, rule: str, label: str, batches: int = 1, passes: int = 1) -> pd.DataFrame:
    """One method on one problem: what the policy writes, over the steps."""
    objective, data, hyper = METHODS[label]
    source = "fixed" if data == "fixed" else ta.Source(
        "policy",
        exact=False,
        prompts=params.prompts * batches,
        minibatch=params.prompts if batches > 1 else 0,
        responses=8,
        reuse=passes,
    )  # fmt: skip
    traj = ta.simulate(
        objective,
        lengths(rule),
        policy=ta.Transformer(layers=3, heads=3, width=48, fits=params.fits),
        source=source,
        steps=params.steps,
        lr=params.lr,
        optimiser="adam",
        seeds=params.seeds,
        marks=params.marks,
        dtype="float32",
        **hyper,
    )
    keys = {"rule": rule, "label": label, "objective": objective, "B/M": batches, "T": passes}
    rows = []
    for quantity, values in traj.own_measures.items():
        for mark, step in enumerate(traj.steps):
            found = mean_interval(values[mark])
            rows.append({**keys, "quantity": quantity, "step": step, "mean": found.mean,
                         "low": found.low, "high": found.high, "n": found.n})  # fmt: skip
        over = mean_interval(np.trapezoid(values, traj.steps, axis=0) / traj.steps[-1])
        rows.append({**keys, "quantity": f"average {quantity}", "mean": over.mean,
                     "low": over.low, "high": over.high, "n": over.n})  # fmt: skip
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """Every method on every problem; staleness and reuse on Min."""
    for rule in RULES:
        for label in METHODS:
            yield f"{label}, {rule}", train, (params, rule, label)
    for label in SWEPT:
        for batches in params.stale[1:]:
            yield f"{label}, B/M = {batches}", train, (params, "min", label, batches)
        for passes in params.reuse[1:]:
            yield f"{label}, T = {passes}", train, (params, "min", label, 1, passes)


# %% Figures
def lengths_over_steps(table: pd.DataFrame) -> Figure:
    """Length of what is written, by problem and method."""
    figure, axes = plotting.new_figure(1, 3, width=2.8, height=2.6, sharey=True)
    rows = pick(table, quantity="length", **{"B/M": 1, "T": 1})
    titles = {"min": "Min: shorter", "mode": "Mode: the usual", "skew": "Skew: shorter, short data"}
    for ax, rule in zip(axes.flat, RULES, strict=True):
        for place, (label, (objective, data, _)) in enumerate(METHODS.items()):
            line = pick(rows, rule=rule, label=label)
            style = {"color": plotting.colour_of(objective), "ls": "--" if data == "fixed" else "-"}
            ax.plot(line.step, line["mean"], label=label, **style)
            end = line.iloc[-1]
            ax.plot(end.step, end["mean"], marker=plotting.MARKERS[place], **style)
        if rule == "mode":
            ax.axhline(8, color=plotting.REFERENCE, ls=":", lw=0.9)
        ax.set(title=titles[rule], xlabel="gradient step", xscale="symlog")
        ax.set_xlim(left=0)
    axes[0, 0].set_ylabel("length (tokens)")
    axes[0, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    plotting.label_panels(axes.flat)
    return figure


def stale_and_reused(table: pd.DataFrame) -> Figure:
    """Min: true reward over the steps with staler and with reused data."""
    figure, axes = plotting.new_figure(2, 4, width=2.1, height=1.8, sharex=True, sharey=True)
    rows = pick(table, quantity="true_reward", rule="min")
    for line, (column, other) in enumerate((("B/M", "T"), ("T", "B/M"))):
        for ax, label in zip(axes[line], SWEPT, strict=True):
            mine = pick(rows, label=label, **{other: 1})
            levels = sorted(mine[column].unique())
            for index, level in enumerate(levels):
                curve = mine[mine[column] == level]
                shade = str(0.75 * index / max(1, len(levels) - 1))
                ax.plot(curve.step, curve["mean"], color=shade, label=f"{column} = {level:g}")
            ax.set(title=label if line == 0 else "", xlabel="gradient step" if line else "")
        axes[line, 0].set_ylabel("true reward")
        axes[line, 3].legend(loc="lower right")
    plotting.label_panels(axes[0])
    return figure


# %% Claims
def end(table: pd.DataFrame, rule: str, label: str, quantity: str = "length") -> Estimate:
    """A measure at the end of one method with fresh data used once."""
    return last(table, rule=rule, label=label, quantity=quantity, **{"B/M": 1, "T": 1})


def negative_gradient_shortens(table: pd.DataFrame) -> Verdict:
    """Offline on Min, DPO ends shorter than supervised training on the winners."""
    gap = difference(*(end(table, "min", f"{m}, offline") for m in ("DPO", "Pref-FT")))
    return at_most(gap, -1.0, f"length of offline DPO less Pref-FT's on Min, tokens: {gap}")


def own_samples_shorten(table: pd.DataFrame) -> Verdict:
    """On Min, DPO on its own samples ends shorter than offline DPO."""
    gap = difference(*(end(table, "min", m) for m in ("DPO", "DPO, offline")))
    return at_most(gap, 0.0, f"length of on-policy DPO less offline DPO's on Min, tokens: {gap}")


def mode_separates_none(table: pd.DataFrame) -> Verdict:
    """On Mode all methods end within a tenth of the reward of the best."""
    ends = {label: end(table, "mode", label, "true_reward") for label in METHODS}
    best = max(ends.values(), key=lambda e: e.mean)
    worst = min(ends, key=lambda label: ends[label].mean)
    gap = difference(best, ends[worst])
    return at_most(gap, 0.1, f"true reward of the best method less that of {worst}: {gap}")


def skew_needs_own_samples(table: pd.DataFrame) -> Verdict:
    """On Skew, DPO on its own samples ends with more true reward than on the short pairs."""
    gap = difference(*(end(table, "skew", m, "true_reward") for m in ("DPO", "DPO, offline")))
    return at_least(gap, 0.0, f"true reward of on-policy DPO less offline DPO's on Skew: {gap}")


def cost(table: pd.DataFrame, label: str, column: str) -> Estimate:
    """True reward averaged over the steps: fresh data's less the stalest's or most reused."""
    other = "T" if column == "B/M" else "B/M"
    rows = pick(table, rule="min", label=label, quantity="average true_reward", **{other: 1})
    rows = rows.sort_values(column)
    return difference(of_row(rows.iloc[0]), of_row(rows.iloc[-1]))


def staleness_costs(table: pd.DataFrame) -> Verdict:
    """The stalest data cost every method reward on the way."""
    costs = {label: cost(table, label, "B/M") for label in SWEPT}
    least = min(costs, key=lambda label: costs[label].low)
    return at_least(costs[least], 0.0, f"least average true reward lost ({least}): {costs[least]}")


def eight_passes_cost_little(table: pd.DataFrame) -> Verdict:
    """Eight passes over every collection cost PPO less than a twentieth of the reward."""
    lost = cost(table, "PPO", "T")
    return at_most(lost, 0.05, f"average true reward that PPO loses: {lost}")


def model_is_right_where_it_has_seen(table: pd.DataFrame) -> Verdict:
    """Where REINFORCE ends on Min, the reward model's favourite is the truly best: no hacking."""
    found = estimate(
        table[table.step == table.step.max()], rule="min", label="REINFORCE",
        quantity="true_reward", **{"B/M": 1, "T": 1},
    )  # fmt: skip
    return at_least(found, 0.9, f"true reward at the end: {found}")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (lengths_over_steps, stale_and_reused)},
    claims={
        claim.__name__: claim
        for claim in (
            negative_gradient_shortens,
            own_samples_shorten,
            mode_separates_none,
            skew_needs_own_samples,
            staleness_costs,
            eight_passes_cost_little,
            model_is_right_where_it_has_seen,
        )
    },
    # Sampled in single precision: another machine's rounding changes what is drawn.
    tolerance={"atol": 0.5, "rtol": 0.2},
)

if __name__ == "__main__":
    main(study, __file__)
