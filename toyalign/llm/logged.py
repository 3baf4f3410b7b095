"""What is logged of a batch: the field's names, and what nobody logs."""

from collections.abc import Mapping

import torch
from torch import Tensor


def measures(tensors: Mapping[str, Tensor], beta: float) -> dict[str, float]:
    """The field's names, who fell, and the mass that left both answers.

    Args:
        tensors: what the loss was given.
        beta: by which log-ratios are multiplied to be called rewards.
    """

    def total(name: str) -> Tensor | None:
        if name in tensors:
            return tensors[name].detach()
        per_token = tensors.get(name.replace("logps", "token_logps"))
        return None if per_token is None else per_token.detach().sum(-1)

    found: dict[str, float] = {}
    ratios, lost = {}, {}
    for side in ("chosen", "rejected", ""):
        key = f"{side}_logps" if side else "logps"
        logps, frozen = total(key), total(f"ref_{key}")
        if logps is not None:
            found[f"logps/{side}" if side else "logps"] = float(logps.mean())
        if logps is not None and frozen is not None:
            ratios[side] = logps - frozen
            lost[side] = frozen.exp() - logps.exp()
            found[f"rewards/{side}" if side else "rewards"] = float(beta * ratios[side].mean())
            found[f"{side}/fell" if side else "fell"] = float((ratios[side] < 0).float().mean())
    if {"chosen", "rejected"} <= set(ratios):
        margin = ratios["chosen"] - ratios["rejected"]
        found["rewards/margins"] = float(beta * margin.mean())
        found["rewards/accuracies"] = float((margin > 0).float().mean())
        both = (ratios["chosen"] < 0) & (ratios["rejected"] < 0)
        found["both/fell"] = float(both.float().mean())
        found["mass_to_neither"] = float((lost["chosen"] + lost["rejected"]).mean())
    return found


def coefficients(
    values: Tensor, logps: Tensor, mask: Tensor, sides: Mapping[str, Tensor]
) -> dict[str, float]:
    """The push on the responses, −dL/d(log-probability) per nat, before any network has its say.

    Args:
        values: the loss, of any shape.
        logps: [text, token], that it was made from.
        mask: [text, token], 1 on the tokens of responses.
        sides: numbers of texts by side, as "chosen_".
    """
    (grad,) = torch.autograd.grad(values.sum(), logps, retain_graph=True, allow_unused=True)
    if grad is None:
        return {}
    push = -(grad * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    found = {
        f"coefficients/{side.rstrip('_') or 'mean'}": float(push[texts].mean())
        for side, texts in sides.items()
    }
    return {**found, "coefficients/largest": float(push.abs().max())}
