"""Intuitive fine-tuning: likelihood in which a token also answers for what comes after it.

The other half of the method, the temporal residual connection, is no matter of the loss: the card's
view "residual" says that the log-probabilities are computed on inputs mixed with the policy's own
next state (`toyalign.views`).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from toyalign.errors import unknown
from toyalign.objectives import objective
from toyalign.shapes import Hyper, Mask, Row, Token, over

PROPAGATIONS = ("none", "eq21", "alg1", "code")
WEIGHTS = ("live", "constant")
_LEAST = 1e-30  # nats, what the propagated losses of a response add up to at least


@objective(
    paper="Hua et al. 2024 (intuitive fine-tuning), arXiv 2405.11870",
    equation='"code": the released code; "eq21": 21 with its decay; "alg1": Algorithm 1',
    sources=("fixed", "reference"),
    expects={"token_logps": "either"},
    view="residual",
)
def ift(
    token_logps: Token,
    mask: Mask,
    *,
    propagation: str = "code",
    gamma: Hyper = 0.95,
    weights: str = "live",
) -> Row:
    """SFT in which a token weighs by the losses that follow it: what if it leads astray?

    L = (1/N) · Σ_t w_t·l_t,  l_t = −log π(token t), t = 0 … N − 1, with "code"
    w_t = N·D_t / Σ_j D_j,  D_t = Σ_{i ≥ t} γ^(i − t)·l_i  (at γ = 0: w_t = 1);
    with "eq21" w_t = 1 + γ + … + γ^t; with "none" w_t = 1;
    with "alg1" L = Σ_t w_t·l_t,  w_t = γ^(N − 1 − t)·Σ_{i ≥ t} l_i

    Shapes: tokens and mask [run, row, token], in nats; the value [run, row], in nats per token
    ("alg1": nats squared); γ and w pure numbers.
    Gradient: with "none" and "eq21" up, −w_t/N. With "code" the weights are differentiated too, and
    token k gets −(D_k + B_k − L·c_k) / Σ_j D_j, with B_k = Σ_{t ≤ k} γ^(k − t)·l_t and c_k the same
    of ones: it can be negative, so that an easy token after hard ones is unlearned (of two tokens
    at γ = 1 the second, as soon as l_0/l_1 > 1 + √3). With weights "constant" they get no gradient
    and nothing is pushed down. "alg1" pulls harder where more is left to learn.
    Limits: on responses of one token it is SFT ("alg1": its square). With "code" the weights of a
    response sum to N; γ → 0 is not the γ = 0 above but Σ l² / Σ l. Where every token has
    probability one, value and gradient are 0. Smooth elsewhere.
    Departure 1: the paper has the three formulas above, which do not agree: "eq21" weighs late
    tokens most, "code" and "alg1" those with large losses behind them. Departure 2: "eq21" is
    divided by N as the code's loss is. Departure 3: the sign of Algorithm 1's L_t is that of a
    loss. Departure 4: constant weights are ours; upstream always differentiates them. Departure 5:
    positions are counted within the response; upstream's decay also runs over what lies between
    the parts of an answer.
    """
    if propagation not in PROPAGATIONS:
        raise unknown("propagation", propagation, PROPAGATIONS)
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)
    inside = mask.to(token_logps.dtype)
    losses = torch.where(inside > 0, -token_logps, 0.0)
    # The tokens of the response first and in their order: what lies between them is no distance.
    order = (inside == 0).to(torch.uint8).argsort(dim=-1, stable=True)
    losses, inside = losses.gather(-1, order), inside.gather(-1, order)
    each, size = _propagated(losses, inside, propagation, over(gamma, losses))
    if weights == "constant":
        each = each.detach()
    return (each * losses).sum(-1) / size


def _propagated(
    losses: Tensor, inside: Tensor, propagation: str, gamma: Tensor
) -> tuple[Tensor, Tensor | float]:
    """The weight of each token, [run, row, token], and what their sum is divided by."""
    count = inside.sum(-1).clamp(min=1)
    if propagation == "none":
        return inside, count
    if propagation == "eq21":  # the decayed sum runs backwards, over the tokens before
        return decayed_sum(inside.flip(-1), gamma).flip(-1), count
    if propagation == "alg1":
        behind = (inside.flip(-1).cumsum(-1).flip(-1) - 1).clamp(min=0)
        return gamma**behind * decayed_sum(losses, torch.ones_like(gamma)), 1.0
    answer_for = decayed_sum(losses, gamma) * inside
    total = answer_for.sum(-1, keepdim=True).clamp(min=_LEAST)
    weights = count.unsqueeze(-1) * (answer_for / total)
    return torch.where(gamma == 0, inside, weights), count


def decayed_sum(values: Tensor, gamma: Tensor) -> Tensor:
    """Σ_{i ≥ t} γ^(i − t)·x_i along the last axis.

    Sums of 1, 2, 4, … terms, each made of two of the one before: as exact as a triangular matrix
    product, but a response of thousands of tokens needs no matrix, and every row is by itself.

    Args:
        values: [run, row, token].
        gamma: broadcastable over them.
    """
    reach = 1
    while reach < values.shape[-1]:
        values = values + gamma**reach * pad(values[..., reach:], (0, reach))
        reach *= 2
    return values
