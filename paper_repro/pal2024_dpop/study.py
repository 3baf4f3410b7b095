"""Why can DPO lower the preferred answer, and what does DPO-Positive do about it?

Pal et al. 2024 (arXiv 2402.13228). The displacement against the edit distance is measured by the
study `edit_distance`. Here are the paper's equation 2 and the closed form that follows from it, the
λ and β of its ablations, SLiC, and the ways in which public code has written the penalty.
"""

# %% Parameters
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

import toyalign as ta
from toyalign import plotting
from toyalign.intervals import Estimate, difference, exactly, mean_interval
from toyalign.objectives.anchored import dpop
from toyalign.policies.bigram import Bigram
from toyalign.policies.position import Position, Prefix
from toyalign.policies.transformer import Transformer
from toyalign.problems.sequences import edited_pairs, step0_slope, two_writers
from toyalign.problems.world import World
from toyalign.similarity import token_groups
from toyalign.streams import Streams
from toyalign.study import Part, Study, main
from toyalign.tables import estimate, of_row, pick


@dataclass(frozen=True)
class Params:
    """Settings of the study."""

    seeds: int = 10
    """Runs of every setting that is trained."""
    slope_seeds: int = 200
    """Runs for the slope of the first step, which is measured without training."""
    count: int = 16
    """Pairs per run, on positions."""
    steps: int = 1000
    """Gradient steps of SGD, on positions."""
    network_count: int = 96
    """Pairs per run of the transformer, on four prompts."""
    network_steps: int = 100
    """Gradient steps of Adam at 1e-3, on the transformer."""
    fits: int = 300
    """Steps by which the transformer learns to write."""


PRESETS = {
    "full": Params(),
    "fast": Params(
        seeds=3, slope_seeds=20, count=8, steps=100, network_count=16, network_steps=30, fits=60
    ),
}
BETA, LAM, P, VOCABULARY, TOKENS = 0.3, 50.0, 0.8, 10, 20
SLOPES = [  # p, q, ρ, edits
    (0.8, 0.3, 1.0, 1),
    (0.8, 0.5, 1.0, 1),
    (0.8, 0.8, 1.0, 1),
    (0.6, 0.2, 1.0, 1),
    (0.8, 0.3, 0.6, 1),
    (0.8, 0.5, 0.3, 1),
    (0.8, 0.5, 0.0, 1),
    (0.8, 0.5, 1.0, 4),
    (0.8, 0.5, 1.0, 8),
    (0.8, 0.5, 0.7, 20),
]
LAMBDAS = (0.5, 1.0, 5.0, 50.0, 500.0)
BETAS = (0.1, 0.3, 1.0)


# %% The penalty as public code has written it; v2 is the registered `dpop`
def _parts(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor
) -> tuple[Tensor, Tensor]:
    """The margin h and the chosen answer's log-ratio."""
    ratio = chosen - ref_chosen
    return ratio - (rejected - ref_rejected), ratio


def mid(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, lam=LAM * BETA):
    """−log σ(βh − λ·pen): inside σ, outside β; with λ = 50β it is version 2."""
    h, ratio = _parts(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(BETA * h - lam * relu(-ratio))


def out(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, lam=LAM * BETA):
    """−log σ(βh) + λ·pen: outside σ; what version 1's brackets amount to."""
    h, ratio = _parts(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(BETA * h) + lam * relu(-ratio)


def wrong_sign(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, lam=LAM * BETA
):
    """−log σ(βh) − λ·pen: rewards the fall."""
    h, ratio = _parts(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(BETA * h) - lam * relu(-ratio)


def wrong_quantity(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, lam=LAM):
    """pen = max(0, log π(y_l) − log π(y_w)): the reference does not occur in the penalty."""
    h, _ = _parts(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(BETA * (h - lam * relu(rejected_logps - chosen_logps)))


def ratio_form(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, lam=LAM):
    """pen = max(0, 1 − π(y_w)/π_ref(y_w)): fades as the answer vanishes."""
    h, ratio = _parts(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(BETA * (h - lam * relu(1 - ratio.exp())))


def version_2(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    """The registered loss, at the paper's β and λ."""
    return dpop(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=BETA, lam=LAM
    )


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "v2": version_2,
    "mid": mid,
    "out": out,
    "ratio": ratio_form,
    "wrong quantity": wrong_quantity,
    "wrong sign": wrong_sign,
}
SOUND = ("v2", "mid", "out", "ratio")


# %% Simulation
def train(
    params: Params, model: str, objective: object, lr: float, **hyper: float
) -> ta.Trajectory:
    """One edit, one objective, and the model's own way of training; SGD's rate is per pair."""
    settings: dict[str, object] = {"source": "fixed", "seeds": params.seeds, "marks": [0]}
    if model == "transformer":
        settings |= {
            "problem": two_writers(edits=1, count=params.network_count),
            "policy": Transformer(fits=params.fits),
            "optimiser": "adam",
            "lr": lr,
            "max_grad_norm": 1.0,
            "steps": params.network_steps,
            "dtype": "float32",
        }
    else:
        settings |= {
            "problem": edited_pairs(edits=1, count=params.count, texts=1),
            "policy": {"position": Position(), "bigram": Bigram()}[model],
            "lr": lr * params.count,
            "steps": params.steps,
        }
    settings["marks"] = [0, settings["steps"]]
    return ta.simulate(objective, **settings, **hyper)


def outcome(
    params: Params, part: str, case: str, model: str, objective: object, lr: float, **hyper: float
) -> pd.DataFrame:
    """How the runs ended: the chosen response's change, in all and by its tokens."""
    traj = train(params, model, objective, lr, **hyper)
    rows = []
    for name, values in traj.measured().items():
        if "displacement" in name:
            rows.append(row(part, case, model, name, mean_interval(values[-1])))
    diverged = mean_interval(traj.diverged.astype(float))
    return pd.DataFrame([*rows, row(part, case, model, "diverged", diverged)])


def row(part: str, case: str, model: str, quantity: str, found: Estimate) -> dict[str, object]:
    """A row of the table."""
    return {"part": part, "case": case, "model": model, "quantity": quantity, "mean": found.mean,
            "low": found.low, "high": found.high, "n": found.n}  # fmt: skip


def slope(params: Params, p: float, q: float, rho: float, edits: int) -> pd.DataFrame:
    """The slope of log π(y_w) in DPO's first step, by autograd, and in closed form."""
    problem = edited_pairs(right=p, misled=q, edits=edits, texts=1)
    world = problem.world(Streams(list(range(params.slope_seeds))))
    policy = Position(rho)
    theta = torch.zeros(
        params.slope_seeds, 2 * world.cells, dtype=torch.float64, requires_grad=True
    )
    table = policy.log_probs(theta, world)
    assert world.pair_rows is not None and world.pair_rows.cells is not None
    cells = world.pair_rows.cells
    chosen, rejected = (
        table.gather(1, c.flatten(1)).view(c.shape).sum(-1) for c in cells.unbind(1)
    )
    loss = ta.dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=BETA)
    (downhill,) = torch.autograd.grad(-loss.sum(), theta, retain_graph=True)
    (rising,) = torch.autograd.grad(chosen.sum(), theta)
    measured = (downhill * rising).sum(1) / (BETA / 2) / cells.shape[2]
    _, edited, later = token_groups(cells[:, 0] % VOCABULARY, cells[:, 1] % VOCABULARY).sum(-1)
    form = torch.tensor(
        [
            step0_slope(p, q, rho, VOCABULARY, later[run].double().mean().item(),
                        edited[run].double().mean().item() - 1)
            for run in range(params.slope_seeds)
        ]
    )  # fmt: skip
    case = f"p = {p:g}, q = {q:g}, ρ = {rho:g}, d = {edits}"
    gap = mean_interval((measured.detach() - form) / form.mean().abs())
    return pd.DataFrame(
        [
            row("slope", case, "position", "measured", mean_interval(measured.detach())),
            row("slope", case, "position", "closed form", mean_interval(form)),
            row("slope", case, "position", "relative gap", gap),
        ]
    )


def later_tokens(params: Params) -> pd.DataFrame:
    """Share of the equal tokens after the edit that DPO's first step lowers, by model.

    And the paper's equation 2: the gradient of the two answers' difference by a shared logit is the
    difference of the two probabilities of that token.
    """
    problem, seeds = edited_pairs(edits=1, texts=1), range(20)
    world = problem.world(Streams(list(seeds)))
    assert world.pair_rows is not None and world.pair_rows.cells is not None
    cells = world.pair_rows.cells
    rows = []
    for model, policy in {"separate prefixes": Prefix(), "shared by position": Position()}.items():
        theta = policy.start(world, Streams(list(seeds))).requires_grad_()
        before = policy.log_probs(theta, world)
        chosen, rejected = (before.gather(1, c.flatten(1)).view(c.shape) for c in cells.unbind(1))
        (uphill,) = torch.autograd.grad((chosen - rejected).sum(), theta, retain_graph=True)
        after = policy.log_probs(theta + 1e-6 * uphill, world)
        moved = after.gather(1, cells[:, 0].flatten(1)).view(chosen.shape) - chosen
        _, _, later = token_groups(cells[:, 0] % VOCABULARY, cells[:, 1] % VOCABULARY)
        share = ((moved < 0) & later).sum((1, 2)) / later.sum((1, 2))
        rows.append(row("later tokens", model, model, "share lowered", mean_interval(share)))
        if model == "shared by position":
            rows.append(row("equation 2", model, model, "gap", exactly(equation_2(world, uphill))))
    return pd.DataFrame(rows)


def equation_2(world: World, uphill: Tensor) -> float:
    """Largest difference of the shared logits' gradient from equation 2, at later positions."""
    pairs, (runs, _, count, tokens) = world.pair_rows.cells, world.pair_rows.cells.shape
    shared = uphill[:, : uphill.shape[1] // 2]  # Position's b; c has no weight at ρ = 1
    table = world.reference_logits.exp().view(runs, -1, VOCABULARY)
    places = pairs // VOCABULARY  # the context of each token
    probabilities = [
        table.gather(1, c.flatten(1).unsqueeze(-1).expand(-1, -1, VOCABULARY)).view(
            runs, count, tokens, VOCABULARY
        )
        for c in places.unbind(1)
    ]
    _, _, later = token_groups(pairs[:, 0] % VOCABULARY, pairs[:, 1] % VOCABULARY)
    said = (probabilities[1] - probabilities[0])[later]
    # Every pair has a prompt of its own: its block of b is that of its own positions.
    found = shared.view(runs, -1, tokens, VOCABULARY)[:, :count][later]
    return (found - said).abs().max().item()


def parts(params: Params) -> Iterator[Part]:
    """The parts of the table."""
    for setting in SLOPES:
        yield f"slope, {setting}", slope, (params, *setting)
    yield "later tokens", later_tokens, (params,)
    for model, lr in (("position", 0.03), ("transformer", 1e-3)):
        for name, fn in VARIANTS.items():
            yield f"{name}, {model}", outcome, (params, "variants", name, model, fn, lr)
        for lam in LAMBDAS:
            made = partial(outcome, lam=lam, beta=BETA)
            rate = lr * min(1, 50 / lam) if model == "position" else lr
            yield f"λ = {lam:g}, {model}", made, (params, "λ", f"{lam:g}", model, "dpop", rate)
        for beta in BETAS:
            made = partial(outcome, beta=beta)
            yield f"β = {beta:g}, {model}", made, (params, "β", f"{beta:g}", model, "dpo", lr)
        yield f"slic, {model}", outcome, (params, "slic", "SLiC-HF", model, "slic", lr)
        made = partial(outcome, beta=BETA)
        yield f"hinge, {model}", made, (params, "slic", "hinge", model, "hinge", lr)
    for name in ("dpo", "dpop"):
        made = partial(outcome, beta=BETA)
        yield f"{name}, big steps", made, (params, "big steps", name, "bigram", name, 1.0)


# %% Figures
def holding(table: pd.DataFrame) -> Figure:
    """What becomes of the chosen response, by β of DPO, λ of DPOP and the way it is written."""
    figure, axes = plotting.new_figure(1, 3, width=3.0, height=2.5)
    ends = pick(table, quantity="chosen_displacement")
    looks = {"position": (plotting.CHOSEN, "o"), "transformer": (plotting.GAINER, "s")}
    panels = (("β", "DPO, by β"), ("λ", "DPOP, by λ"), ("variants", "DPOP, as written by others"))
    for ax, (part, title) in zip(axes.flat, panels, strict=True):
        cases = list(dict.fromkeys(pick(ends, part=part)["case"]))
        for shift, (model, (colour, marker)) in enumerate(looks.items()):
            for place, case in enumerate(cases):
                end = estimate(ends, part=part, case=case, model=model)
                ax.errorbar(
                    place + 0.24 * shift - 0.12,
                    end.mean,
                    [[end.mean - end.low], [end.high - end.mean]],
                    fmt=marker,
                    color=colour,
                    label=model if not place else None,
                )
        ax.axhline(0, color=plotting.REFERENCE, ls="--", lw=0.9)
        if part == "variants":
            ax.set_yscale("symlog", linthresh=1)
            ax.yaxis.set_major_formatter("{x:g}")
            cases = [case.replace(" ", "\n") for case in cases]
        ax.set_xticks(range(len(cases)), cases)
        ax.set(title=title, xlabel=part if part != "variants" else "")
    axes[0, 0].set_ylabel("change of chosen log-prob (nats)")
    axes[0, 1].legend(loc="lower right")
    plotting.label_panels(axes.flat)
    return figure


def closed_form(table: pd.DataFrame) -> Figure:
    """The first step's slope as autograd finds it, against the closed form."""
    figure, axes = plotting.new_figure(1, 1, width=3.4, height=3.0)
    ax, rows = axes[0, 0], pick(table, part="slope")
    for case in dict.fromkeys(rows["case"]):
        form, found = (
            estimate(rows, case=case, quantity=name) for name in ("closed form", "measured")
        )
        half = [[found.mean - found.low], [found.high - found.mean]]
        ax.errorbar(form.mean, found.mean, half, fmt="o", color=plotting.CHOSEN)
    ends = [rows["mean"].min(), rows["mean"].max()]
    ax.plot(ends, ends, color=plotting.REFERENCE, lw=0.9, ls="--")
    ax.axvspan(ends[0] - 0.3, 0, color=plotting.REJECTED, alpha=0.12, lw=0)
    ax.annotate("falls", (-0.5, ends[1]), ha="center")
    ax.annotate("rises", (0.5, ends[1]), ha="center")
    ax.set(
        xlabel="closed form (nats per unit of margin gradient)",
        ylabel="measured",
        xlim=(ends[0] - 0.3, ends[1] + 0.3),
    )
    return figure


# %% Measures: what the claims are held to
def ended(
    table: pd.DataFrame, objective: str, quantity: str = "chosen_displacement", where: str = "one"
) -> Mapping[str, Estimate]:
    """How an objective ended in the study of edit distances, by model: one edit, or all edited."""
    rows = pick(table, part="end", objective=objective, quantity=quantity)
    found = {}
    for model in dict.fromkeys(rows.policy):
        mine = pick(rows, policy=model).sort_values("distance")
        found[model] = of_row(mine.iloc[0 if where == "one" else -1])
    return found


def here(table: pd.DataFrame, part: str, cases: tuple[str, ...]) -> Mapping[str, Estimate]:
    """The chosen response's change in the trainings of this study."""
    rows = pick(table, part=part, quantity="chosen_displacement")
    return {
        f"{case}, {model}": estimate(rows, case=case, model=model)
        for model in dict.fromkeys(rows.model)
        for case in cases
    }


def equation_2_gap(table: pd.DataFrame) -> Estimate:
    """Largest difference from the formula."""
    return estimate(table, part="equation 2", quantity="gap")


def share_lowered(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Share of the tokens after the edit that the first step lowers, by what is shared."""
    rows = pick(table, part="later tokens")
    return {row["case"]: of_row(row) for _, row in rows.iterrows()}


def slope_gap(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """Measured slope less closed form, as a share of the latter."""
    rows = pick(table, part="slope", quantity="relative gap")
    return {row["case"]: of_row(row) for _, row in rows.iterrows()}


def dpo_one_edit(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The chosen response's change under DPO with one edit."""
    return ended(edit_distance, "dpo")


def dpo_all_edited(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The same with every token edited."""
    return ended(edit_distance, "dpo", where="all")


def dpo_prefix(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The change of the tokens before the edit."""
    return ended(edit_distance, "dpo", "displacement_prefix")


def dpo_later(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The change of the tokens after it."""
    return ended(edit_distance, "dpo", "displacement_later")


def dpop_one_edit(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The chosen response's change under DPOP with one edit."""
    return ended(edit_distance, "dpop")


def dpop_later(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The change of the tokens after the edit under DPOP."""
    rows = pick(table, part="variants", case="v2", quantity="displacement_later")
    return {row["model"]: of_row(row) for _, row in rows.iterrows()}


def dpop_unseen(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """The change of the answers to prompts without pairs."""
    return ended(edit_distance, "dpop", "unseen_displacement")


def ipo_against_dpo(edit_distance: pd.DataFrame) -> Mapping[str, Estimate]:
    """IPO's change less DPO's."""
    ipo, dpo = ended(edit_distance, "ipo"), ended(edit_distance, "dpo")
    return {model: difference(ipo[model], dpo[model]) for model in ipo}


def slic_one_edit(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The chosen response's change under SLiC, as published and as a hinge on log-ratios."""
    return here(table, "slic", ("hinge", "SLiC-HF"))


def by_beta(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """DPO's change at several β."""
    return here(table, "β", tuple(f"{beta:g}" for beta in BETAS))


def by_lambda(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """DPOP's change at λ = 5 and 500, less that at 50."""
    ends = here(table, "λ", ("5", "50", "500"))
    return {
        f"λ = {lam}, {model}": difference(ends[f"{lam}, {model}"], ends[f"50, {model}"])
        for lam in ("5", "500")
        for model in ("position", "transformer")
    }


def by_small_lambda(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """DPOP's change at a λ that is too small."""
    return here(table, "λ", ("0.5", "1"))


def sound_variants(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The chosen response's change under the variants with the right sign and quantity."""
    return here(table, "variants", SOUND)


def unsound_variants(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """The same under the others."""
    return here(table, "variants", tuple(name for name in VARIANTS if name not in SOUND))


def big_steps(table: pd.DataFrame) -> Estimate:
    """DPOP's change on a bigram table at a step size at which DPO stays finite."""
    return here(table, "big steps", ("dpop",))["dpop, bigram"]


MEASURES = {
    measure.__name__: measure
    for measure in (
        equation_2_gap,
        share_lowered,
        slope_gap,
        dpo_one_edit,
        dpo_all_edited,
        dpo_prefix,
        dpo_later,
        dpop_one_edit,
        dpop_later,
        dpop_unseen,
        ipo_against_dpo,
        slic_one_edit,
        by_beta,
        by_lambda,
        by_small_lambda,
        sound_variants,
        unsound_variants,
        big_steps,
    )
}

study = Study(
    question=__doc__,
    presets=PRESETS,
    parts=parts,
    figures={f.__name__: f for f in (holding, closed_form)},
    claims={},
    # The transformer is trained in single precision; another machine's rounding grows.
    tolerance={"atol": 0.1, "rtol": 0.1},
)

if __name__ == "__main__":
    main(study, __file__)
