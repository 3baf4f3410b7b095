"""What does each objective know of a lake, on the path that it was shown and beside it?

One lake with two ways round, a start that leans to the wrong one, and the map after training: an
arrow for every likely move, the cells that are visited in blue, the demonstrated path and the
rejected one as bands. Supervised training straightens the path and nothing else; a sampled
residual, on this lake, hardly more; DPO empties the rejected path, right moves and wrong ones
alike; REINFORCE improves on what its own episodes have met.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, mean_interval
from toyalign.problems.lake import occupancy, optimal_policy
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 10
    """Runs of every objective; the map shows their mean."""
    steps: int = 400
    """Gradient steps of SGD."""
    lr: float = 3.0
    """Learning rate; DPO's is 1/β = 10 times that."""


PRESETS = {"full": Params(), "fast": Params(seeds=3, steps=80)}
LABELS = ("start", "sft", "ift, sampled", "dpo", "reinforce", "optimal")
MOVES = ("left", "down", "right", "up")


# %% Simulation
def lake() -> ta.FrozenLake:
    """Two ways round; the start leans to the longer one, which is also the rejected path."""
    return ta.FrozenLake(map="fork5_7", negative="detour", start="bad", spread=0.1)


def visited(params: Params, label: str) -> pd.DataFrame:
    """Moves and visits of one policy, cell by cell."""
    problem = lake()
    if label == "optimal":
        policies = optimal_policy(problem.lake, path=problem.demo)[None]
    else:
        name = {"start": "sft", "ift, sampled": "ift"}.get(label, label)
        view = {"view": ta.Residual(0.5, "sampled"), "propagation": "none"} if name == "ift" else {}
        on_policy = ta.Source("policy", exact=False, responses=16)
        traj = ta.simulate(
            name,
            problem,
            policy="tabular",
            source=on_policy if name == "reinforce" else "fixed",
            steps=params.steps,
            lr=params.lr * (10 if name == "dpo" else 1),
            seeds=params.seeds,
            marks=[0, params.steps],
            **view,
        )
        policies = np.exp(traj.log_probs[0 if label == "start" else -1])
    visits = occupancy(problem.lake, policies)
    rows = []
    for cell in range(problem.lake.states):
        for move, name in enumerate(MOVES):
            found = mean_interval(policies[:, cell, move])
            rows.append({"label": label, "cell": cell, "quantity": name, "mean": found.mean,
                         "low": found.low, "high": found.high, "n": found.n})  # fmt: skip
        found = mean_interval(visits[:, cell])
        rows.append({"label": label, "cell": cell, "quantity": "visits", "mean": found.mean,
                     "low": found.low, "high": found.high, "n": found.n})  # fmt: skip
    wrong = np.abs(policies - optimal_policy(problem.lake, path=problem.demo)).sum(-1) / 2
    on_path = np.isin(np.arange(problem.lake.states), problem.demo.states)
    acting = ~problem.lake.terminal
    for quantity, cells in (("on path", on_path), ("beside", acting & ~on_path)):
        found = mean_interval(wrong[:, cells].mean(1))
        rows.append({"label": label, "cell": -1, "quantity": f"wrong moves, {quantity}",
                     "mean": found.mean, "low": found.low, "high": found.high,
                     "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for label in LABELS:
        yield label, visited, (params, label)


# %% Figures
def maps(table: pd.DataFrame) -> Figure:
    """The lake after training with each objective."""
    problem = lake()
    figure, axes = plotting.new_figure(1, len(LABELS), width=1.75, height=2.3)
    ends = [  # the cell that the last move reaches belongs to the path
        [*path.states.tolist(), int(problem.lake.next_state[path.states[-1], path.actions[-1]])]
        for path in (problem.demo, problem.other)
    ]
    for ax, label in zip(axes.flat, LABELS, strict=True):
        rows = pick(table, label=label).set_index(["quantity", "cell"])["mean"]
        policy = np.stack([rows[move].to_numpy() for move in MOVES], -1)
        plotting.lake_map(
            ax, problem.lake.desc, policy, rows["visits"].to_numpy(), path=ends[0], worse=ends[1]
        )
        wrong = [rows[f"wrong moves, {where}", -1] for where in ("on path", "beside")]
        ax.set_title(label)
        ax.set_xlabel(
            f"wrong moves: {wrong[0]:.0%} on the path,\n{wrong[1]:.0%} beside", fontsize=7
        )
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def wrong(table: pd.DataFrame, label: str, where: str) -> Estimate:
    """Mean probability of moves that are not optimal."""
    (row,) = pick(table, label=label, quantity=f"wrong moves, {where}").to_dict("records")
    return Estimate(row["mean"], row["low"], row["high"], int(row["n"]))


def sft_learns_the_path(table: pd.DataFrame) -> Verdict:
    """On the path SFT makes next to no wrong moves any more."""
    found = wrong(table, "sft", "on path")
    return at_most(found, 0.1, f"wrong moves of SFT on the path: {found}")


def sft_leaves_the_rest(table: pd.DataFrame) -> Verdict:
    """Beside it, it is where it was."""
    before, after = wrong(table, "start", "beside"), wrong(table, "sft", "beside")
    gap = Estimate(before.mean - after.mean, before.mean - after.mean, before.mean - after.mean, 1)
    return at_most(gap, 1e-9, f"wrong moves beside the path, before less after SFT: {gap}")


def dpo_spoils_the_rejected_path(table: pd.DataFrame) -> Verdict:
    """DPO unlearns moves beside the path: those of the detour were mostly right."""
    before, after = wrong(table, "start", "beside"), wrong(table, "dpo", "beside")
    return at_least(
        after, before.mean, f"wrong moves beside the path, DPO: {after}; start: {before}"
    )


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={"maps": maps},
    claims={
        claim.__name__: claim
        for claim in (sft_learns_the_path, sft_leaves_the_rest, dpo_spoils_the_rejected_path)
    },
)

if __name__ == "__main__":
    main(study, __file__)
