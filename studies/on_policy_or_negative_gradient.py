"""What helps more: fresh samples of one's own, or pushing bad answers down?

The 100-arm bandit of Tajwar et al. 2024 (arXiv 2404.14367). Its reward peaks where the reference
has next to nothing (`far`) or in the hump of the reference (`near`). Best-of-N and RWR only ever
push up; IPO and DPO also push down; REINFORCE and PPO do both and sample for themselves. Every one
is run on data of the reference and, where it may, on its own samples; then data are made staler
and reused more often; then prompts are made more numerous.

Departures: 1. the reference is the closed form of the distribution that the paper's code samples a
histogram from. 2. Expected reward is computed from all arms, where the code draws one. 3. The
network starts at the reference through its last bias instead of a fit. 4. IPO's "beta = 10" is the
target margin, τ = 0.05 here. 5. RWR's temperature is 0.1; the code's default of 0.05 has weights
up to e²⁰.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, difference, exactly, mean_interval
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import last, of_row


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 20
    """Runs of every tabular setting."""
    mlp_seeds: int = 10
    """Runs of every network setting."""
    steps: int = 300
    """Gradient steps."""
    responses: int = 10
    """N, responses per prompt."""
    prompts: int = 10
    """Prompts per collection, and contexts that the network is trained on."""
    offline_prompts: int = 100
    """Prompts of the offline comparison, as in the paper's script for IPO."""
    stale: tuple[int, ...] = (1, 2, 5, 10, 30)
    """B / M: minibatches per collection, each used once."""
    reuse: tuple[int, ...] = (1, 2, 5, 10, 50)
    """T: passes over a collection of one minibatch."""
    many: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    """Numbers of prompts for the implicit rewards."""


PRESETS = {
    "full": Params(),
    "fast": Params(
        seeds=4,
        mlp_seeds=2,
        steps=15,
        offline_prompts=5,
        stale=(1, 10),
        reuse=(1, 10),
        many=(5, 20),
    ),
}
METHODS = {
    "best_of_n": {},
    "rwr": {"tau": 0.1},
    "ipo": {"tau": 0.05},
    "dpo": {"beta": 0.1},
    "reinforce": {},
    "ppo_clip": {},
}
STALE = ("best_of_n", "reinforce", "ppo_clip", "ipo")
OFFLINE = ("best_of_n", "rwr", "ipo", "dpo", "ppo_clip")
RATES = {"tabular": 0.05, "mlp": 0.003}
PROBLEMS = {"far": ta.far, "near": ta.near}


# %% Simulation
def train(
    params: Params, policy: str, method: str, where: str, source: ta.Source, prompts: int = 0
) -> ta.Trajectory:
    """One method on the 100 arms. The network sees `prompts` contexts and is tested on others."""
    reads = {"prompts": prompts, "state_size": 100, "unseen": 50} if policy == "mlp" else {}
    return ta.simulate(
        method,
        PROBLEMS[where](**reads),
        policy=policy,
        source=source,
        steps=params.steps,
        lr=RATES[policy],
        optimiser=ta.Adam(eps=1e-8),
        seeds=params.mlp_seeds if policy == "mlp" else params.seeds,
        marks=25,
        **METHODS[method],
    )


def curve(keys: dict[str, object], traj: ta.Trajectory) -> pd.DataFrame:
    """Expected reward over steps and queries; of the network, in contexts it never saw.

    The row without a step is the average over all steps: what being slower costs.
    """
    measured = traj.measured()
    reward = measured.get("unseen_expected_reward", measured["expected_reward"])
    average = mean_interval(np.trapezoid(reward, traj.steps, axis=0) / traj.steps[-1])
    rows = [{**keys, "quantity": "average", "mean": average.mean, "low": average.low,
             "high": average.high, "n": average.n}]  # fmt: skip
    for mark, step in enumerate(traj.steps):
        found = mean_interval(reward[mark])
        rows.append({**keys, "quantity": "reward", "step": step, "queries": traj.queries[mark],
                     "mean": found.mean, "low": found.low, "high": found.high,
                     "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def comparison(params: Params, policy: str, where: str, regime: str, method: str) -> pd.DataFrame:
    """One method, offline or on its own samples."""
    offline = regime == "offline"
    prompts = params.offline_prompts if offline else params.prompts
    source = ta.Source(
        "reference" if offline else "policy",
        exact=False,
        responses=params.responses,
        prompts=prompts,
    )
    traj = train(params, policy, method, where, source, prompts)
    keys = {"part": "methods", "policy": policy, "problem": where, "regime": regime}
    return curve({**keys, "objective": method}, traj)


def plateau(params: Params, where: str) -> pd.DataFrame:
    """Offline Best-of-N on exact rows, trained to its end, and the best of N draws."""
    problem = PROBLEMS[where]()
    source = ta.Source("reference", responses=params.responses)
    traj = ta.simulate("best_of_n", problem, source=source, steps=1500, lr=3.5, marks=25)
    keys = {"part": "plateau", "policy": "tabular", "problem": where, "objective": "best_of_n"}
    expected = {**keys, "regime": "best of N draws", "mean": problem.best_of(params.responses)}
    return pd.concat([curve({**keys, "regime": "trained"}, traj), pd.DataFrame([expected])])


def staleness(params: Params, where: str, method: str, batches: int) -> pd.DataFrame:
    """B grows at a fixed minibatch M: every sample is used once, but later and later."""
    size = params.prompts
    source = ta.Source(
        "policy", exact=False, responses=params.responses, prompts=size * batches, minibatch=size
    )
    traj = train(params, "tabular", method, where, source)
    return curve({"part": "stale", "problem": where, "objective": method, "x": batches}, traj)


def reuse(params: Params, where: str, method: str, passes: int) -> pd.DataFrame:
    """T grows at a fixed B: every sample is used again and again."""
    source = ta.Source(
        "policy", exact=False, responses=params.responses, prompts=params.prompts, reuse=passes
    )
    traj = train(params, "tabular", method, where, source)
    return curve({"part": "reuse", "problem": where, "objective": method, "x": passes}, traj)


def implicit(params: Params, method: str, prompts: int) -> pd.DataFrame:
    """Implicit rewards, log π/π_ref, of the winners and losers trained on, offline, on `far`.

    Two responses per prompt, as preference data have them, so that no winner loses another pair.
    """
    source = ta.Source("reference", exact=False, responses=2)
    traj = train(params, "mlp", method, "far", source, prompts)
    rows = []
    for side in ("chosen", "rejected"):
        ratio = traj.scores[f"{side}_logps"] - traj.scores[f"ref_{side}_logps"]
        found = mean_interval(ratio[-1])
        rows.append({"part": "implicit", "problem": "far", "objective": method, "regime": side,
                     "x": prompts, "mean": found.mean, "low": found.low, "high": found.high,
                     "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for where in PROBLEMS:
        yield f"plateau, {where}", plateau, (params, where)
        for policy in ("mlp", "tabular"):
            for method in OFFLINE:
                arguments = (params, policy, where, "offline", method)
                yield f"{method}, offline, {policy}, {where}", comparison, arguments
            for method in METHODS:
                arguments = (params, policy, where, "on-policy", method)
                yield f"{method}, on-policy, {policy}, {where}", comparison, arguments
    for where in PROBLEMS:
        for method in STALE:
            for batches in params.stale:
                yield (
                    f"{method}, B/M = {batches}, {where}",
                    staleness,
                    (params, where, method, batches),
                )
            for passes in params.reuse:
                yield f"{method}, T = {passes}, {where}", reuse, (params, where, method, passes)
    for method in ("ipo", "dpo"):
        for prompts in params.many:
            yield f"{method}, {prompts} prompts", implicit, (params, method, prompts)


# %% Figures
def methods(table: pd.DataFrame, policy: str = "mlp") -> Figure:
    """Expected reward over steps: offline and on-policy, far and near."""
    figure, axes = plotting.new_figure(1, 4, width=2.2, height=2.6, sharey=True)
    rows = table[(table.part == "methods") & (table.policy == policy) & table.step.notna()]
    panels = [(where, regime) for where in PROBLEMS for regime in ("offline", "on-policy")]
    for ax, (where, regime) in zip(axes.flat, panels, strict=True):
        chosen = rows[(rows.problem == where) & (rows.regime == regime)]
        plotting.curves(ax, chosen, "step", markers=False)
        best = table[(table.part == "plateau") & (table.problem == where)]
        best = best[best.regime == "best of N draws"]["mean"].iloc[0]
        ax.axhline(best, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=f"{where}, {regime}", xlabel="gradient step", xscale="symlog", ylim=(0, 1.03))
        ax.set_xlim(0, chosen.step.max())
    axes[0, 0].set_ylabel("expected reward")
    axes[0, 0].annotate("best of ten draws", (1, best_far(table) + 0.02), fontsize=7)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    plotting.label_panels(axes.flat)
    return figure


def methods_tabular(table: pd.DataFrame) -> Figure:
    """The same with a table of logits, which cannot generalise and does not need to."""
    return methods(table, "tabular")


FOUR = (("stale", "step"), ("stale", "queries"), ("reuse", "step"), ("reuse", "queries"))


def stale_and_reused(table: pd.DataFrame) -> Figure:
    """Far reward: staleness and reuse, by gradient steps and by reward queries."""
    return by_freshness(table, "far", FOUR)


def stale_near(table: pd.DataFrame) -> Figure:
    """Near reward: staleness by gradient steps."""
    return by_freshness(table, "near", FOUR[:1])


def by_freshness(table: pd.DataFrame, where: str, views: tuple[tuple[str, str], ...]) -> Figure:
    """One column per method, one row per view; the darker the line, the fresher the data."""
    figure, axes = plotting.new_figure(
        len(views), 4, width=2.1, height=1.75, sharey=True, sharex="row"
    )
    for row, (part, x) in enumerate(views):
        for ax, name in zip(axes[row], STALE, strict=True):
            rows = table[(table.part == part) & (table.problem == where)]
            rows = rows[rows.objective == name]
            levels = sorted(rows.x.unique())
            for index, level in enumerate(levels):
                line = rows[(rows.x == level) & (rows[x] > 0)]  # the average has neither
                shade = str(0.8 * index / max(1, len(levels) - 1))
                label = f"{'B/M' if part == 'stale' else 'T'} = {level:g}"
                ax.plot(line[x], line["mean"], color=shade, label=label)
            ax.set(title=name if row == 0 else "", xscale="log")
            ax.set_xlabel("gradient step" if x == "step" else "reward queries")
        axes[row, 0].set_ylabel(f"{'stale' if part == 'stale' else 'reused'} data\nexpected reward")
        if x == "step":
            axes[row, 3].legend(loc="center left", bbox_to_anchor=(1.0, 0.4))
    return figure


def implicit_rewards(table: pd.DataFrame) -> Figure:
    """Offline, far: what the trained-on winners and losers gained, by number of prompts."""
    figure, axes = plotting.new_figure(1, 2, width=2.9, height=2.4)
    rows = table[table.part == "implicit"]
    for ax, name in zip(axes.flat, ("ipo", "dpo"), strict=True):
        for side, colour in (("chosen", plotting.CHOSEN), ("rejected", plotting.REJECTED)):
            line = rows[(rows.objective == name) & (rows.regime == side)]
            ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, lw=0)
            marker = "o" if side == "chosen" else "s"
            ax.plot(line.x, line["mean"], color=colour, marker=marker, label=side)
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=f"{name}, offline, far", xlabel="prompts in the data", xscale="log")
        ax.set_yscale("symlog", linthresh=10)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(sorted(rows.x.unique()), [f"{x:g}" for x in sorted(rows.x.unique())])
        ax.minorticks_off()
        ax.legend()
    axes[0, 0].set_ylabel("implicit reward log π/π_ref (nats)")
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def best_far(table: pd.DataFrame) -> float:
    """Expected reward of the best of N draws of the reference, far."""
    rows = table[(table.part == "plateau") & (table.problem == "far")]
    return float(rows[rows.regime == "best of N draws"]["mean"].iloc[0])


def best_of_n_levels_off(table: pd.DataFrame) -> Verdict:
    """Exact offline Best-of-N ends at the expected best of N draws, on both rewards."""
    gaps = []
    for where in PROBLEMS:
        end = last(table, part="plateau", problem=where, regime="trained").mean
        rows = table[(table.part == "plateau") & (table.problem == where)]
        gaps.append(abs(end - rows[rows.regime == "best of N draws"]["mean"].iloc[0]))
    worst = exactly(max(gaps))
    return at_most(worst, 0.005, f"largest gap between training's end and theory: {worst.mean:.4f}")


def offline(table: pd.DataFrame, where: str) -> Estimate:
    """IPO's reward less Best-of-N's, offline, network, unseen contexts."""
    keys = {"part": "methods", "policy": "mlp", "regime": "offline", "problem": where}
    return difference(
        last(table, **keys, objective="ipo"), last(table, **keys, objective="best_of_n")
    )


def negative_gradient_helps_far(table: pd.DataFrame) -> Verdict:
    """Offline, IPO ends above Best-of-N where the reward peak is far."""
    gap = offline(table, "far")
    return at_least(gap, 0.05, f"IPO's expected reward less Best-of-N's: {gap}")


def negative_gradient_matters_little_near(table: pd.DataFrame) -> Verdict:
    """Offline, IPO is within 0.05 of Best-of-N where the peak is near."""
    gap = offline(table, "near")
    return at_most(gap, 0.05, f"IPO's expected reward less Best-of-N's: {gap}")


def on_policy_arrives(table: pd.DataFrame) -> Verdict:
    """On their own samples, all methods reach nine tenths of the best reward, far and near."""
    ends = [
        last(table, part="methods", policy="mlp", regime="on-policy", problem=where, objective=name)
        for where in PROBLEMS
        for name in METHODS
    ]
    worst = min(ends, key=lambda end: end.mean)
    return at_least(worst, 0.9, f"lowest expected reward of any method at the end: {worst}")


def winner_changes_sign(table: pd.DataFrame) -> Verdict:
    """Offline IPO raises the winners with few prompts and lowers them with many."""
    rows = table[
        (table.part == "implicit") & (table.objective == "ipo") & (table.regime == "chosen")
    ]
    few, many = rows.loc[rows.x.idxmin()], rows.loc[rows.x.idxmax()]
    effect = Estimate(
        min(few["mean"], -many["mean"]), min(few["low"], -many["high"]),
        min(few["high"], -many["low"]), int(few["n"]),
    )  # fmt: skip
    return at_least(
        effect,
        0.0,
        f"winners gain {few['mean']:.2f} nats with {few.x:g} prompts, "
        f"{many['mean']:.2f} with {many.x:g}",
    )


def first_queries(table: pd.DataFrame, passes: float) -> Estimate:
    """PPO's reward, far, at the last record within 2,000 queries."""
    rows = table[
        (table.part == "reuse") & (table.problem == "far") & (table.objective == "ppo_clip")
    ]
    rows = rows[(rows.x == passes) & (rows.queries <= 2000)]
    return last(rows)


def reuse_saves_queries(table: pd.DataFrame) -> Verdict:
    """For the same reward queries, PPO learns more with ten passes than with one."""
    gain = difference(first_queries(table, 10), first_queries(table, 1))
    return at_least(gain, 0.0, f"gain in expected reward after 2,000 queries, far: {gain}")


def cost_of_staleness(table: pd.DataFrame, where: str, method: str) -> Estimate:
    """Reward averaged over the steps: the freshest data's less the stalest's."""
    rows = table[(table.part == "stale") & (table.quantity == "average")]
    rows = rows[(rows.problem == where) & (rows.objective == method)].sort_values("x")
    return difference(of_row(rows.iloc[0]), of_row(rows.iloc[-1]))


def staleness_hurts_far(table: pd.DataFrame) -> Verdict:
    """On `far` the stalest data cost every method reward on the way."""
    costs = {name: cost_of_staleness(table, "far", name) for name in STALE}
    least = min(costs, key=lambda name: costs[name].low)
    return at_least(costs[least], 0.0, f"least average reward lost ({least}): {costs[least]}")


def staleness_hurts_less_near(table: pd.DataFrame) -> Verdict:
    """The stalest data cost every method less on `near` than on `far`."""
    gaps = {
        name: difference(*(cost_of_staleness(table, where, name) for where in ("far", "near")))
        for name in STALE
    }
    least = min(gaps, key=lambda name: gaps[name].low)
    return at_least(gaps[least], 0.0, f"least difference in cost ({least}): {gaps[least]}")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={
        f.__name__: f
        for f in (
            methods,
            methods_tabular,
            stale_and_reused,
            stale_near,
            implicit_rewards,
        )
    },
    claims={
        claim.__name__: claim
        for claim in (
            best_of_n_levels_off,
            negative_gradient_helps_far,
            negative_gradient_matters_little_near,
            on_policy_arrives,
            winner_changes_sign,
            reuse_saves_queries,
            staleness_hurts_far,
            staleness_hurts_less_near,
        )
    },
    # Sampled, with Adam: on another processor a few runs part ways.
    tolerance={"atol": 0.02, "rtol": 0.02},
)

if __name__ == "__main__":
    main(study, __file__)
