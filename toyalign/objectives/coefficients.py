"""What a loss asks for: the push on each log-probability, before any policy has its say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.glossary import SIDES, parts
from toyalign.objectives import Objective

Array = NDArray[np.float64]

_REST = (0.7, 0.3)  # how the actions that were not taken share what the taken one leaves


def compose(
    needs: Sequence[str],
    tokens: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    data: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors of a signature, all made from the log-probabilities of tokens.

    What belongs together agrees: a response's total is the sum of its tokens, its length counts its
    mask, and in a whole distribution the first action is the token that was taken.

    Args:
        needs: glossary names.
        tokens: [run, row, token] by prefix and side ("", "chosen_", "ref_chosen_", ...), nats.
        masks: [run, row, token] by side.
        data: all other tensors, by name.
    """
    made = {}
    for name in needs:
        prefix, side, quantity = parts(name)
        if name in data:
            made[name] = data[name]
        elif quantity == "mask":
            made[name] = masks[side]
        elif quantity == "lengths":
            made[name] = masks[side].sum(-1)
        elif quantity == "logps":
            made[name] = (tokens[prefix + side] * masks[side]).sum(-1)
        elif quantity == "log_probs":
            made[name] = _distribution(tokens[prefix + side])
        else:
            made[name] = tokens[prefix + side]
    return made


def _distribution(taken: Tensor) -> Tensor:
    """Whole distributions over three actions, of which the first one has these log-probabilities.

    Args:
        taken: [run, row, token], below 0.

    Returns:
        [run, row, token, action].
    """
    left = torch.log(-torch.expm1(taken))
    shares = taken.new_tensor(_REST).log()
    return torch.cat([taken.unsqueeze(-1), left.unsqueeze(-1) + shares], -1)


def push_on_tokens(
    card: Objective,
    answers: tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]],
    hyper: Mapping[str, Any],
) -> list[Tensor]:
    """−dL/d(log-probability of each token), whatever names the loss asks for.

    Args:
        card: the objective.
        answers: tokens, masks and data, as `compose` takes them.
        hyper: its hyperparameters.

    Returns:
        [run, row, token] for single responses, the chosen and the rejected ones, in this order;
        zeros where the loss has no such side.
    """
    tokens, masks, data = answers
    leaves = {side: tokens[side].detach().clone().requires_grad_() for side in SIDES}
    loss = card.fn(**compose(card.needs, {**tokens, **leaves}, masks, data), **hyper)
    if loss.ndim == 3:  # a value per token: padding does not count
        side = next(parts(name)[1] for name in card.needs if "token_logps" in name)
        loss = loss * masks[side]
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else -grad
        for leaf, grad in zip(leaves.values(), grads, strict=True)
    ]


def push_on_pair(
    card: Objective,
    chosen_ratio: Array,
    rejected_ratio: Array,
    reference: tuple[float, float],
    hyper: Mapping[str, Any],
) -> tuple[Array, Array]:
    """The push on the chosen and the rejected log-probability at given log-ratios.

    Responses have one token. A loss on single responses sees the chosen one, a loss on labelled
    responses sees both, one after the other.

    Args:
        card: an objective on pairs, labelled responses or demonstrations.
        chosen_ratio: log π/π_ref of the chosen answer, nats, any shape.
        rejected_ratio: the same of the rejected answer.
        reference: log π_ref of the chosen and of the rejected answer, nats.
        hyper: the objective's hyperparameters.

    Raises:
        ToyalignError: for objectives on rewards or whole distributions.
    """
    if card.kind not in ("pairs", "labelled", "demonstrations"):
        raise ToyalignError(f"{card.name} is not a loss on pairs, labels or demonstrations")
    shape = chosen_ratio.shape
    ratios = [torch.from_numpy(np.ravel(r).astype(float)) for r in (chosen_ratio, rejected_ratio)]
    # Every point is a run of one row: a loss that looks at other rows sees none.
    leaves = [ratio.view(-1, 1, 1).requires_grad_() for ratio in ratios]
    tokens = {}
    for side, leaf, start in zip(("chosen_", "rejected_"), leaves, reference, strict=True):
        tokens[side] = leaf + start
        tokens[f"ref_{side}"] = torch.full_like(leaf, start)
        for prefix in ("prompted_", "ref_prompted_"):
            tokens[prefix + side] = tokens[f"ref_{side}"]
    one = torch.ones_like(leaves[0])
    row = one[..., 0].detach()
    data = {"chosen_rewards": row, "rejected_rewards": 0 * row, "labels": row}
    data |= {"kl_estimate": 0 * row, "mean_log_ratio": 0 * row}
    if card.kind == "labelled":
        for prefix in ("", "ref_"):
            both = [tokens[f"{prefix}chosen_"], tokens[f"{prefix}rejected_"]]
            tokens[prefix] = torch.cat(both, 1)
        one = torch.cat([one, one], 1)
        data["labels"] = torch.cat([row, 0 * row], 1)
    elif card.kind == "demonstrations":
        tokens |= {"": tokens["chosen_"], "ref_": tokens["ref_chosen_"]}
    else:  # beside a pair, a response of the reference, which nothing here moves
        tokens |= {"": tokens["ref_chosen_"], "ref_": tokens["ref_chosen_"]}
    masks = {side: one for side in ("", "chosen_", "rejected_")}
    loss = card.fn(**compose(card.needs, tokens, masks, data), **hyper)
    grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    zeros = np.zeros(shape)
    chosen, rejected = (zeros if g is None else -g.numpy().reshape(shape) for g in grads)
    return chosen, rejected
