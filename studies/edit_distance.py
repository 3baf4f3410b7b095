"""Does the chosen answer fall because it is nearly the rejected one?

Pairs of responses that differ in d of T tokens, the continuation unchanged, as in Pal et al. 2024
(arXiv 2402.13228). The reference expects less of the common tokens after an edit. Three models that
share parameters differently are trained on them: logits shared by all prefixes at a position, a
bigram table, and a tiny transformer that has learned to write from careful and sloppy writers.
Where does the log-probability of the chosen response go, and which of its tokens take it there?
For the first model a closed form says which way the first step goes.

Departures: 1. pairs are drawn once, not afresh at every step. 2. SGD on positions takes a rate per
objective, since DPOP pulls up to 1 + λ times as hard as DPO and IPO starts with 1/τ: do not rank
objectives by size, the margins that they reach differ too. 3. The bigram table shifts a reference
that is not itself a bigram.
"""

# %% Parameters
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, exactly, mean_interval
from toyalign.policies.bigram import Bigram
from toyalign.policies.position import Position
from toyalign.policies.transformer import Transformer
from toyalign.problems.sequences import edited_pairs, step0_slope, two_writers
from toyalign.similarity import ches
from toyalign.streams import Streams
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import of_row, pick

P, Q, VOCABULARY, TOKENS = 0.8, 0.5, 10, 20
PAIRS = 32  # with a prompt each, where hidden states are compared


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 10
    """Runs of every setting; each has its own answers, edits and reference."""
    count: int = 32
    """Pairs per run, on positions and the bigram table."""
    network_count: int = 96
    """Pairs per run of the transformer, on four prompts."""
    steps: int = 300
    """Gradient steps of SGD, on positions and the bigram table."""
    network_steps: int = 100
    """Gradient steps of Adam at 1e-3, on the transformer."""
    fits: int = 300
    """Steps by which the transformer learns to write."""
    edits: tuple[int, ...] = (1, 2, 4, 5, 8, 20)
    """Tokens replaced of 20, on positions and the bigram table."""
    network_edits: tuple[int, ...] = (1, 2, 3, 6, 12)
    """Tokens replaced of 12, for the transformer."""
    beta: float = 0.3
    """Strength of the reference; IPO's tau is 0.1."""


PRESETS = {
    "full": Params(),
    "fast": Params(
        seeds=3,
        count=16,
        network_count=16,
        steps=150,
        network_steps=40,
        fits=100,
        edits=(1, 5, 20),
        network_edits=(1, 12),
    ),
}
OBJECTIVES = {
    "position": {"sft": 1.0, "dpo": 1.0, "dpop": 0.1, "ipo": 0.01},
    "bigram": {"dpo": 0.1, "dpop": 0.01},
    "transformer": {"sft": 1e-3, "dpo": 1e-3, "dpop": 1e-3, "ipo": 1e-3},
}
GROUPS = ("prefix", "edited", "later")


# %% Simulation
def train(
    params: Params, policy: str, objective: str, edits: int, **changes: object
) -> ta.Trajectory:
    """One objective on pairs with so many edits; SGD's rate is that of a single pair."""
    settings: dict[str, object] = {"source": "fixed", "seeds": params.seeds, "marks": [0]}
    if objective in ("dpo", "dpop"):
        settings["beta"] = params.beta
    if policy == "transformer":
        settings |= {
            "problem": two_writers(edits=edits, count=params.network_count),
            "policy": Transformer(fits=params.fits),
            "optimiser": "adam",
            "lr": OBJECTIVES[policy][objective],
            "max_grad_norm": 1.0,
            "steps": params.network_steps,
            "dtype": "float32",
        }
    else:
        settings |= {
            "problem": edited_pairs(edits=edits, count=params.count, texts=1),
            "policy": {"position": Position(), "bigram": Bigram()}[policy],
            "lr": OBJECTIVES[policy][objective] * params.count,
            "steps": params.steps,
        }
    settings |= changes
    settings["marks"] = [0, settings["steps"]]
    return ta.simulate(objective, **settings)


def outcome(params: Params, policy: str, objective: str, edits: int) -> pd.DataFrame:
    """How the runs ended."""
    traj = train(params, policy, objective, edits)
    distance = edits / (12 if policy == "transformer" else TOKENS)
    keys = {"part": "end", "policy": policy, "objective": objective, "distance": distance}
    rows = []
    for name, values in traj.measured().items():
        if "displacement" in name or name in ("share_below_reference", "greedy_exact"):
            found = mean_interval(values[-1])
            rows.append({**keys, "quantity": name, "mean": found.mean, "low": found.low,
                         "high": found.high, "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def predicted(edits: int) -> float:
    """The closed form for edits at random places: (T − d)·d/(d + 1) equal tokens follow the first.

    Logits are shared fully, ρ = 1.
    """
    later = (TOKENS - edits) * edits / (edits + 1)
    return step0_slope(P, Q, 1.0, VOCABULARY, later, edits - 1)


def first_step(params: Params, edits: int) -> pd.DataFrame:
    """The slope of the first step, measured with a tiny one, and in closed form."""
    tiny = 1e-4
    traj = train(
        params, "position", "dpo", edits, steps=1, lr=tiny * params.count, seeds=5 * params.seeds
    )
    slope = traj.measured()["chosen_displacement"][-1] / (tiny * params.beta / 2)
    found = mean_interval(slope)
    keys = {"part": "first step", "policy": "position", "objective": "dpo"}
    keys |= {"distance": edits / TOKENS}
    form = predicted(edits)
    return pd.DataFrame(
        [
            {**keys, "quantity": "measured", "mean": found.mean, "low": found.low,
             "high": found.high, "n": found.n},
            {**keys, "quantity": "closed form", "mean": form, "low": form, "high": form, "n": 0},
        ]
    )  # fmt: skip


def by_similarity(params: Params, edits: int) -> pd.DataFrame:
    """Do pairs whose hidden states are more alike fall further, at one edit distance?

    A prompt for every pair, so that every pair has a chosen response of its own. CHES is that of
    the reference; ranks are compared within each run.
    """
    problem = two_writers(edits=edits, count=PAIRS, trained=PAIRS)
    policy = Transformer(fits=params.fits)
    traj = train(params, "transformer", "dpo", edits, problem=problem)
    streams = Streams(list(range(params.seeds)))
    world = problem.world(streams, torch.float32)
    start, end = policy.start(world, streams), torch.from_numpy(traj.theta)
    assert world.pair_rows is not None and world.pair_rows.cells is not None
    with torch.no_grad():
        hidden = policy.hidden(start, world)
        cells = world.pair_rows.cells[:, 0].flatten(1)
        change = (policy.log_probs(end, world) - policy.log_probs(start, world)).gather(1, cells)
    change = change.view(params.seeds, PAIRS, -1).sum(-1).numpy()
    alike = ches(hidden[:, :PAIRS], hidden[:, -PAIRS:]).numpy()
    ranks = [stats.spearmanr(a, c).statistic for a, c in zip(alike, change, strict=True)]
    found = mean_interval(ranks)
    return pd.DataFrame(
        [{"part": "similarity", "policy": "transformer", "objective": "dpo",
          "distance": edits / 12, "quantity": "rank correlation of CHES with the change",
          "mean": found.mean, "low": found.low, "high": found.high, "n": found.n}]
    )  # fmt: skip


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for edits in params.network_edits:
        yield f"similarity, {edits} edits", by_similarity, (params, edits)
    for policy, objectives in OBJECTIVES.items():
        for edits in params.network_edits if policy == "transformer" else params.edits:
            for objective in objectives:
                label = f"{objective}, {policy}, {edits} edits"
                yield label, outcome, (params, policy, objective, edits)
    for edits in params.edits:
        yield f"first step, {edits} edits", first_step, (params, edits)


# %% Figures
def threshold() -> float:
    """The edit distance at which the closed form changes its sign, between whole edits."""
    distance = np.arange(1, TOKENS + 1) / TOKENS
    return float(np.interp(0, [predicted(d) for d in range(1, TOKENS + 1)][1:], distance[1:]))


def displacement(table: pd.DataFrame) -> Figure:
    """The chosen response's change over the edit distance, for three ways to share parameters."""
    figure, axes = plotting.new_figure(1, 3, width=2.75, height=2.7)
    ends = table[(table.part == "end") & (table.quantity == "chosen_displacement")]
    for ax, policy in zip(axes.flat, OBJECTIVES, strict=True):
        plotting.curves(ax, ends[ends.policy == policy], "distance")
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.set(title=policy, xlabel="edit distance d / T", ylabel="")
    axes[0, 0].set_ylabel("change of chosen log-prob (nats)")
    axes[0, 0].axvline(threshold(), color=plotting.OTHERS, ls=":", lw=1.2)
    axes[0, 0].annotate(
        "first step\nfalls | rises", (threshold(), 0.04), (3, 0), ha="left",
        xycoords=("data", "axes fraction"), textcoords="offset points", fontsize="small",
    )  # fmt: skip
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plotting.label_panels(axes.flat)
    return figure


def which_tokens(table: pd.DataFrame) -> Figure:
    """DPO's change split by tokens before, at and after the edits, and the first step's slope."""
    figure, axes = plotting.new_figure(1, 3, width=2.75, height=2.7)
    ends = table[(table.part == "end") & (table.objective == "dpo")]
    looks = zip(GROUPS, (plotting.OTHERS, plotting.CHOSEN, plotting.GAINER), "os^", strict=True)
    for group, colour, marker in looks:
        for ax, policy in ((axes[0, 0], "position"), (axes[0, 1], "transformer")):
            rows = ends[(ends.policy == policy) & (ends.quantity == f"displacement_{group}")]
            rows = rows.sort_values("distance")
            ax.fill_between(rows.distance, rows.low, rows.high, color=colour, alpha=0.2, lw=0)
            ax.plot(rows.distance, rows["mean"], color=colour, marker=marker, label=group)
            ax.set(title=f"dpo, {policy}", xlabel="edit distance d / T")
    axes[0, 0].set_ylabel("change of log-prob, summed (nats)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    first = table[table.part == "first step"].sort_values("distance")
    form, found = (first[first.quantity == name] for name in ("closed form", "measured"))
    ax = axes[0, 2]
    ax.plot(form.distance, form["mean"], color=plotting.REFERENCE, label="closed form")
    error = [found["mean"] - found.low, found.high - found["mean"]]
    ax.errorbar(found.distance, found["mean"], yerr=error, fmt="o", color=plotting.CHOSEN,
                label="measured")  # fmt: skip
    ax.set(title="position, first step", xlabel="edit distance d / T", ylabel="slope (nats)")
    ax.legend(loc="upper left")
    for ax in axes.flat:
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def estimates(table: pd.DataFrame, **where: object) -> list[tuple[float, Estimate]]:
    """Edit distance and estimate of the rows with these values, in order of distance."""
    rows = pick(table, **where).sort_values("distance")
    return [(row["distance"], of_row(row)) for _, row in rows.iterrows()]


def ends(
    table: pd.DataFrame, policy: str, objective: str, quantity: str = "chosen_displacement"
) -> list[tuple[float, Estimate]]:
    """How runs of an objective ended, in order of distance."""
    return estimates(table, part="end", policy=policy, objective=objective, quantity=quantity)


def one_edit_falls_by_position(table: pd.DataFrame) -> Verdict:
    """With one edit and logits shared by position, the chosen response falls under DPO."""
    distance, change = ends(table, "position", "dpo")[0]
    return at_most(change, 0.0, f"change at edit distance {distance:.2g}, nats: {change}")


def one_edit_falls_in_a_transformer(table: pd.DataFrame) -> Verdict:
    """And so it does in a transformer."""
    distance, change = ends(table, "transformer", "dpo")[0]
    return at_most(change, 0.0, f"change at edit distance {distance:.2g}, nats: {change}")


def all_edited_rises_by_position(table: pd.DataFrame) -> Verdict:
    """Where every token is edited it rises, with logits shared by position."""
    distance, change = ends(table, "position", "dpo")[-1]
    return at_least(change, 0.0, f"change at edit distance {distance:.2g}, nats: {change}")


def all_edited_rises_in_a_transformer(table: pd.DataFrame) -> Verdict:
    """And in a transformer."""
    distance, change = ends(table, "transformer", "dpo")[-1]
    return at_least(change, 0.0, f"change at edit distance {distance:.2g}, nats: {change}")


def closed_form_tells_the_first_step(table: pd.DataFrame) -> Verdict:
    """The closed form is within a tenth of a nat of the slope of the first step, everywhere."""
    found = estimates(table, part="first step", quantity="measured")
    form = estimates(table, part="first step", quantity="closed form")
    gaps = [abs(f.mean - c.mean) for (_, f), (_, c) in zip(found, form, strict=True)]
    return at_most(
        exactly(max(gaps)), 0.1, f"largest gap over edit distances, nats: {max(gaps):.3g}"
    )


def first_step_is_not_the_end(table: pd.DataFrame) -> Verdict:
    """Just above the closed form's threshold DPO still ends below the reference."""
    distance, change = next(e for e in ends(table, "position", "dpo") if e[0] > threshold())
    return at_most(
        change, 0.0,
        f"first steps rise above {threshold():.2g}; change at {distance:.2g}, nats: {change}",
    )  # fmt: skip


def later_tokens_take_it_down_by_position(table: pd.DataFrame) -> Verdict:
    """With logits shared by position it is the tokens after the edit that fall."""
    _, change = ends(table, "position", "dpo", "displacement_later")[0]
    return at_most(change, 0.0, f"change of the later tokens at one edit, nats: {change}")


def prefix_takes_it_down_in_a_transformer(table: pd.DataFrame) -> Verdict:
    """In the transformer tokens before the edit fall too, where nothing distinguishes the pair."""
    _, change = ends(table, "transformer", "dpo", "displacement_prefix")[0]
    return at_most(change, 0.0, f"change of the prefix at one edit, nats: {change}")


def dpop_holds(table: pd.DataFrame) -> Verdict:
    """DPOP holds the chosen response within a fifth of a nat, at every distance in every model."""
    found = [e for policy in OBJECTIVES for _, e in ends(table, policy, "dpop")]
    lowest = min(found, key=lambda e: e.low)
    return at_least(lowest, -0.2, f"lowest mean change over models and distances, nats: {lowest}")


def alike_falls_further(table: pd.DataFrame) -> Verdict:
    """At one edit, pairs with more similar hidden states (CHES) fall further."""
    distance, found = estimates(table, part="similarity")[0]
    return at_most(
        found, 0.0, f"rank correlation of CHES with the change at distance {distance:.2g}: {found}"
    )


def dpop_protects_what_it_is_shown(table: pd.DataFrame) -> Verdict:
    """And no more: answers to other prompts fall under DPOP as well, at one edit."""
    _, change = ends(table, "transformer", "dpop", "unseen_displacement")[0]
    return at_most(change, -0.5, f"change of the answers to unseen prompts, nats: {change}")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (displacement, which_tokens)},
    claims={
        claim.__name__: claim
        for claim in (
            one_edit_falls_by_position,
            one_edit_falls_in_a_transformer,
            all_edited_rises_by_position,
            all_edited_rises_in_a_transformer,
            closed_form_tells_the_first_step,
            first_step_is_not_the_end,
            later_tokens_take_it_down_by_position,
            prefix_takes_it_down_in_a_transformer,
            dpop_holds,
            alike_falls_further,
            dpop_protects_what_it_is_shown,
        )
    },
    # The transformer is trained in single precision for many steps: another machine's rounding
    # grows to some hundredths of a nat.
    tolerance={"atol": 0.1, "rtol": 0.1},
)

if __name__ == "__main__":
    main(study, __file__)
