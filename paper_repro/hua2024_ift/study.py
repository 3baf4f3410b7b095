"""Intuitive fine-tuning on Frozen Lake: when does the order DPO, IFT, ORPO, SFT come out?

Hua et al. 2024 (arXiv 2405.11870). The study `frozen_lake` runs objectives on random lakes. Here
are two settings made for the purpose, with maps as replicates: goal columns, on which every move
beside the demonstration is right too, and starts that lean to a wrong turn; then the paper's three
formulas beside each other, and its identities.
"""

# %% Parameters
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.errors import ToyalignError
from toyalign.intervals import (
    Estimate,
    correlation,
    exactly,
    mean_interval,
    opposite,
    share_interval,
)
from toyalign.objectives.intuitive import ift
from toyalign.problems.lake import random_lake
from toyalign.streams import Streams
from toyalign.study import Part, Study, main
from toyalign.tables import estimate, of_row, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    columns: int = 12
    """Goal columns of different sizes."""
    lakes: int = 40
    """Random 5x5 lakes with a wrong turn, beside the two forks."""
    steps: int = 400
    """Gradient steps."""
    repeats: int = 4
    """Runs per map, whose mean stands for it."""
    draws: int = 2000
    """Random responses whose weights are looked at."""


PRESETS = {
    "full": Params(),
    "fast": Params(columns=3, lakes=2, steps=60, repeats=2, draws=300),
}
METHODS = {  # label: objective, view, hyperparameters
    "sft": ("sft", None, {}),
    "ift": ("ift", ta.Residual(0.2), {"propagation": "none"}),
    "ift, sampled": ("ift", ta.Residual(0.2, "sampled"), {"propagation": "none"}),
    "ift, sampled, λ = .5": ("ift", ta.Residual(0.5, "sampled"), {"propagation": "none"}),
    "ift, code": ("ift", ta.Residual(0.2), {"propagation": "code"}),
    "ift, code, sampled": ("ift", ta.Residual(0.2, "sampled"), {"propagation": "code"}),
    "orpo": ("orpo", None, {"lam": 0.25}),
    "dpo": ("dpo", None, {"beta": 0.1}),
}
NETWORK = ta.MLP(hidden=(64,), layer_norm=False, gain=1.0, fits=100, fit_lr=0.03)
MEASURED = ("transition_mse", "on_path_mse", "off_path_mse", "success")


# %% Lakes
def goal_column(tall: int, wide: int) -> tuple[str, ...]:
    """A field whose last column is the goal, the start in the middle of the first."""
    rows = ["F" * wide + "G"] * tall
    middle = tall // 2
    rows[middle] = "S" + rows[middle][1:]
    return tuple(rows)


def columns(count: int) -> list[tuple[str, tuple[str, ...], str]]:
    """Name, map and worse path of the constructed setting."""
    sizes = [(tall, wide) for tall in (3, 5, 7) for wide in (4, 5, 6, 7)]
    return [(f"{t}x{w}", goal_column(t, w), "wander") for t, w in sizes[:count]]


def misleading(count: int) -> list[tuple[str, tuple[str, ...], str]]:
    """The forks, and random maps on which one can turn wrong and fall in."""
    found = [(name, ta.FrozenLake(map=name).lake.desc, "wrong_turn")
             for name in ("fork5_7", "fork6_10")]  # fmt: skip
    seed = 0
    while len(found) < count + 2:
        desc = random_lake(5, seed).desc
        try:
            ta.FrozenLake(map=desc, negative="wrong_turn")
            found.append((str(seed), desc, "wrong_turn"))
        except ToyalignError:
            pass
        seed += 1
    return found


# %% Trainings
def train(params: Params, setting: str, label: str) -> pd.DataFrame:
    """One method on every map of a setting.

    "constructed": goal columns, near-uniform start, SGD at 1. "misled": start that leans to the
    wrong turn, SGD at 0.5; "misled, network": the same with a network and RMSprop at 0.01.
    """
    built = setting == "constructed"
    objective, view, hyper = METHODS[label]
    network = setting.endswith("network")
    rows = []
    for name, desc, negative in columns(params.columns) if built else misleading(params.lakes):
        problem = ta.FrozenLake(
            map=desc, negative=negative, start="rand" if built else "bad", spread=0.1, horizon=20
        )
        traj = ta.simulate(
            objective,
            problem,
            policy=NETWORK if network else "tabular",
            source="fixed",
            steps=params.steps,
            lr=0.01 if network else 1.0 if built else 0.5,
            optimiser="rmsprop" if network else "sgd",
            seeds=params.repeats,
            marks=20,
            view=view,
            **hyper,
        )
        own = traj.own_measures
        for quantity in MEASURED:
            rows.append({"part": setting, "case": label, "map": name, "quantity": quantity,
                         "mean": own[quantity][-1].mean()})  # fmt: skip
        rows.append({"part": setting, "case": label, "map": name, "quantity": "best_mse",
                     "mean": own["transition_mse"].min(0).mean()})  # fmt: skip
    return pd.DataFrame(rows)


# %% The formulas
def row(part: str, case: str, quantity: str, found: Estimate) -> dict[str, object]:
    """A row of the table that is an estimate already."""
    return {"part": part, "case": case, "quantity": quantity, "mean": found.mean,
            "low": found.low, "high": found.high, "n": found.n}  # fmt: skip


def pulls(losses: torch.Tensor, propagation: str) -> torch.Tensor:
    """dL/dl of every token: by how much its log-probability is pulled up."""
    leaf = losses.clone().requires_grad_()
    value = ift(-leaf, torch.ones_like(leaf), propagation=propagation)
    return torch.autograd.grad(value.sum(), leaf)[0]


def formulas(params: Params) -> pd.DataFrame:
    """How the three formulas pull on early and late tokens, and which they unlearn."""
    equal = torch.ones(1, 1, 12, dtype=torch.float64)
    place = np.arange(12.0)
    rows = []
    for propagation in ("eq21", "alg1", "code"):
        found = np.corrcoef(place, pulls(equal, propagation)[0, 0].numpy())[0, 1]
        rows.append(row("formulas", propagation, "pull over position", exactly(found)))
    rng = np.random.Generator(np.random.SFC64(0))
    for tokens in (6, 12, 50):
        losses = torch.from_numpy(rng.exponential(size=(1, params.draws, tokens)))
        for propagation in ("eq21", "code"):
            down = (pulls(losses, propagation)[0] < 0).double().mean(-1).numpy()
            case = f"{propagation}, {tokens} tokens"
            rows.append(row("formulas", case, "share unlearned", mean_interval(down)))
    return pd.DataFrame(rows)


def identities(params: Params) -> pd.DataFrame:
    """What is said to be equal, and is or is not."""
    problem = ta.FrozenLake(map="goal_column", negative="wander", start="noisy", spread=0.0)
    settings = {"source": "fixed", "steps": 40, "lr": 1.0}
    sft = ta.simulate("sft", problem, **settings)
    rows = []
    for lam in (0.2, 0.5, 1.0):
        mixed = ta.simulate("ift", problem, view=ta.Residual(lam), propagation="none", **settings)
        gap = exactly(float(np.abs(mixed.log_probs - sft.log_probs).max()))
        rows.append(row("identities", f"λ = {lam:g}", "greedy IFT less SFT", gap))
    # Equation 18: mixed inputs give mixed outputs?
    misled = ta.FrozenLake(map="goal_column", negative="wander", start="rand", spread=1.0)
    streams = Streams(range(20))
    world = misled.world(streams)
    states = torch.eye(world.contexts, dtype=torch.float64).expand(20, -1, -1)
    one, other = states[:, :-1], states[:, 1:]
    for name, policy in (("tabular", ta.Tabular()), ("network", NETWORK)):
        theta = policy.start(world, streams)
        at = [policy.log_probs_at(theta, world, s).exp() for s in (0.5 * (one + other), one, other)]
        gap = (at[0] - 0.5 * (at[1] + at[2])).abs().amax((1, 2)).numpy()
        rows.append(row("identities", name, "equation 18", mean_interval(gap)))
    return pd.DataFrame([*rows, *greedy(params)])


def greedy(params: Params) -> list[dict[str, object]]:
    """The corollary (equations 11 and 12): is the policy's own greedy path the likelier one?

    Random policies on the goal column; the demonstration against as many greedy moves.
    """
    problem = ta.FrozenLake(map="goal_column", negative="wander")
    rng = np.random.Generator(np.random.SFC64(1))
    table = np.log(rng.dirichlet(np.ones(4), (params.draws, problem.lake.states)))
    demo = problem.demo
    first = table[:, demo.states[0]]
    shown = table[:, demo.states, demo.actions].sum(1)
    state = np.full(params.draws, demo.states[0])
    own = np.zeros(params.draws)
    everyone = np.arange(params.draws)
    for _ in demo.actions:
        own += table[everyone, state].max(1)
        state = problem.lake.next_state[state, table[everyone, state].argmax(1)]
    at_once = share_interval(first.max(1) >= first[:, demo.actions[0]])
    whole = share_interval(own >= shown)
    return [
        row("identities", "one move", "greedy is likelier", exactly(at_once.mean)),
        row("identities", "the whole path", "greedy is likelier", whole),
    ]


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for setting in ("constructed", "misled", "misled, network"):
        for label in METHODS:
            yield f"{label}, {setting}", train, (params, setting, label)
    yield "formulas", formulas, (params,)
    yield "identities", identities, (params,)


# %% Figures
def order(table: pd.DataFrame) -> Figure:
    """MSE less SFT's on the same map, for every method and setting, and the success beside it."""
    settings = ("constructed", "misled", "misled, network")
    figure, axes = plotting.new_figure(2, 3, width=2.6, height=2.0, sharey="row", sharex=True)
    names = [label for label in METHODS if label != "sft"]
    for column, setting in enumerate(settings):
        for line, (quantity, label) in enumerate(
            [("transition_mse", "MSE less SFT's"), ("success", "success less SFT's")]
        ):
            ax = axes[line, column]
            for place, name in enumerate(names):
                found = less(table, setting, name, "sft", quantity)
                ax.errorbar(
                    place, found.mean, found.high - found.mean, fmt="o", capsize=2,
                    color=plotting.colour_of(METHODS[name][0]),
                )  # fmt: skip
            ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
            ax.set_yscale("symlog", linthresh=0.005 if line == 0 else 0.05)
            ax.yaxis.set_major_formatter("{x:g}")
            if line == 0:
                ax.set_title(setting)
            else:
                ax.set_xticks(range(len(names)), names, rotation=60, ha="right")
            if column == 0:
                ax.set_ylabel(label)
    plotting.label_panels(axes[0])
    return figure


def three_formulas(table: pd.DataFrame) -> Figure:
    """The pull on each token of an answer whose tokens are equally hard, by formula."""
    figure, axes = plotting.new_figure(1, 1, width=3.6, height=2.4)
    equal = torch.ones(1, 1, 12, dtype=torch.float64)
    looks = {"none": ("plain", plotting.REFERENCE), "eq21": ("equation 21", plotting.CHOSEN),
             "alg1": ("Algorithm 1", plotting.GAINER),
             "code": ("released code", plotting.REJECTED)}  # fmt: skip
    for name, (label, colour) in looks.items():
        pull = pulls(equal, name)[0, 0].numpy()
        axes[0, 0].plot(np.arange(12), pull / pull.mean(), color=colour, marker=".", label=label)
    axes[0, 0].set(
        xlabel="token of the answer", ylabel="pull, relative to the mean", ylim=(0, None)
    )
    axes[0, 0].legend()
    return figure


# %% Measures: what the claims are held to
def less(
    table: pd.DataFrame, setting: str, one: str, other: str, quantity: str = "transition_mse"
) -> Estimate:
    """A measure of one method less that of another, over the maps of a setting."""
    mine, theirs = (
        pick(table, part=setting, case=case, quantity=quantity).set_index("map")["mean"]
        for case in (one, other)
    )
    return mean_interval(mine - theirs)


def printed_order(table: pd.DataFrame, setting: str, middle: str) -> Mapping[str, Estimate]:
    """DPO less IFT, IFT less ORPO, ORPO less SFT."""
    names = ("dpo", middle, "orpo", "sft")
    return {f"{one} − {other}": less(table, setting, one, other) for one, other in pairwise(names)}


def order_constructed(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """On goal columns, with a sampled residual."""
    return printed_order(table, "constructed", "ift, sampled")


def order_constructed_greedy(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """On goal columns, with the paper's greedy residual."""
    return printed_order(table, "constructed", "ift")


def order_misled(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """From starts that lean to a wrong turn, with a table."""
    return printed_order(table, "misled", "ift")


def order_misled_network(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """From starts that lean to a wrong turn, with a network."""
    return printed_order(table, "misled, network", "ift")


def ift_misled(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """IFT less SFT from starts that lean to a wrong turn."""
    return {
        f"{label}, {'network' if 'network' in setting else 'table'}": less(
            table, setting, label, "sft"
        )
        for setting in ("misled", "misled, network")
        for label in ("ift", "ift, sampled, λ = .5")
    }


def propagation_misled(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """IFT with the released code's weights less IFT without weights."""
    return {
        setting: less(table, setting, "ift, code", "ift")
        for setting in ("misled", "misled, network")
    }


def random_lakes(frozen_lake: pd.DataFrame) -> Mapping[str, Estimate]:
    """IFT less SFT on random lakes from a near-uniform start."""
    found = {}
    for policy in ("tabular", "mlp"):
        rows = pick(frozen_lake, start="rand", policy=policy)
        sft = pick(rows, objective="sft").groupby("map").transition_mse.first()
        for label in ("ift", "ift sampled"):
            mine = pick(rows, objective=label).groupby("map").transition_mse.first()
            found[f"{label}, {policy}"] = mean_interval(mine - sft)
    return found


def dpo_random_lakes(frozen_lake: pd.DataFrame) -> Mapping[str, Estimate]:
    """DPO less SFT on random lakes, by the rejected path."""
    rows = pick(frozen_lake, start="rand", policy="tabular")
    sft = pick(rows, objective="sft").groupby("map").transition_mse.first()
    dpo = pick(rows, objective="dpo")
    return {
        negative: mean_interval(group.set_index("map").transition_mse - sft)
        for negative, group in dpo.groupby("negative")
    }


def kappa_correlation(frozen_lake: pd.DataFrame) -> Mapping[str, Estimate]:
    """Correlation over lakes of kappa with IFT's gain on SFT."""
    rows = pick(frozen_lake, start="rand", policy="tabular")
    sft = pick(rows, objective="sft").groupby("map").first()
    found = {}
    for label in ("ift", "ift sampled"):
        mine = pick(rows, objective=label).groupby("map").first()
        found[label] = opposite(correlation(sft.kappa, mine.transition_mse - sft.transition_mse))
    return found


def success_of_the_nearer(table: pd.DataFrame) -> Estimate:
    """On goal columns, the success of DPO, which is nearest, less SFT's."""
    return less(table, "constructed", "dpo", "sft", "success")


def formula_agreement(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Correlation of the pull with the position of the token, all tokens equally hard."""
    return {r["case"]: of_row(r) for _, r in
            pick(table, part="formulas", quantity="pull over position").iterrows()}  # fmt: skip


def unlearned(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Share of tokens that are pushed down."""
    return {r["case"]: of_row(r) for _, r in
            pick(table, part="formulas", quantity="share unlearned").iterrows()}  # fmt: skip


def greedy_is_sft(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference over training of greedy IFT and SFT where the start prefers the path."""
    return {r["case"]: of_row(r) for _, r in
            pick(table, part="identities", quantity="greedy IFT less SFT").iterrows()}  # fmt: skip


def mixed_outputs(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference of the policy on mixed inputs from its mixed outputs."""
    return {r["case"]: of_row(r) for _, r in
            pick(table, part="identities", quantity="equation 18").iterrows()}  # fmt: skip


def greedy_is_likelier(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Share of random policies that give their own greedy path at least the probability."""
    return {
        case: estimate(table, part="identities", quantity="greedy is likelier", case=case)
        for case in ("one move", "the whole path")
    }


MEASURES = {
    measure.__name__: measure
    for measure in (
        order_constructed,
        order_constructed_greedy,
        order_misled,
        order_misled_network,
        ift_misled,
        propagation_misled,
        random_lakes,
        dpo_random_lakes,
        kappa_correlation,
        success_of_the_nearer,
        formula_agreement,
        unlearned,
        greedy_is_sft,
        mixed_outputs,
        greedy_is_likelier,
    )
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (order, three_formulas)},
    claims={},
    tolerance={"atol": 1e-4, "rtol": 1e-3},
)

if __name__ == "__main__":
    main(study, __file__)
