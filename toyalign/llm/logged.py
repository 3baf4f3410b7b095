"""What is logged of a batch: the field's names, and what nobody logs."""

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_LARGEST = "largest"  # the end of a name of which the largest value counts, and no mean


class Notes:
    """Numbers of batches, kept until they are logged as means over rows.

    `kept` holds, by prefix ("" or that of an evaluation) and name, a sum and the rows it is over.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)

    def add(self, found: Mapping[str, float], rows: float, prefix: str = "") -> None:
        """Keep what was found of some rows."""
        for name, value in found.items():
            total, count = self.kept[prefix].get(name, (0.0, 0.0))
            if name.endswith(_LARGEST):
                self.kept[prefix][name] = (max(total, value), 1.0)
            else:
                self.kept[prefix][name] = (total + value * rows, count + rows)

    def take(
        self, prefix: str, gather: Callable[[Tensor], Tensor], device: torch.device
    ) -> dict[str, float]:
        """The means over all rows and processes, which are forgotten here.

        Args:
            prefix: of the names.
            gather: stacks a tensor [1, …] of all processes, [process, …].
            device: on which processes talk.
        """
        kept = self.kept.pop(prefix, {})
        if not kept:
            return {}
        sums = gather(torch.tensor([list(kept.values())], device=device))
        means = sums[..., 0].sum(0) / sums[..., 1].sum(0).clamp(min=1e-12)
        largest = sums[..., 0].amax(0)
        return {
            f"{prefix}{name}": (largest if name.endswith(_LARGEST) else means)[place].item()
            for place, name in enumerate(kept)
        }


def measures(tensors: Mapping[str, Tensor], beta: float, weights: Tensor) -> dict[str, float]:
    """The field's names, who fell, and the mass that left both answers.

    Args:
        tensors: what the loss was given.
        beta: by which log-ratios are multiplied to be called rewards.
        weights: [row]; rows without weight teach nothing and do not count.
    """
    share = weights / weights.sum().clamp(min=1e-12)

    def mean(values: Tensor) -> float:
        return float((values * share).sum())

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
            found[f"logps/{side}" if side else "logps"] = mean(logps)
        if logps is not None and frozen is not None:
            ratios[side] = logps - frozen
            lost[side] = frozen.exp() - logps.exp()
            found[f"rewards/{side}" if side else "rewards"] = beta * mean(ratios[side])
            found[f"{side}/fell" if side else "fell"] = mean((ratios[side] < 0).float())
    if {"chosen", "rejected"} <= set(ratios):
        margin = ratios["chosen"] - ratios["rejected"]
        found["rewards/margins"] = beta * mean(margin)
        found["rewards/accuracies"] = mean((margin > 0).float())
        both = (ratios["chosen"] < 0) & (ratios["rejected"] < 0)
        found["both/fell"] = mean(both.float())
        found["mass_to_neither"] = mean(lost["chosen"] + lost["rejected"])
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
