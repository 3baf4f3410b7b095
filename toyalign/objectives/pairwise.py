"""Losses on pairs, measured against a reference policy.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens; h = r_w − r_l is the margin.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.shapes import Count, Hyper, Row


def _margin(
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
        beta * _margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    )


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
    Gradient: ∓2·(h − 1/(2τ)), proportional to the distance from the target: large at the start
    (1/τ), zero at the target, and reversed beyond it (chosen down, rejected up), by design.
    Limits: only the difference counts, as in DPO. Smooth everywhere.
    Departure 1: TRL averages the log-probabilities over tokens; that is `ipo_mean` here.
    """
    margin = _margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (margin - 1 / (2 * tau)) ** 2


@objective(
    paper="Azar et al. 2023, arXiv 2310.12036, with the token average of TRL's DPOTrainer",
    equation="17",
    expects={"chosen_logps": "either", "rejected_logps": "either"},
)
def ipo_mean(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    tau: Hyper = 0.1,
) -> Row:
    """IPO on log-ratios averaged over the tokens of each answer.

    L = (r_w/m_w − r_l/m_l − 1/(2τ))²

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: as in `ipo`, divided by the length of each answer.
    Limits: the same τ asks for a target m times larger than under `ipo`. Smooth everywhere.
    """
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen - rejected - 1 / (2 * tau)) ** 2


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
    Limits: λ = 0 is DPO. With small steps the chosen total is held at the reference, not raised;
    step sizes must be chosen for (1 + λ)·β.
    Departure 1: version 1 of the paper bracketed the formula otherwise; this is version 2, with
    the penalty inside σ and inside β.
    """
    margin = _margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    penalty = torch.relu(ref_chosen_logps - chosen_logps)
    return -logsigmoid(beta * (margin - lam * penalty))


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
