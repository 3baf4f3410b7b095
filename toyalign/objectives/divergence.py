"""Divergences between the policy and a target distribution, from whole next-action distributions.

Notation: π is the policy, q the target; sums run over the actions of one context.
"""

import torch

from toyalign.objectives import objective
from toyalign.shapes import Distribution, Hyper, PerDistribution, over


@objective(
    paper="Hinton et al. 2015 (distillation), arXiv 1503.02531",
    equation="the soft-target cross-entropy of section 2, less the target's entropy",
    expects={"log_probs": "up"},
)
def forward_kl(log_probs: Distribution, target_log_probs: Distribution) -> PerDistribution:
    """Cover the target: the expected log-loss on its samples. SFT in the limit of infinite data.

    L = KL(q‖π) = Σ q·(log q − log π)

    Shapes: [run, row, (token,) action] to [run, row(, token)]; nats.
    Gradient: on the logits π − q, so mass moves at once to wherever the target has it, however
    rare it is under the policy: mode covering.
    Limits: 0 at π = q; target entries of probability 0 cost nothing.
    """
    target = target_log_probs.exp()
    return (torch.xlogy(target, target) - target * log_probs).sum(-1)


@objective(
    paper="Gu et al. 2023 (MiniLLM), arXiv 2306.08543",
    equation="1",
    expects={"log_probs": "either"},
)
def reverse_kl(log_probs: Distribution, target_log_probs: Distribution) -> PerDistribution:
    """Avoid what the target avoids: what KL-regularised on-policy RL minimises, up to a constant.

    L = KL(π‖q) = Σ π·(log π − log q)

    Shapes: [run, row, (token,) action] to [run, row(, token)]; nats.
    Gradient: on the logits π·(log(π/q) − KL): every move is scaled by the policy's own
    probability, so a rare action is found slowly, if at all: mode seeking.
    Limits: 0 at π = q; infinite where the target has probability 0 and the policy has not.
    """
    return (log_probs.exp() * (log_probs - target_log_probs)).sum(-1)


@objective(
    paper="Agarwal et al. 2023 (generalised knowledge distillation), arXiv 2306.13649",
    equation="the generalised Jensen-Shannon divergence of section 2",
    expects={"log_probs": "either"},
)
def jsd(
    log_probs: Distribution, target_log_probs: Distribution, *, mixture: Hyper = 0.5
) -> PerDistribution:
    """Between covering and avoiding: both divergences, taken to a mixture.

    L = b·KL(q‖M) + (1 − b)·KL(π‖M),  M = b·q + (1 − b)·π,  0 < b < 1

    Shapes: [run, row, (token,) action] to [run, row(, token)]; nats, bounded by the entropy of b.
    Gradient: small steps towards b, of either kind in between.
    Limits: 0 at π = q, and at b = 0 and b = 1 for every π: those ends are not the two KLs, though
    some libraries define them so. Divided by b its gradient tends to forward KL's as b → 0.
    """
    share = over(mixture, log_probs)
    log_mean = torch.logaddexp(target_log_probs + share.log(), log_probs + (1 - share).log())
    target = target_log_probs.exp()
    covering = (torch.xlogy(target, target) - target * log_mean).sum(-1)
    avoiding = (log_probs.exp() * (log_probs - log_mean)).sum(-1)
    share = over(mixture, covering)
    return share * covering + (1 - share) * avoiding
