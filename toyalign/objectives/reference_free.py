"""Losses on pairs that need no reference policy."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.objectives.links import power_link
from toyalign.shapes import Count, Hyper, Mask, Row, Token


@objective(
    paper="Welleck et al. 2020, arXiv 1908.04319",
    equation="4 and 6",
    expects={"chosen_logps": "up", "rejected_token_logps": "down"},
)
def unlikelihood(
    chosen_logps: Row,
    chosen_lengths: Count,
    rejected_token_logps: Token,
    rejected_mask: Mask,
    rejected_lengths: Count,
    *,
    alpha: Hyper = 1.0,
) -> Row:
    """Raise the chosen answer and make every token of the rejected one unlikely.

    L = −log π(y_w|x) / m_w − (α / m_l) · Σ_t log(1 − p_t),  p_t the probability of token t of y_l

    Shapes: tokens and mask [run, row, token], the rest [run, row]; nats per token.
    Gradient: a constant pull up on the chosen answer; on each rejected token a push down of
    α·p/(1 − p), strong where the token is likely and vanishing where it is rare.
    Limits: no reference and no margin, so it never stops. At p = 1 the value is −log ε instead of
    infinity, ε being the float's spacing, and the gradient stays finite.
    Departure 1: both sums are averaged over their answer's tokens, so that α weighs them alike.
    """
    epsilon = torch.finfo(rejected_token_logps.dtype).eps
    push = -torch.log(-torch.expm1(rejected_token_logps - epsilon))
    pull = -chosen_logps / chosen_lengths
    return pull + alpha * (push * rejected_mask).sum(-1) / rejected_lengths


@objective(
    paper="Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425",
    equation="the rank calibration loss with its regulariser",
    tie="where log π(y_w) − log π(y_l) = δ, the hinge's derivative is 0",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def slic(chosen_logps: Row, rejected_logps: Row, *, delta: Hyper = 1.0, lam: Hyper = 0.1) -> Row:
    """Part the answers by a fixed margin and keep raising the chosen one a little.

    L = max(0, δ − log π(y_w|x) + log π(y_l|x)) − λ·log π(y_w|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; δ in nats.
    Gradient: 1 up on the chosen and 1 down on the rejected answer until they lie δ apart, then
    nothing; all the while λ up on the chosen one.
    Limits: λ = 0 stops at the margin, wherever both answers have got to by then.
    Departure 1: the paper's regulariser raises the target of supervised training; here that is the
    chosen answer, as in the comparison of Meng et al. 2024 (SimPO, arXiv 2405.14734). Departure 2:
    the paper's λ was not confirmed.
    """
    return torch.relu(delta - chosen_logps + rejected_logps) - lam * chosen_logps


@objective(
    paper="Meng et al. 2024 (SimPO), arXiv 2405.14734",
    equation="the SimPO objective",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def simpo(
    chosen_logps: Row,
    rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    beta: Hyper = 2.0,
    gamma: Hyper = 1.0,
) -> Row:
    """Make the average token of the chosen answer likelier than that of the rejected, by a margin.

    L = −log σ(β·(A_w − A_l) − γ),  A = log π(y|x) / m

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: up on the chosen answer by (β/m_w)·σ(−u), down on the rejected one by (β/m_l)·σ(−u),
    u being what stands inside σ. The shorter answer moves more.
    Limits: no reference holds the policy; only the difference counts, so both may fall.
    Smooth everywhere.
    Departure 1: γ is the margin itself, as in the paper and in TRL's `simpo_gamma`; the authors'
    script asks for γ/β (`gamma_beta_ratio`). Departure 2: the paper tunes β from 2 to 10 by model.
    """
    chosen, rejected = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths
    return -logsigmoid(beta * (chosen - rejected) - gamma)


@objective(
    paper="Xu et al. 2024 (CPO), arXiv 2401.08417",
    equation="3 for the preference, plus the likelihood of the chosen answer",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def cpo(
    chosen_logps: Row,
    rejected_logps: Row,
    chosen_lengths: Count,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 1.0,
) -> Row:
    """DPO without a reference, and supervised training on the chosen answer.

    L = −log σ(β·(S_w − S_l)) − α·S_w/m_w,  S = log π(y|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: β·σ(−u) up on the chosen and down on the rejected answer, u being what stands inside
    σ, and a constant pull of α/m_w up on the chosen one, so that it need not fall.
    Limits: as DPO under a uniform reference, apart from the pull. Smooth everywhere.
    Departure 1: the likelihood is averaged over the tokens of the answer. The paper prints the sum,
    −log π(y_w|x); TRL averages over all tokens of the batch.
    """
    return -logsigmoid(beta * (chosen_logps - rejected_logps)) - alpha * (
        chosen_logps / chosen_lengths
    )


@objective(
    paper="Hong et al. 2024 (ORPO), arXiv 2403.07691",
    equation="7 for the odds ratio, plus the likelihood of the chosen answer",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def orpo(
    chosen_logps: Row,
    rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    lam: Hyper = 0.1,
) -> Row:
    """Supervised training on the chosen answer, with a say for the ratio of the two odds.

    L = −A_w − λ·log σ(o_w − o_l),  A = log π(y|x) / m,  o = A − log(1 − e^A)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: 1/m_w up on the chosen answer; besides, λ·σ(o_l − o_w)/m up on the chosen and down on
    the rejected answer, divided by 1 − e^A of that answer.
    Limits: λ = 0 is `sft`. At e^A = 1 the odds stand at 1/ε instead of infinity, ε being the
    float's spacing, and the gradient stays finite.
    Departure 1: TRL's likelihood term covers the prompt as well; here, as in LLaMA-Factory, it is
    that of the answer.
    """
    chosen, rejected = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths
    return -chosen - lam * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(log_prob: Tensor) -> Tensor:
    """log(p/(1 − p)) from log p, finite at p = 1."""
    below_one = log_prob.clamp(max=0) - torch.finfo(log_prob.dtype).eps
    return log_prob - torch.log(-torch.expm1(below_one))


@objective(
    paper="Gupta et al. 2025 (AlphaPO), arXiv 2501.03884",
    equation="the loss of SimPO with the α-shaped reward",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def alphapo(
    chosen_logps: Row,
    rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    beta: Hyper = 2.5,
    gamma: Hyper = 0.1,
    alpha: Hyper = 0.25,
) -> Row:
    """SimPO with a bent reward: the less likely an answer, the more each nat counts.

    L = −log σ(β·(q_w − q_l) − γ),  q = (1 − e^(−α·A))/α,  A = log π(y|x) / m

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: SimPO's, times e^(−α·A) on each answer. For α > 0 the less likely answer of a pair,
    as a rule the rejected one, moves more.
    Limits: α = 0 is `simpo`. Smooth everywhere.
    Departure 1: from α·A = −30 nats on the exponential goes on as its tangent.
    """
    chosen = power_link(chosen_logps / chosen_lengths, -alpha)
    rejected = power_link(rejected_logps / rejected_lengths, -alpha)
    return -logsigmoid(beta * (chosen - rejected) - gamma)
