"""Losses on the policy's own responses: policy gradients."""

import torch

from toyalign.objectives import objective
from toyalign.shapes import Hyper, Row, Token, over


@objective(
    paper="Williams 1992, Machine Learning 8",
    equation="the REINFORCE update with a baseline",
    sources=("policy",),
    expects={"logps": "either"},
)
def reinforce(logps: Row, advantages: Row) -> Row:
    """Raise what turned out better than expected and lower what turned out worse.

    L = −A · log π(y|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; A in units of reward.
    Gradient: −A; its mean over the policy's own responses is the gradient of the expected reward.
    Limits: right only on fresh responses of the policy itself; it has no correction for stale
    ones. An answer the policy never gives is never found. The value is not a distance to anything.
    """
    return -advantages * logps


@objective(
    paper="Ziegler et al. 2019, arXiv 1909.08593",
    equation="2, with the penalty in the reward",
    sources=("policy",),
    expects={"logps": "either"},
)
def reinforce_kl(logps: Row, ref_logps: Row, advantages: Row, *, beta: Hyper = 0.1) -> Row:
    """REINFORCE whose reward pays for leaving the reference.

    L = −(A − β·r)·log π(y|x),  r = log π(y|x) − log π_ref(y|x), held constant

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; A and β in reward.
    Gradient: −(A − β·r); its mean over the policy's responses is the gradient of
    E[R] − β·KL(π‖π_ref), a reverse KL to the tilted reference π_ref·exp(R/β)/Z.
    Limits: β = 0 is `reinforce`. Right only on fresh responses of the policy itself.
    """
    penalty = beta * (logps - ref_logps).detach()
    return -(advantages - penalty) * logps


@objective(
    paper="Schulman et al. 2017, arXiv 1707.06347",
    equation="7",
    sources=("policy", "reference"),
    tie="at a ratio of exactly 1 ± clip the gradient is still the policy gradient's",
    expects={"token_logps": "either"},
)
def ppo_clip(
    token_logps: Token, old_token_logps: Token, advantages: Row, *, clip: Hyper = 0.2
) -> Token:
    """Policy gradient on reused responses, which stops where the policy has moved far enough.

    L = −min(ρ·A, clip(ρ, 1 − c, 1 + c)·A),  ρ = π(token) / π_old(token)

    Shapes: tokens [run, row, token], in nats, A [run, row], in units of reward; one value per
    token, so the caller takes the token mean.
    Gradient: −A at ρ = 1, the policy gradient; zero once ρ > 1 + c for A > 0 or ρ < 1 − c for
    A < 0. It never vanishes on the side that must be pulled back.
    Limits: c → ∞ is the importance-weighted policy gradient. No value loss and no KL term.
    """
    ratio = (token_logps - old_token_logps).exp()
    gain, width = advantages.unsqueeze(-1), over(clip, ratio)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - width, 1 + width) * gain)
