"""Why does the log-probability of the chosen answer fall under DPO?

Ten arms, one preference pair of neighbours, exact gradients, plain SGD: nothing is sampled but the
starting policy of each run. With independent logits the chosen answer never falls. When arms share
features, a push that separates two similar answers moves them together as well, and the mass goes
to a third answer that resembles the chosen one but not the rejected one. The reference leans to the
chosen answer's side, where such answers are likely; one part of the study mirrors the pair.

Background: Pal et al. 2024 (arXiv 2402.13228), Razin et al. 2024 (arXiv 2410.08847).
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, mean_interval, share_interval
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.objectives.coefficients import push_on_pair
from toyalign.study import Part, Study, Verdict, at_least, at_most, main

FELL = 0.01  # nats; a run counts as fallen if it ends lower than its start by more than this


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 200
    """Random starting policies."""
    steps: int = 4000
    """Gradient steps."""
    lr: float = 0.1
    """Learning rate of SGD."""
    beta: float = 0.1
    """Strength of the reference, for every objective that has one (IPO calls it tau)."""
    spread: float = 1.0
    """Standard deviation of the starting logits' noise, nats."""
    overlap: float = 1.5
    """Width of the shared features, in arms, where it is not swept."""
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    """Widths of the sweep."""
    betas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Betas of the sweep."""
    lrs: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    """Learning rates of the sweep."""
    only: tuple[str, ...] = ()
    """The objectives to compare; empty for SFT and every registered loss on pairs."""


PRESETS = {
    "full": Params(),
    "fast": Params(
        seeds=30,
        steps=400,
        lr=0.3,
        overlaps=(0.0, 1.5),
        betas=(0.01, 0.1, 1.0),
        lrs=(0.1, 0.3),
        only=("sft", "dpo", "ipo", "dpop", "minor_dpo", "simpo", "apo_zero", "dpo_nll"),
    ),
}
SWEPT = ("sft", "dpo", "ipo", "dpop", "minor_dpo")


def pair_objectives() -> list[str]:
    """Every registered objective that takes given pairs, and SFT on the chosen answers."""
    pairs = [card for card in OBJECTIVES.values() if card.kind == "pairs"]
    return ["sft", *(card.name for card in pairs if "fixed" in card.sources)]


# %% Simulation
def train(name: str, params: Params, policy: object, **changes: object) -> ta.Trajectory:
    """One objective from all starts; `beta` is given to whatever the objective calls it."""
    hyper = get_objective(name).hyper
    strength = {k: params.beta for k in ("beta", "tau") if k in hyper}
    if len(strength) == 2:  # a tau beside a beta is another thing
        del strength["tau"]
    settings = {"steps": params.steps, "lr": params.lr, "seeds": params.seeds, **strength}
    settings |= {"problem": ta.adjacent_arms(arms=10, spread=params.spread), "source": "fixed"}
    return ta.simulate(name, policy=policy, **{**settings, **changes})


def table_of(keys: dict[str, object], quantities: dict[str, Estimate]) -> pd.DataFrame:
    """One row per quantity, with its interval over runs."""
    rows = [
        {"quantity": q, "mean": e.mean, "low": e.low, "high": e.high, "n": e.n}
        for q, e in quantities.items()
    ]
    return pd.DataFrame([{**keys, **row} for row in rows])


def outcome(traj: ta.Trajectory, runs: slice = slice(None)) -> dict[str, Estimate]:
    """How a set of runs ended."""
    chosen, rejected = (values[:, runs] for values in traj.pair_logps())
    neither = traj.measured()["mass_on_neither"][:, runs]
    return {
        "share fallen": share_interval(chosen[-1] < chosen[0] - FELL),
        "chosen change": mean_interval(chosen[-1] - chosen[0]),
        "rejected change": mean_interval(rejected[-1] - rejected[0]),
        "neither change": mean_interval(neither[-1] - neither[0]),
        "diverged": share_interval(traj.diverged[runs]),
    }


def by_policy(params: Params, policy: str, name: str) -> pd.DataFrame:
    """The end of training for one objective and policy class."""
    made = ta.Features(params.overlap) if policy == "features" else ta.Tabular()
    traj = train(name, params, made)
    return table_of({"part": "policy", "policy": policy, "objective": name}, outcome(traj))


def mirrored(params: Params) -> pd.DataFrame:
    """DPO on the pair turned round: the reference leans to the rejected answer's side."""
    ((chosen, rejected),) = ta.adjacent_arms().pairs
    problem = ta.adjacent_arms(spread=params.spread, pairs=((rejected, chosen),))
    traj = train("dpo", params, ta.Features(params.overlap), problem=problem)
    return table_of({"part": "mirrored", "policy": "features", "objective": "dpo"}, outcome(traj))


def over_time(params: Params, policy: str) -> pd.DataFrame:
    """DPO step by step: chosen, rejected and every other arm, change since the start."""
    traj = train(
        "dpo", params, ta.Features(params.overlap) if policy == "features" else ta.Tabular()
    )
    change = traj.log_probs[:, :, 0] - traj.log_probs[:1, :, 0]  # [mark, run, arm]
    mass = np.exp(traj.log_probs[:, :, 0])
    tables = []
    for mark, step in enumerate(traj.steps):
        for arm in range(change.shape[2]):
            tables.append(
                table_of(
                    {
                        "part": "time",
                        "policy": policy,
                        "objective": "dpo",
                        "step": step,
                        "arm": arm,
                    },
                    {
                        "log-prob change": mean_interval(change[mark, :, arm]),
                        "probability": mean_interval(mass[mark, :, arm]),
                    },
                )
            )
    return pd.concat(tables)


def by_overlap(params: Params, overlap: float) -> pd.DataFrame:
    """How much features have to be shared."""
    keys = {"part": "overlap", "policy": "features", "overlap": overlap}
    return pd.concat(
        table_of({**keys, "objective": name}, outcome(train(name, params, ta.Features(overlap))))
        for name in SWEPT
    )


def by_strength(params: Params) -> pd.DataFrame:
    """DPO over beta and learning rate, at the same number of steps."""
    traj = train(
        "dpo", params, ta.Features(params.overlap), beta=list(params.betas), lr=list(params.lrs)
    )
    tables = []
    for lr in params.lrs:
        for beta in params.betas:
            runs = (traj.runs["lr"] == lr) & (traj.runs["beta"] == beta)
            keys = {"part": "strength", "policy": "features", "objective": "dpo"}
            tables.append(table_of({**keys, "beta": beta, "lr": lr}, outcome(traj, runs)))
    return pd.concat(tables)


def first_step(params: Params) -> pd.DataFrame:
    """Does a closed form tell, run by run, whether the first step lowers the chosen answer?

    One step of DPO moves the logits by ΦΦᵀ(e_w − e_l) times a positive number, hence log π(chosen)
    by (e_w − π)ᵀΦΦᵀ(e_w − e_l) times the same, to first order.
    """
    policy = ta.Features(params.overlap)
    traj = train("dpo", params, policy, steps=1, lr=1e-4)
    ((chosen, rejected),) = traj.pairs
    kernel = policy.matrix(10).numpy() @ policy.matrix(10).numpy().T
    start = np.exp(traj.log_probs[0, :, 0])
    push = kernel[:, chosen] - kernel[:, rejected]
    predicted = push[chosen] - start @ push
    moved = traj.pair_logps()[0][1] - traj.pair_logps()[0][0]
    keys = {"part": "first step", "policy": "features", "objective": "dpo"}
    return table_of(
        keys,
        {
            "sign predicted": share_interval(np.sign(predicted) == np.sign(moved)),
            "share fallen": share_interval(moved < 0),
        },
    )


def paths(params: Params, name: str) -> pd.DataFrame:
    """The first few runs in the plane of the log-ratios, for the phase fields."""
    traj = train(name, params, ta.Features(params.overlap), seeds=8)
    chosen, rejected = traj.pair_logps()
    keys = {"part": "path", "policy": "features", "objective": name}
    rows = [
        {**keys, "step": step, "seed": run, "quantity": quantity, "mean": values[mark, run]}
        for mark, step in enumerate(traj.steps)
        for run in range(8)
        for quantity, values in (
            ("chosen", chosen - chosen[0]),
            ("rejected", rejected - rejected[0]),
        )
    ]
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for policy in ("tabular", "features"):
        for name in params.only or pair_objectives():
            yield f"{name}, {policy}", by_policy, (params, policy, name)
        yield f"dpo over time, {policy}", over_time, (params, policy)
    for overlap in params.overlaps:
        yield f"overlap {overlap}", by_overlap, (params, overlap)
    yield "beta and learning rate", by_strength, (params,)
    yield "the pair mirrored", mirrored, (params,)
    yield "first step", first_step, (params,)
    for name in ("sft", "dpo", "ipo", "dpop"):
        yield f"paths of {name}", paths, (params, name)


# %% Figures
CHOSEN_ARM, REJECTED_ARM = 4, 5


def where_it_goes(table: pd.DataFrame) -> Figure:
    """The answer in one picture: separate logits, shared features, and where the mass went."""
    figure, axes = plotting.new_figure(1, 3, width=2.75, height=2.5)
    time = table[table.part == "time"]
    for ax, policy, title in (
        (axes[0, 0], "tabular", "separate logits: chosen rises"),
        (axes[0, 1], "features", "shared features: chosen falls"),
    ):
        changes = time[(time.policy == policy) & (time.quantity == "log-prob change")]
        last = changes[changes.step == changes.step.max()].set_index("arm")["mean"]
        gainer = int(last.drop([CHOSEN_ARM, REJECTED_ARM]).idxmax())
        for arm, colour, label in (
            (gainer, plotting.GAINER, f"arm {gainer}, neither"),
            (CHOSEN_ARM, plotting.CHOSEN, "chosen"),
            (REJECTED_ARM, plotting.REJECTED, "rejected"),
        ):
            line = changes[changes.arm == arm]
            ax.fill_between(line.step, line.low, line.high, color=colour, alpha=0.2, lw=0)
            ax.plot(line.step, line["mean"], color=colour, label=label)
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=title, xlabel="DPO step", ylabel="change of log-prob (nats)")
        ax.legend(loc="lower left")
    mass = time[(time.policy == "features") & (time.quantity == "probability")]
    start, end = (mass[mass.step == s].sort_values("arm")["mean"] for s in (0, mass.step.max()))
    plotting.mass_bars(axes[0, 2], end, start, [CHOSEN_ARM], [REJECTED_ARM])
    axes[0, 2].set_title("the mass goes to a third answer")
    axes[0, 2].plot([], [], color=plotting.REFERENCE, ls="--", lw=1.1, label="before DPO")
    axes[0, 2].legend(loc="upper right")
    plotting.label_panels(axes.flat)
    return figure


def who_falls(table: pd.DataFrame) -> Figure:
    """For every objective and policy, the share of runs in which the chosen answer ended lower."""
    rows = table[table.part == "policy"]
    shared = rows[(rows.quantity == "chosen change") & (rows.policy == "features")]
    place = {name: i for i, name in enumerate(shared.sort_values("mean").objective)}
    rows = rows.sort_values("objective", key=lambda names: names.map(place), kind="stable")
    height = 1.2 + 0.17 * len(place)
    figure, axes = plotting.new_figure(1, 2, width=3.1, height=height, sharey=True)
    plotting.dots(axes[0, 0], rows[rows.quantity == "share fallen"], hue="policy")
    axes[0, 0].set(title="runs in which chosen fell", xlabel="share of runs", xlim=(-0.04, 1.04))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plotting.dots(axes[0, 1], rows[rows.quantity == "chosen change"], hue="policy")
    axes[0, 1].invert_yaxis()  # shared with the first panel, which has turned it already
    axes[0, 1].axvline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
    axes[0, 1].set_xscale("symlog", linthresh=1)
    axes[0, 1].xaxis.set_major_formatter("{x:g}")
    axes[0, 1].set(title="by how much", xlabel="change of chosen log-prob (nats)")
    plotting.label_panels(axes.flat)
    return figure


def what_it_depends_on(table: pd.DataFrame) -> Figure:
    """The change of the chosen log-probability over overlap, beta and learning rate."""
    figure, axes = plotting.new_figure(1, 3, width=2.7, height=2.5)
    change = table[table.quantity == "chosen change"]
    plotting.curves(axes[0, 0], change[change.part == "overlap"], "overlap")
    axes[0, 0].set(title="features shared", xlabel="overlap (arms)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    strength = change[change.part == "strength"]
    usual = [PRESETS["full"].lr, PRESETS["full"].beta]
    plotting.curves(axes[0, 1], strength[strength.lr == usual[0]], "beta")
    axes[0, 1].set(title="DPO, strength", xlabel="β", xscale="log")
    plotting.curves(axes[0, 2], strength[strength.beta == usual[1]], "lr")
    axes[0, 2].set(title="DPO, step size", xlabel="learning rate", xscale="log")
    for ax in axes.flat:
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set_yscale("symlog", linthresh=1)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("change of chosen log-prob (nats)")
    plotting.label_panels(axes.flat)
    return figure


def phase_fields(table: pd.DataFrame) -> Figure:
    """What four losses ask for, and where shared features take them instead."""
    figure, axes = plotting.new_figure(1, 4, width=2.35, height=2.6, sharey=True)
    grid = np.meshgrid(np.linspace(-6, 6, 13), np.linspace(-10, 4, 13))
    beta = PRESETS["full"].beta
    for ax, name in zip(axes.flat, ("sft", "dpo", "ipo", "dpop"), strict=True):
        card = get_objective(name)
        hyper = card.settings({k: beta for k in card.hyper if k in ("beta", "tau")})
        pushes = push_on_pair(card, *grid, reference=(-12.0, -12.0), hyper=hyper)
        rows = table[(table.part == "path") & (table.objective == name)]
        runs = [
            tuple(run[run.quantity == side]["mean"].to_numpy() for side in ("chosen", "rejected"))
            for _, run in rows.groupby("seed")
        ]
        plotting.phase_field(ax, *grid, *pushes, paths=runs)
        ax.set_title(name)
        if name != "sft":
            ax.set_ylabel("")
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def estimate(table: pd.DataFrame, **where: object) -> Estimate:
    """The one row of the table with these values."""
    rows = table
    for key, value in where.items():
        rows = rows[rows[key] == value]
    (row,) = rows.to_dict("records")
    return Estimate(row["mean"], row["low"], row["high"], int(row["n"]))


def tabular_never_falls(table: pd.DataFrame) -> Verdict:
    """With independent logits and one pair the chosen answer falls under none of the three."""
    shares = [
        estimate(table, part="policy", policy="tabular", objective=name, quantity="share fallen")
        for name in ("dpo", "ipo", "dpop")
    ]
    worst = max(shares, key=lambda share: share.mean)
    exact = Estimate(worst.mean, worst.mean, worst.mean, worst.n)  # a theorem, not a sample
    return at_most(exact, 0.0, f"largest share of falling runs over DPO, IPO and DPOP: {worst}")


def dpo_falls(table: pd.DataFrame) -> Verdict:
    """With shared features it falls under DPO in most runs."""
    share = estimate(
        table, part="policy", policy="features", objective="dpo", quantity="share fallen"
    )
    return at_least(share, 0.5, f"share of runs in which the chosen answer fell: {share}")


def ipo_falls(table: pd.DataFrame) -> Verdict:
    """And under IPO."""
    share = estimate(
        table, part="policy", policy="features", objective="ipo", quantity="share fallen"
    )
    return at_least(share, 0.5, f"share of runs in which the chosen answer fell: {share}")


def side_matters(table: pd.DataFrame) -> Verdict:
    """It hardly ever falls if the reference leans to the rejected answer's side instead."""
    share = estimate(table, part="mirrored", quantity="share fallen")
    return at_most(share, 0.1, f"share of runs in which the chosen answer fell: {share}")


def dpop_holds(table: pd.DataFrame) -> Verdict:
    """DPOP holds the chosen answer at the reference in at least nine runs of ten."""
    share = estimate(
        table, part="policy", policy="features", objective="dpop", quantity="share fallen"
    )
    return at_most(share, 0.1, f"share of runs in which the chosen answer fell: {share}")


def mass_to_neither(table: pd.DataFrame) -> Verdict:
    """Under DPO with shared features the mass goes to answers of neither kind."""
    change = estimate(
        table, part="policy", policy="features", objective="dpo", quantity="neither change"
    )
    return at_least(change, 0.0, f"probability gained by arms in no pair: {change}")


def sign_is_predicted(table: pd.DataFrame) -> Verdict:
    """The closed form tells the direction of the first step in every run."""
    share = estimate(table, part="first step", quantity="sign predicted")
    exact = Estimate(share.mean, share.mean, share.mean, share.n)
    return at_least(exact, 0.999, f"share of runs whose first step goes as predicted: {share}")


def beta_is_no_cure(table: pd.DataFrame) -> Verdict:
    """At the usual learning rate, every beta of the sweep lowers the chosen answer on average."""
    rows = table[(table.part == "strength") & (table.quantity == "chosen change")]
    rows = rows[rows.lr == PRESETS["full"].lr]
    best = rows.loc[rows["high"].idxmax()]
    change = Estimate(-best["mean"], -best["high"], -best["low"], int(best["n"]))
    return at_least(
        change, 0.0, f"smallest mean fall over beta, nats (beta = {best.beta:g}): {change}"
    )


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (where_it_goes, who_falls, what_it_depends_on, phase_fields)},
    claims={
        claim.__name__: claim
        for claim in (
            tabular_never_falls,
            dpo_falls,
            ipo_falls,
            side_matters,
            dpop_holds,
            mass_to_neither,
            sign_is_predicted,
            beta_is_no_cure,
        )
    },
    tolerance={"atol": 1e-6, "rtol": 1e-5},
)

if __name__ == "__main__":
    main(study, __file__)
