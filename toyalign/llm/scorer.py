"""From a batch of texts to the named tensors that a loss asks for, as `scoring` makes the toy's."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from toyalign.errors import ToyalignError
from toyalign.glossary import parts
from toyalign.llm.batches import TEXTS, Batch
from toyalign.llm.logprobs import Scores, score
from toyalign.llm.rows import MEANS, compares, sides_of
from toyalign.llm.views import mixed
from toyalign.objectives import Objective
from toyalign.objectives.coefficients import compose
from toyalign.views import Residual


class Scorer:
    """Makes the tensors of a signature from what policy and reference say of a batch's texts.

    Args:
        card: the objective.
        view: how inputs are mixed, or None.
        chunk: tokens whose logits exist at once.

    `reference` is the frozen model; None stands for the policy without its adapter or, if
    `beforehand`, for scores that came with the batch.
    """

    def __init__(self, card: Objective, view: Residual | None, chunk: int):
        self.card, self.view, self.chunk = card, view, chunk
        self.sides, self.compares = sides_of(card), compares(card)
        self.whole = any(parts(name)[2] == "log_probs" for name in card.needs)
        self.means = [name for name in MEANS if name in card.needs]
        self.reference: nn.Module | None = None
        self.beforehand = False

    def tensors(
        self, model: nn.Module, batch: Batch, step: int = 0
    ) -> tuple[dict[str, Tensor], Scores]:
        """The named tensors, [1, row] or [1, row, token], and the scores of the texts.

        Args:
            model: the policy, possibly wrapped.
            batch: from a `Collator`, with the `MEANS` that are needed in its data.
            step: number of the gradient step, from 0, for a view that changes with it.
        """
        seen = nullcontext() if self.view is None else mixed(
            model, batch, self.view, step, self.chunk
        )  # fmt: skip
        with seen:
            scores, whole = self.policy(model, batch, entropy=True)
        tokens = self.split(scores.logps, batch)
        data: dict[str, Tensor] = {name: value[None] for name, value in batch["data"].items()}
        data |= self._distributions("", whole, batch)
        if any(name.startswith("old_") for name in self.card.needs):
            # A response that is looked at for the first time is looked at by who wrote it.
            old = batch.get("old_logps", scores.logps.detach())
            tokens |= {f"old_{side}": part for side, part in self.split(old, batch).items()}
        with torch.no_grad():
            if self.compares:
                frozen, whole = self.by_reference(model, batch)
                reference = self.split(frozen, batch)
                tokens |= {f"ref_{side}": part for side, part in reference.items()}
                data |= self._distributions("ref_", whole, batch)
            if any(name.startswith("prompted_") for name in self.card.needs):
                behind = {
                    "prompted_": self.policy(model, batch, "prompted_")[0].logps,
                    "ref_prompted_": self.by_reference(model, batch, "prompted_")[0],
                }
                for whose, logps in behind.items():
                    sums = self.split(logps.sum(-1), batch)
                    data |= {f"{whose}{side}logps": part for side, part in sums.items()}
        return compose(self.card.needs, tokens, self.masks(batch), data), scores

    def policy(
        self, model: nn.Module, batch: Batch, look: str = "", entropy: bool = False
    ) -> tuple[Scores, Tensor | None]:
        """What a model says of the texts of one of `batches.LOOKS`."""
        ids, attention, completion = (batch[f"{look}{name}"] for name in TEXTS)
        return score(
            model, ids, attention, completion,
            chunk=self.chunk, entropy=entropy, whole=self.whole and not look,
        )  # fmt: skip

    def by_reference(
        self, model: nn.Module, batch: Batch, look: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """The reference's log-probabilities of tokens, and its whole distributions if needed.

        Raises:
            ToyalignError: if the reference was not kept and did not score these texts.
        """
        if f"{look}ref_logps" in batch:
            return batch[f"{look}ref_logps"], None
        if self.beforehand:
            raise ToyalignError(
                "the reference was scored beforehand and not kept, and these rows were not among "
                "those that it scored: give them to the trainer as eval_dataset"
            )
        if self.reference is not None:
            scores, whole = self.policy(self.reference, batch, look)
        else:
            with _plain(model).disable_adapter():
                scores, whole = self.policy(model, batch, look)
        return scores.logps, whole

    def log_ratios(self, name: str, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
        """Sum and number of the log-ratios that one of `MEANS` is the mean of, [2], a constant.

        KTO's are those of responses to other prompts; the policy's own need no others, since their
        mean log-ratio is an estimate of the divergence as it is.
        """
        sums = torch.zeros(2)
        for batch in batches:
            other = name == "kl_estimate" and "other_input_ids" in batch
            look = "other_" if other else ""
            with torch.no_grad():
                logps = self.policy(model, batch, look)[0].logps
                ratios = (logps - self.by_reference(model, batch, look)[0]).sum(-1)
            sums = sums.to(ratios) + torch.stack([ratios.sum(), ratios.new_tensor(len(ratios))])
        return sums

    def split(self, values: Tensor, batch: Batch) -> dict[str, Tensor]:
        """[text, …] to [1, row, …] by side."""
        return {
            side: values[texts][None]
            for side, texts in zip(self.sides, batch["sides"], strict=True)
        }

    def masks(self, batch: Batch) -> dict[str, Tensor]:
        """1 on the tokens of the responses, [1, row, token − 1] by side."""
        return self.split(batch["completion_mask"][:, 1:].float(), batch)

    def _distributions(self, prefix: str, whole: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        if whole is None:
            return {}
        return {f"{prefix}{s}log_probs": part for s, part in self.split(whole, batch).items()}


def _plain(model: Any) -> Any:
    """The model with its adapter, without what wraps it."""
    while not hasattr(model, "disable_adapter"):
        model = model.module
    return model
