"""MinorSFT: does a coefficient that fades as an answer rises keep the policy nearer to its start?

Xie et al. 2024 (arXiv 2408.10642). How far policies drift at equal training loss is measured by the
study `deviation`. Here are the identities of the gradient and of the paper's deviation metric, the
metric at equal steps, and what the length of the answers does to the coefficient.
"""

# %% Parameters
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import measures, plotting
from toyalign.intervals import Estimate, difference, exactly, mean_interval
from toyalign.objectives.likelihood import minor_sft, npo, sft
from toyalign.policies.position import Prefix
from toyalign.problems.sequences import Sequences
from toyalign.study import Part, Study, main
from toyalign.tables import estimate, of_row, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 20
    """Runs of every setting."""
    steps: int = 200
    """Gradient steps of SGD."""
    lr: float = 0.2
    """Learning rate for eight answers, one per prompt."""
    points: int = 2000
    """Random points at which identities are looked at."""


PRESETS = {"full": Params(), "fast": Params(seeds=5, steps=60, points=200)}
LENGTHS = (4, 20, 100)
BETAS = (0.01, 0.1, 0.5)
GAIN = 0.5  # nats per token, at which methods are compared


# %% Identities
def identities(params: Params) -> pd.DataFrame:
    """Largest differences between two ways to say the same thing, at random points."""
    rng = np.random.Generator(np.random.SFC64(0))
    shape = (params.points, 1)  # every point is a run, with a β of its own
    start, ratio = (torch.from_numpy(rng.normal(-30, 10, shape)), torch.from_numpy(
        rng.normal(0, 8, shape)))  # fmt: skip
    lengths = torch.from_numpy(rng.integers(1, 40, shape).astype(float))
    beta = torch.from_numpy(rng.uniform(0.01, 1, shape))
    logps = (start + ratio).requires_grad_()

    def slope(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss.sum(), logps)[0]

    minor = slope(minor_sft(logps, start, lengths, beta=beta))
    printed = -2 / lengths * torch.sigmoid(-beta * ratio)
    weighted = slope((2 * torch.sigmoid(-beta * ratio)) * sft(logps, lengths))
    mirrored = (logps.detach() - start).neg() + start  # the same distance on the other side
    mirror = npo(mirrored, start, beta=beta) - lengths * minor_sft(logps, start, lengths, beta=beta)
    few = slope(minor_sft(logps, start, lengths, beta=1e-7)) - slope(sft(logps, lengths))
    coefficient = -minor * lengths
    looked_at = {
        "printed gradient": (minor - printed).abs().max(),
        "weighted SFT": (minor - weighted).abs().max(),
        "mirror of NPO": (mirror / lengths).abs().max(),
        "β → 0": few.abs().max(),
        "least coefficient": coefficient.min(),
        "largest coefficient": coefficient.max(),
    }
    found = {name: value.item() for name, value in looked_at.items()}
    return pd.DataFrame(
        [{"part": "identity", "case": name, "quantity": "value", "mean": value, "low": value,
          "high": value, "n": 1} for name, value in found.items()]
    )  # fmt: skip


# %% Trainings
def train(params: Params, tokens: int, objective: str, **hyper: float) -> ta.Trajectory:
    """Imitation of eight answers; a logit for every prefix, so that lengths do not interfere."""
    return ta.simulate(
        objective,
        Sequences(tokens=tokens, count=8, right=0.3, misled=0.2, texts=1),
        policy=Prefix(),
        source="fixed",
        steps=params.steps,
        lr=params.lr * tokens,  # the loss is a mean over tokens
        seeds=params.seeds,
        marks=60,
        **hyper,
    )


def metric(traj: ta.Trajectory, tokens: int) -> np.ndarray:
    """The paper's deviation, [mark, run]: mean of log π/π_ref per token on the training answers."""
    chosen = traj.measured()["chosen_logps"]
    return (chosen - chosen[0]) / tokens


def training(params: Params, tokens: int) -> pd.DataFrame:
    """SFT, and MinorSFT beside it: deviation over the steps, and where each is when SFT is there.

    "progress" is what MinorSFT has won when SFT has won `GAIN`, as a share of that.
    """
    plain = train(params, tokens, "sft")
    others = {f"β = {b:g}": train(params, tokens, "minor_sft", beta=b) for b in BETAS}
    deviations = {label: metric(traj, tokens) for label, traj in {"SFT": plain, **others}.items()}
    there = measures.steps_to(plain.steps, deviations["SFT"], GAIN)
    if not np.isfinite(there).all():
        raise RuntimeError(f"SFT has not won {GAIN} nats per token within {params.steps} steps")
    keys = {"part": "training", "x": tokens}
    rows = []
    for label, deviation in deviations.items():
        for mark, step in enumerate(plain.steps):
            found = mean_interval(deviation[mark])
            rows.append(row(keys, label, "deviation", found, step))
        progress = [
            np.interp(at, plain.steps, deviation[:, run]) / GAIN for run, at in enumerate(there)
        ]
        rows.append(row(keys, label, "progress", mean_interval(progress)))
    won = plain.loss[:1] - plain.loss
    gap = exactly(float(np.abs(deviations["SFT"] - won).max()))
    return pd.DataFrame([*rows, row(keys, "SFT", "metric less loss won", gap)])


def row(
    keys: dict[str, object], case: str, quantity: str, found: Estimate, step: float = np.nan
) -> dict[str, object]:
    """A row of the table."""
    return {**keys, "case": case, "quantity": quantity, "step": step, "mean": found.mean,
            "low": found.low, "high": found.high, "n": found.n}  # fmt: skip


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    yield "identities", identities, (params,)
    for tokens in LENGTHS:
        yield f"{tokens} tokens", training, (params, tokens)


# %% Figures
def by_length(table: pd.DataFrame) -> Figure:
    """The paper's deviation over the steps, for three lengths of answer."""
    figure, axes = plotting.new_figure(1, len(LENGTHS), width=2.7, height=2.4, sharey=True)
    rows = pick(table, part="training", quantity="deviation")
    colours = ["#B8DC8A", "#66A61E", "#2F5D10"]
    for ax, tokens in zip(axes.flat, LENGTHS, strict=True):
        for case, colour in zip(("SFT", *(f"β = {b:g}" for b in BETAS)), ("#117733", *colours),
                                strict=True):  # fmt: skip
            line = pick(rows, x=tokens, case=case)
            label = case if case == "SFT" else f"MinorSFT, {case}"
            style = "--" if case == "SFT" else "-"
            ax.plot(line.step, line["mean"], color=colour, ls=style, label=label)
        ax.axhline(GAIN, color=plotting.REFERENCE, ls=":", lw=0.9)
        ax.set(title=f"answers of {tokens} tokens", xlabel="gradient step", xscale="symlog")
        ax.set_xlim(left=0)
    axes[0, 0].set_ylabel("deviation, nats per token")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plotting.label_panels(axes.flat)
    return figure


# %% Measures: what the claims are held to
def identity(table: pd.DataFrame, *cases: str) -> Mapping[str, Estimate]:
    """Numbers of the random points."""
    return {case: estimate(table, part="identity", case=case) for case in cases}


def printed_gradient(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference from the printed gradient, and from weighted SFT's."""
    return identity(table, "printed gradient", "weighted SFT")


def sft_limit(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference from SFT's gradient at a tiny β."""
    return identity(table, "β → 0")


def npo_mirror(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference, per token, from NPO at the opposite log-ratio."""
    return identity(table, "mirror of NPO")


def coefficients(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The least and the largest coefficient, as distances from 1."""
    rows = identity(table, "least coefficient", "largest coefficient")
    return {name: exactly(abs(found.mean - 1)) for name, found in rows.items()}


def metric_gap(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Largest difference of the metric from the training loss won, by length."""
    rows = pick(table, part="training", quantity="metric less loss won")
    return {f"{row['x']:g} tokens": of_row(row) for _, row in rows.iterrows()}


def lower_at_equal_steps(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """What SFT has won, less MinorSFT's progress at the same step, as a share of the former."""
    rows = pick(table, part="training", quantity="progress")
    rows = rows[rows["case"] != "SFT"]
    return {
        f"{row['case']}, {row['x']:g} tokens": difference(exactly(1.0), of_row(row))
        for _, row in rows.iterrows()
    }


def reported(deviation: pd.DataFrame) -> Mapping[str, Estimate]:
    """SFT's reported deviation less MinorSFT's at equal training loss, by policy class."""
    return against_sft(deviation, "deviation")


def drift(deviation: pd.DataFrame) -> Mapping[str, Estimate]:
    """SFT's KL to its start less MinorSFT's at equal training loss, by policy class."""
    return against_sft(deviation, "KL to reference")


def against_sft(table: pd.DataFrame, quantity: str) -> Mapping[str, Estimate]:
    """SFT less MinorSFT at β = 0.5 where half of the possible loss has been won, same seeds."""
    found = {}
    for policy in ("features", "tabular"):
        rows = pick(table, policy=policy, quantity=quantity, share=0.5)
        wide = rows.pivot(index="seed", columns="label", values="value")
        found[policy] = mean_interval((wide["SFT"] - wide["MinorSFT β=0.5"]).dropna())
    return found


def one_beta(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Progress with the shortest answers less that with the longest, by β."""
    rows = pick(table, part="training", quantity="progress")
    return {
        f"β = {beta:g}": difference(
            *(estimate(rows, case=f"β = {beta:g}", x=x) for x in (LENGTHS[0], LENGTHS[-1]))
        )
        for beta in BETAS
    }


MEASURES = {
    measure.__name__: measure
    for measure in (
        printed_gradient,
        sft_limit,
        npo_mirror,
        coefficients,
        metric_gap,
        lower_at_equal_steps,
        reported,
        drift,
        one_beta,
    )
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={"by_length": by_length},
    claims={},
)

if __name__ == "__main__":
    main(study, __file__)
