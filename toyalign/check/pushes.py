"""What a loss asks for: the push on a response, −dL/d(its log-probability).

Positive means that a small step raises the response.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from toyalign.check.subject import Subject
from toyalign.objectives.coefficients import compose
from toyalign.objectives.points import Tensors

LENGTH = 3  # tokens of a response, where it does not matter
REACH = 6.0  # nats: how far from the reference the plane of log-ratios is searched


def pushes(
    subject: Subject,
    ratios: dict[str, Tensor],
    level: float | Tensor = -6.0,
    old: float = 0.0,
    data: Mapping[str, Tensor] | None = None,
    tokens: int = LENGTH,
) -> dict[str, Tensor]:
    """The push on each side's response, [point], all of whose tokens are equally likely.

    Every point is a run of one row, so that a loss which looks at other rows sees none.

    Args:
        subject: the loss.
        ratios: by side, the log-ratio to the reference, nats, [point].
        level: log-probability of the responses under the reference, nats, one or [point].
        old: log-ratio of the policy to the policy that drew the responses, nats.
        data: rewards, advantages, labels, [point]; where missing, what a good response has.
        tokens: tokens of each response.
    """
    sides = list(ratios)
    count = len(next(iter(ratios.values())))
    one = torch.ones(count, 1, dtype=torch.float64)
    masks = {side: one.unsqueeze(-1).expand(count, 1, tokens) for side in ("", *sides)}
    column = 0 * one
    reference = torch.as_tensor(level, dtype=torch.float64).view(-1, 1, 1) / tokens
    reference = reference.expand(count, 1, tokens)
    given = {
        "chosen_rewards": one,
        "rejected_rewards": 0 * one,
        "rewards": one,
        "advantages": one,
        "labels": one,
        "best_weights": one,
        "kl_estimate": column,
        "mean_log_ratio": column,
        **{name: value[:, None] for name, value in (data or {}).items()},
    }

    def build(*leaves: Tensor) -> Tensors:
        made = {}
        for side, leaf in zip(sides, leaves, strict=True):
            made[side] = (leaf / tokens).unsqueeze(-1) + reference
            made[f"ref_{side}"] = reference
            made[f"old_{side}"] = (made[side] - old / tokens).detach()
            for prefix in ("prompted_", "ref_prompted_"):
                made[prefix + side] = made[f"ref_{side}"]
        for prefix in ("", "ref_"):  # beside a pair: a response of the reference
            made.setdefault(prefix, made[f"ref_{sides[0]}"])
        return compose(subject.needs, made, masks, given)

    leaves = [ratio.double()[:, None] for ratio in ratios.values()]
    grads = subject.row_gradients(build, leaves)
    return {side: -grad[:, 0] for side, grad in zip(sides, grads, strict=True)}


def plane(subject: Subject) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The pushes of a pair loss on a grid over the plane of log-ratios.

    Returns:
        By side, the log-ratios of the points and the pushes there, [point] each.
    """
    line = torch.linspace(-REACH, REACH, 25, dtype=torch.float64)
    chosen, rejected = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    at = {"chosen_": chosen, "rejected_": rejected}
    return at, pushes(subject, at, level=-12.0)
