"""What is taken from the rejected answer must go somewhere: who gets it?

Three toys of the literature, each about mass that nobody asked to move. No is preferred to Never,
and Yes lies opposite to both (Razin et al. 2024, arXiv 2410.08847): DPO lowers No. A rejected
answer in the valley of a peaked policy is pushed down (Ren and Sutherland 2025, arXiv 2407.10490):
the peak grows, everything else shrinks. Four prompts share a network, and each has an answer of its
own (the "3D" toy of Yan et al. 2024, arXiv 2406.07327): what one prompt gains may go to another
prompt's answer, and answers that are in no pair vanish.

Departures: 1. The first toy's geometry is ours; only its hidden state is trained. 2. The second has
a logit per answer instead of random features. 3. Learning rate, width and pairing of the third were
not found: width 32, Adam at 1e-3, every chosen answer against the four rejected ones.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, difference, mean_interval
from toyalign.problems.world import World
from toyalign.streams import Streams
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import estimate, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 20
    """Runs of every setting."""
    steps: int = 1000
    """Gradient steps on one token."""
    network_steps: int = 1500
    """Gradient steps of the four prompts' network."""


PRESETS = {"full": Params(), "fast": Params(seeds=5, steps=150, network_steps=60)}
WORDS = ("No", "Never", "Yes")
ON_WORDS = ("sft", "dpo", "ipo", "dpop", "dpo_nll")
ON_VALLEY = ("npo", "dpo", "dpop")
ON_PROMPTS = ("sft", "dpo", "ipo", "dpop", "dpo_nll")
STARTS = {"both likely": (0.12, 0.12), "chosen likely": (0.12, 0.02),
          "rejected likely": (0.02, 0.12), "neither likely": (0.02, 0.02)}  # fmt: skip


# %% No, Never, Yes
def words(params: Params, name: str, gamma: float) -> pd.DataFrame:
    """Probabilities of the three words, before and after."""
    traj = ta.simulate(
        name, ta.no_never_yes(gamma=gamma), policy="embedding", source="fixed",
        steps=params.steps, lr=0.02, seeds=params.seeds, marks=40,
    )  # fmt: skip
    mass = np.exp(traj.log_probs[:, :, 0])
    keys = {"part": "words", "objective": name, "case": f"γ = {gamma:g}"}
    rows = []
    for arm, word in enumerate(WORDS):
        rows.append(row({**keys, "quantity": f"p({word})"}, mean_interval(mass[-1, :, arm])))
        rows.append(row({**keys, "quantity": f"change of p({word})"},
                        mean_interval(mass[-1, :, arm] - mass[0, :, arm])))  # fmt: skip
        for mark, step in enumerate(traj.steps):
            found = mean_interval(mass[mark, :, arm])
            rows.append(row({**keys, "quantity": f"p({word}) over time", "step": step}, found))
    return pd.DataFrame(rows)


def row(keys: dict[str, object], found: Estimate) -> dict[str, object]:
    """A row of the table."""
    return {**keys, "mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


# %% A peaked policy and a rejected answer in its valley
ARMS, PEAK, VALLEY, CHOSEN = 50, 10, 40, 30
BRIEF = 5  # steps; after many more the peak has everything, whatever the start


def landscape(kind: str) -> ta.Bandit:
    """Fifty answers, peaked around the eleventh or flat; the pair lies in the valley."""
    width = 4.0 if kind == "peaked" else 60.0
    logits = -(((np.arange(ARMS) - PEAK) / width) ** 2)
    reference = np.exp(np.maximum(logits, -7))
    return ta.Bandit(
        reference / reference.sum(), pairs=((CHOSEN, VALLEY),), spread=0.5, name=f"{kind} start"
    )


def squeeze(params: Params, name: str, kind: str) -> pd.DataFrame:
    """Who has gained when the rejected answer has been pushed down, with a logit per answer."""
    traj = ta.simulate(
        name, landscape(kind), policy="tabular", source="fixed", steps=BRIEF, lr=0.5,
        seeds=params.seeds, marks=[0, BRIEF],
    )  # fmt: skip
    mass = np.exp(traj.log_probs[:, :, 0])
    change = mass[-1] - mass[0]
    runs = np.arange(params.seeds)
    top = mass[0].argmax(-1)
    others = np.ones_like(change, dtype=bool)
    others[runs, top] = others[:, VALLEY] = others[:, CHOSEN] = False
    gains = np.clip(change, 0, None)
    gains[:, CHOSEN] = 0
    shares = {
        "change of log p(rejected)": traj.log_probs[-1, :, 0, VALLEY]
        - traj.log_probs[0, :, 0, VALLEY],
        "change of log p(chosen)": traj.log_probs[-1, :, 0, CHOSEN]
        - traj.log_probs[0, :, 0, CHOSEN],
        "share of bystanders' gain that the peak gets": gains[runs, top]
        / gains.sum(-1).clip(1e-300),
        "change of log p, other bystanders": np.where(
            others, traj.log_probs[-1, :, 0] - traj.log_probs[0, :, 0], np.nan
        ),
    }
    keys = {"part": "valley", "objective": name, "case": kind}
    return pd.DataFrame(
        [row({**keys, "quantity": quantity}, mean_interval(
            np.nanmean(values, -1) if values.ndim == 2 else values))
         for quantity, values in shares.items()]
    )  # fmt: skip


# %% Four prompts, one network
@dataclass(frozen=True)
class Diagonal:
    """Four prompts with ten answers each: the prompt's own of the first four is chosen.

    Args:
        chosen: starting mass of each of the first four answers.
        rejected: of each of the next four; the last two answers share the rest.
    """

    chosen: float
    rejected: float
    name: str = "diagonal"
    pairs: tuple[()] = ()
    has_pairs: bool = True

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The prompts as one-hot states; every chosen answer against the four rejected ones."""
        rest = (1 - 4 * self.chosen - 4 * self.rejected) / 2
        shares = torch.tensor([self.chosen] * 4 + [self.rejected] * 4 + [rest] * 2, dtype=dtype)
        logits = shares.log().repeat(4).expand(streams.runs, -1)
        prompts = torch.arange(4).repeat_interleave(4)
        worse = 4 + torch.arange(4).repeat(4)
        cells = torch.stack([prompts * 10 + prompts, prompts * 10 + worse])
        shown = torch.zeros(1, 40, dtype=dtype)
        shown[0, torch.arange(4) * 11] = 1 / 4
        return World(
            contexts=4, actions=10, reference_logits=logits, rewards=torch.zeros_like(shown),
            target_log_probs=logits, demonstrations=shown, pairs=cells[None],
            states=torch.eye(4, dtype=dtype).expand(streams.runs, -1, -1),
        )  # fmt: skip


def prompts(params: Params, name: str, start: str) -> pd.DataFrame:
    """Mass on one's own answer, on the other prompts' answers, on the rejected and the unseen."""
    traj = ta.simulate(
        name, Diagonal(*STARTS[start]), source="fixed", optimiser="adam", lr=1e-3,
        policy=ta.MLP(hidden=(32, 32), layer_norm=False, gain=1.0, fits=300),
        steps=params.network_steps, seeds=params.seeds, marks=40,
    )  # fmt: skip
    mass = np.exp(traj.log_probs)  # [mark, run, prompt, answer]
    own = mass[:, :, np.arange(4), np.arange(4)].mean(-1)
    found = {
        "own answer": own,
        "other prompts' answers": mass[..., :4].sum(-1).mean(-1) - own,
        "rejected": mass[..., 4:8].sum(-1).mean(-1),
        "unseen": mass[..., 8:].sum(-1).mean(-1),
    }
    keys = {"part": "prompts", "objective": name, "case": start}
    rows = []
    for quantity, values in found.items():
        rows.append(row({**keys, "quantity": quantity}, mean_interval(values[-1])))
        rows.append(row({**keys, "quantity": f"change, {quantity}"},
                        mean_interval(values[-1] - values[0])))  # fmt: skip
        for mark, step in enumerate(traj.steps):
            keyed = {**keys, "quantity": f"{quantity} over time", "step": step}
            rows.append(row(keyed, mean_interval(values[mark])))
    lowest = own.min(0) - own[0]
    rows.append(row({**keys, "quantity": "lowest change of own answer"}, mean_interval(lowest)))
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for gamma in (0.5, 2.0):
        for name in ON_WORDS:
            yield f"{name}, words, γ = {gamma:g}", words, (params, name, gamma)
    for kind in ("peaked", "flat"):
        for name in ON_VALLEY:
            yield f"{name}, {kind} start", squeeze, (params, name, kind)
    for start in STARTS:
        for name in ON_PROMPTS:
            yield f"{name}, four prompts, {start}", prompts, (params, name, start)


# %% Figures
def no_never_yes(table: pd.DataFrame) -> Figure:
    """The three words over the steps, by objective, with Never beyond No."""
    figure, axes = plotting.new_figure(1, len(ON_WORDS), width=2.0, height=2.2, sharey=True)
    looks = {"No": plotting.CHOSEN, "Never": plotting.REJECTED, "Yes": plotting.GAINER}
    for ax, name in zip(axes.flat, ON_WORDS, strict=True):
        for word, colour in looks.items():
            line = pick(table, part="words", objective=name, case="γ = 2",
                        quantity=f"p({word}) over time")  # fmt: skip
            ax.fill_between(line.step, line.low, line.high, color=colour, alpha=0.2, lw=0)
            ax.plot(line.step, line["mean"], color=colour, label=word)
        ax.set(title=name, xlabel="gradient step", xscale="symlog", ylim=(0, 1))
        ax.set_xlim(left=0)
    axes[0, 0].set_ylabel("probability")
    axes[0, 0].legend()
    plotting.label_panels(axes.flat)
    return figure


def valley(table: pd.DataFrame) -> Figure:
    """A rejected answer in the valley: what the peak gets, and what happens to everyone else."""
    figure, axes = plotting.new_figure(1, 2, width=3.2, height=2.3)
    rows = pick(table, part="valley")
    quantities = ("share of bystanders' gain that the peak gets",
                  "change of log p, other bystanders")  # fmt: skip
    titles = ("what the peak gets", "what happens to the rest")
    labels = ("share of the bystanders' gain", "change of log-prob (nats)")
    for ax, quantity, title, label in zip(axes.flat, quantities, titles, labels, strict=True):
        for shift, (kind, colour) in enumerate(
            (("peaked", plotting.GAINER), ("flat", plotting.OTHERS))
        ):
            for place, name in enumerate(ON_VALLEY):
                end = estimate(rows, quantity=quantity, objective=name, case=kind)
                ax.bar(place + 0.36 * shift - 0.18, end.mean, 0.34, color=colour,
                       label=f"{kind} start" if not place else None)  # fmt: skip
        ax.set_xticks(range(len(ON_VALLEY)), ON_VALLEY)
        ax.set(title=title, ylabel=label)
        ax.grid(False, axis="x")
    axes[0, 0].legend()
    plotting.label_panels(axes.flat)
    return figure


def four_prompts(table: pd.DataFrame) -> Figure:
    """Where the mass of the average prompt is at the end, by start and objective."""
    figure, axes = plotting.new_figure(1, 4, width=2.3, height=2.6, sharey=True)
    looks = {"own answer": plotting.CHOSEN, "other prompts' answers": plotting.GAINER,
             "rejected": plotting.REJECTED, "unseen": plotting.OTHERS}  # fmt: skip
    rows = pick(table, part="prompts")
    for ax, (start, (chosen, rejected)) in zip(axes.flat, STARTS.items(), strict=True):
        before = {"own answer": chosen, "other prompts' answers": 3 * chosen,
                  "rejected": 4 * rejected, "unseen": 1 - 4 * (chosen + rejected)}  # fmt: skip
        foot = np.zeros(1 + len(ON_PROMPTS))
        for what, colour in looks.items():
            ends = [estimate(rows, quantity=what, objective=n, case=start).mean for n in ON_PROMPTS]
            heights = np.array([before[what], *ends])
            ax.bar(range(len(foot)), heights, 0.8, bottom=foot, color=colour, label=what)
            foot += heights
        ax.set_xticks(range(len(foot)), ["start", *ON_PROMPTS], rotation=50, ha="right")
        ax.set_title(start)
        ax.grid(False, axis="x")
    axes[0, 0].set_ylabel("probability")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def of_words(table: pd.DataFrame, objective: str, word: str, gamma: str = "2") -> Estimate:
    """The change of a word's probability."""
    return estimate(
        table, part="words", objective=objective, case=f"γ = {gamma}",
        quantity=f"change of p({word})",
    )  # fmt: skip


def dpo_says_yes(table: pd.DataFrame) -> Verdict:
    """Where Never lies beyond No, DPO raises Yes most."""
    change = of_words(table, "dpo", "Yes")
    return at_least(change, 0.1, f"change of p(Yes) under DPO: {change}")


def dpo_loses_no(table: pd.DataFrame) -> Verdict:
    """And lowers No, the chosen answer."""
    change = of_words(table, "dpo", "No")
    return at_most(change, 0.0, f"change of p(No) under DPO: {change}")


def dpo_keeps_no_on_the_near_side(table: pd.DataFrame) -> Verdict:
    """Where Never lies between No and Yes, it raises No."""
    change = of_words(table, "dpo", "No", "0.5")
    return at_least(change, 0.0, f"change of p(No) under DPO with γ = 0.5: {change}")


def dpop_holds_no(table: pd.DataFrame) -> Verdict:
    """DPOP keeps No within a twentieth of where it was."""
    change = of_words(table, "dpop", "No")
    return at_least(change, -0.05, f"change of p(No) under DPOP: {change}")


def dpop_still_says_yes(table: pd.DataFrame) -> Verdict:
    """But what it takes from Never goes to Yes all the same."""
    change = of_words(table, "dpop", "Yes")
    return at_least(change, 0.05, f"change of p(Yes) under DPOP: {change}")


def of_valley(table: pd.DataFrame, objective: str, kind: str, quantity: str) -> Estimate:
    """A number of the rejected answer in the valley."""
    return estimate(table, part="valley", objective=objective, case=kind, quantity=quantity)


PEAK_GAIN = "share of bystanders' gain that the peak gets"


def peak_is_fed(table: pd.DataFrame) -> Verdict:
    """In a peaked start the peak gets more of what the valley loses than in a flat one."""
    peaked, flat = (of_valley(table, "npo", kind, PEAK_GAIN) for kind in ("peaked", "flat"))
    gap = difference(peaked, flat)
    return at_least(gap, 0.2, f"share of the peak, peaked start: {peaked}; flat start: {flat}")


def push_alone_lowers_nobody(table: pd.DataFrame) -> Verdict:
    """With a logit per answer the chosen one rises under DPO, squeezing or not."""
    change = of_valley(table, "dpo", "peaked", "change of log p(chosen)")
    return at_least(change, 0.0, f"change of log p(chosen) under DPO, peaked start: {change}")


def of_prompts(table: pd.DataFrame, objective: str, start: str, quantity: str) -> Estimate:
    """A number of the four prompts."""
    return estimate(table, part="prompts", objective=objective, case=start, quantity=quantity)


def goes_to_other_prompts(table: pd.DataFrame) -> Verdict:
    """Where both are likely, DPO gives more to the other prompts' answers than to one's own."""
    other, own = (
        of_prompts(table, "dpo", "both likely", f"change, {what}")
        for what in ("other prompts' answers", "own answer")
    )
    return at_least(other, 0.1, f"gain of the other prompts' answers: {other}; of one's own: {own}")


def unseen_vanish(table: pd.DataFrame) -> Verdict:
    """And answers that are in no pair lose mass where both are likely."""
    change = of_prompts(table, "dpo", "both likely", "change, unseen")
    return at_most(change, 0.0, f"change of the unseen answers' mass under DPO: {change}")


def disperses_off_policy(table: pd.DataFrame) -> Verdict:
    """Where neither is likely, DPO lowers one's own answer on the way, for the unseen."""
    lowest = of_prompts(table, "dpo", "neither likely", "lowest change of own answer")
    return at_most(lowest, -0.005, f"lowest change of one's own answer's mass: {lowest}")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (no_never_yes, valley, four_prompts)},
    claims={
        claim.__name__: claim
        for claim in (
            dpo_says_yes,
            dpo_loses_no,
            dpo_keeps_no_on_the_near_side,
            dpop_holds_no,
            dpop_still_says_yes,
            peak_is_fed,
            push_alone_lowers_nobody,
            goes_to_other_prompts,
            unseen_vanish,
            disperses_off_policy,
        )
    },
    tolerance={"atol": 1e-4, "rtol": 1e-3},
)

if __name__ == "__main__":
    main(study, __file__)
