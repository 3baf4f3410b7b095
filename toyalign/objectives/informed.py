"""Losses on pairs that know more about a pair than who won: rewards, or the policy's own rating.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens; h = r_w − r_l is the margin; R_w and R_l are their rewards.
"""

import torch
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.objectives.pairwise import margin
from toyalign.shapes import Hyper, Row


@objective(
    paper="Chen et al. 2024 (NCA), arXiv 2402.05369",
    equation="the InfoNCA loss, for two responses",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def infonca(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_rewards: Row,
    rejected_rewards: Row,
    *,
    beta: Hyper = 0.01,
    alpha: Hyper = 1.0,
) -> Row:
    """DPO with soft labels: how sure a pair is follows from the gap between its rewards.

    L = −p·log σ(β·h) − (1 − p)·log σ(−β·h),  p = σ((R_w − R_l)/α)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; α in units of reward.
    Gradient: ∓β·(p − σ(β·h)): towards the margin (R_w − R_l)/(α·β), and back from beyond it.
    Limits: α → 0 is `dpo`, with the higher reward chosen whatever the label says. At α = 1 the
    optimum is the policy that maximises E[R] − β·KL(π‖π_ref). Smooth everywhere.
    Departure 1: α is 1 here, which makes p the Bradley-Terry probability; the authors' code has
    α = 10⁻⁴, which makes every label hard.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    p = torch.sigmoid((chosen_rewards - rejected_rewards) / alpha)
    return -p * logsigmoid(beta * h) - (1 - p) * logsigmoid(-beta * h)


@objective(
    paper="Amini et al. 2024 (ODPO), arXiv 2402.10571",
    equation="the ODPO loss, with the logarithm as scaling function",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def offset_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_rewards: Row,
    rejected_rewards: Row,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 1.0,
) -> Row:
    """DPO that asks for a wider margin where the rewards lie further apart.

    L = −log σ(β·h − α·log(R_w − R_l))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; rewards in any unit.
    Gradient: ∓β·σ(α·log(R_w − R_l) − β·h): DPO's direction, stronger for gaps above 1.
    Limits: α = 0 is `dpo`. As there, no pair has a finite optimum: the offset shifts weight between
    pairs. Smooth everywhere.
    Departure 1: a gap below 10⁻⁶, or a chosen answer with the lower reward, counts as 10⁻⁶ and
    hardly teaches; the authors' code takes the logarithm as it is.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    gap = (chosen_rewards - rejected_rewards).clamp(min=1e-6)
    return -logsigmoid(beta * h - alpha * gap.log())


@objective(
    paper="Yu et al. 2024 (Sr-DPO), arXiv 2405.21040",
    equation="12",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def sr_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    prompted_chosen_logps: Row,
    prompted_rejected_logps: Row,
    ref_prompted_chosen_logps: Row,
    ref_prompted_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    lam: Hyper = 0.5,
) -> Row:
    """DPO that asks more of a pair whose answers the prompted policy itself tells apart.

    L = −log σ(β·h − λ·Δ),  Δ = β·h of the same answers after a quality prompt, held constant

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ∓β·σ(λ·Δ − β·h): DPO's direction, stronger where Δ > 0 and weaker where Δ < 0.
    Limits: λ = 0 is `dpo`. Where the prompt changes nothing, as in a world without words, it is DPO
    with (1 − λ)·β and a step 1/(1 − λ) times as large. Smooth everywhere.
    Departure 1: the paper searches λ in 0.1 to 1 and does not say which value its tables use.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = prompted_chosen_logps - ref_prompted_chosen_logps
    rejected = prompted_rejected_logps - ref_prompted_rejected_logps
    delta = beta * (chosen - rejected).detach()
    return -logsigmoid(beta * h - lam * delta)


@objective(
    paper="Yu et al. 2024 (Sr-IPO), arXiv 2405.21040",
    equation="14",
    expects={"chosen_logps": "either", "rejected_logps": "either"},
)
def sr_ipo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    prompted_chosen_logps: Row,
    prompted_rejected_logps: Row,
    ref_prompted_chosen_logps: Row,
    ref_prompted_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    lam: Hyper = 0.5,
) -> Row:
    """IPO with a target that grows with how well the prompted policy tells the answers apart.

    L = (h − λ·Δ − 1/(2β))²,  Δ = β·h of the same answers after a quality prompt, held constant

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: ±2·(h − λ·Δ − 1/(2β)), as in `ipo`, about a target of each pair's own.
    Limits: λ = 0 is `ipo` with τ = β. Smooth everywhere.
    Departure 1: λ as in `sr_dpo`. Departure 2: this is Algorithm 2 as printed; derived from the
    objective that the paper writes, λ would be λ/β.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = prompted_chosen_logps - ref_prompted_chosen_logps
    rejected = prompted_rejected_logps - ref_prompted_rejected_logps
    delta = beta * (chosen - rejected).detach()
    return (h - lam * delta - 1 / (2 * beta)) ** 2
