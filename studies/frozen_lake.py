"""On Frozen Lake, which objective learns the whole policy, and which only the demonstrated path?

A trajectory is a response and a move is a token, so every objective runs here unchanged. Success
needs the path alone; the distance to the optimal moves, MSE(π, T*) over the cells that can be
reached, also counts the cells beside the path, which no demonstration shows. IFT mixes the state
where the policy's own last move would have led into what it reads; kappa, the share of one-step
deviations after which the demonstration's next move is right all the same, should say when that
helps, and nu, the share of a rejected path's moves that are wrong, when pushing it down does. Hua
et al. 2024 (arXiv 2405.11870, section 5) rank DPO, IFT, ORPO and SFT by that distance; they give
neither map nor paths nor start, so everything here is a reconstruction, and the maps are the
replicates.
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
from toyalign.intervals import Estimate, correlation, mean_interval
from toyalign.problems.lake import random_lake
from toyalign.problems.lake_paths import kappa, nu
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    maps: int = 40
    """Random 5x5 maps."""
    repeats: int = 4
    """Runs per map, whose mean stands for it."""
    remembered: int = 4
    """Maps for the policy that sees its moves and not the cell."""
    fits: int = 100
    """Steps by which that policy learns to write."""
    steps: int = 300
    """Gradient steps of RMSprop (the paper's optimiser)."""
    lr: float = 0.01
    """Learning rate."""
    starts: tuple[str, ...] = ("rand", "noisy", "bad")
    """Policies to start from: near uniform, mostly right, and leaning to the worse path."""


PRESETS = {
    "full": Params(),
    "fast": Params(maps=2, repeats=2, remembered=1, fits=20, steps=60, starts=("rand", "bad")),
}
OBJECTIVES = ("sft", "ift", "ift sampled", "orpo", "dpo", "dpop", "simpo", "reinforce")
WITH_MEMORY = ("sft", "orpo", "dpo", "dpop", "reinforce")
BY_NETWORK = ("sft", "ift", "ift sampled", "orpo", "dpo")
ALONE = ("sft", "ift", "ift sampled", "reinforce")  # they see no worse path
NEGATIVES = ("detour", "wrong_turn", "wander")
COLUMNS = ("transition_mse", "on_path_mse", "off_path_mse", "success", "chosen_logps")
NETWORK = ta.MLP(hidden=(64,), layer_norm=False, gain=1.0, fits=100, fit_lr=0.03)


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


def train(params: Params, policy: str, label: str, start: str, negative: str) -> pd.DataFrame:
    """One objective on every map."""
    objective = label.partition(" ")[0]
    given: dict[str, object] = {}
    if objective == "ift":  # the residual alone, without propagation
        choice = "sampled" if "sampled" in label else "greedy"
        given = {"view": ta.Residual(0.2, choice), "propagation": "none"}
    rows = []
    for seed, desc in lakes(params.maps):
        problem = ta.FrozenLake(map=desc, negative=negative, start=start, spread=0.05)
        on_policy = objective == "reinforce"
        traj = ta.simulate(
            objective,
            problem,
            policy=NETWORK if policy == "mlp" else "tabular",
            source=ta.Source("policy", exact=False, responses=16) if on_policy else "fixed",
            steps=params.steps,
            lr=params.lr,
            optimiser="rmsprop",
            seeds=range(seed * 100, seed * 100 + params.repeats),
            marks=20,
            **given,
        )
        own = {name: values.mean(1) for name, values in traj.own_measures.items()}
        rows.append(
            {
                "policy": policy,
                "objective": label,
                "start": start,
                "negative": negative,
                "map": seed,
                "kappa": kappa(problem.lake, problem.demo),
                "nu": nu(problem.lake, problem.other),
                "start_mse": own["transition_mse"][0],
                "best_mse": own["transition_mse"].min(),
                **{name: own[name][-1] for name in COLUMNS},
            }
        )
    return pd.DataFrame(rows)


def remember(params: Params, objective: str) -> pd.DataFrame:
    """One objective with a transformer that sees its moves so far and never the cell."""
    rows = []
    for seed, desc in lakes(params.remembered):
        problem = ta.LakeHistory(map=desc, negative="wrong_turn", horizon=20)
        own = ta.simulate(
            objective,
            problem,
            policy=ta.Transformer(layers=1, heads=2, width=16, fits=params.fits),
            source=(
                ta.Source("policy", exact=False, prompts=1, responses=32)
                if objective == "reinforce"
                else "fixed"
            ),
            steps=params.steps // 3,
            lr=1e-3,
            optimiser="adam",
            seeds=range(seed * 100, seed * 100 + params.repeats),
            marks=4,
            dtype="float32",
        ).own_measures
        ends = {name: own[name][-1].mean() for name in ("success", "wrong_moves")}
        begun = {"start_success": own["success"][0].mean()}
        rows.append({"policy": "transformer", "objective": objective, "start": "noisy",
                     "negative": "wrong_turn", "map": seed, **begun, **ends})  # fmt: skip
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """Every objective, start and kind of worse path with a table; some of it with a network."""
    for start in params.starts:
        for label in OBJECTIVES:
            alone = label in ALONE and (start != "bad" or label == "reinforce")
            for negative in NEGATIVES[:1] if alone else NEGATIVES:
                name = f"{label}, start {start}, {negative}"
                yield name, train, (params, "tabular", label, start, negative)
        for label in BY_NETWORK:
            name = f"{label}, network, start {start}"
            yield name, train, (params, "mlp", label, start, "wrong_turn")
    for objective in WITH_MEMORY:
        yield f"{objective}, with memory", remember, (params, objective)


# %% Figures
def runs(
    table: pd.DataFrame, objective: str, start: str, negative: str, policy: str = "tabular"
) -> pd.DataFrame:
    """The runs of one setting, by map; of an objective that saw no worse path, its only ones."""
    rows = pick(table, objective=objective, start=start, policy=policy)
    mine = pick(rows, negative=negative)
    return (mine if len(mine) else pick(rows, negative=NEGATIVES[0])).set_index("map")


def who_learns_what(table: pd.DataFrame, policy: str = "tabular") -> Figure:
    """Distance to the optimal moves and success, for every objective and start."""
    rows = pick(table, policy=policy)
    starts, objectives = (list(dict.fromkeys(rows[name])) for name in ("start", "objective"))
    figure, axes = plotting.new_figure(2, len(starts), width=3.1, height=2.2, sharey="row")
    titles = {"rand": "start near uniform", "noisy": "start mostly right", "bad": "start misled"}
    markers = dict(zip(NEGATIVES, "oX^", strict=True))
    for column, start in enumerate(starts):
        for row, (name, label) in enumerate(
            [("transition_mse", "MSE to optimal moves"), ("success", "success (probability)")]
        ):
            ax = axes[row, column]
            for place, objective in enumerate(objectives):
                seen = pick(rows, objective=objective, start=start).negative
                for shift, negative in enumerate(dict.fromkeys(seen)):
                    end = mean_interval(runs(table, objective, start, negative, policy)[name])
                    ax.errorbar(
                        place + 0.22 * shift - 0.2,
                        end.mean,
                        end.high - end.mean,
                        fmt=markers[negative],
                        color=plotting.colour_of(objective.partition(" ")[0]),
                        mfc="none" if "sampled" in objective else None,
                        label=negative.replace("_", " ") if objective == "dpo" else None,
                    )
            if name == "transition_mse":
                before = pick(rows, start=start).start_mse.mean()
                ax.axhline(before, color="black", linestyle="--", linewidth=1, label="start")
            ax.set_xticks(range(len(objectives)), objectives, rotation=40, ha="right")
            ax.set_ylim(0, None if name == "transition_mse" else 1.05)
            if not column:
                ax.set_ylabel(label)
        axes[0, column].set_title(titles[start])
    axes[0, 0].legend(ncols=2, fontsize=7)
    plotting.label_panels(axes[0])
    return figure


def who_learns_what_network(table: pd.DataFrame) -> Figure:
    """The same with a network of two layers that reads the cell."""
    return who_learns_what(table, "mlp")


def what_kappa_says(table: pd.DataFrame) -> Figure:
    """IFT's distance less SFT's, map by map, over kappa."""
    figure, axes = plotting.new_figure(1, 4, width=2.3, height=2.3, sharey=True)
    cases = [(policy, start) for policy in ("tabular", "mlp") for start in ("rand", "bad")]
    looks = (("ift", plotting.OTHERS, "o"), ("ift sampled", plotting.CHOSEN, "^"))
    for ax, (policy, start) in zip(axes.flat, cases, strict=True):
        for label, colour, marker in looks:
            found = less_sft(table, label, policy, start)
            ax.plot(found.kappa, found.gap, ls="", marker=marker, color=colour, ms=3, label=label)
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=f"{policy}, start {start}", xlabel="kappa")
    axes[0, 0].set_ylabel("MSE less SFT's")
    axes[0, 0].legend()
    plotting.label_panels(axes.flat)
    return figure


def with_memory(table: pd.DataFrame) -> Figure:
    """Success and wrong moves of a transformer that never sees the cell."""
    figure, axes = plotting.new_figure(1, 2, width=2.8, height=2.2)
    rows = pick(table, policy="transformer")
    panels = (("success", "success (share)"), ("wrong_moves", "wrong moves (share)"))
    for ax, (name, label) in zip(axes.flat, panels, strict=True):
        for place, objective in enumerate(WITH_MEMORY):
            found = mean_interval(pick(rows, objective=objective)[name])
            ax.errorbar(place, found.mean, found.high - found.mean, fmt="o", capsize=2,
                        color=plotting.colour_of(objective))  # fmt: skip
        if name == "success":
            ax.axhline(rows.start_success.mean(), color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set_xticks(range(len(WITH_MEMORY)), WITH_MEMORY, rotation=30)
        ax.set(ylabel=label, ylim=(0, 1.05))
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def less_sft(table: pd.DataFrame, label: str, policy: str, start: str) -> pd.DataFrame:
    """MSE less SFT's by map, with the map's kappa."""
    mine, sft = (runs(table, name, start, "wrong_turn", policy) for name in (label, "sft"))
    return pd.DataFrame({"kappa": mine.kappa, "gap": mine.transition_mse - sft.transition_mse})


def difference(
    table: pd.DataFrame,
    one: str,
    other: str,
    start: str,
    negative: str,
    name: str = "transition_mse",
    policy: str = "tabular",
) -> Estimate:
    """A measure of one objective less that of another, on the same maps."""
    mine, theirs = (runs(table, which, start, negative, policy)[name] for which in (one, other))
    return mean_interval((mine - theirs).dropna())


def sft_off_path(table: pd.DataFrame) -> Verdict:
    """With a table, imitation cannot touch what is not demonstrated."""
    sft = pick(table, objective="sft", policy="tabular")
    ratio = mean_interval(sft.on_path_mse / sft.start_mse)
    return at_most(
        ratio,
        0.5,
        f"SFT brings the MSE on the path to {ratio.mean:.2f} of what it was over all cells",
    )


def before_sft(
    objective: str, negative: str, start: str = "rand", policy: str = "tabular"
) -> Callable[[pd.DataFrame], Verdict]:
    """The paper's order has every objective before SFT; it depends on path and start."""

    def claim(table: pd.DataFrame) -> Verdict:
        found = difference(table, objective, "sft", start, negative, policy=policy)
        return at_most(
            found,
            0.0,
            f"MSE of {objective} less SFT's, {policy}, start {start}, rejected path {negative}: "
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] over {found.n} maps",
        )

    return claim


def mse_is_not_success(table: pd.DataFrame) -> Verdict:
    """The rank by MSE is not the rank by success: SFT against REINFORCE."""
    nearer = difference(table, "reinforce", "sft", "rand", "detour")
    found = difference(table, "reinforce", "sft", "rand", "detour", "success")
    return at_least(
        found,
        0.0,
        f"REINFORCE's success less SFT's, start near uniform: {found.mean:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}]; MSE {nearer.mean:+.4f}",
    )


def memory_is_enough(table: pd.DataFrame) -> Verdict:
    """A policy that never sees the cell learns the path from the demonstration alone."""
    found = mean_interval(pick(table, policy="transformer", objective="sft").success)
    return at_least(found, 0.8, f"success of SFT with memory: {found}")


def kappa_predicts(table: pd.DataFrame) -> Verdict:
    """The larger kappa is, the more a sampled residual gains on SFT, with a table."""
    found = less_sft(table, "ift sampled", "tabular", "rand")
    r = correlation(found.kappa, found.gap)
    return at_most(r, 0.0, f"correlation of kappa with MSE less SFT's over maps: {r}")


def nu_predicts(table: pd.DataFrame) -> Verdict:
    """The larger nu is, the more DPO gains on SFT, with a table, over maps and worse paths."""
    gaps, nus = [], []
    for negative in NEGATIVES:
        mine, sft = (runs(table, name, "rand", negative) for name in ("dpo", "sft"))
        gaps.append(mine.transition_mse - sft.transition_mse)
        nus.append(mine.nu)
    r = correlation(pd.concat(nus), pd.concat(gaps))
    return at_most(r, 0.0, f"correlation of nu with DPO's MSE less SFT's: {r}")


CLAIMS = {
    "sft_learns_the_path": sft_off_path,
    **{f"dpo_before_sft_{n}": before_sft("dpo", n) for n in NEGATIVES},
    "dpo_before_sft_misled": before_sft("dpo", "wrong_turn", "bad"),
    "orpo_before_sft_misled": before_sft("orpo", "wrong_turn", "bad"),
    "ift_before_sft_misled": before_sft("ift", "wrong_turn", "bad"),
    "ift_before_sft_misled_network": before_sft("ift", "wrong_turn", "bad", "mlp"),
    "ift_before_sft": before_sft("ift", "wrong_turn"),
    "sampled_ift_before_sft": before_sft("ift sampled", "wrong_turn"),
    "ift_before_sft_network": before_sft("ift", "wrong_turn", policy="mlp"),
    "memory_is_enough": memory_is_enough,
    "kappa_predicts": kappa_predicts,
    "nu_predicts": nu_predicts,
    "reinforce_succeeds_more": mse_is_not_success,
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={
        f.__name__: f
        for f in (who_learns_what, who_learns_what_network, what_kappa_says, with_memory)
    },
    claims=CLAIMS,
)

if __name__ == "__main__":
    main(study, __file__)
