"""Losses on pairs that compare another function of the likelihood ratio than its logarithm.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens. Where exp(r) would overflow it is continued by its tangent from r = 30 nats on.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.shapes import TAME, Hyper, Row, over, tame_exp


@objective(
    paper="Wang et al. 2023 (f-DPO), arXiv 2309.16240",
    equation="the f-DPO loss with f'(u) of the forward KL divergence",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def f_dpo_forward(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """DPO for a policy that is held to the reference by the forward KL divergence.

    L = −log σ(β·(e^(−r_l) − e^(−r_w)))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen answer with the factor e^(−r_w), down on the rejected one with
    e^(−r_l): violent for an answer that has fallen below the reference, gentle for one above it.
    Limits: the reverse KL divergence gives `dpo`. A rejected answer that falls wins the pair all
    by itself, however low the chosen one is. Smooth everywhere.
    Departure 1: from 30 nats below the reference the exponential goes on as its tangent.
    """
    chosen = -tame_exp(ref_chosen_logps - chosen_logps)
    rejected = -tame_exp(ref_rejected_logps - rejected_logps)
    return -logsigmoid(beta * (chosen - rejected))


@objective(
    paper="Wang et al. 2023 (f-DPO), arXiv 2309.16240",
    equation="the f-DPO loss with f'(u) of the Jensen-Shannon divergence",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def f_dpo_jsd(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """DPO for a policy that is held to the reference by the Jensen-Shannon divergence.

    L = −log σ(β·(log σ(r_w) − log σ(r_l)))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's with the factor σ(−r) on each answer: 1/2 at the start, 1 for an answer far
    below the reference, nothing for one far above it.
    Limits: the reverse KL divergence gives `dpo`. A chosen answer above the reference is worth at
    most log 2, so pairs are won by lowering the rejected one. Smooth everywhere.
    """
    chosen = logsigmoid(chosen_logps - ref_chosen_logps)
    rejected = logsigmoid(rejected_logps - ref_rejected_logps)
    return -logsigmoid(beta * (chosen - rejected))


@objective(
    paper="Wang et al. 2023 (f-DPO), arXiv 2309.16240",
    equation="the f-DPO loss with f'(u) of the α-divergence",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def f_dpo_alpha(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 0.5,
) -> Row:
    """DPO for a policy that is held to the reference by an α-divergence.

    L = −log σ(β·(f(r_w) − f(r_l))),  f(r) = (e^((a − 1)·r) − 1)/(a − 1)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's with the factor e^((a − 1)·r) on each answer: for a < 1 stronger below the
    reference than above it.
    Limits: a = 1 is `dpo` (the reverse KL divergence), a = 0 is `f_dpo_forward`. Smooth everywhere.
    Departure 1: a is TRL 1.16's; the paper's α, and TRL 0.24's, is 1 − a, and at 1/2 the two agree.
    Departure 2: from an exponent of 30 nats on it goes on as its tangent.
    """
    chosen = power_link(chosen_logps - ref_chosen_logps, alpha - 1)
    rejected = power_link(rejected_logps - ref_rejected_logps, alpha - 1)
    return -logsigmoid(beta * (chosen - rejected))


def power_link(x: Tensor, power: Hyper) -> Tensor:
    """(e^(power·x) − 1)/power and, at power 0, its limit x; the exponential tamed.

    Args:
        x: [run, row], nats.
        power: a number, or one per run.
    """
    k = over(power, x)
    flat = k == 0
    k = torch.where(flat, 1, k)
    near = (k * x).clamp(max=TAME)
    # tame_exp(kx) − 1, without the rounding of the difference where kx is small
    above = torch.expm1(near) + near.exp() * (k * x - near)
    return torch.where(flat, x, above / k)


@objective(
    paper="Huang et al. 2024 (χPO), arXiv 2407.13399",
    equation="Algorithm 1",
    tie="beyond the clip, |z| > 2·R_max, the derivative is 0; on its edge that of the inside",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def chi_po(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.05,
    r_max: Hyper = 1.0,
) -> Row:
    """DPO with the ratio added to its logarithm, which makes overshooting expensive.

    L = −log σ(clip(z, ±2·R_max)),  z = β·(f(r_w) − f(r_l)),  f(r) = e^r + r

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; R_max as the rewards.
    Gradient: DPO's with the factor 1 + e^r on each answer: 2 at the start, 1 far below the
    reference. Once |z| exceeds 2·R_max nothing moves, also where the pair is badly misordered.
    Limits: z reaches its target at a small r_w, since e^r soon outgrows r: that is the χ²
    divergence's hold on the policy.
    Departure 1: R_max, the bound on the rewards, is 1 here, which fits rewards between 0 and 1;
    oxRL's `chipo.py` has no clip, which is what a large R_max gives. Departure 2: from r = 30 nats
    on the exponential goes on as its tangent, far beyond any clip.
    """
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    z = beta * (tame_exp(chosen) + chosen - (tame_exp(rejected) + rejected))
    edge = over(2 * r_max, z)
    return -logsigmoid(torch.clamp(z, -edge, edge))
