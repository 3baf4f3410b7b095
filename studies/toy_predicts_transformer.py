"""Does the wind tunnel predict flight?

The toys of this package rank objectives: under which does the chosen answer fall furthest, which
drifts least? Is it the ranking that a language model gives? The same losses, with the same
hyperparameters (each objective's own), run in five worlds, from the simplest to the real thing:

    tabular       ten arms with a logit each; one pair of neighbours
    features      the same arms with shared features: the bandit of `chosen_falls`
    position      `edited_pairs`: answers of 20 tokens that differ in one, logits by position
    tiny network  `two_writers`: answers of 12 tokens that differ in one, a toy transformer
    transformer   Llama of `transformers` with `AlignmentTrainer`: chains of sums against near
                  misses with one digit wrong, after learning from careful and sloppy writers

Hypothesis, written down before the rankings were compared: the bandit with shared features orders
three of four pairs of objectives as the language model does (Kendall's τ of 0.5), for the fall of
the chosen answer and for the mass that goes to neither; worlds nearer to a model predict better.

What is measured is the same in all worlds, and a change since the reference:

    displacement  Δ log π(chosen), nats, summed over tokens, mean over trained pairs
    margin        Δ log π(chosen) − Δ log π(rejected), likewise
    neither       probability that has left both answers of a pair
    drift         KL(π‖π_ref) of the next token, exact, summed along the chosen answer. Where an
                  answer is one token it is the KL divergence; elsewhere it is that of the prefixes
                  of the right answer and not of what the policy would write.
    unseen        displacement of the right answers to prompts that have no pairs, where there are

The same effort: Adam everywhere, at one rate for all objectives in a world, gradients clipped to 1.
A world's clock is DPO. All objectives are read at the step at which DPO, from the same start, has
gained a margin of 1, 3 and 8 nats (β times margin: 0.1, 0.3 and 0.8). The second definition reads
each objective where it has drifted as far as DPO had at that moment, or at the end if it never does
(drift then says little and is left out). Claims are about the first, at 8 nats, unless they say
otherwise.

The objectives: SFT, and every loss on given pairs that needs no rewards and no quality prompt, but
no twins: in the order of `toyalign list`, one whose pushes on random answers point as those of one
that is in already (cosine above 0.98) is out. Twins would agree with each other in every world.

Intervals: over seeds (would other runs give another τ? four seeds of the language model, so it is
too narrow) and over objectives (would other objectives?). No correction for many comparisons.
"""

# %% Parameters
import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import toyalign as ta
from toyalign import measures, plotting, rankings
from toyalign.errors import ToyalignError
from toyalign.intervals import Estimate, exactly, share_interval
from toyalign.objectives import Objective, get_objective
from toyalign.objectives.coefficients import push_on_tokens
from toyalign.objectives.points import random_answers
from toyalign.policies.position import Position
from toyalign.policies.transformer import Transformer
from toyalign.problems.sequences import Sequences, SequenceWorld
from toyalign.study import Part, Study, Verdict, at_least, at_most, main
from toyalign.tables import pick

Array = NDArray[np.float64]
Found = Mapping[str, Array]  # measures by name, [mark, run] each
Look = tuple[Tensor, Tensor, Tensor]  # log-probabilities, whole distributions, mask

TWINS = 0.98  # cosine above which two objectives ask for the same
OBJECTIVES = (
    "sft", "dpo", "ipo", "discopop", "dpop", "minor_dpo", "apo_down", "dpo_nll", "ipo_mean",
    "dpo_norm", "wpo", "tdpo1", "tdpo2", "f_dpo_forward", "f_dpo_jsd", "chi_po", "unlikelihood",
    "slic", "simpo", "orpo", "alphapo",
)  # fmt: skip
MEASURES = {
    "displacement": "Δ log π(chosen)",
    "margin": "margin gained",
    "neither": "mass to neither",
    "drift": "drift (KL)",
    "unseen": "Δ log π(unseen)",
}
REAL = "transformer"
WORLDS = ("tabular", "features", "position", "tiny network", REAL)
TOGETHER = ("displacement", "margin", "neither", "drift")  # what every world has


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    objectives: tuple[str, ...] = OBJECTIVES
    """Who is ranked."""
    levels: tuple[float, ...] = (1.0, 3.0, 8.0)
    """Margins of DPO at which all objectives are read, nats."""
    toy_seeds: int = 12
    """Runs of every objective on arms; on sequences half as many."""
    bandit_steps: int = 400
    """Gradient steps on arms."""
    bandit_lr: float = 0.05
    """Adam's rate on arms."""
    position_steps: int = 100
    """Gradient steps on logits by position."""
    position_lr: float = 0.02
    """Adam's rate there."""
    fits: int = 300
    """Steps by which the tiny network learns to write; its others are the transformer's."""
    seeds: int = 4
    """Language models, each with its own weights, sums and near misses."""
    steps: int = 60
    """Gradient steps of the tiny network and the language model."""
    lr: float = 6e-4
    """Adam's rate for both; constant."""
    sums: int = 2
    """Sums in a chain."""
    written: int = 6000
    """Chains from which a language model learns to write."""
    passes: int = 10
    """Over these chains."""
    writing_lr: float = 3e-3
    """Largest rate of Adam while it learns to write."""
    layers: int = 2
    """Of the language model."""
    width: int = 64
    """Of its hidden states."""
    pairs: int = 128
    """Pairs that it is trained on."""
    watched: int = 64
    """Of these pairs, and of prompts without pairs, how many are looked at."""
    batch: int = 32
    """Pairs per step."""
    cuda: bool = False
    """Whether to refuse to run without a CUDA device."""


PRESETS = {
    "full": Params(),
    "fast": Params(  # shows that everything runs; six objectives are too few for a conclusion
        objectives=("sft", "dpo", "ipo", "dpop", "apo_down", "simpo"),
        levels=(0.25, 1.0),
        toy_seeds=4,
        bandit_steps=60,
        position_steps=30,
        fits=40,
        seeds=2,
        steps=12,
        lr=1e-3,
        sums=1,
        written=240,
        passes=12,
        layers=1,
        width=32,
        pairs=32,
        watched=16,
        batch=16,
    ),
    "gpu": Params(  # as large as GPT-2 small; the same code with other numbers
        sums=3, written=60_000, passes=4, writing_lr=3e-4, layers=12, width=768, lr=1e-5,
        pairs=512, watched=128, batch=64, cuda=True,
    ),
}  # fmt: skip


# %% The toys
@dataclass(frozen=True)
class Pairs(Sequences):
    """Pairs of sequences that are also asked for margin, mass and drift."""

    @property
    def units(self) -> dict[str, str]:
        """The unit of everything in `measure`."""
        return {**super().units, "margin": "nats", "neither": "probability", "drift": "nats"}

    def measure(self, world: SequenceWorld, table: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """What the package's sequences measure, and what the language model is asked for."""
        found = super().measure(world, table, reference)
        cells = world.pair_rows.cells  # [run, side, pair, token]
        flat, runs = cells.flatten(1), len(table)
        now, then = (
            t.gather(1, flat).view(runs, *cells.shape[1:]).sum(-1) for t in (table, reference)
        )
        change = (now - then).mean(-1)
        found["margin"] = change[:, 0] - change[:, 1]
        found["neither"] = (then.exp() - now.exp()).sum(1).mean(-1)
        answers = np.s_[:, : self.seen * self.tokens * self.vocabulary]
        moved = table[answers].exp() * (table - reference)[answers]
        found["drift"] = moved.sum(-1) / self.seen
        return found


def toy(params: Params, world: str) -> pd.DataFrame:
    """All objectives in one of the toy worlds."""
    settings: dict[str, Any] = {"optimiser": "adam", "max_grad_norm": 1.0, "source": "fixed"}
    if world in ("tabular", "features"):
        problem = ta.adjacent_arms(spread=1.0)
        policy = ta.Features(1.5) if world == "features" else ta.Tabular()
        settings |= {"seeds": params.toy_seeds, "steps": params.bandit_steps}
        settings["lr"] = params.bandit_lr
    elif world == "position":
        problem, policy = Pairs(count=32, texts=1, name="edited_pairs"), Position()
        settings |= {"seeds": params.toy_seeds // 2, "steps": params.position_steps}
        settings["lr"] = params.position_lr
    else:
        usual = ta.problems.sequences.two_writers()
        problem = Pairs(
            tokens=usual.tokens, count=16, trained=usual.trained, unseen=usual.unseen,
            right=usual.right, misled=usual.misled, name=usual.name,
        )  # fmt: skip
        policy = Transformer(fits=params.fits)
        settings |= {"seeds": params.toy_seeds // 2, "steps": params.steps, "lr": params.lr}
        settings["dtype"] = "float32"
    found = {}
    for name in params.objectives:
        traj = ta.simulate(name, problem, policy=policy, **settings)
        found[name] = measured(traj)
    return readings(params, world, range(settings["seeds"]), traj.steps, found)


def measured(traj: ta.Trajectory) -> Found:
    """The study's measures of a trajectory."""
    found = traj.measured()
    if "chosen_displacement" in found:
        names = {"chosen_displacement": "displacement", "unseen_displacement": "unseen"}
        found = {names.get(name, name): values for name, values in found.items()}
        return {name: found[name] for name in MEASURES if name in found}
    change = {name: found[name] - found[name][0] for name in ("chosen_logps", "mass_on_neither")}
    return {
        "displacement": change["chosen_logps"],
        "margin": found["margin"],
        "neither": change["mass_on_neither"],
        "drift": found["kl_to_reference"],
    }


# %% The language model
def refuse(params: Params) -> None:
    """Say in one line what is missing.

    Raises:
        ToyalignError: without the extra `llm`, or without a GPU where one is asked for.
    """
    if find_spec("transformers") is None or find_spec("accelerate") is None:
        raise ToyalignError(
            'toy_predicts_transformer trains language models: pip install "toyalign[llm]"'
        )
    if params.cuda and not torch.cuda.is_available():
        raise ToyalignError(
            "preset gpu needs a CUDA device, and torch sees none: try --preset full, for CPUs"
        )


def language_model(params: Params, seed: int) -> pd.DataFrame:
    """All objectives on copies of one language model, pretrained here."""
    refuse(params)
    from toyalign.llm import arithmetic
    from toyalign.llm.batches import Collator
    from toyalign.llm.data import prepare

    reader = arithmetic.tokenizer()
    seen, apart = params.pairs, params.pairs + params.watched
    chains = arithmetic.chains(apart + params.written, params.sums, seed)
    pairs = arithmetic.pairs(chains[:apart], edits=1, seed=seed)
    shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs[:seen]]
    data = {
        "pairs": prepare(pairs[:seen], reader, "pairs")[0],
        "demonstrations": prepare(shown, reader, "demonstrations")[0],
    }
    unseen = prepare(pairs[seen:], reader, "pairs")[0]
    collate = Collator(reader.pad_token_id)
    looks = [collate(rows) for rows in (data["pairs"][: params.watched], unseen)]
    found = {}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # logs
        model = arithmetic.pretrained(
            arithmetic.written(chains[apart:], seed), Path(folder),
            arithmetic.untrained(seed, params.layers, params.width),
            passes=params.passes, lr=params.writing_lr, seed=seed,
        )  # fmt: skip
        for name in params.objectives:
            rows = data[get_objective(name).kind]
            steps, found[name] = aligned(params, model, name, rows, looks, seed, folder)
    return readings(params, REAL, [seed], steps, found)


def aligned(
    params: Params,
    model: Any,
    objective: str,
    rows: Sequence[Any],
    looks: Sequence[Mapping[str, Tensor]],
    seed: int,
    folder: str,
) -> tuple[Array, Found]:
    """Train a copy of a language model, and measure at some steps; looks are trained and unseen."""
    from transformers import TrainerCallback, TrainingArguments

    from toyalign.llm import arithmetic
    from toyalign.llm.trainer import AlignmentTrainer

    marks = {round(mark) for mark in np.geomspace(1, params.steps, 12)}
    start = [looked_at(model, look) for look in looks]
    seen = {0: compared(start, start)}

    class Follow(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step in marks:
                now = [looked_at(given["model"], look) for look in looks]
                seen[state.global_step] = compared(now, start)

    arguments = TrainingArguments(
        folder, max_steps=params.steps, learning_rate=params.lr, seed=seed,
        per_device_train_batch_size=params.batch, lr_scheduler_type="constant", report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    AlignmentTrainer(
        copy.deepcopy(model), objective, args=arguments, train_dataset=rows,
        processing_class=arithmetic.tokenizer(), callbacks=[Follow()],
    ).train()  # fmt: skip
    steps = sorted(seen)
    found = {name: np.array([[seen[step][name]] for step in steps]) for name in MEASURES}
    return np.array(steps), found


def looked_at(model: Any, look: Mapping[str, Tensor]) -> Look:
    """Log-probabilities of a batch's tokens, whole distributions and mask, [side · pair, token]."""
    from toyalign.llm.batches import TEXTS
    from toyalign.llm.logprobs import score

    device, training = next(model.parameters()).device, model.training
    given = [look[name].to(device) for name in TEXTS]
    model.eval()
    with torch.no_grad():
        scores, whole = score(model, *given, whole=True)
    model.train(training)
    return scores.logps.double().cpu(), whole.double().cpu(), look["completion_mask"][:, 1:]


def compared(now: Sequence[Look], then: Sequence[Look]) -> dict[str, float]:
    """The study's measures, means over the pairs that are looked at."""
    (trained, whole, mask), (before, reference, _) = now[0], then[0]
    ends, starts = trained.sum(-1).chunk(2), before.sum(-1).chunk(2)  # chosen, rejected
    chosen, rejected = (end - start for end, start in zip(ends, starts, strict=True))
    left = sum(start.exp() - end.exp() for end, start in zip(ends, starts, strict=True))
    moved = (whole.exp() * (whole - reference)).sum(-1) * mask
    unseen = (now[1][0] - then[1][0]).sum(-1).chunk(2)[0]
    found = {
        "displacement": chosen, "margin": chosen - rejected, "neither": left,
        "drift": moved.sum(-1).chunk(2)[0], "unseen": unseen,
    }  # fmt: skip
    return {name: float(values.mean()) for name, values in found.items()}


# %% The same effort
def readings(
    params: Params, world: str, seeds: Sequence[int], steps: Array, found: Mapping[str, Found]
) -> pd.DataFrame:
    """Every objective read at the same efforts: by DPO's clock, and at DPO's drift.

    Args:
        params: whose levels are read.
        world: its name.
        seeds: [run].
        steps: [mark].
        found: by objective the measures, [mark, run] each.
    """
    rows = []
    for level in params.levels:
        clock = measures.steps_to(steps, found["dpo"]["margin"], level)
        if not np.isfinite(clock).all():
            raise ToyalignError(f"DPO's margin never reaches {level:g} nats in world {world}")
        far = at(steps, found["dpo"]["drift"], clock)
        for name, values in found.items():
            own = measures.steps_to(steps, values["drift"], far)
            for effort, where in (("clock", clock), ("drift", np.minimum(own, steps[-1]))):
                read = {key: at(steps, value, where) for key, value in values.items()}
                for run, seed in enumerate(seeds):
                    row = {"world": world, "objective": name, "seed": seed, "effort": effort}
                    row |= {"level": level, "step": where[run]}
                    rows.append(row | {key: value[run] for key, value in read.items()})
    columns = ["world", "objective", "seed", "effort", "level", "step", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def at(steps: Array, values: Array, where: Array) -> Array:
    """A measure [mark, run] at a step of each run, interpolated between records."""
    return np.array([np.interp(x, steps, run) for x, run in zip(where, values.T, strict=True)])


def push(card: Objective) -> Tensor:
    """Where an objective pushes the tokens of random answers: a direction, of length 1."""
    points = [random_answers(card.needs, seed, apart=far) for seed, far in ((0, 0.7), (1, 2.0))]
    found = [side for point in points for side in push_on_tokens(card, point, card.hyper)]
    flat = torch.cat([side.flatten() for side in found])
    return flat / flat.norm()


def twins(params: Params) -> pd.DataFrame:
    """For every objective on pairs, how nearly another one pushes the same way."""
    cards = [get_objective(name) for name in params.objectives]
    pushes = {card.name: push(card) for card in cards if card.kind == "pairs"}
    rows = []
    for name, own in pushes.items():
        near = max(float(own @ other) for key, other in pushes.items() if key != name)
        rows.append({"world": "twins", "objective": name, "cosine": near})
    return pd.DataFrame(rows)


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table; the language models first, so that what is missing shows at once."""
    for seed in range(params.seeds):
        yield f"{REAL}, seed {seed}", language_model, (params, seed)
    for world in WORLDS[:-1]:
        yield world, toy, (params, world)
    yield "twins", twins, (params,)


# %% Agreement
SURE = 9  # decimals, of nats or probability; what comes after them is rounding
NEEDED = 0.5  # τ: three of four pairs of objectives in the same order
LIKELIHOOD = ("sft", "dpop", "dpo_nll", "unlikelihood", "slic", "orpo")  # pull the chosen answer up
COMPARISONS = [(world, REAL) for world in WORLDS[:-1]] + [("features", "position")]


def values(
    table: pd.DataFrame, world: str, measure: str, effort: str = "clock", level: float | None = None
) -> pd.DataFrame:
    """A measure in a world, [seed, objective]; at the highest level if none is given."""
    level = table.level.max() if level is None else level
    rows = pick(table, world=world, effort=effort, level=level)
    wide = rows.pivot(index="seed", columns="objective", values=measure)
    return wide[list(dict.fromkeys(rows.objective))].round(SURE)


def both(
    table: pd.DataFrame, toy: str, real: str, measure: str, **where: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A measure in two worlds, for the objectives that ended in finite numbers in both."""
    one, other = (values(table, world, measure, **where).dropna(axis=1) for world in (toy, real))
    names = [name for name in one.columns if name in other.columns]
    return one[names], other[names]


def tau(table: pd.DataFrame, toy: str, measure: str, real: str = REAL, **where: Any) -> Estimate:
    """τ of two worlds, with its interval over objectives."""
    one, other = both(table, toy, real, measure, **where)
    return rankings.over_things(one.mean(), other.mean())


def tau_over_seeds(
    table: pd.DataFrame, toy: str, measure: str, real: str = REAL, **where: Any
) -> Estimate:
    """The same τ, with its interval over seeds."""
    one, other = both(table, toy, real, measure, **where)
    return rankings.over_seeds(one, other)


def luck(table: pd.DataFrame, toy: str, measure: str, real: str = REAL) -> float:
    """How likely so large a τ is if objectives are named at random."""
    one, other = both(table, toy, real, measure)
    return rankings.chance(one.mean(), other.mean())


def ceiling(table: pd.DataFrame, measure: str, **where: Any) -> Estimate:
    """τ of the language model with itself: one half of its seeds with the other half."""
    return rankings.halves(values(table, REAL, measure, **where).dropna(axis=1))


def shared(table: pd.DataFrame, world: str, real: str = REAL) -> list[str]:
    """The measures that two worlds have in common."""
    rows = [pick(table, world=name) for name in (world, real)]
    return [name for name in MEASURES if all(row[name].notna().any() for row in rows)]


# %% Figures
EDGE = 1.45  # of the distance between both lists, for the names
FAR = 1 / 3  # of all places: an objective that is further off stands out
SIGNED = {"displacement": ("rises", "falls"), "unseen": ("rises", "falls"),
          "neither": ("gains", "loses")}  # fmt: skip
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # under words on a line
SHADES = ("#B5D1E8", "#78ABD2", "#3577AE", "#0B3C68")  # the simplest world is the lightest


def slopes(ax: Axes, table: pd.DataFrame, toy: str, measure: str) -> None:
    """Two lists of names, best first, and a line from each name to itself: level lines agree.

    Names that are tied in the toy stand in the order of the language model.
    """
    left, right = (wide.mean() for wide in both(table, toy, REAL, measure))
    names, count = list(left.index), len(left)
    order = [np.lexsort((-right, -left)), np.lexsort((-left, -right))]
    place = [dict(zip(np.array(names)[o], range(count), strict=True)) for o in order]
    for name in names:
        ends = [side[name] for side in place]
        off = abs(ends[1] - ends[0]) > FAR * count
        colour = plotting.REFERENCE if off else plotting.OTHERS
        ax.plot((0, 1), ends, color=colour, lw=1.5 if off else 0.9, marker="o", ms=2.5)
        for x, y, side in ((-0.06, ends[0], "right"), (1.06, ends[1], "left")):
            ax.text(x, y, name, ha=side, va="center", fontsize=7, color=colour if off else "0.3")
    if measure in SIGNED:
        zero = [int((side > 0).sum()) - 0.5 for side in (left, right)]
        line = (zero[0], *zero, zero[1])
        look = {"color": plotting.CHOSEN}
        ax.plot((-EDGE, 0, 1, 1 + EDGE), line, ls="--", lw=1, **look)
        for x, y, side in ((-EDGE, zero[0], "left"), (1 + EDGE, zero[1], "right")):
            up, down = SIGNED[measure]
            ax.text(x, y - 0.08, up, ha=side, va="bottom", fontsize=6.5, **look)
            ax.text(x, y + 0.12, down, ha=side, va="top", fontsize=6.5, **look)
    found = tau(table, toy, measure)
    ax.set_title(f"{MEASURES[measure]}\nτ = {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]")
    ax.set(xlim=(-EDGE, 1 + EDGE), ylim=(count - 0.4, -0.8), yticks=[])
    ax.set_xticks((0, 1), (toy, "transformer"))
    for label, side in zip(ax.get_xticklabels(), ("right", "left"), strict=True):
        label.set_ha(side)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    ax.grid(False)


def two_lists(table: pd.DataFrame, toy: str) -> Figure:
    """For every measure, the objectives in the order of a toy and in that of the transformer."""
    names = shared(table, toy)
    count = len(pick(table, world=REAL).objective.unique())
    size = {"width": 10.6 / len(names) if len(names) < 5 else 2.5, "height": 1.1 + 0.17 * count}
    figure, axes = plotting.new_figure(1, len(names), **size)
    for ax, measure in zip(axes.flat, names, strict=True):
        slopes(ax, table, toy, measure)
    plotting.label_panels(axes.flat)
    figure.supxlabel(
        "Largest on top. A level line: the toy is right. Black: off by more than a third of all "
        "places. Brackets: 95 %, over objectives.", fontsize=8,
    )  # fmt: skip
    return figure


def bandit_to_transformer(table: pd.DataFrame) -> Figure:
    """The bandit with shared features against the language model."""
    return two_lists(table, "features")


def position_to_transformer(table: pd.DataFrame) -> Figure:
    """Sequences with logits by position against the language model."""
    return two_lists(table, "position")


def network_to_transformer(table: pd.DataFrame) -> Figure:
    """The tiny network against the language model."""
    return two_lists(table, "tiny network")


def how_well(table: pd.DataFrame) -> Figure:
    """τ of every toy with the transformer, beside what the transformer's own noise allows."""
    figure, axes = plotting.new_figure(1, len(MEASURES), width=2.0, height=3.3, sharey=True)
    for ax, (measure, title) in zip(axes.flat, MEASURES.items(), strict=True):
        top = ceiling(table, measure)
        ax.axvspan(top.low, top.high, color=plotting.OTHERS, alpha=0.25, lw=0)
        ax.axvline(
            top.mean, color=plotting.OTHERS, label="half of the transformer's seeds with the rest"
        )
        for place, (toy, real) in enumerate(COMPARISONS):
            if measure in shared(table, toy, real):
                one_tau(ax, place, table, measure, toy, real)
            else:
                ax.text(0.5, place, "has none", va="center", ha="center", color="0.5", fontsize=7)
        ax.axvline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        ax.axhline(len(COMPARISONS) - 1.5, color="0.8", lw=0.8)
        ax.set(title=title, xlim=(-0.75, 1.1), ylim=(len(COMPARISONS) - 0.5, -0.6))
        ax.set_yticks(range(len(COMPARISONS)), [f"{toy} →\n{real}" for toy, real in COMPARISONS])
        ax.set_xlabel("Kendall's τ")
        ax.grid(False, axis="y")
    marks = axes[0, 0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=3)
    plotting.label_panels(axes.flat)
    return figure


def one_tau(ax: Axes, place: int, table: pd.DataFrame, measure: str, toy: str, real: str) -> None:
    """A line of `how_well`: τ with both intervals, and the chance of so large a one."""
    wide, narrow = (f(table, toy, measure, real) for f in (tau, tau_over_seeds))
    first = "" if place == 0 else "_"  # one entry in the legend
    look = {"color": plotting.CHOSEN, "solid_capstyle": "butt"}
    ax.plot((wide.low, wide.high), (place, place), lw=1.1, **look,
            label=f"{first}95 % over objectives")  # fmt: skip
    ax.plot((narrow.low, narrow.high), (place, place), lw=5, alpha=0.45, **look,
            label=f"{first}95 % over seeds")  # fmt: skip
    ax.plot(wide.mean, place, "o", color=plotting.CHOSEN, ms=4.5)
    p = luck(table, toy, measure, real)
    said = "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")
    ax.text(0.03, place - 0.2, f"{wide.mean:.2f}   {said}", transform=ax.get_yaxis_transform(),
            va="bottom", fontsize=6.5, bbox=PAPER)  # fmt: skip


def by_effort(table: pd.DataFrame) -> Figure:
    """Whether τ depends on how far training has gone, and on what is called equally far."""
    figure, axes = plotting.new_figure(
        2, len(MEASURES), width=1.95, height=1.9, sharey=True, sharex=True
    )
    levels = sorted(table.level.dropna().unique())
    titles = {"clock": "at the same step", "drift": "at the same drift"}
    for row, effort in zip(axes, titles, strict=True):
        for ax, (measure, title) in zip(row, MEASURES.items(), strict=True):
            if (effort, measure) == ("drift", "drift"):
                ax.text(0.5, 0.5, "equal by\nconstruction", transform=ax.transAxes, ha="center")
                continue
            for index, toy in enumerate(WORLDS[:-1]):
                if measure in shared(table, toy):
                    found = [tau(table, toy, measure, effort=effort, level=x).mean for x in levels]
                    ax.plot(levels, found, marker=plotting.MARKERS[index], label=toy,
                            color=SHADES[index])  # fmt: skip
            top = [ceiling(table, measure, effort=effort, level=x).mean for x in levels]
            ax.plot(
                levels,
                top,
                color=plotting.OTHERS,
                ls=":",
                label="half of the transformer's seeds with the rest",
            )
            ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
            ax.set(xscale="log", ylim=(-0.75, 1.05))
            ax.set_xticks(levels, [f"{x:g}" for x in levels], minor=False)
            ax.set_xticks([], minor=True)
            if effort == "clock":
                ax.set_title(title)
        row[0].set_ylabel(f"τ, {titles[effort]}")
    for ax in axes[1]:
        ax.set_xlabel("DPO's margin (nats)")
    marks = axes[0, 0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=5)
    plotting.label_panels(axes.flat)
    return figure


# %% Claims
def foretells(toy: str, measure: str) -> Callable[[pd.DataFrame], Verdict]:
    """The claim that a toy orders three of four pairs of objectives as the language model does."""

    def claim(table: pd.DataFrame) -> Verdict:
        found, seeds = (f(table, toy, measure) for f in (tau, tau_over_seeds))
        top, p = ceiling(table, measure), luck(table, toy, measure)
        return at_least(
            found, NEEDED,
            f"τ over objectives: {found}; over seeds [{seeds.low:.3g}, {seeds.high:.3g}]; "
            f"p = {p:.2g}; the language model with itself: {top.mean:.3g}",
        )  # fmt: skip

    return claim


def tells_who_falls(toy: str) -> Callable[[pd.DataFrame], Verdict]:
    """The claim that for three of four objectives a toy says rightly whether the chosen falls."""

    def claim(table: pd.DataFrame) -> Verdict:
        one, other = (wide.mean() for wide in both(table, toy, REAL, "displacement"))
        right = np.sign(one) == np.sign(other)
        share = share_interval(right)
        wrong = ", ".join(right.index[~right]) or "none"
        return at_least(share, 0.75, f"share of objectives: {share}; wrong: {wrong}")

    return claim


def bandit_is_no_luck(table: pd.DataFrame) -> Verdict:
    """The bandit's ranking by displacement is better than chance, by permutation."""
    p = luck(table, "features", "displacement")
    return at_most(exactly(p), 0.05, f"so large a τ by naming at random: p = {p:.2g}")


def better(one: str, other: str) -> Callable[[pd.DataFrame], Verdict]:
    """The claim that one toy foretells displacement better than another."""

    def claim(table: pd.DataFrame) -> Verdict:
        rows = [values(table, world, "displacement").mean() for world in (one, other, REAL)]
        gain = rankings.gain_over_things(*rows)
        return at_least(gain, 0.0, f"τ of {one} less τ of {other}, over objectives: {gain}")

    return claim


def noise_is_the_limit(table: pd.DataFrame) -> Verdict:
    """The bandit foretells displacement as well as half the language model's seeds do the rest."""
    found, top = tau(table, "features", "displacement"), ceiling(table, "displacement")
    gap = Estimate(found.mean - top.mean, found.low - top.mean, found.high - top.mean, found.n)
    return at_least(gap, -0.1, f"τ of the bandit less the language model's own: {gap}")


def steady(toy: str, measure: str) -> Callable[[pd.DataFrame], Verdict]:
    """The claim that τ is above 0 at every level, by both definitions of the same effort."""

    def claim(table: pd.DataFrame) -> Verdict:
        found = {
            (effort, level): tau(table, toy, measure, effort=effort, level=level)
            for effort in ("clock", "drift")
            for level in sorted(table.level.dropna().unique())
        }
        (effort, level), worst = min(found.items(), key=lambda item: item[1].low)
        said = ", ".join(f"{e} {x:g}: {t.mean:.2f}" for (e, x), t in found.items())
        return at_least(worst, 0.0, f"lowest, by {effort} at {level:g} nats: {worst}; all: {said}")

    return claim


def among_comparisons(toy: str) -> Callable[[pd.DataFrame], Verdict]:
    """The claim that τ is above 0 even without the losses that pull the chosen answer up."""

    def claim(table: pd.DataFrame) -> Verdict:
        one, other = (wide.mean() for wide in both(table, toy, REAL, "displacement"))
        names = [name for name in one.index if name not in LIKELIHOOD]
        found = rankings.over_things(one[names], other[names])
        return at_least(found, 0.0, f"τ over objectives, without {', '.join(LIKELIHOOD)}: {found}")

    return claim


def no_twins(table: pd.DataFrame) -> Verdict:
    """No two of the objectives push nearly the same way on random answers."""
    rows = pick(table, world="twins").set_index("objective").cosine
    return at_most(exactly(rows.max()), TWINS, f"largest cosine, {rows.idxmax()}: {rows.max():.3f}")


TOYS = {"bandit": "features", "position": "position", "network": "tiny network"}
study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={
        f.__name__: f
        for f in (
            bandit_to_transformer,
            how_well,
            position_to_transformer,
            network_to_transformer,
            by_effort,
        )
    },
    claims={
        **{
            f"{name}_foretells_{measure}": foretells(toy, measure)
            for name, toy in TOYS.items()
            for measure in (MEASURES if toy == "tiny network" else TOGETHER)
        },
        **{f"{name}_tells_who_falls": tells_who_falls(toy) for name, toy in TOYS.items()},
        **{f"{name}_among_comparisons": among_comparisons(toy) for name, toy in TOYS.items()},
        **{f"{name}_at_any_effort": steady(toy, "displacement") for name, toy in TOYS.items()},
        "network_unseen_at_any_effort": steady("tiny network", "unseen"),
        "sharing_helps": better("features", "tabular"),
        "sequences_help": better("position", "features"),
        "a_network_helps": better("tiny network", "position"),
        **{claim.__name__: claim for claim in (bandit_is_no_luck, noise_is_the_limit, no_twins)},
    },
    # Networks are trained in single precision for many steps: another machine's rounding grows.
    tolerance={"atol": 0.1, "rtol": 0.1},
)

if __name__ == "__main__":
    main(study, __file__)
