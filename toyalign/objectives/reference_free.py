"""Losses on pairs that need no reference policy."""

import torch

from toyalign.objectives import objective
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
