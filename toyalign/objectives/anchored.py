"""Losses on pairs that hold each answer to the reference for itself, not only the margin.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens; h = r_w − r_l is the margin. S_w is the log-probability of the chosen response
and m_w its length.
"""

import torch
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.objectives.pairwise import margin
from toyalign.shapes import Column, Count, Hyper, Row


@objective(
    paper="Pal et al. 2024 (Smaug), arXiv 2402.13228v2",
    equation="3 of version 2",
    tie="at r_w = 0, where training starts, the penalty's derivative is 0: step one is DPO's",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def dpop(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.3,
    lam: Hyper = 50.0,
) -> Row:
    """DPO that pays whenever the chosen answer falls below the reference.

    L = −log σ(β·(h − λ·max(0, −r_w)))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's while r_w ≥ 0; below, the pull on the chosen answer is 1 + λ times that on the
    rejected one. Both fade together, so the protection stays λ times the push.
    Limits: λ = 0 is DPO. Where DPO would lower the chosen total, small steps hold it at the
    reference. Step sizes must be chosen for (1 + λ)·β.
    Departure 1: version 1 of the paper bracketed the formula otherwise; this is version 2, with
    the penalty inside σ and inside β.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    penalty = torch.relu(ref_chosen_logps - chosen_logps)
    return -logsigmoid(beta * (h - lam * penalty))


@objective(
    paper="Xie et al. 2024 (MinorDPO), arXiv 2408.09834",
    equation="the loss of section 3",
    tie="at r_l = 0, where training starts, the clamp's derivative is 1: step one is DPO's",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def minor_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """DPO that stops pressing the rejected answer once it lies below the reference.

    L = −log σ(β·r_w − β·max(0, r_l))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's while r_l ≥ 0; below, nothing pushes the rejected answer and the chosen one
    rises alone, with β·σ(−β·r_w).
    Limits: equals DPO for r_l ≥ 0, and lies above it for r_l < 0.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = (rejected_logps - ref_rejected_logps).clamp(min=0)
    return -logsigmoid(beta * (chosen - rejected))


@objective(
    paper="Chen et al. 2024 (NCA), arXiv 2402.05369",
    equation="the NCA loss, for two responses and a hard label",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def nca(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.01,
) -> Row:
    """Tell both answers from noise, each for itself, the chosen one being signal more often.

    L = −log σ(β·r_w) − ½·log σ(−β·r_w) − ½·log σ(−β·r_l)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen answer with β·(σ(−β·r_w) − ½·σ(β·r_w)), which is β/4 at the start,
    zero at r_w = log 2/β (69 nats by default) and reversed beyond it; down on the rejected one with
    ½·β·σ(β·r_l), fading as it falls.
    Limits: the chosen answer comes to rest, the rejected one is pushed down without end. A falling
    chosen answer is pulled back whatever the rejected one does. `infonca` is its sibling that sees
    only the margin. Smooth everywhere.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    noise = logsigmoid(-beta * chosen) + logsigmoid(-beta * rejected)
    return -logsigmoid(beta * chosen) - noise / 2


@objective(
    paper="Jung et al. 2024 (BCO), arXiv 2404.04656",
    equation="the BCO loss, for pairs",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def bco(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    mean_log_ratio: Column,
    *,
    beta: Hyper = 0.01,
) -> Row:
    """Classify each answer as chosen or rejected by its own reward, about the mean reward.

    L = −log σ(β·r_w − δ) − log σ(−(β·r_l − δ)),  δ = β·(mean of r over all answers), a constant

    Shapes: [run, row], the mean log-ratio [run, 1]; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen answer with β·σ(δ − β·r_w), down on the rejected one with
    β·σ(β·r_l − δ); each fades by itself as its answer is classified with more confidence.
    Limits: an upper bound of `dpo`. Smooth everywhere.
    Departure 1: the paper's δ is a moving average over steps; here it is the mean over the data of
    the step. TRL 1.16 has δ = 0.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    shift = beta * mean_log_ratio.detach()
    return -logsigmoid(beta * chosen - shift) - logsigmoid(shift - beta * rejected)


@objective(
    paper="Wu et al. 2024 (SPPO), arXiv 2405.00675",
    equation="4.7, for the two answers of a pair",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def sppo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.001,
    win: Hyper = 1.0,
    scale: Hyper = 0.5,
) -> Row:
    """Bring each answer's log-ratio to what its probability of winning says.

    L = s·[(r_w − (p − ½)/β)² + (r_l − (½ − p)/β)²],  p the chosen answer's probability of winning

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats, the targets as well.
    Gradient: proportional to each answer's distance from its own target, ±500 nats by default;
    reversed beyond it, by design.
    Limits: each answer has a finite optimum of its own, far away for a small β; p = ½ asks both to
    stay at the reference. Smooth everywhere.
    Departure 1: one p for all pairs, and the rejected answer's is 1 − p; the paper has a preference
    model estimate each. Departure 2: TRL's `sppo_hard` leaves out the ½, which is s = 1.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    target = (win - 0.5) / beta
    return scale * ((chosen - target) ** 2 + (rejected + target) ** 2)


@objective(
    paper="D'Oosterlinck et al. 2024 (APO), arXiv 2408.06266",
    equation="7",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def apo_zero(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """Raise the chosen and lower the rejected answer, each while it is near the reference.

    L = 1 − σ(β·r_w) + σ(β·r_l)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: up on the chosen answer with β·σ(β·r_w)·σ(−β·r_w), down on the rejected one likewise:
    β/4 at the start, fading in either direction.
    Limits: meant for chosen answers that are better than what the policy writes. An answer far on
    the wrong side is given up. Smooth everywhere.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


@objective(
    paper="D'Oosterlinck et al. 2024 (APO), arXiv 2408.06266",
    equation="8",
    exceptions={
        "direction": "it is meant to lower the chosen answer too, and does so wherever |r_w| < |h| "
        "(D'Oosterlinck et al. 2024, arXiv 2408.06266)",
    },
    expects={"chosen_logps": "either", "rejected_logps": "down"},
)
def apo_down(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """Lower both answers, the rejected one more.

    L = σ(β·r_w) + 1 − σ(β·h)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: with d(x) = σ(x)·σ(−x), down on the rejected answer with β·d(β·h); on the chosen one
    the same size up and β·d(β·r_w) down, which cancel at the start.
    Limits: meant for chosen answers that are worse than what the policy writes. Both terms fade far
    from the reference. Smooth everywhere.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return torch.sigmoid(beta * (chosen_logps - ref_chosen_logps)) + torch.sigmoid(-beta * h)


@objective(
    paper="Xiao et al. 2024 (Cal-DPO), arXiv 2412.14516",
    equation="the Cal-DPO loss: the contrastive term and the calibration of both rewards",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def cal_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.001,
    weight: Hyper = 1.0,
) -> Row:
    """DPO whose rewards are also brought to the scale of the true ones, +½ and −½.

    L = −log σ(h) + w·[(r_w − 1/(2β))² + (r_l + 1/(2β))²],  no β in the first term

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats, the targets as well.
    Gradient: that of `sppo` with s = w on each answer, and DPO's with β = 1, which hardly counts
    beside it: ±1000 against ±½ at the start.
    Limits: w = 0 is `dpo` with β = 1. Both answers have a target of their own, 500 nats from the
    reference by default. Smooth everywhere.
    Departure 1: β and w are one setting of several: of the authors' scripts one has w = 1 and
    β = 0.1, another w = 0.5, β = 0.001 and squares averaged over the batch.
    """
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    calibration = (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
    return -logsigmoid(chosen - rejected) + weight * calibration


@objective(
    paper="Pang et al. 2024 (iterative reasoning preference optimisation), arXiv 2404.19733",
    equation="the DPO+NLL loss",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def dpo_nll(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_lengths: Count,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 1.0,
) -> Row:
    """DPO and, beside it, SFT on the chosen answer.

    L = −log σ(β·h) − α·S_w/m_w

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: DPO's, and α/m_w more up on the chosen answer, a push that does not fade.
    Limits: α = 0 is `dpo`. The chosen answer rises even where its rejected partner drags it down,
    up to certainty. Smooth everywhere.
    Departure 1: TRL's `["sigmoid", "sft"]` takes the mean of the second term over all tokens of the
    batch, which counts long answers more; the paper's form, one mean per answer, is used here.
    Known as RPO too, a name that several other losses share.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta * h) - alpha * chosen_logps / chosen_lengths


@objective(
    paper="Melnyk et al. 2024 (AOT), arXiv 2406.05882",
    equation="the unpaired loss, with the logistic function",
    tie="equal log-ratios are ranked in the order of their rows; at the start all orders agree",
    exceptions={
        "rows": "the loss compares two sorted batches, so that what a row is compared with depends "
        "on all others (Melnyk et al. 2024, arXiv 2406.05882)",
    },
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def aot_unpaired(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    *,
    beta: Hyper = 0.01,
) -> Row:
    """Lift the chosen answers' log-ratios above the rejected ones' as distributions, rank by rank.

    L_i = −log σ(β·(r_w,(i) − r_l,(i))),  each side sorted by itself

    Shapes: all [run, row], row i the i-th smallest; log-probabilities summed over tokens, in nats.
    Gradient: up on the i-th lowest chosen and down on the i-th lowest rejected answer with
    β·σ(−β·(r_w,(i) − r_l,(i))).
    Limits: one row is `dpo`. Which answers belong together as a pair does not matter, so they may
    come from different prompts. It needs all rows of a batch at once and counts them alike.
    Departure 1: TRL 0.24 calls this one `aot_pair`; TRL 1.16's names are the paper's.
    """
    chosen = (chosen_logps - ref_chosen_logps).sort(dim=1, stable=True).values
    rejected = (rejected_logps - ref_rejected_logps).sort(dim=1, stable=True).values
    return -logsigmoid(beta * (chosen - rejected))


@objective(
    paper="Xie et al. 2024 (XPO), arXiv 2405.21046",
    equation="the loss of the algorithm: DPO with the exploration bonus",
    sources=("policy", "reference", "fixed"),
    expects={"chosen_logps": "up", "rejected_logps": "down", "logps": "down"},
)
def xpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    logps: Row,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 1e-5,
) -> Row:
    """Online DPO that moves away from what the reference writes, to find what it does not.

    L = −log σ(β·h) + α·log π(y|x),  y a response of the reference

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: DPO's, and α down on the reference's response, a push that does not fade.
    Limits: α = 0 is `dpo`. The bonus has no lower bound, so α must stay far below β. Smooth
    everywhere.
    Departure 1: y is a further response; in TRL it is the one half of each pair that the reference
    wrote. Departure 2: α is TRL's; the oat library has 5·10⁻⁶.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta * h) + alpha * logps
