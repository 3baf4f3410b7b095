"""Self-refined DPO: what does the refinement function do, and does it beat DPO with another beta?

Yu et al. 2024 (arXiv 2405.21040). Trainings are those of the study `self_refinement`. Here are the
identities, what Δ says of pairs in the toy of the quality prompt, the paper's proposition on its
objective, and its own tables read once more.
"""

# %% Parameters
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, exactly, mean_interval
from toyalign.objectives.informed import sr_dpo, sr_ipo
from toyalign.objectives.pairwise import dpo, ipo
from toyalign.streams import Streams
from toyalign.study import Part, Study, main
from toyalign.tables import of_row, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    points: int = 2000
    """Random points at which identities are looked at."""
    seeds: int = 100
    """Runs in the toy."""
    pairs: int = 200
    """Preference pairs per run."""
    steps: int = 100
    """Gradient steps of RMSprop before the pairs are looked at."""


PRESETS = {"full": Params(), "fast": Params(points=200, seeds=20, steps=50)}
NAMES = ("chosen", "rejected")
PRINTED = {  # Open LLM leaderboard: DPO, Sr-DPO, IPO, Sr-IPO
    "ARC": (62.54, 64.55, 61.95, 62.50),
    "HellaSwag": (84.54, 85.39, 82.76, 83.24),
    "Winogrande": (79.28, 80.74, 79.48, 79.44),
    "MMLU": (60.95, 61.64, 61.20, 61.90),
    "TruthfulQA": (59.85, 60.33, 46.07, 48.38),
    "GSM8k": (31.99, 33.78, 36.63, 39.58),
}
JUDGED = {  # win, tie, lose in percent
    "Sr-DPO vs DPO, MT-Bench": (45.62, 33.76, 20.62),
    "Sr-DPO vs DPO, Vicuna": (63.75, 13.75, 22.50),
    "Sr-IPO vs IPO, MT-Bench": (38.75, 25.00, 26.25),
    "Sr-IPO vs IPO, Vicuna": (60.00, 8.75, 31.25),
    "Sr-DPO vs IPO, MT-Bench": (42.50, 21.25, 36.25),
    "Sr-DPO vs IPO, Vicuna": (66.25, 11.50, 26.25),
    "Sr-IPO vs DPO, MT-Bench": (38.61, 28.89, 32.50),
    "Sr-IPO vs DPO, Vicuna": (61.25, 5.00, 33.75),
}


def row(part: str, case: str, found: Estimate) -> dict[str, object]:
    """A row of the table."""
    return {"part": part, "case": case, "mean": found.mean, "low": found.low, "high": found.high,
            "n": found.n}  # fmt: skip


# %% Identities
def identities(params: Params) -> pd.DataFrame:
    """Largest differences between two ways to say the same thing, at random points."""
    rng = np.random.Generator(np.random.SFC64(0))
    shape = (1, params.points)
    plain = {f"{side}_logps": torch.from_numpy(rng.normal(-20, 5, shape)) for side in NAMES}
    frozen = {f"ref_{n}": v + torch.from_numpy(rng.normal(0, 1.5, shape)) for n, v in plain.items()}
    leaves = {name: values.clone().requires_grad_() for name, values in plain.items()}

    def slopes(loss: Tensor) -> Tensor:
        return torch.stack(torch.autograd.grad(loss.sum(), list(leaves.values())))

    def behind(policy: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The prompted log-probabilities of a prompt that changes nothing, or those given."""
        return {
            **{f"prompted_{name}": value.detach() for name, value in policy.items()},
            **{f"ref_prompted_{name}": value for name, value in _bare(frozen).items()},
        }

    beta = 0.1
    told = behind({n: v + torch.from_numpy(rng.normal(size=shape)) for n, v in plain.items()})
    naive = behind(plain)
    found = {}
    found["Sr-DPO at λ = 0"] = _gap(
        slopes(sr_dpo(**leaves, **frozen, **told, beta=beta, lam=0.0)),
        slopes(dpo(**leaves, **frozen, beta=beta)),
    )
    found["Sr-IPO at λ = 0"] = _gap(
        slopes(sr_ipo(**leaves, **frozen, **told, beta=beta, lam=0.0)),
        slopes(ipo(**leaves, **frozen, tau=beta)),
    )
    lam = 0.4
    found["naive Δ, λ = 0.4"] = _gap(
        (1 - lam) * slopes(sr_dpo(**leaves, **frozen, **naive, beta=beta, lam=lam)),
        slopes(dpo(**leaves, **frozen, beta=(1 - lam) * beta)),
    )
    constant = slopes(sr_dpo(**leaves, **frozen, **naive, beta=beta, lam=1.0))
    found["naive Δ, λ = 1: weight less ½"] = (constant.abs() / beta - 0.5).abs().max()
    refined = slopes(sr_dpo(**leaves, **frozen, **told, beta=beta, lam=lam))
    found["chosen plus rejected push"] = (refined[0] + refined[1]).abs().max()
    rows = [row("identity", name, exactly(float(value))) for name, value in found.items()]
    # Δ of two answers is the difference of their Δ to any third: refinement is a potential.
    values = torch.from_numpy(rng.normal(size=(3, params.points)))
    delta = 0.1 * (values[0] - values[1])
    third = 0.1 * (values[2] - values[1]) - 0.1 * (values[2] - values[0])
    rows.append(row("identity", "Δ through a third answer", exactly(float(_gap(delta, third)))))
    return pd.DataFrame(rows)


def _bare(frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("ref_"): value for name, value in frozen.items()}


def _gap(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().max()


# %% The proposition on the objective
def proposition(params: Params) -> pd.DataFrame:
    """The log-ratio at the optimum of the written objective: is it 1/(2β) + λΔ, or λΔ/β?

    Two answers, the first always preferred, both drawn evenly by the other player: maximise
    E[preference] − β·KL(π‖π_ref) + λ·E[r(y|p⊕x)] by gradient ascent to its end.
    """
    rows = []
    for beta, lam in ((0.1, 0.5), (0.5, 0.5), (1.0, 0.5)):
        reference = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
        prompted = torch.tensor([0.2, -0.1], dtype=torch.float64)  # r(y|p⊕x); Δ is their gap
        wins = torch.tensor([0.75, 0.25], dtype=torch.float64)  # against an even opponent
        logits = reference.clone().requires_grad_()
        for _ in range(4000):
            log_probs = torch.log_softmax(logits, 0)
            kl = (log_probs.exp() * (log_probs - reference)).sum()
            value = (log_probs.exp() * (wins + lam * prompted)).sum() - beta * kl
            (uphill,) = torch.autograd.grad(value, logits)
            with torch.no_grad():
                logits += uphill / beta
        ratio = (torch.log_softmax(logits, 0) - reference).detach()
        h, delta = (ratio[0] - ratio[1]).item(), (prompted[0] - prompted[1]).item()
        for name, said in (("λΔ", lam * delta), ("λΔ/β", lam * delta / beta)):
            gap = exactly(h - (0.5 / beta + said))
            rows.append(row(f"proposition, {name}", f"β = {beta:g}", gap))
    return pd.DataFrame(rows)


# %% What Δ says of pairs, in the toy
def pairs(params: Params) -> pd.DataFrame:
    """After some DPO: does Δ order nested pairs, and does the prompt keep the preferences?"""
    problem = ta.graded_arms()
    source = ta.Source(
        "reference", exact=False, responses=2, prompts=params.pairs, labels="bradley_terry"
    )
    policy = ta.Informed()
    traj = ta.simulate(
        "dpo", problem, policy=policy, source=source, steps=params.steps, lr=0.01,
        optimiser="rmsprop", seeds=params.seeds, marks=[params.steps], beta=0.1,
    )  # fmt: skip
    world = problem.world(Streams(list(range(params.seeds))))
    theta = torch.from_numpy(traj.theta)
    start = torch.zeros_like(theta)
    told = (policy.prompted(theta, world) - policy.prompted(start, world)).numpy()
    plain = (policy.log_probs(theta, world) - policy.log_probs(start, world)).numpy()
    rewards = np.asarray(problem.rewards)
    better = rewards[:, None] > rewards  # [chosen, rejected], by true quality
    delta, h = (r[:, :, None] - r[:, None] for r in (told, plain))  # [run, chosen, rejected]
    rows = [
        row("preferences", "plain", mean_interval((h > 0)[:, better].mean(1))),
        row("preferences", "behind the prompt", mean_interval((delta > 0)[:, better].mean(1))),
        row("preferences", "behind less plain", mean_interval(
            (delta > 0)[:, better].mean(1) - (h > 0)[:, better].mean(1))),
    ]  # fmt: skip
    order = np.argsort(rewards)
    nested = [  # worst < worse < better < best
        (order[i], order[j], order[k], order[m])
        for i in range(0, 20, 4)
        for j in range(i + 1, 20, 3)
        for k in range(j + 1, 20, 3)
        for m in range(k + 1, 20, 3)
    ]
    for name, values in (("Δ", delta), ("βh", h)):
        wider = [values[:, best, worst] > values[:, good, bad] for worst, bad, good, best in nested]
        rows.append(row("nested", name, mean_interval(np.mean(wider, 0))))
    gaps = rewards[:, None] - rewards
    upper = np.triu_indices(20, 1)
    correlation = [np.corrcoef(gaps[upper], values[upper])[0, 1] for values in delta]
    rows.append(row("nested", "correlation of Δ with the quality gap", mean_interval(correlation)))
    return pd.DataFrame(rows)


def tables(params: Params) -> pd.DataFrame:
    """The paper's own tables: gains per task, and whether rows of percentages add up."""
    rows = []
    for task, (one, refined, other, refined_other) in PRINTED.items():
        rows.append(row("leaderboard", f"Sr-DPO, {task}", exactly(refined - one)))
        rows.append(row("leaderboard", f"Sr-IPO, {task}", exactly(refined_other - other)))
    for case, shares in JUDGED.items():
        rows.append(row("judged", case, exactly(sum(shares))))
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    yield "identities", identities, (params,)
    yield "proposition", proposition, (params,)
    yield "pairs", pairs, (params,)
    yield "the paper's tables", tables, (params,)


# %% Figures
def printed_gains(table: pd.DataFrame) -> Figure:
    """The gains that the paper's leaderboard table says, task by task."""
    figure, axes = plotting.new_figure(1, 1, width=4.6, height=2.4)
    ax = axes[0, 0]
    looks = (("Sr-DPO", plotting.CHOSEN, "o", 0.12), ("Sr-IPO", plotting.REJECTED, "s", -0.12))
    for name, colour, marker, shift in looks:
        for place, task in enumerate(PRINTED):
            gain = pick(table, part="leaderboard", case=f"{name}, {task}")["mean"].iloc[0]
            label = name if not place else None
            ax.plot(gain, -place + shift, marker=marker, color=colour, ls="", label=label)
    ax.axvline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
    ax.set_yticks(range(0, -len(PRINTED), -1), list(PRINTED))
    ax.set_xlabel("gain over the plain loss (points, as printed; two seeds)")
    ax.legend()
    return figure


# %% Measures: what the claims are held to
def rows_of(table: pd.DataFrame, part: str) -> Mapping[str, Estimate]:
    """Every row of a part, by its case."""
    return {r["case"]: of_row(r) for _, r in pick(table, part=part).iterrows()}


def limits(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Differences from DPO and IPO at λ = 0."""
    return {k: v for k, v in rows_of(table, "identity").items() if k.endswith("λ = 0")}


def potential(table: pd.DataFrame) -> Estimate:
    """Δ(y⁻, y⁺) less Δ(y⁻, y*) − Δ(y⁺, y*)."""
    return rows_of(table, "identity")["Δ through a third answer"]


def naive(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Sr-DPO with the naive Δ against DPO at (1 − λ)β, and its weight at λ = 1."""
    return {k: v for k, v in rows_of(table, "identity").items() if k.startswith("naive")}


def symmetric(table: pd.DataFrame) -> Estimate:
    """The push on the chosen answer plus that on the rejected one."""
    return rows_of(table, "identity")["chosen plus rejected push"]


def as_printed(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The optimum's log-ratio less 1/(2β) + λΔ."""
    return rows_of(table, "proposition, λΔ")


def divided(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The optimum's log-ratio less 1/(2β) + λΔ/β."""
    return rows_of(table, "proposition, λΔ/β")


def nested(table: pd.DataFrame) -> Estimate:
    """Share of nested pairs of pairs in which the wider pair has the larger Δ."""
    return rows_of(table, "nested")["Δ"]


def same_preferences(table: pd.DataFrame) -> Estimate:
    """Accuracy behind the prompt less accuracy without it."""
    return rows_of(table, "preferences")["behind less plain"]


def gap(table: pd.DataFrame, one: tuple, other: tuple) -> Estimate:
    """Reward at the end of one setting less another's, same seeds."""
    ends = pick(table, when="end", prompt="quality")
    mine, theirs = (
        pick(ends, objective=name, strength=strength).set_index("seed").reward
        for name, strength in (one, other)
    )
    return mean_interval(mine - theirs)


def strengths(table: pd.DataFrame, name: str) -> list[float]:
    """The strengths of an objective, the best by mean reward at the end first."""
    rows = pick(table, objective=name, when="end", prompt="quality")
    means = rows.groupby("strength").reward.mean().sort_values(ascending=False)
    return [float(s) for s in means.index]


def at_one_beta(self_refinement: pd.DataFrame) -> Mapping[str, Estimate]:
    """Reward of Sr-DPO and Sr-IPO at every λ less the plain loss's at β = 0.1."""
    table = self_refinement
    return {
        f"{sr}, λ = {lam:g}": gap(table, (sr, lam), (plain, 0.1))
        for sr, plain in (("sr_dpo", "dpo"), ("sr_ipo", "ipo"))
        for lam in sorted(strengths(table, sr))
    }


def at_best_beta(self_refinement: pd.DataFrame) -> Mapping[str, Estimate]:
    """Reward at the best λ less the plain loss's at its best β."""
    table = self_refinement
    return {
        f"{sr}, λ = {strengths(table, sr)[0]:g}, against {plain} at {strengths(table, plain)[0]:g}":
        gap(table, (sr, strengths(table, sr)[0]), (plain, strengths(table, plain)[0]))
        for sr, plain in (("sr_dpo", "dpo"), ("sr_ipo", "ipo"))
    }  # fmt: skip


def middle_lambda(self_refinement: pd.DataFrame) -> Mapping[str, Estimate]:
    """Reward of Sr-DPO at λ = 0.5 less that at the least and the largest λ."""
    lams = sorted(strengths(self_refinement, "sr_dpo"))
    return {
        f"less λ = {lam:g}": gap(self_refinement, ("sr_dpo", 0.5), ("sr_dpo", lam))
        for lam in (lams[0], lams[-1])
        if lam != 0.5
    }


def leaderboard(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The printed gains."""
    return rows_of(table, "leaderboard")


def percentages(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Win, tie and lose, added."""
    return rows_of(table, "judged")


MEASURES = {
    measure.__name__: measure
    for measure in (
        limits,
        potential,
        naive,
        symmetric,
        as_printed,
        divided,
        nested,
        same_preferences,
        at_one_beta,
        at_best_beta,
        middle_lambda,
        leaderboard,
        percentages,
    )
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={"printed_gains": printed_gains},
    claims={},
    tolerance={"atol": 1e-4, "rtol": 1e-4},
)

if __name__ == "__main__":
    main(study, __file__)
