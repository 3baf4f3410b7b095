"""Which way of imitating demonstrations drifts least from the start, at the same training loss?

MinorSFT (Xie et al. 2024, arXiv 2408.10642) pulls less on an answer that it has already raised, and
reports a smaller deviation: the mean log-ratio of the policy to its start on the training answers.
That number is, exactly, the training loss won so far, so that two methods at equal loss have equal
deviation. A drift is a distance on what the policy itself says: KL(π‖π_ref). Here are both,
for each method at the moment when the same share of the possible training loss has been won.
"""

# %% Parameters
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import measures, plotting
from toyalign.intervals import mean_interval
from toyalign.study import Part, Study, Verdict, at_least, at_most, main


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 100
    """Random starts."""
    steps: int = 3000
    """Gradient steps of SGD."""
    lr: float = 0.5
    """Learning rate."""
    overlap: float = 1.5
    """Width of the shared features, in arms."""
    spread: float = 1.0
    """Noise on each run's reference, in nats."""
    betas: tuple[float, ...] = (0.1, 0.5, 2.0)
    """Of MinorSFT."""


PRESETS = {"full": Params(), "fast": Params(seeds=20, steps=800, betas=(0.5,))}
SHARES = (0.25, 0.5, 0.75)
ARMS = 20
COLOURS = {"SFT": "#117733", "DFT": "#882255", "SFT + KL": "#B0713A"}
MINOR = {0.1: "#B8DC8A", 0.5: "#66A61E", 2.0: "#2F5D10"}


# %% Simulation
def demonstrated(params: Params) -> ta.Bandit:
    """Twenty answers; the demonstrations are four of them, one much more frequent than the rest."""
    target = np.full(ARMS, 0.1 / (ARMS - 4))
    target[[4, 5, 12, 15]] = 0.5, 0.1, 0.2, 0.1
    reference = np.exp(-(((np.arange(ARMS) - 8) / 5) ** 2) / 2)
    return ta.Bandit(
        reference / reference.sum(), target=target, spread=params.spread, name="demonstrated"
    )


def settings(params: Params) -> list[tuple[str, dict[str, float], str]]:
    """Objective, hyperparameters and label of everything that is compared."""
    minor = [("minor_sft", {"beta": b}, f"MinorSFT β={b:g}") for b in params.betas]
    return [("sft", {}, "SFT"), *minor, ("dft", {}, "DFT"), ("sft_kl", {"kappa": 0.3}, "SFT + KL")]


def at_level(values: np.ndarray, loss: np.ndarray, level: np.ndarray) -> np.ndarray:
    """A recorded quantity [mark, run] where the loss first falls to a level [run]; NaN if never."""
    found = np.full(len(level), np.nan)
    for run in range(len(level)):
        below = np.flatnonzero(loss[:, run] <= level[run])
        if len(below) and below[0]:
            mark = below[0]
            ends = loss[[mark, mark - 1], run]
            found[run] = np.interp(level[run], ends, values[[mark, mark - 1], run])
    return found


def compare(
    params: Params, objective: str, hyper: dict[str, float], label: str, policy: str
) -> pd.DataFrame:
    """The drift of one objective where the same share of the possible loss has been won."""
    problem = demonstrated(params)
    made = ta.Features(params.overlap) if policy == "features" else ta.Tabular()
    traj = ta.simulate(
        objective,
        problem,
        policy=made,
        source="fixed",
        steps=params.steps,
        lr=params.lr,
        seeds=params.seeds,
        marks=200,
        **hyper,
    )
    log_probs, start = traj.log_probs[:, :, 0], traj.reference[:, 0]
    target = np.asarray(problem.target)
    loss = -(log_probs * target).sum(-1)
    quantities = {
        "KL to reference": measures.kl(log_probs, start),
        "KL from reference": measures.kl(start, log_probs),
        "deviation": ((log_probs - start) * target).sum(-1),
        "entropy": measures.entropy(log_probs),
    }
    least = -(target * np.log(target)).sum()
    rows = []
    for share in SHARES:
        level = loss[0] - share * (loss[0] - least)
        for name, values in quantities.items():
            found = at_level(values, loss, level)
            rows += [
                {
                    "policy": policy,
                    "objective": objective,
                    "label": label,
                    "share": share,
                    "quantity": name,
                    "seed": seed,
                    "value": value,
                }
                for seed, value in enumerate(found)
            ]
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """Every objective with both policies."""
    for policy in ("tabular", "features"):
        for objective, hyper, label in settings(params):
            yield f"{label}, {policy}", compare, (params, objective, hyper, label, policy)


# %% Figures
def against_sft(
    table: pd.DataFrame, policy: str, label: str, quantity: str, share: float
) -> np.ndarray:
    """Difference to SFT of the same seed, [seed]; runs that never get there are left out."""
    rows = table[(table.policy == policy) & (table.quantity == quantity) & (table.share == share)]
    wide = rows.pivot(index="seed", columns="label", values="value")
    return (wide[label] - wide["SFT"]).dropna().to_numpy()


def drift(table: pd.DataFrame) -> Figure:
    """The reported deviation and the real drift, at equal training loss that most runs reach."""
    figure, axes = plotting.new_figure(1, 3, width=3.2, height=2.7)
    labels = list(dict.fromkeys(table.label))
    panels = [
        ("features", "deviation", "Reported deviation: the loss won"),
        ("features", "KL to reference", "Real drift, shared features"),
        ("tabular", "KL to reference", "Real drift, separate logits"),
    ]
    for ax, (policy, quantity, title) in zip(axes[0], panels, strict=True):
        rows = table[(table.policy == policy) & (table.quantity == quantity)]
        for place, label in enumerate(labels):
            mine = rows[rows.label == label]
            at = [mine[mine.share == share].value for share in SHARES]
            # Where most runs never get, the few that do are not comparable: leave a gap.
            ends = [mean_interval(v if v.notna().mean() > 0.5 else []) for v in at]
            mean = [end.mean for end in ends]
            half = [end.high - end.mean for end in ends]
            colour = COLOURS.get(label) or MINOR[float(label.rpartition("=")[2])]
            marker = plotting.MARKERS[place]
            x = np.array(SHARES) * 100 + 1.2 * (place - len(labels) / 2)
            ax.errorbar(x, mean, half, color=colour, marker=marker, label=label, capsize=2)
        ax.set_title(title)
        ax.set_xlabel("training loss won, % of the possible")
        ax.set_ylabel("nats")
        ax.set_xticks([100 * share for share in SHARES])
        ax.set_ylim(bottom=0)
    axes[0, 0].legend()
    plotting.label_panels(axes[0])
    return figure


# %% Claims
def same_deviation(table: pd.DataFrame) -> Verdict:
    """The reported deviation cannot tell methods of equal training loss apart."""
    rows = table[table.quantity == "deviation"].dropna()
    wide = rows.pivot(index=["policy", "share", "seed"], columns="label", values="value")
    apart = mean_interval(wide.max(axis=1) - wide.min(axis=1))
    return at_most(
        apart,
        0.02,
        "At equal training loss the reported deviations of the methods lie within "
        f"{apart.mean:.2g} nats of each other (interpolation between records)",
    )


def less_drift(label: str, policy: str, share: float = 0.5) -> Callable[[pd.DataFrame], Verdict]:
    """A claim that a method drifts less than SFT at the same training loss."""

    def claim(table: pd.DataFrame) -> Verdict:
        found = mean_interval(-against_sft(table, policy, label, "KL to reference", share))
        return at_least(
            found,
            0.0,
            f"With {policy} and {share:.0%} of the loss won, KL to the reference of {label} lies "
            f"{found.mean:.3g} nats [{found.low:.3g}, {found.high:.3g}] below SFT's of the same "
            f"start ({found.n} runs that got there)",
        )

    return claim


CLAIMS = {
    "same_deviation": same_deviation,
    "minor_sft_drifts_less": less_drift("MinorSFT β=0.5", "features"),
    "minor_sft_drifts_less_tabular": less_drift("MinorSFT β=0.5", "tabular"),
    "dft_drifts_less": less_drift("DFT", "features", 0.25),
    "sft_kl_drifts_less": less_drift("SFT + KL", "features"),
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={"drift": drift},
    claims=CLAIMS,
)

if __name__ == "__main__":
    main(study, __file__)
