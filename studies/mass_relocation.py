"""How fast does an objective move probability to where it should be, if it is rare there?

Mode covering (forward KL, supervised fine-tuning) pulls on a wanted answer with a force that does
not depend on how rare it is. Mode seeking (reverse KL, on-policy RL) pulls in proportion to how
likely it already is. Everything here is exact: all arms, no sampling, plain SGD on independent
logits, so there is no spread over seeds except where distributions are drawn at random.

Background: Tajwar et al. 2024 (arXiv 2404.14367), section 6 and its four-category figure.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import measures, plotting
from toyalign.intervals import exactly, share_interval
from toyalign.objectives import get_objective
from toyalign.study import Part, Study, Verdict, at_least, at_most, main


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    masses: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2)
    """Reference probability of the arm that is wanted."""
    steps: int = 6000
    """Most gradient steps that are waited for."""
    lr: float = 2.0
    """Learning rate of SGD."""
    draws: int = 4000
    """Random pairs of distributions for the two-category condition."""


PRESETS = {"full": Params(), "fast": Params(masses=(1e-3, 1e-2, 0.1), steps=600, draws=1000)}
ARMS, WANTED = 10, 9
RELOCATORS = (
    "forward_kl",
    "sft",
    "jsd",
    "reverse_kl",
    "reinforce",
    "best_of_n",
    "dpo",
    "unlikelihood",
)


# %% Moving mass to a rare arm
def wanted_arm(mass: float) -> ta.Bandit:
    """Ten arms; the last has the given reference mass, the only reward, and 0.9 of the target."""
    reference = np.full(ARMS, (1 - mass) / (ARMS - 1))
    reference[WANTED] = mass
    target = np.full(ARMS, 0.1 / (ARMS - 1))
    target[WANTED] = 0.9
    reward = np.eye(ARMS)[WANTED]
    return ta.Bandit(reference, reward, pairs=[(WANTED, 0)], target=target, name="wanted_arm")


def relocate(params: Params, name: str) -> pd.DataFrame:
    """Steps until half of the probability is on the wanted arm, for each reference mass."""
    rows = []
    for mass in params.masses:
        traj = ta.simulate(
            name,
            wanted_arm(mass),
            lr=params.lr,
            steps=params.steps,
            marks=250,
            source=source_of(name),
        )
        on_arm = measures.mass_on(traj.log_probs[:, :, 0], [WANTED])
        steps = measures.steps_to(traj.steps, on_arm, 0.5)[0]
        rows.append({"x": mass, "mean": steps, "aside": on_arm[-1, 0]})
    return pd.DataFrame([{"part": "relocation", "objective": name, **row} for row in rows])


def source_of(name: str) -> ta.Source:
    """On-policy for RL, the reference's responses for Best-of-N, the problem's own data else."""
    return ta.Source({"reinforce": "policy", "best_of_n": "reference"}.get(name, "fixed"))


# %% Two modes
def modes(params: Params, name: str) -> pd.DataFrame:
    """The mass on the mode at hand and on the far one, over the steps."""
    problem = ta.two_modes()
    traj = ta.simulate(name, problem, lr=params.lr, steps=params.steps, marks=60)
    mass = np.exp(traj.log_probs[:, 0, 0])
    arms = {"near mode": slice(2, 8), "far mode": slice(12, 18)}
    rows = [
        {
            "part": "modes",
            "objective": name,
            "quantity": what,
            "x": step,
            "mean": mass[mark, where].sum(),
        }
        for what, where in arms.items()
        for mark, step in enumerate(traj.steps)
    ]
    return pd.DataFrame(rows)


# %% Two categories, the exact condition
def log_ratio_change(name: str, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """First-order change of log p1 − log p2 per unit step size, from the loss's own gradient."""
    logits = p.log().requires_grad_()
    loss = get_objective(name).fn(torch.log_softmax(logits, -1)[None], q.log()[None])
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    return grad[:, 1] - grad[:, 0]


def random_distributions(params: Params) -> tuple[torch.Tensor, torch.Tensor]:
    """Four categories; the policy gives the first two equal mass, the target more to the first."""
    rng = np.random.Generator(np.random.SFC64(0))
    p = rng.dirichlet(np.full(4, 0.7), params.draws).clip(1e-6)
    q = rng.dirichlet(np.full(4, 0.7), params.draws).clip(1e-6)
    p[:, :2] = p[:, :2].mean(1, keepdims=True)
    q[:, :2] = np.sort(q[:, :2], axis=1)[:, ::-1]
    return tuple(torch.from_numpy(d / d.sum(1, keepdims=True)) for d in (p, q))


def condition(params: Params) -> pd.DataFrame:
    """Reverse KL separates the two categories faster iff p > (q1 − q2) / (log q1 − log q2)."""
    p, q = random_distributions(params)
    forward = log_ratio_change("forward_kl", p, q).numpy()
    reverse = log_ratio_change("reverse_kl", p, q).numpy()
    q1, q2 = q[:, 0].numpy(), q[:, 1].numpy()
    mean = (q1 - q2) / (np.log(q1) - np.log(q2))
    predicted = p[:, 0].numpy() > mean
    agree, faster = (
        share_interval(predicted == (reverse > forward)),
        share_interval(reverse > forward),
    )
    rows = [
        {"quantity": "agrees", "mean": agree.mean, "low": agree.low, "high": agree.high,
         "n": agree.n},
        {"quantity": "reverse faster", "mean": faster.mean, "low": faster.low, "high": faster.high,
         "n": faster.n},
    ]  # fmt: skip
    rows += [
        {"quantity": "point", "x": p[i, 0].item() / mean[i], "mean": reverse[i] / forward[i]}
        for i in range(200)
    ]
    return pd.DataFrame([{"part": "condition", **row} for row in rows])


# %% Four categories, the paper's example
START, TARGET = (0.3, 0.3, 0.1, 0.3), (0.2, 0.1, 0.6, 0.1)
PRINTED = {  # bars read off the figure on the paper's project page, good to about 0.002
    "forward_kl": (0.330, 0.225, 0.219, 0.225),
    "reverse_kl": (0.250, 0.200, 0.350, 0.200),
}


def four_categories(params: Params) -> pd.DataFrame:
    """Plain gradient descent with many step sizes: how near can it come to the printed bars?

    The step size and number of steps behind the figure are not published, so all are tried; both
    sets of bars must come out of the same ones. `aside` is the step size, `x` the step.
    """
    problem = ta.Bandit(START, target=TARGET, name="four")
    rates = np.round(np.geomspace(0.02, 4, 120), 4)
    paths = {}
    for name in PRINTED:
        traj = ta.simulate(name, problem, lr=list(rates), steps=60, marks=range(61))
        paths[name] = np.exp(traj.log_probs[:, :, 0])  # [step, rate, category]
    other = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl"}
    rows = []
    for labels in ("as printed", "exchanged"):
        of = {label: label if labels == "as printed" else other[label] for label in PRINTED}
        off = [np.abs(paths[of[label]] - bars).max(-1) for label, bars in PRINTED.items()]
        step, rate = np.unravel_index(np.max(off, 0).argmin(), off[0].shape)
        for label, distance in zip(PRINTED, off, strict=True):
            keys = {"part": "four", "objective": of[label], "quantity": f"{labels}: {label}"}
            at = {"x": step, "aside": rates[rate]}
            rows.append({**keys, **at, "mean": distance[step, rate], "category": -1})
            for category, mass in enumerate(paths[of[label]][step, rate]):
                rows.append({**keys, **at, "mean": mass, "category": category})
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for name in RELOCATORS:
        yield f"to a rare arm, {name}", relocate, (params, name)
    for name in ("forward_kl", "jsd", "reverse_kl", "reinforce"):
        yield f"two modes, {name}", modes, (params, name)
    yield "two-category condition", condition, (params,)
    yield "four categories", four_categories, (params,)


# %% Figures
def steps_to_move(table: pd.DataFrame) -> Figure:
    """Steps to put half of the mass on an arm, over its reference probability."""
    figure, axes = plotting.new_figure(1, 1, width=5.4, height=3.2)
    ax = axes[0, 0]
    rows = table[table.part == "relocation"]
    for index, name in enumerate(RELOCATORS):
        line = rows[(rows.objective == name) & np.isfinite(rows["mean"])]
        style = {"color": plotting.colour_of(name), "marker": plotting.MARKERS[index]}
        if name == "sft":  # the same gradient as forward KL: drawn as rings around its marks
            style |= {"ls": "", "mfc": "none", "ms": 8}
        ax.plot(line.x, line["mean"], label=name, **style)
    ax.set(
        xscale="log",
        yscale="log",
        title="rare answers: covering objectives do not mind, seeking ones wait",
        xlabel="reference probability of the wanted arm",
        ylabel="steps to half of the mass",
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def two_modes(table: pd.DataFrame) -> Figure:
    """Mass on the near and the far mode of an evenly divided target, over the steps."""
    figure, axes = plotting.new_figure(1, 4, width=2.2, height=2.3, sharey=True)
    rows = table[table.part == "modes"]
    for ax, name in zip(axes.flat, ("forward_kl", "jsd", "reverse_kl", "reinforce"), strict=True):
        for what, colour in (
            ("near mode", plotting.OTHERS),
            ("far mode", plotting.colour_of(name)),
        ):
            line = rows[(rows.objective == name) & (rows.quantity == what)]
            ax.plot(line.x, line["mean"], color=colour, label=what)
        ax.axhline(0.5, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=name, xlabel="gradient step", xscale="symlog")
        ax.set_xlim(0, line.x.max())
        ax.legend(loc="upper left")
    axes[0, 0].set_ylabel("probability")
    plotting.label_panels(axes.flat)
    return figure


def exact_condition(table: pd.DataFrame) -> Figure:
    """Each point is a random pair of distributions; the lines cross at 1 as the condition says."""
    figure, axes = plotting.new_figure(1, 1, width=3.4, height=2.7)
    ax = axes[0, 0]
    points = table[(table.part == "condition") & (table.quantity == "point")]
    ax.scatter(points.x, points["mean"], s=9, color=plotting.OTHERS)
    ax.axvline(1, color=plotting.REFERENCE, ls="--", lw=0.9)
    ax.axhline(1, color=plotting.REFERENCE, ls="--", lw=0.9)
    ax.set(
        xscale="log",
        yscale="log",
        title="who separates two categories faster?",
        xlabel="p / logarithmic mean of q₁ and q₂",
        ylabel="reverse KL's speed / forward KL's",
    )
    return figure


def four_category_example(table: pd.DataFrame) -> Figure:
    """The printed bars beside the nearest point of each exact trajectory, under both labellings."""
    figure, axes = plotting.new_figure(1, 2, width=3.3, height=2.6, sharey=True)
    rows = table[table.part == "four"]
    place = np.arange(4)
    for ax, label in zip(axes.flat, PRINTED, strict=True):
        ax.bar(place - 0.27, PRINTED[label], 0.26, color="#BDBDBD", label="printed bars")
        for shift, labels in ((0.0, "as printed"), (0.27, "exchanged")):
            found = rows[rows.quantity == f"{labels}: {label}"].set_index("category")
            name = found["objective"].iloc[0]
            ax.bar(
                place + shift,
                found.loc[range(4), "mean"],
                0.26,
                color=plotting.colour_of(name),
                label=f"exact {name.replace('_kl', ' KL')}: off by {found.loc[-1, 'mean']:.3f}",
            )
        ax.set(title=f"printed as {label.replace('_kl', ' KL')}", xlabel="category", ylim=(0, 0.56))
        ax.set_xticks(place)
        ax.grid(False, axis="x")
        ax.legend(loc="upper left")
    axes[0, 0].set_ylabel("probability")
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def scaling(table: pd.DataFrame, name: str) -> float:
    """Slope of log steps over log mass, between the rarest reached mass and 0.01."""
    rows = table[(table.part == "relocation") & (table.objective == name) & (table.x <= 0.011)]
    rows = rows[np.isfinite(rows["mean"])]
    return float(np.polyfit(np.log(rows.x), np.log(rows["mean"]), 1)[0])


def covering_is_quick(table: pd.DataFrame) -> Verdict:
    """Forward KL's steps grow no faster than the logarithm of the rarity."""
    slope = exactly(-scaling(table, "forward_kl"))
    return at_most(slope, 0.3, f"steps grow as rarity to the power {slope.mean:.2f}")


def seeking_waits(table: pd.DataFrame) -> Verdict:
    """Reverse KL's steps grow nearly in proportion to the rarity."""
    slope = exactly(-scaling(table, "reverse_kl"))
    return at_least(slope, 0.7, f"steps grow as rarity to the power {slope.mean:.2f}")


def sft_is_forward_kl(table: pd.DataFrame) -> Verdict:
    """SFT on exact demonstrations takes the same steps as forward KL."""
    rows = table[table.part == "relocation"].set_index("x")
    gap = rows[rows.objective == "sft"]["mean"] / rows[rows.objective == "forward_kl"]["mean"] - 1
    worst = exactly(float(gap.abs().max()))
    return at_most(worst, 1e-6, f"largest relative difference in steps: {worst.mean:.1e}")


def negative_gradient_does_not_wait(table: pd.DataFrame) -> Verdict:
    """DPO on one pair, a push up and a push down, does not wait for rare answers either."""
    slope = exactly(-scaling(table, "dpo"))
    return at_most(slope, 0.3, f"steps grow as rarity to the power {slope.mean:.2f}")


def condition_is_exact(table: pd.DataFrame) -> Verdict:
    """The logarithmic-mean condition tells in every random case which divergence is faster."""
    rows = table[table.part == "condition"].set_index("quantity")
    agree = exactly(rows.loc["agrees", "mean"])
    faster = rows.loc["reverse faster", "mean"]
    return at_least(
        agree,
        0.9999,
        f"right in a share of {agree.mean:g}; reverse KL is the faster one in {faster:.2f}",
    )


def as_printed(table: pd.DataFrame) -> Verdict:
    """The four-category bars come out of exact gradient descent under the printed labels."""
    return from_descent(table, "as printed")


def exchanged(table: pd.DataFrame) -> Verdict:
    """The four-category bars come out of exact gradient descent with the two labels exchanged."""
    return from_descent(table, "exchanged")


def from_descent(table: pd.DataFrame, labels: str) -> Verdict:
    """How far the printed bars are from the best descent, held against thrice the reading error."""
    rows = table[(table.part == "four") & (table.category == -1)]
    rows = rows[rows.quantity.str.startswith(labels)]
    worst = exactly(float(rows["mean"].max()))
    rate, step = rows["aside"].iloc[0], rows["x"].iloc[0]
    return at_most(
        worst,
        0.006,
        f"at best (step size {rate:.2f}, {step:.0f} steps) the bars are off by {worst.mean:.4f}",
    )


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={
        f.__name__: f for f in (steps_to_move, two_modes, exact_condition, four_category_example)
    },
    claims={
        claim.__name__: claim
        for claim in (
            covering_is_quick,
            seeking_waits,
            sft_is_forward_kl,
            negative_gradient_does_not_wait,
            condition_is_exact,
            as_printed,
            exchanged,
        )
    },
    tolerance={"atol": 1e-6, "rtol": 1e-5},
)

if __name__ == "__main__":
    main(study, __file__)
