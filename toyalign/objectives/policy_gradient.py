"""Losses on the policy's own responses: policy gradients.

Notation: A is the advantage of a response; ρ = π / π_old is a token's ratio to the policy that drew
it, continued by its tangent where its logarithm passes 30; [·] marks what is held constant when the
gradient is taken. Every ratio loss has the policy gradient at ρ = 1, and none cuts off the side
that must be pulled back.
"""

import torch
from torch import Tensor

from toyalign.objectives import objective
from toyalign.shapes import Count, Hyper, Mask, Row, Token, over, tame_exp

_CLIP_TIE = "at a ratio on the edge of the clip the gradient is still the policy gradient's"


def _clipped(
    token_logps: Tensor, old_token_logps: Tensor, advantages: Tensor, low: Hyper, high: Hyper
) -> Tensor:
    """−min(ρ·A, clip(ρ, 1 − low, 1 + high)·A), [run, row, token]."""
    ratio, gain = tame_exp(token_logps - old_token_logps), advantages.unsqueeze(-1)
    near = ratio.clamp(1 - over(low, ratio), 1 + over(high, ratio))
    return -torch.minimum(ratio * gain, near * gain)


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
    paper="Ahmadian et al. 2024 (RLOO), arXiv 2402.14740",
    equation="the REINFORCE estimator with a leave-one-out baseline",
    sources=("policy",),
    advantage="rloo",
    expects={"logps": "either"},
)
def rloo(logps: Row, advantages: Row) -> Row:
    """REINFORCE, each response compared with the mean of the others to the same prompt.

    L = −A · log π(y|x),  A = R − mean of the other responses' R

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; A in units of reward.
    Gradient: −A, as in `reinforce`; the baseline does not look at the sample, so its mean over the
    policy's own responses is the gradient of the expected reward, whatever the group's size.
    Limits: right only on fresh responses of the policy itself. Groups of one teach nothing.
    Departure 1: TRL's trainer of this name clips a ratio of whole responses to the policy that drew
    them, as PPO does for tokens; on fresh responses that has the same gradient. Departure 2: the
    paper's reward pays for leaving the reference; that part is `reinforce_kl`.
    """
    return reinforce(logps, advantages)


@objective(
    paper="Schulman et al. 2017, arXiv 1707.06347",
    equation="7",
    sources=("policy", "reference"),
    tie=_CLIP_TIE,
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
    return _clipped(token_logps, old_token_logps, advantages, clip, clip)


@objective(
    paper="Shao et al. 2024 (DeepSeekMath), arXiv 2402.03300",
    equation="3, with the estimator of the divergence of 4",
    sources=("policy", "reference"),
    advantage="group",
    tie=_CLIP_TIE,
    expects={"token_logps": "either"},
)
def grpo(
    token_logps: Token,
    old_token_logps: Token,
    ref_token_logps: Token,
    mask: Mask,
    lengths: Count,
    advantages: Row,
    *,
    clip: Hyper = 0.2,
    beta: Hyper = 0.04,
) -> Row:
    """PPO without a value model: rewards are compared within a group, and a KL term is in the loss.

    L = (1/m) · Σ_t (−min(ρ·A, clip(ρ, 1 − c, 1 + c)·A) + β·(exp(d) − d − 1)),
    d = log π_ref(token) − log π(token)

    Shapes: tokens and mask [run, row, token], in nats; A, lengths and the value [run, row].
    Gradient: −A/m on each token at ρ = 1, cut off outside the clip as in `ppo_clip`; and
    β·(1 − exp(d))/m, towards the reference.
    Limits: a token of a long response counts less, so long failures are punished less than short
    ones; dividing A by the group's standard deviation favours prompts that are nearly always or
    nearly never solved. `dr_grpo` undoes both.
    Departure 1: β = 0.04 is the paper's, c = 0.2 PPO's; TRL sets β = 0 unless told otherwise.
    """
    gap = ref_token_logps - token_logps
    drift = over(beta, gap) * (tame_exp(gap) - gap - 1)
    values = _clipped(token_logps, old_token_logps, advantages, clip, clip) + drift
    return (values * mask).sum(-1) / lengths


@objective(
    paper="Liu et al. 2025 (GRPO done right), arXiv 2503.20783",
    equation="the objective of Dr. GRPO",
    sources=("policy", "reference"),
    advantage="mean",
    tie=_CLIP_TIE,
    expects={"token_logps": "either"},
)
def dr_grpo(
    token_logps: Token,
    old_token_logps: Token,
    mask: Mask,
    advantages: Row,
    *,
    clip: Hyper = 0.2,
    max_length: Hyper = 1.0,
) -> Row:
    """GRPO without the two divisions that bias it: by the length and by the standard deviation.

    L = (1/M) · Σ_t −min(ρ·A, clip(ρ, 1 − c, 1 + c)·A),  A = R − mean of the group

    Shapes: tokens and mask [run, row, token], in nats; A and the value [run, row]; M in tokens.
    Gradient: −A/M on each token at ρ = 1, the same in short and long responses; zero outside the
    clip on the far side, as in `ppo_clip`.
    Limits: M, the longest response allowed, is a constant and only sets the scale; in a problem
    whose responses are single actions it is 1. A group's mean includes the response itself, so with
    N of them the gradient at ρ = 1 and M = 1 is (N − 1)/N times that of `rloo`.
    """
    values = _clipped(token_logps, old_token_logps, advantages, clip, clip)
    return (values * mask).sum(-1) / max_length


@objective(
    paper="Yu et al. 2025 (DAPO), arXiv 2503.14476",
    equation="the objective of the paper's method, with its token-level loss",
    sources=("policy", "reference"),
    advantage="group",
    tie=_CLIP_TIE,
    expects={"token_logps": "either"},
)
def dapo(
    token_logps: Token,
    old_token_logps: Token,
    advantages: Row,
    *,
    clip_low: Hyper = 0.2,
    clip_high: Hyper = 0.28,
) -> Token:
    """GRPO with more room above than below, a mean over all tokens, and no KL term.

    L = −min(ρ·A, clip(ρ, 1 − c_low, 1 + c_high)·A)

    Shapes: tokens [run, row, token], in nats, A [run, row]; one value per token, so the caller
    takes the mean over all tokens of the batch.
    Gradient: −A at ρ = 1; zero once ρ > 1 + c_high for A > 0 or ρ < 1 − c_low for A < 0. The wider
    upper side lets rare tokens rise farther before they are cut off.
    Limits: c_low = c_high is `ppo_clip` with the group's advantages.
    Departure 1: the paper also drops groups whose responses all succeed or all fail, which have
    A = 0 here, and shapes the reward of overlong ones; both belong to the data.
    """
    return _clipped(token_logps, old_token_logps, advantages, clip_low, clip_high)


@objective(
    paper="Chen et al. 2025 (MiniMax-M1), arXiv 2506.13585",
    equation="the CISPO objective, without a lower bound on the weight, as in the experiments",
    sources=("policy", "reference"),
    advantage="group",
    expects={"token_logps": "either"},
)
def cispo(
    token_logps: Token, old_token_logps: Token, advantages: Row, *, clip_high: Hyper = 4.0
) -> Token:
    """REINFORCE on reused responses, with a bounded correction and no token cut off.

    L = −[min(ρ, 1 + c)] · A · l_t

    Shapes: tokens [run, row, token], in nats, A [run, row]; one value per token, so the caller
    takes the mean over all tokens of the batch.
    Gradient: −min(ρ, 1 + c)·A: the policy gradient at ρ = 1 and the importance-weighted one up to
    1 + c; beyond, where `ppo_clip` falls silent, the pull stays and only stops growing.
    Limits: c → ∞ is the importance-weighted policy gradient. Nothing holds the policy near the one
    that drew the sample. Smooth, since the weight is held constant.
    Departure 1: the paper prints no size for c. TRL's epsilon_high is the bound itself, not what is
    added to 1; its documentation recommends 5, after Khatri et al. 2025, arXiv 2510.13786, which
    is c = 4 here.
    """
    ratio = tame_exp(token_logps - old_token_logps).detach()
    weight = torch.minimum(ratio, 1 + over(clip_high, ratio))
    return -weight * advantages.unsqueeze(-1) * token_logps
