"""Losses on pairs that see only the margin, measured against a reference policy.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens; h = r_w − r_l is the margin. All push both answers with one and the same size,
so both may fall while the loss improves.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.shapes import Hyper, Row, over, tame_exp


def margin(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
) -> Tensor:
    """h = r_w − r_l, in nats."""
    return (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)


@objective(
    paper="Rafailov et al. 2023, arXiv 2305.18290",
    equation="7",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """Make the chosen answer gain more on the reference than the rejected one does.

    L = −log σ(β·h),  h = r_w − r_l

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen and down on the rejected answer with one and the same size,
    β·σ(−β·h): β/2 at the start, fading as the margin grows, never zero.
    Limits: only the difference counts, so both may fall while the loss improves; a pair that is
    always won has no finite optimum. Smooth everywhere.
    """
    return -logsigmoid(
        beta * margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    )


@objective(
    paper="Mitchell 2023 (conservative DPO), a note on DPO with noisy preferences",
    equation="3 of the note",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def cdpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    eps: Hyper = 0.1,
) -> Row:
    """DPO that expects a share of the pairs to be labelled the wrong way round.

    L = −(1 − ε)·log σ(β·h) − ε·log σ(−β·h)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ∓β·(1 − ε − σ(β·h)): DPO's less β·ε, zero at the margin log((1 − ε)/ε)/β (22 nats by
    default), and reversed beyond it, by design.
    Limits: ε = 0 is `dpo`, ε = 1/2 holds every pair at the reference. Smooth everywhere.
    Departure 1: the note leaves ε to the data; 0.1 is a common choice.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -(1 - eps) * logsigmoid(beta * h) - eps * logsigmoid(-beta * h)


@objective(
    paper="Chowdhury et al. 2024 (robust DPO), arXiv 2403.00409",
    equation="the unbiased loss for labels that are flipped with probability ε",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def robust_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    eps: Hyper = 0.1,
) -> Row:
    """DPO corrected for flipped labels: its mean over the flips is DPO's loss on the true labels.

    L = [−(1 − ε)·log σ(β·h) + ε·log σ(−β·h)] / (1 − 2ε),  ε < 1/2

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ∓β·(σ(−β·h) + ε/(1 − 2ε)): DPO's and a constant push, which never stops.
    Limits: ε = 0 is `dpo`. A single pair is driven apart for ever and its loss has no lower bound;
    only the pairs with the other label hold it back. Smooth everywhere.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    right, wrong = -logsigmoid(beta * h), -logsigmoid(-beta * h)
    return ((1 - eps) * right - eps * wrong) / (1 - 2 * eps)


@objective(
    paper="Azar et al. 2023, arXiv 2310.12036",
    equation="17",
    expects={"chosen_logps": "either", "rejected_logps": "either"},
)
def ipo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    tau: Hyper = 0.1,
) -> Row:
    """Bring the margin to a fixed target and hold it there.

    L = (h − 1/(2τ))²,  h = r_w − r_l, with log-probabilities summed over tokens

    Shapes: all [run, row]; log-probabilities in nats, the target 1/(2τ) as well.
    Gradient: ±2·(h − 1/(2τ)), proportional to the distance from the target: large at the start
    (1/τ), zero at the target, and reversed beyond it (chosen down, rejected up), by design.
    Limits: only the difference counts, as in DPO. Smooth everywhere.
    Departure 1: TRL averages the log-probabilities over tokens; that is `ipo_mean` here.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (h - 1 / (2 * tau)) ** 2


@objective(
    paper="Liu et al. 2023 (RSO), arXiv 2309.06657",
    equation="the hinge-norm loss",
    tie="at β·h = 1, far from where training starts, the derivative is 0",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def hinge(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.05,
) -> Row:
    """Push a pair apart with constant force until its margin is wide enough.

    L = max(0, 1 − β·h)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ∓β up to the margin 1/β (20 nats by default), nothing beyond.
    Limits: misordered pairs are pushed no harder than others. Without the reference and its scale
    it is the ranking term of `slic`.
    Departure 1: the paper calls β γ.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return torch.relu(1 - beta * h)


@objective(
    paper="Ji et al. 2024 (EXO), arXiv 2402.00856",
    equation="16, for two responses",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def exo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    eps: Hyper = 1e-3,
) -> Row:
    """Match the pair's preference by the reverse KL divergence, which seeks one mode.

    L = q·log(q/(1 − ε)) + (1 − q)·log((1 − q)/ε),  q = σ(β·h)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ∓β·q·(1 − q)·(log((1 − ε)/ε) − β·h): strongest near q = 1/2, fading for pairs that are
    badly ordered, reversed beyond the margin log((1 − ε)/ε)/β (69 nats by default), by design.
    Limits: a pair that starts far on the wrong side is given up. `cdpo` is the same by the forward
    KL divergence. Smooth everywhere.
    Departure 1: one temperature β, as in TRL; the authors' code has one for the policy and one for
    the target, and smooths by a log-target of −10.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    q, log_q, log_rest = torch.sigmoid(beta * h), logsigmoid(beta * h), logsigmoid(-beta * h)
    share = over(eps, h)
    return q * (log_q - torch.log1p(-share)) + (1 - q) * (log_rest - share.log())


@objective(
    paper="Lu et al. 2024 (DiscoPOP), arXiv 2406.08414",
    equation="5, the log-ratio modulated loss",
    exceptions={
        "direction": "training starts inside the interval in which the loss rises with the margin, "
        "so that its first step favours the rejected answer (Lu et al. 2024, arXiv 2406.08414)",
        "learns": "its valley at a negative margin, −2.4 nats by default, holds pairs that start "
        "at the reference (Lu et al. 2024, arXiv 2406.08414)",
    },
    expects={"chosen_logps": "either", "rejected_logps": "either"},
)
def discopop(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.05,
    tau: Hyper = 0.05,
) -> Row:
    """A loss that a language model found: logistic for misordered pairs, exponential for others.

    L = (1 − g)·(−log σ(z)) + g·e^(−z),  z = β·h,  g = σ(z/τ)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's for pairs far on the wrong side, ∓β·e^(−z) for those on the right side; between
    them, for z from −0.119 to 0.072 with τ = 0.05, it is reversed and the chosen answer falls.
    Limits: the start, z = 0, lies in that interval, and pairs settle at its lower end. Smooth
    everywhere.
    Departure 1: g·e^(−z) is taken as one exponential, e^(log g − z), which cannot overflow for
    τ ≤ 1; for larger τ it goes on as its tangent from an exponent of 30 nats on.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    z = beta * h
    exponential = tame_exp(logsigmoid(z / tau) - z)
    return torch.sigmoid(-z / tau) * -logsigmoid(z) + exponential


@objective(
    paper="Melnyk et al. 2024 (AOT), arXiv 2406.05882",
    equation="the paired loss, with the logistic function",
    tie="equal margins are ranked in the order of their rows; at the start all orders agree",
    exceptions={
        "rows": "the loss compares two sorted batches, so that what a row is compared with depends "
        "on all others (Melnyk et al. 2024, arXiv 2406.05882)",
    },
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def aot(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.01,
) -> Row:
    """Lift the policy's margins above the reference's as distributions: rank by rank, sorted.

    L_i = −log σ(β·(m_(i) − n_(i))),  m = S_w − S_l,  n = the same of the reference, each sorted

    Shapes: all [run, row], row i the i-th smallest; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen and down on the rejected answer of the pair with the i-th smallest
    margin, β·σ(−β·(m_(i) − n_(i))): the largest where the distribution lags most.
    Limits: one row is `dpo`. It needs all rows of a batch at once and counts them alike; two pairs
    may trade places for free.
    """
    ours = (chosen_logps - rejected_logps).sort(dim=1, stable=True).values
    theirs = (ref_chosen_logps - ref_rejected_logps).sort(dim=1, stable=True).values
    return -logsigmoid(beta * (ours - theirs))
