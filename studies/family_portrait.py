"""What does each objective of the family ask for, and how does it behave?

Every objective of the package, at the settings of its paper, without an opinion about which is
better. Where an objective works on answers that are chosen or rejected, its pushes are drawn over
the plane of the two log-ratios, and from these pushes, not from its name, follows the group in
which it stands. The tables are the probes of `toyalign check`: numbers on what it asks for, and on
what happens when it trains.

Background: Tang et al. 2024 (arXiv 2402.05749), Razin et al. 2024 (arXiv 2410.08847).
"""

# %% Parameters
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from toyalign import plotting
from toyalign.check.probes import PROBES, measure
from toyalign.glossary import KINDS
from toyalign.intervals import Estimate
from toyalign.objectives import OBJECTIVES, Objective
from toyalign.objectives.coefficients import push_on_pair
from toyalign.study import Part, Study, Verdict, at_least, at_most, main

Array = NDArray[np.float64]
FELL = 0.01  # nats; a chosen answer counts as fallen if it ends lower than its start by more
FIELD = ("chosen", "rejected", "push_chosen", "push_rejected")  # nats, and per nat
DRAWN = slice(1, None, 3)  # of the 24 points along a side of the plane, the 8 that are drawn


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    probes: tuple[str, ...] = tuple(PROBES)
    """Probes that are taken of every objective."""
    reaches: tuple[float, ...] = (6.0, 60.0, 600.0)
    """Sizes of plane to choose from, nats to either side of the reference."""
    points: int = 24
    """Points along a side of the plane."""


PRESETS = {
    "full": Params(),
    "fast": Params(  # seven that train little or not at all
        probes=(
            "fading",
            "displacement",
            "stops",
            "flipped_labels",
            "length",
            "precision",
            "cost",
        )
    ),
}


# %% The pushes
def pushes(card: Objective, chosen: Array, rejected: Array, reach: float) -> tuple[Array, Array]:
    """The push on both answers, of one token each, so unlikely that the whole plane is possible."""
    return push_on_pair(card, chosen, rejected, (-1.25 * reach, -1.25 * reach), card.hyper)


def plane(reach: float, points: int) -> tuple[Array, Array]:
    """The log-ratios of the chosen and of the rejected answer, [y, x] each, nats."""
    line = np.linspace(-reach, reach, points)
    chosen, rejected = np.meshgrid(line, line)
    return chosen, rejected


def shows_its_form(card: Objective, field: tuple[Array, Array], reach: float) -> bool:
    """Whether the push on an answer falls below a quarter of its start, or turns round."""
    start = pushes(card, np.zeros(1), np.zeros(1), reach)
    return any(
        at_start[0] != 0 and (push / at_start[0]).min() < 1 / 4
        for at_start, push in zip(start, field, strict=True)
    )


def traits(chosen: Array, rejected: Array) -> dict[str, float]:
    """What can be said of the pushes [y, x] in a plane, chosen along x and rejected along y."""
    largest = max(np.abs(chosen).max(), np.abs(rejected).max(), np.finfo(float).tiny)
    tiny = 1e-9 * largest
    spread = [  # how far a push changes with the log-ratio of the other answer
        np.ptp(push, axis=axis).max() / max(np.abs(push).max(), tiny)
        for push, axis in ((chosen, 0), (rejected, 1))
    ]
    return {
        "imbalance": float(np.abs(chosen + rejected).max() / largest),
        "coupling": float(max(spread)),
        "chosen raised": float((chosen > tiny).mean()),
        "chosen lowered": float((chosen < -tiny).mean()),
        "rejected lowered": float((rejected < -tiny).mean()),
    }


def upward(chosen: Array, rejected: Array) -> float:
    """The chosen answer's share of the push where both answers have fallen: mean, 1/2 if equal."""
    fallen = np.s_[: chosen.shape[0] // 2, : chosen.shape[1] // 2]
    both = np.abs(chosen[fallen]) + np.abs(rejected[fallen])
    share = np.divide(chosen[fallen], both, out=np.full_like(both, 0.5), where=both > 0)
    return float(share.mean())


def jump(card: Objective, reach: float) -> float:
    """The largest jump of a push along four lines through the plane, as a share of its range."""
    line, found = np.linspace(-reach, reach, 121), [0.0]
    for level in (-0.5 * reach, 0.1 * reach):
        for turned in (False, True):
            whole = along(card, line, level, turned, reach)
            for side, push in enumerate(whole):
                if np.ptp(push) > 1e-9 * np.abs(whole).max():
                    steepest = int(np.abs(np.diff(push)).argmax())
                    near = np.linspace(line[steepest], line[steepest + 1], 121)
                    close = along(card, near, level, turned, reach)[side]
                    found.append(float(np.abs(np.diff(close)).max() / np.ptp(push)))
    return max(found)  # a slope is gone when looked at closely, a jump is not


def along(card: Objective, line: Array, level: float, turned: bool, reach: float) -> Array:
    """The pushes, [answer, point], as one log-ratio goes along a line and the other stays."""
    pair = (line, np.full_like(line, level))
    return np.stack(pushes(card, *(pair[::-1] if turned else pair), reach))


# %% The groups
GROUPS = {
    "difference-only": "both answers are always pushed equally hard",
    "bounded": "equally hard, and turned round in a part of the plane",
    "gated": "a push switches off or on at a kink",
    "anchored": "each answer is pushed by its own log-ratio alone",
    "uneven": "the pushes depend on each other and differ in size",
    "length-normalised": "a token of a long answer is pushed less",
    "positive-only": "answers are raised, none is lowered",
    "negative-only": "answers are lowered, none is raised",
}


def behaviour(facts: Mapping[str, float]) -> str:
    """The group of an objective on chosen and rejected answers: the first rule that fits.

    1. positive-only: nowhere in the plane is the rejected answer lowered; negative-only: nowhere is
       the chosen one raised.
    2. length-normalised: a token of a response ten times as long is pushed less than 0.15 times as
       hard (the probe `length`).
    3. gated: a push jumps somewhere by more than a tenth of its range.
    4. bounded: everywhere the pushes are equal and opposite, to one part in a hundred, and
       somewhere the chosen answer is lowered.
    5. difference-only: everywhere the pushes are equal and opposite.
    6. anchored: the push on an answer changes by less than one part in a hundred with the other
       answer's log-ratio.
    7. uneven: all others.

    Args:
        facts: the traits of its pushes, and the reading of the probe `length`.
    """
    if facts["rejected lowered"] == 0:
        return "positive-only"
    if facts["chosen raised"] == 0:
        return "negative-only"
    if facts["length"] < 0.15:
        return "length-normalised"
    if facts["jump"] > 0.1:
        return "gated"
    if facts["imbalance"] < 0.01:
        return "bounded" if facts["chosen lowered"] else "difference-only"
    return "anchored" if facts["coupling"] < 0.01 else "uneven"


# %% The table
UNITS = {
    "reach": "nats",
    "fixed data": "0 or 1",
    "jump": "of the range",
    "imbalance": "of the largest push",
    "coupling": "of the largest push",
    "upward": "of both pushes",
    "chosen raised": "share of the plane",
    "chosen lowered": "share of the plane",
    "rejected lowered": "share of the plane",
}


def portrait_of(params: Params, name: str) -> pd.DataFrame:
    """Probes of one objective and, if it works on a pair, the traits and points of its field."""
    card = OBJECTIVES[name]
    rows: list[dict[str, object]] = []
    for probe in params.probes:
        reading = measure(PROBES[probe], card)
        keys = {"part": "probe", "quantity": probe, "unit": reading.unit}
        rows.append({**keys, "value": np.nan if reading.value is None else reading.value})
    if card.kind in ("pairs", "labelled", "demonstrations"):
        rows += pushes_of(card, params)
    named = [{"objective": name, "kind": card.kind, **row} for row in rows]
    columns = ["part", "objective", "kind", "quantity", "unit", "value", *FIELD]
    return pd.DataFrame(named, columns=columns)


def pushes_of(card: Objective, params: Params) -> list[dict[str, object]]:
    """Traits of the pushes and the pushes themselves, on the smallest plane that shows their form.

    A push that is much the same on all planes is drawn on the smallest.
    """
    fields = {}
    for reach in params.reaches:
        fields[reach] = pushes(card, *plane(reach, params.points), reach)
        if shows_its_form(card, fields[reach], reach):
            break
    else:
        reach = params.reaches[0]
    facts = {
        "reach": reach,
        "fixed data": float("fixed" in card.sources),
        "jump": jump(card, reach),
        "upward": upward(*fields[params.reaches[0]]),
        **traits(*fields[reach]),
    }
    rows: list[dict[str, object]] = [
        {"part": "trait", "quantity": key, "unit": UNITS[key], "value": facts[key]} for key in facts
    ]
    grids = [*plane(reach, params.points), *fields[reach]]
    points = zip(*[grid[DRAWN, DRAWN].ravel() for grid in grids], strict=True)
    return rows + [{"part": "field", **dict(zip(FIELD, point, strict=True))} for point in points]


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table: one per objective."""
    for name in OBJECTIVES:
        yield name, portrait_of, (params, name)


def grouped(table: pd.DataFrame) -> pd.Series:
    """The group of every objective that has pushes on a pair, in the order of `GROUPS`."""
    facts = values(table)
    names = facts.index[facts["reach"].notna()]
    found = pd.Series({name: behaviour(facts.loc[name]) for name in names})
    return found.sort_values(key=lambda group: group.map(list(GROUPS).index), kind="stable")


def values(table: pd.DataFrame) -> pd.DataFrame:
    """Probes and traits, one row per objective."""
    rows = table[table.part != "field"]
    return rows.pivot(index="objective", columns="quantity", values="value").loc[
        list(dict.fromkeys(rows.objective))
    ]


# %% Figures
ACROSS = 10  # panels in a line of the portrait
PANEL, GAP, HEAD, KEY = 0.86, 0.10, 0.54, 2.0  # inches; HEAD is the space above a line of panels
EXAMPLE = "ipo"
NOTE = """Shades go from the smallest number of a column (light) to its largest (dark); they order
and do not judge. Empty: the probe does not apply. `toyalign check` says each number in words."""
LEGEND = """
Each panel is one objective and one pair of answers, of one token each.
Right: the chosen answer is likelier than under the reference; up: the rejected one is.
Black lines cross where training starts; ±60: the panel ends 60 nats from there.
Arrow: where a small step wants the pair to go, from where it is; longer is harder
(four powers of ten are told apart). Orange ground: the chosen answer is pushed down.
= dpo: the same arrows as in the panel of that name, up to one factor."""


def portrait(table: pd.DataFrame) -> Figure:
    """The pushes of every objective over the plane of log-ratios, like beside like."""
    groups, reach = grouped(table), values(table)["reach"]
    lines = []
    for group in GROUPS:
        members = list(groups.index[groups == group])
        for start in range(0, len(members), ACROSS):
            lines.append((group if start == 0 else "", members[start : start + ACROSS]))
    heads = [HEAD if title else HEAD / 2 for title, _ in lines]
    size = (ACROSS * (PANEL + GAP) + GAP, KEY + sum(heads) + len(lines) * PANEL + 2 * GAP)
    figure, axes = plotting.new_figure(1, len(groups) + 1)
    figure.set_layout_engine("none")
    figure.set_size_inches(*size)
    how_to_read(figure, axes[0, 0], drawn_field(table, EXAMPLE), size)
    panels, top = iter(axes[0, 1:]), size[1] - KEY - GAP
    drawn: dict[str, Array] = {}
    for (title, members), head in zip(lines, heads, strict=True):
        if title:
            y, x = (top - 0.28) / size[1], 0.3 + 0.085 * len(title)
            figure.text(GAP / size[0], y, title, weight="bold", fontsize=9.5)
            figure.text(x / size[0], y, GROUPS[title], fontsize=9.5)
        top -= head + PANEL
        for place, name in enumerate(members):
            ax, field = next(panels), drawn_field(table, name)
            put(ax, (GAP + place * (PANEL + GAP), top, PANEL, PANEL), size)
            shape = np.stack(field)
            shape[2:] /= np.abs(shape[2:]).max()
            twin = next((n for n in drawn if np.allclose(shape, drawn[n], atol=0.01)), "")
            drawn.setdefault(name, shape)
            small_panel(ax, name, field, f"±{reach[name]:.0f}" + (f"  = {twin}" if twin else ""))
    return figure


def drawn_field(table: pd.DataFrame, name: str) -> tuple[Array, Array, Array, Array]:
    """Log-ratios and pushes of an objective, [y, x] each: chosen, rejected, and their pushes."""
    rows = table[(table.part == "field") & (table.objective == name)]
    side = len(rows.chosen.unique())
    x, y, u, v = (rows[column].to_numpy().reshape(-1, side) for column in FIELD)
    return x, y, u, v


def small_panel(ax: Axes, name: str, field: tuple[Array, ...], note: str) -> None:
    """A phase field that stays legible at the size of a stamp."""
    x, y, u, v = field
    plotting.phase_field(ax, x, y, u, v)
    ax.collections[-1].set(edgecolor="0.35", facecolor="0.35", linewidth=0.35)
    ax.lines[-1].set_markersize(2.5)
    ax.spines[:].set(visible=True, color="0.8", linewidth=0.6)
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
    ax.set_title(name, fontsize=7.5, pad=2)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    ax.text(0.03, 0.03, note, fontsize=6, transform=ax.transAxes, bbox=box)


def put(ax: Axes, box: tuple[float, ...], size: tuple[float, float]) -> None:
    """Place a panel: left, bottom, width and height in inches, on a figure of this size."""
    left, bottom, width, height = box
    ax.set_position((left / size[0], bottom / size[1], width / size[0], height / size[1]))


def how_to_read(
    figure: Figure, ax: Axes, field: tuple[Array, ...], size: tuple[float, float]
) -> None:
    """One panel at a larger scale, with its axes named, and the legend beside it."""
    put(ax, (0.6, size[1] - 1.75, 1.45, 1.45), size)
    x, y, u, v = field
    plotting.phase_field(ax, x, y, u, v)
    ax.set_title(f"how to read a panel: {EXAMPLE}")
    left, top = 2.5 / size[0], 1 - 0.22 / size[1]
    title = "What the objectives ask for"
    figure.text(left, top, title, va="top", fontsize=13, weight="bold")
    figure.text(left, top, LEGEND, va="top", fontsize=8.5, linespacing=1.5)


def probe_frame(table: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Probes of some objectives, columns named with their units; no column is empty."""
    rows = table[(table.part == "probe") & table.objective.isin(names)]
    units = rows.groupby("quantity", sort=False)["unit"].first()
    frame = values(table).loc[names, list(units.index)]
    return frame.set_axis([f"{q}, {unit}" for q, unit in units.items()], axis=1).dropna(
        axis=1, how="all"
    )


def heat(frame: pd.DataFrame, headings: list[str]) -> Figure:
    """One heat table, as high as it has lines."""
    lines = len(frame) + len(set(headings))
    size = {"width": 2.3 + 0.5 * frame.shape[1], "height": 1.5 + 0.155 * lines}
    figure, axes = plotting.new_figure(1, 1, **size)
    plotting.heat_table(axes[0, 0], frame, headings)
    figure.supxlabel(NOTE, fontsize=7.5)
    return figure


def probes_of_pairs(table: pd.DataFrame) -> Figure:
    """All probes of the objectives on pairs, in the groups of the portrait."""
    groups = grouped(table)
    pairs = table[table.kind == "pairs"].objective.unique()
    groups = groups[groups.index.isin(pairs)]
    return heat(probe_frame(table, groups.index), [f"{group}: {GROUPS[group]}" for group in groups])


def probes_of_others(table: pd.DataFrame) -> Figure:
    """All probes of the objectives on other data, by its kind."""
    kinds = table[table.kind != "pairs"].groupby("objective", sort=False)["kind"].first()
    kinds = kinds.sort_values(key=lambda kind: kind.map(list(KINDS).index), kind="stable")
    return heat(probe_frame(table, kinds.index), [f"{kind}: {KINDS[kind]}" for kind in kinds])


# %% Claims
def exactly(value: float, n: int) -> Estimate:
    """A number about n objectives, which are all there are and no sample of any."""
    return Estimate(value, value, value, n)


def listed(names: pd.Index) -> str:
    """Names in words."""
    return ", ".join(names) or "none"


def on_given_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Objectives that move both answers and take the problem's own pair: traits and probes."""
    found = values(table)[lambda facts: facts["fixed data"] == 1].assign(group=grouped(table))
    return found[~found.group.isin(["positive-only", "negative-only"])]


def equal_pushes_let_the_chosen_fall(table: pd.DataFrame) -> Verdict:
    """With shared features the chosen answer falls wherever both answers are pushed equally hard.

    Objectives that learn from their own responses are left out: they train on other pairs.
    """
    found = on_given_pairs(table)[lambda facts: facts.imbalance < 0.01]
    held = found.index[found.displacement > -FELL]
    share = exactly(1 - len(held) / len(found), len(found))
    return at_least(
        share, 0.95, f"it falls under {share.mean:.0%} of {share.n}; exceptions: {listed(held)}"
    )


def raising_alone_never_lowers(table: pd.DataFrame) -> Verdict:
    """It falls under no objective that leaves the rejected answer alone."""
    change = values(table)[lambda facts: facts["rejected lowered"] == 0].displacement
    least = exactly(change.min(), len(change))
    return at_least(least, 0.0, f"smallest change, {change.idxmin()}: {least.mean:+.2f} nats")


def anchors_hold(table: pd.DataFrame) -> Verdict:
    """An anchor on each answer keeps the chosen one within one nat of where it started."""
    found = on_given_pairs(table)
    change = found[found.group == "anchored"].displacement
    usual = found[found.group == "difference-only"].displacement.median()
    least = exactly(change.min(), len(change))
    return at_least(
        least,
        -1.0,
        f"the largest fall, {change.idxmin()}: {least.mean:+.2f} nats; "
        f"median {change.median():+.2f} against {usual:+.2f} of difference-only objectives",
    )


def a_hard_pull_holds(table: pd.DataFrame) -> Verdict:
    """It rises wherever a fallen chosen answer takes at least nine tenths of the push."""
    change = on_given_pairs(table)[lambda facts: facts.upward >= 0.9].displacement
    least = exactly(change.min(), len(change))
    return at_least(
        least,
        0.0,
        f"smallest change, {change.idxmin()}: {least.mean:+.2f} nats (all: {listed(change.index)})",
    )


def nothing_else_holds(table: pd.DataFrame) -> Verdict:
    """And it falls under all other objectives that push both answers."""
    change = on_given_pairs(table)[lambda facts: facts.upward < 0.9].displacement
    held = change.index[change > -FELL]
    share = exactly(1 - len(held) / len(change), len(change))
    return at_least(
        share, 0.999, f"it falls under {share.mean:.0%} of {share.n}; exceptions: {listed(held)}"
    )


def an_end_saves_drift(table: pd.DataFrame) -> Verdict:
    """Objectives whose push ends at a margin win with a tenth less drift than those that go on."""
    found = values(table)
    if "drift" not in found:
        nothing = Estimate(0.0, 0.0, 0.0, 0)
        return Verdict("cannot tell", "this preset does not measure drift", nothing, 0.9)
    found = found[found.drift.notna() & found.stops.notna()]
    ends = np.isfinite(found.stops)
    medians = found.drift[ends].median(), found.drift[~ends].median()
    ratio = exactly(medians[0] / medians[1], len(found))
    return at_most(
        ratio,
        0.9,
        f"median KL where the policy wins 60 %: {medians[0]:.4f} nats with an end ({ends.sum()}), "
        f"{medians[1]:.4f} without ({(~ends).sum()})",
    )


def bfloat16_is_exact_enough(table: pd.DataFrame) -> Verdict:
    """In bfloat16 every gradient is right to a twentieth of its largest entry."""
    error = values(table).precision.sort_values(ascending=False)
    worst = exactly(error.iloc[0], len(error))
    beyond = [f"{name} {value:.0%}" for name, value in error[error > 0.05].items()]
    return at_most(worst, 0.05, f"beyond 5 %: {', '.join(beyond) or 'none'} (of {worst.n})")


study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (portrait, probes_of_pairs, probes_of_others)},
    claims={
        claim.__name__: claim
        for claim in (
            equal_pushes_let_the_chosen_fall,
            raising_alone_never_lowers,
            anchors_hold,
            a_hard_pull_holds,
            nothing_else_holds,
            an_end_saves_drift,
            bfloat16_is_exact_enough,
        )
    },
    tolerance={"atol": 1e-6, "rtol": 1e-5},
)

if __name__ == "__main__":
    main(study, __file__)
