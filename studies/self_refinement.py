"""Does a model's own rating of a pair make better use of preferences than DPO with another beta?

Sr-DPO and Sr-IPO (Yu et al. 2024, arXiv 2405.21040) subtract λ·Δ from the margin, where Δ is the
margin behind a prompt that asks for a perfect answer, held constant. Where that prompt changes
nothing, Δ is β times the margin itself, and Sr-DPO is, exactly, DPO at the smaller (1 − λ)·β with a
larger step. So DPO must be given its best β before anything is won.

The quality prompt is a toy: twenty answers of graded quality, and a policy with one direction,
beside its shared features, along which answers differ by what is known of their quality
(correlation 0.7 with the truth, another in every run). The plain context brings up 0.3 of it, the
prompt all of it. Pairs are drawn once from the reference and labelled by Bradley-Terry; RMSprop, as
in the paper.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import measures, plotting
from toyalign.intervals import Estimate, mean_interval
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 100
    """Runs of every setting: starts, knowledge and preferences of their own."""
    pairs: int = 200
    """Preference pairs per run."""
    steps: int = 400
    """Gradient steps of RMSprop."""
    lr: float = 0.01
    """Learning rate."""
    betas: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Of DPO and IPO."""
    lams: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 1.0)
    """λ of Sr-DPO and Sr-IPO, at β = 0.1 like the paper."""


PRESETS = {
    "full": Params(),
    "fast": Params(seeds=20, steps=100, betas=(0.05, 0.1, 0.2), lams=(0.5, 1.0)),
}
BETA = 0.1
PLAIN = {"sr_dpo": "dpo", "sr_ipo": "ipo"}


# %% Simulation
def train(params: Params, name: str, policy: object, **hyper: float) -> ta.Trajectory:
    """One objective on the pairs of each run."""
    source = ta.Source(
        "reference", exact=False, responses=2, prompts=params.pairs, labels="bradley_terry"
    )
    return ta.simulate(
        name,
        "graded_arms",
        policy=policy,
        source=source,
        steps=params.steps,
        lr=params.lr,
        optimiser="rmsprop",
        seeds=params.seeds,
        marks=40,
        **hyper,
    )


def compare(params: Params, name: str, prompt: str, strength: float) -> pd.DataFrame:
    """How one setting ended, run by run: reward, its best over time, and the drift at both.

    Args:
        params: of the study.
        name: the objective.
        prompt: "quality" or "none", where the prompt changes nothing.
        strength: β, or λ of the objectives that have one.
    """
    policy = ta.Informed(behind=1.0 if prompt == "quality" else ta.Informed.plain)
    hyper = {"lam": strength, "beta": BETA} if name in PLAIN else {}
    if name == "dpo":
        hyper = {"beta": strength}
    elif name == "ipo":  # Sr-IPO's β is the τ of IPO
        hyper = {"tau": strength}
    traj = train(params, name, policy, **hyper)
    reward = traj.measured()["expected_reward"]
    drift = measures.kl(traj.log_probs[:, :, 0], traj.reference[:, 0])
    rows = []
    for seed in range(params.seeds):
        for what, mark in (("end", -1), ("best", int(reward[:, seed].argmax()))):
            rows.append({"objective": name, "prompt": prompt, "strength": strength, "seed": seed,
                         "when": what, "reward": reward[mark, seed],
                         "kl": drift[mark, seed]})  # fmt: skip
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for name in PLAIN.values():
        for beta in params.betas:
            yield f"{name}, β = {beta:g}", compare, (params, name, "quality", beta)
    for name in PLAIN:
        for prompt in ("quality", "none"):
            for lam in params.lams:
                yield f"{name}, λ = {lam:g}, {prompt}", compare, (params, name, prompt, lam)


# %% Figures
def sweeps(table: pd.DataFrame) -> Figure:
    """Reward at the end and at its best, over the strength of each objective."""
    figure, axes = plotting.new_figure(2, 2, width=3.2, height=2.2, sharey="row", sharex="col")
    for row, (sr, plain) in enumerate(PLAIN.items()):
        for column, (names, label) in enumerate(
            [((plain,), "β" if plain == "dpo" else "τ"), ((sr,), "λ, at β = 0.1")]
        ):
            ax = axes[row, column]
            for name in names:
                lines = [("quality", "-", "o")] + [("none", ":", "s")] * (name == sr)
                for prompt, style, marker in lines:
                    for when, colour in (("best", plotting.GAINER), ("end", plotting.CHOSEN)):
                        rows = pick(table, objective=name, prompt=prompt, when=when)
                        ends = {s: mean_interval(g.reward) for s, g in rows.groupby("strength")}
                        tail = "" if name == plain else f", prompt: {prompt}"
                        ax.errorbar(
                            list(ends),
                            [e.mean for e in ends.values()],
                            [e.high - e.mean for e in ends.values()],
                            ls=style,
                            marker=marker,
                            color=colour,
                            capsize=2,
                            label=f"{when}{tail}",
                        )
            if column == 0:
                ax.set_xscale("log")
                ax.set_ylabel("expected reward")
            ax.set_title(names[0])
            if row == 1:
                ax.set_xlabel(label)
    for ax in axes[0]:
        ax.legend(fontsize=7)
    plotting.label_panels(axes.flat)
    return figure


def frontier(table: pd.DataFrame) -> Figure:
    """Reward against drift at the end: does any λ lie above the line of β?"""
    figure, axes = plotting.new_figure(1, 2, width=3.2, height=2.6, sharey=True)
    for ax, (sr, plain) in zip(axes.flat, PLAIN.items(), strict=True):
        looks = ((plain, "quality", plotting.OTHERS, "o", "-"),
                 (sr, "quality", plotting.CHOSEN, "s", "-"),
                 (sr, "none", plotting.GAINER, "^", ":"))  # fmt: skip
        for name, prompt, colour, marker, style in looks:
            rows = pick(table, objective=name, prompt=prompt, when="end")
            means = rows.groupby("strength")[["kl", "reward"]].mean()
            label = name if name == plain else f"{name}, prompt: {prompt}"
            ax.plot(
                means.kl, means.reward, color=colour, marker=marker, ls=style, ms=4, label=label
            )
            for strength, point in means.iterrows() if name == plain else ():
                ax.annotate(
                    f"{strength:g}", (point.kl, point.reward), (3, 3), fontsize=6,
                    textcoords="offset points", color=colour,
                )  # fmt: skip
        ax.set(xlabel="KL to reference at the end (nats)", title=f"{sr} and {plain}")
        ax.legend()
    axes[0, 0].set_ylabel("expected reward at the end")
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def rewards(table: pd.DataFrame, name: str, strength: float, when: str, prompt: str) -> pd.Series:
    """Reward of one setting, by seed."""
    rows = pick(table, objective=name, strength=strength, when=when, prompt=prompt)
    return rows.set_index("seed").reward


def best_strength(table: pd.DataFrame, name: str, when: str, prompt: str = "quality") -> float:
    """The β, τ or λ with the highest mean reward."""
    rows = pick(table, objective=name, when=when, prompt=prompt)
    return float(rows.groupby("strength").reward.mean().idxmax())


def against(
    table: pd.DataFrame, sr: str, beta: float | None, when: str = "end", lam: float = 0.5
) -> Estimate:
    """Reward of Sr at λ less that of the plain objective at β, or at its best β, same seeds."""
    plain = PLAIN[sr]
    beta = best_strength(table, plain, when) if beta is None else beta
    gap = rewards(table, sr, lam, when, "quality") - rewards(table, plain, beta, when, "quality")
    return mean_interval(gap)


def sr_dpo_beats_dpo_at_its_beta(table: pd.DataFrame) -> Verdict:
    """At the paper's β of 0.1 and λ of 0.5, Sr-DPO ends with more reward than DPO."""
    gap = against(table, "sr_dpo", BETA)
    return at_least(gap, 0.0, f"reward of Sr-DPO (λ = 0.5) less DPO's (β = 0.1): {gap}")


def sr_dpo_beats_the_best_dpo(table: pd.DataFrame) -> Verdict:
    """It ends with more than DPO at the best β of the sweep."""
    gap = against(table, "sr_dpo", None)
    beta = best_strength(table, "dpo", "end")
    return at_least(gap, 0.0, f"reward of Sr-DPO (λ = 0.5) less DPO's at β = {beta:g}: {gap}")


def sr_ipo_beats_the_best_ipo(table: pd.DataFrame) -> Verdict:
    """And Sr-IPO ends with more than IPO at its best τ."""
    gap = against(table, "sr_ipo", None)
    tau = best_strength(table, "ipo", "end")
    return at_least(gap, 0.0, f"reward of Sr-IPO (λ = 0.5) less IPO's at τ = {tau:g}: {gap}")


def prompt_helps(table: pd.DataFrame) -> Verdict:
    """What the prompt knows makes Sr-DPO end with more reward than the naive Δ at the same λ."""
    gap = mean_interval(
        rewards(table, "sr_dpo", 0.5, "end", "quality")
        - rewards(table, "sr_dpo", 0.5, "end", "none")
    )
    return at_least(gap, 0.0, f"reward with the quality prompt less that without, λ = 0.5: {gap}")


def no_free_lunch(table: pd.DataFrame) -> Verdict:
    """At the same drift Sr-DPO has no more reward than DPO: it moves along the line of β."""
    rows = pick(table, objective="dpo", when="end").groupby("strength")[["kl", "reward"]].mean()
    line = rows.sort_values("kl")
    mine = pick(table, objective="sr_dpo", when="end", prompt="quality", strength=0.5)
    above = mine.reward - np.interp(mine.kl.mean(), line.kl, line.reward)
    gap = mean_interval(above)
    return at_most(gap, 0.02, f"reward above DPO's line at the same mean drift, λ = 0.5: {gap}")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (sweeps, frontier)},
    claims={
        claim.__name__: claim
        for claim in (
            sr_dpo_beats_dpo_at_its_beta,
            sr_dpo_beats_the_best_dpo,
            sr_ipo_beats_the_best_ipo,
            prompt_helps,
            no_free_lunch,
        )
    },
    tolerance={"atol": 1e-4, "rtol": 1e-4},
)

if __name__ == "__main__":
    main(study, __file__)
