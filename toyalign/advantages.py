"""From rewards to advantages: what a response is compared with.

The functions take rewards [run, group, response], a group being a prompt with its N responses, and
the expected reward of the policy that drew them, [run, group, 1], which a toy problem knows; they
return advantages [run, group, response].
"""

from collections.abc import Callable

from torch import Tensor

_EPSILON = 1e-4  # TRL's, added to the standard deviation

Advantage = Callable[[Tensor, Tensor], Tensor]


def raw(rewards: Tensor, expected: Tensor) -> Tensor:
    """The reward itself: unbiased, and as noisy as can be."""
    return rewards


def baseline(rewards: Tensor, expected: Tensor) -> Tensor:
    """R − E[R]: unbiased, since the baseline does not look at the sample (Williams 1992)."""
    return rewards - expected


def mean_centred(rewards: Tensor, expected: Tensor) -> Tensor:
    """R − mean of the group, the sample itself included, as in Dr. GRPO (arXiv 2503.20783)."""
    return rewards - rewards.mean(-1, keepdim=True)


def rloo(rewards: Tensor, expected: Tensor) -> Tensor:
    """R_i − mean of the other responses of the group (Ahmadian et al. 2024, arXiv 2402.14740).

    Equals `mean_centred` times N/(N − 1); a group of one has nothing to compare and gets 0.
    """
    count = rewards.shape[-1]
    return mean_centred(rewards, expected) * (count / max(1, count - 1))


def group_normalised(rewards: Tensor, expected: Tensor) -> Tensor:
    """(R − mean) / (standard deviation + 1e-4) of the group, as in GRPO (arXiv 2402.03300).

    The standard deviation is the sample's, with N − 1; a group of one gets 0.
    """
    centred = mean_centred(rewards, expected)
    variance = (centred**2).sum(-1, keepdim=True) / max(1, rewards.shape[-1] - 1)
    return centred / (variance.sqrt() + _EPSILON)


ADVANTAGES: dict[str, Advantage] = {
    "raw": raw,
    "baseline": baseline,
    "mean": mean_centred,
    "rloo": rloo,
    "group": group_normalised,
}


def exact_advantages(name: str, rewards: Tensor, weight: Tensor) -> Tensor:
    """The advantages of all arms at once, for groups so large that their mean is the expectation.

    Args:
        name: a key of `ADVANTAGES`; baseline, mean and rloo coincide in this limit.
        rewards: [run, context, action].
        weight: [run, context, action], probability of each response, summing to 1.
    """
    if name == "raw":
        return rewards.expand_as(weight)
    centred = rewards - (rewards * weight).sum(-1, keepdim=True)
    if name != "group":
        return centred
    variance = (centred**2 * weight).sum(-1, keepdim=True)
    return centred / (variance.sqrt() + _EPSILON)


def best_weights(rewards: Tensor) -> Tensor:
    """N on the best response of each group of N and 0 on the others; ties share it equally.

    Args:
        rewards: [run, group, response].

    Returns:
        Weights of mean 1 over each group, the same shape.
    """
    best = (rewards == rewards.amax(-1, keepdim=True)).to(rewards.dtype)
    return rewards.shape[-1] * best / best.sum(-1, keepdim=True)


def exact_best_weights(rewards: Tensor, weight: Tensor, draws: int) -> Tensor:
    """How likely each arm is to be the best of `draws`, relative to how likely it is to be drawn.

    An arm of reward R is the best with probability F(R)ᴺ − F(R−)ᴺ, F being the distribution of the
    reward; arms of equal reward share it in proportion to their probability.

    Args:
        rewards: [run or 1, context, action].
        weight: [run, context, action], probability of each arm, summing to 1.
        draws: N, the number of responses per prompt.

    Returns:
        [run, context, action]; its mean under `weight` is 1.
    """
    order = rewards.argsort(-1)
    ranked = rewards.gather(-1, order)
    # Row-wise sums in rank order, so that a run rounds alike alone and in a batch.
    below = weight.gather(-1, order.expand_as(weight)).cumsum(-1)
    last = (ranked.unsqueeze(-1) >= ranked.unsqueeze(-2)).sum(-1) - 1  # the end of each tie
    first = (ranked.unsqueeze(-1) > ranked.unsqueeze(-2)).sum(-1) - 1  # the end of the one before
    upto = below.gather(-1, last.expand_as(below)).clamp(max=1)
    before = below.gather(-1, first.clamp(min=0).expand_as(below)) * (first >= 0)
    mass = (upto - before).clamp_min(1e-300 if weight.element_size() == 8 else 1e-30)
    ratio = (upto**draws - before**draws) / mass
    return ratio.new_empty(ratio.shape).scatter_(-1, order.expand_as(ratio), ratio)
