"""On Frozen Lake, which objective learns the whole policy, and which only the demonstrated path?

A trajectory is a response and a move is a token, so every objective runs here unchanged. Success
needs the path alone; the distance to the optimal moves, MSE(π, T*) over the cells that can be
reached, also counts the cells beside the path, which no demonstration shows. Hua et al. 2024 (arXiv
2405.11870, section 5) rank DPO, IFT, ORPO and SFT by that distance; they give neither map nor paths
nor start, so everything here is a reconstruction, and the maps are the replicates.
"""

# %% Parameters
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.errors import ToyalignError
from toyalign.intervals import Estimate, mean_interval
from toyalign.problems.lake import random_lake
from toyalign.problems.lake_paths import kappa, nu
from toyalign.study import Part, Study, Verdict, at_least, at_most, main


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    maps: int = 40
    """Random 5x5 maps."""
    steps: int = 300
    """Gradient steps of RMSprop (the paper's optimiser)."""
    lr: float = 0.01
    """Learning rate."""
    starts: tuple[str, ...] = ("rand", "noisy", "bad")
    """Policies to start from: near uniform, mostly right, and leaning to the worse path."""


PRESETS = {"full": Params(), "fast": Params(maps=3, steps=150, starts=("rand", "bad"))}
OBJECTIVES = ("sft", "orpo", "dpo", "dpop", "simpo", "reinforce")
NEGATIVES = ("detour", "hole", "wander")
COLUMNS = ("transition_mse", "on_path_mse", "off_path_mse", "success", "chosen_logps")


# %% Simulation
@cache
def lakes(count: int) -> list[tuple[int, tuple[str, ...]]]:
    """Random maps that have a hole and a detour, by their seed."""
    found, seed = [], 0
    while len(found) < count:
        desc = random_lake(5, seed).desc
        try:
            for negative in NEGATIVES:
                ta.FrozenLake(map=desc, negative=negative)
        except ToyalignError:
            pass
        else:
            found.append((seed, desc))
        seed += 1
    return found


def train(params: Params, objective: str, start: str, negative: str) -> pd.DataFrame:
    """One objective on every map; a run per map."""
    rows = []
    for seed, desc in lakes(params.maps):
        problem = ta.FrozenLake(map=desc, negative=negative, start=start, spread=0.05)
        on_policy = objective == "reinforce"
        source = ta.Source("policy", exact=False, responses=16) if on_policy else "fixed"
        traj = ta.simulate(
            objective,
            problem,
            source=source,
            steps=params.steps,
            lr=params.lr,
            optimiser="rmsprop",
            seeds=[seed],
            marks=20,
        )
        own = traj.own_measures
        rows.append(
            {
                "objective": objective,
                "start": start,
                "negative": negative,
                "map": seed,
                "kappa": kappa(problem.lake, problem.demo),
                "nu": nu(problem.lake, problem.other),
                "start_mse": own["transition_mse"][0, 0],
                "best_mse": own["transition_mse"].min(),
                **{name: own[name][-1, 0] for name in COLUMNS},
            }
        )
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """Every objective, start and kind of worse path; SFT and REINFORCE see no worse path."""
    for start in params.starts:
        for objective in OBJECTIVES:
            alone = objective == "reinforce" or (objective == "sft" and start != "bad")
            for negative in NEGATIVES[:1] if alone else NEGATIVES:
                label = f"{objective}, start {start}, {negative}"
                yield label, train, (params, objective, start, negative)


# %% Figures
def pick(table: pd.DataFrame, objective: str, start: str, negative: str) -> pd.DataFrame:
    """The runs of one setting, by map; of an objective that saw no worse path, its only ones."""
    rows = table[(table.objective == objective) & (table.start == start)]
    mine = rows[rows.negative == negative]
    return (mine if len(mine) else rows[rows.negative == NEGATIVES[0]]).set_index("map")


def seen(table: pd.DataFrame, objective: str, start: str) -> list[str]:
    """The worse paths that runs of a setting differ in."""
    rows = table[(table.objective == objective) & (table.start == start)]
    return list(dict.fromkeys(rows.negative))


def who_learns_what(table: pd.DataFrame) -> Figure:
    """On the path and beside it, for every objective and start."""
    starts = list(dict.fromkeys(table.start))
    figure, axes = plotting.new_figure(2, len(starts), width=3.1, height=2.2, sharey="row")
    titles = {"rand": "start near uniform", "noisy": "start mostly right", "bad": "start misled"}
    markers = {"detour": "o", "hole": "X", "wander": "^"}
    for column, start in enumerate(starts):
        for row, (name, label) in enumerate(
            [("transition_mse", "MSE to optimal moves"), ("success", "success (probability)")]
        ):
            ax = axes[row, column]
            for place, objective in enumerate(OBJECTIVES):
                for shift, negative in enumerate(seen(table, objective, start)):
                    end = mean_interval(pick(table, objective, start, negative)[name])
                    ax.errorbar(
                        place + 0.22 * shift - 0.2,
                        end.mean,
                        end.high - end.mean,
                        fmt=markers[negative],
                        color=plotting.colour_of(objective),
                        label=negative if objective == "dpo" else None,
                    )
            if name == "transition_mse":
                before = table[table.start == start].start_mse.mean()
                ax.axhline(before, color="black", linestyle="--", linewidth=1, label="start")
            ax.set_xticks(range(len(OBJECTIVES)), OBJECTIVES, rotation=30)
            ax.set_ylim(bottom=0)
            if not column:
                ax.set_ylabel(label)
        axes[0, column].set_title(titles[start])
    axes[0, 0].legend(ncols=2, fontsize=7)
    plotting.label_panels(axes[0])
    return figure


# %% Claims
def difference(
    table: pd.DataFrame, one: str, other: str, start: str, negative: str, name: str
) -> Estimate:
    """A measure of one objective less that of another, on the same maps."""
    mine, theirs = (pick(table, which, start, negative)[name] for which in (one, other))
    return mean_interval((mine - theirs).dropna())


def sft_off_path(table: pd.DataFrame) -> Verdict:
    """With a table, imitation cannot touch what is not demonstrated."""
    sft = table[table.objective == "sft"]
    ratio = mean_interval(sft.on_path_mse / sft.start_mse)
    return at_most(
        ratio,
        0.5,
        f"SFT brings the MSE on the path to {ratio.mean:.2f} of what it was over all cells",
    )


def dpo_beats_sft(negative: str, start: str = "rand") -> Callable[[pd.DataFrame], Verdict]:
    """The paper's order has DPO before SFT; it depends on the worse path."""

    def claim(table: pd.DataFrame) -> Verdict:
        found = difference(table, "dpo", "sft", start, negative, "transition_mse")
        return at_most(
            found,
            0.0,
            f"MSE of DPO less SFT's with a {negative} as the rejected path, start {start}: "
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] over {found.n} maps",
        )

    return claim


def orpo_beats_sft_misled(table: pd.DataFrame) -> Verdict:
    """Misled at the fork, with a hole as the rejected path."""
    found = difference(table, "orpo", "sft", "bad", "hole", "transition_mse")
    return at_most(
        found,
        0.0,
        f"MSE of ORPO less SFT's from a start that leans to the hole: {found.mean:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}] over {found.n} maps",
    )


def mse_is_not_success(table: pd.DataFrame) -> Verdict:
    """The rank by MSE is not the rank by success: SFT against REINFORCE."""
    nearer = difference(table, "reinforce", "sft", "rand", "detour", "transition_mse")
    found = difference(table, "reinforce", "sft", "rand", "detour", "success")
    return at_least(
        found,
        0.0,
        f"REINFORCE's success less SFT's, start near uniform: {found.mean:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}]; MSE {nearer.mean:+.4f}",
    )


CLAIMS = {
    "sft_learns_the_path": sft_off_path,
    **{f"dpo_before_sft_{n}": dpo_beats_sft(n) for n in NEGATIVES},
    "dpo_before_sft_misled": dpo_beats_sft("hole", "bad"),
    "orpo_before_sft_misled": orpo_beats_sft_misled,
    "reinforce_succeeds_more": mse_is_not_success,
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={"who_learns_what": who_learns_what},
    claims=CLAIMS,
)

if __name__ == "__main__":
    main(study, __file__)
