"""A trainer for any loss of the package, or of a user's file, on a language model.

It is `transformers.Trainer` with another loss: resuming, schedules, mixed precision, adapters,
FSDP, DeepSpeed and logging back-ends are inherited through its public hooks and not rewritten.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from toyalign.errors import ToyalignError
from toyalign.glossary import parts
from toyalign.llm.data import Collator, Example
from toyalign.llm.logprobs import CHUNK, Scores, score, unwrapped
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.objectives.coefficients import compose

OFFLINE = ("pairs", "demonstrations", "labelled")
SIDES = {"pairs": ("chosen_", "rejected_")}
START = 1e-3  # how far the first loss may lie from its value at policy = reference, relatively


class AlignmentTrainer(Trainer):
    """Train a causal language model with an objective.

    Args:
        model: a model of `transformers` or peft, or what `from_pretrained` takes.
        objective: a registered name, `path/to/file.py:function`, or a function.
        args: training arguments; columns are never removed, whatever they say.
        train_dataset: examples from `llm.data.prepare`, of the objective's kind.
        eval_dataset: the same, to be looked at.
        processing_class: the tokenizer.
        hyper: hyperparameters of the objective.
        reference: the frozen reference; if not given, the model without its adapter, or a copy of
            it as it is now. Objectives without a reference need none.
        chunk: tokens whose logits exist at once.
        **trainer: further arguments of `transformers.Trainer`.

    Raises:
        ToyalignError: for an unknown objective or hyperparameter, data of another kind, or an
            objective that learns from rewards or whole distributions alone.

    Rows of a batch weigh alike, over the whole accumulated batch and all processes; the tokens of a
    loss per token likewise. So accumulation and processes change nothing but rounding.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | nn.Module,
        objective: str | Loss | Objective,
        *,
        args: TrainingArguments,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] | None = None,
        processing_class: Any,
        hyper: Mapping[str, Any] | None = None,
        reference: nn.Module | None = None,
        chunk: int = CHUNK,
        **trainer: Any,
    ):
        self.card = get_objective(objective)
        self.hyper = self.card.settings(dict(hyper or {}))
        if self.card.kind not in OFFLINE:
            raise ToyalignError(
                f"{self.card.name} learns from {self.card.kind}, and this trainer from "
                f"{', '.join(OFFLINE)}"
            )
        self.sides = SIDES.get(self.card.kind, ("",))
        _check(train_dataset, self.card, len(self.sides))
        self._chunk, self._whole = chunk, any(parts(n)[2] == "log_probs" for n in self.card.needs)
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._seen: tuple[int, float] | None = None
        self.start: tuple[float, float] | None = None  # the first loss, and what it should be
        network: nn.Module = (
            AutoModelForCausalLM.from_pretrained(model) if isinstance(model, str) else model
        )
        for module in network.modules():  # noise in one of two passes would look like a log-ratio
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        args.remove_unused_columns = False
        pad = processing_class.pad_token_id
        super().__init__(
            model=network,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=Collator(processing_class.eos_token_id if pad is None else pad),
            **trainer,
        )
        self.reference = self._frozen(reference)

    # --- the loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective's loss, a share of the mean over the whole accumulated batch."""
        tensors, scores = self.tensors(model, inputs)
        values = self.card.fn(**tensors, **self.hyper)
        rows = len(inputs["values"])
        masks = self._masks(inputs)
        mask = masks[self.sides[0]]
        if values.ndim == 3:
            values = values * mask
            own = mask.sum()
        else:
            own = values.new_tensor(float(rows))
        if tuple(values.shape[:2]) != (1, rows):
            raise ToyalignError(
                f"{self.card.name} returned shape {list(values.shape)}, but must return one value "
                f"per row, [1, {rows}], or per token: take no mean and no sum"
            )
        total = own if num_items_in_batch is None else num_items_in_batch[values.ndim - 2]
        loss = values.sum() / total
        if num_items_in_batch is not None:  # processes average their gradients
            loss = loss * self.accelerator.num_processes
        self._note(tensors, masks, values.detach().sum() / own, scores, model.training)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def tensors(
        self, model: nn.Module, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Scores]:
        """The named tensors that the loss asks for, [1, row] or [1, row, token], and the scores."""
        masks = self._masks(inputs)
        scores, whole = self._scored(model, inputs)
        tokens = self._split(scores.logps)
        data: dict[str, Tensor] = {"labels": inputs["values"][None]}
        if self.needs_reference:
            with torch.no_grad():
                frozen, frozen_whole = self._scored_by_reference(model, inputs)
            tokens |= {f"ref_{side}": part for side, part in self._split(frozen.logps).items()}
            data |= self._distributions("ref_", frozen_whole)
            ratios = (scores.logps - frozen.logps).detach().sum(-1)
            data["mean_log_ratio"] = ratios.mean().view(1, 1)
            # KTO's estimate wants responses to other prompts; the batch's own stand in for them.
            data["kl_estimate"] = ratios.mean().clamp(min=0).view(1, 1)
        data |= self._distributions("", whole)
        return compose(self.card.needs, tokens, masks, data), scores

    @property
    def needs_reference(self) -> bool:
        """Whether the objective compares with a frozen reference."""
        compared = ("ref_", "mean_log_ratio", "kl_estimate")
        return any(name.startswith(compared) for name in self.card.needs)

    def _scored(
        self, model: nn.Module, inputs: Mapping[str, Tensor]
    ) -> tuple[Scores, Tensor | None]:
        names = ("input_ids", "attention_mask", "completion_mask")
        return score(model, *(inputs[n] for n in names), chunk=self._chunk, whole=self._whole)

    def _scored_by_reference(
        self, model: nn.Module, inputs: Mapping[str, Tensor]
    ) -> tuple[Scores, Tensor | None]:
        if self.reference is not None:
            return self._scored(self.reference, inputs)
        plain = self.accelerator.unwrap_model(model)
        with plain.disable_adapter():
            return self._scored(model, inputs)

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        """[side · row, token] to [1, row, token] by side."""
        return dict(zip(self.sides, values.unsqueeze(0).chunk(len(self.sides), 1), strict=True))

    def _masks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._split(inputs["completion_mask"][:, 1:].float())

    def _distributions(self, prefix: str, whole: Tensor | None) -> dict[str, Tensor]:
        if whole is None:
            return {}
        return {f"{prefix}{side}log_probs": part for side, part in self._split(whole).items()}

    def _frozen(self, reference: nn.Module | None) -> nn.Module | None:
        """The reference model, prepared; None for the policy without its adapter."""
        if not self.needs_reference:
            return None
        if reference is None:
            if hasattr(self.model, "disable_adapter"):
                return None
            assert self.model is not None
            reference = copy.deepcopy(unwrapped(self.model))
        reference.eval().requires_grad_(False)
        prepared: nn.Module = self.accelerator.prepare_model(reference, evaluation_mode=True)
        return prepared

    # --- hooks of the trainer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and their rows and tokens over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = sum(len(batch["values"]) for batch in batches)
        first = [batch["completion_mask"][: len(batch["values"])] for batch in batches]
        counts = torch.tensor([rows, sum(int(m.sum()) for m in first)], dtype=torch.float32)
        gathered = self.accelerator.gather(counts.to(device).unsqueeze(0))
        return batches, gathered.sum(0)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of an evaluation batch; its metrics are logged as those of training are."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was noted since the last log."""
        prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        for name in [n for n in self._metrics if n.startswith("eval_") == bool(prefix)]:
            values = torch.tensor(self._metrics.pop(name), device=self.args.device)
            logs[name] = self.accelerator.gather(values.mean().unsqueeze(0)).mean().item()
        chosen = logs.get("logps/chosen")
        if chosen is not None and not prefix:
            if self._seen is not None and self.state.global_step > self._seen[0]:
                steps = self.state.global_step - self._seen[0]
                logs["chosen/slope"] = (chosen - self._seen[1]) / steps
            self._seen = (self.state.global_step, chosen)
        super().log(logs, start_time)

    # --- what is noted

    def _note(
        self,
        tensors: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        loss: Tensor,
        scores: Scores,
        training: bool,
    ) -> None:
        """Keep this batch's numbers for the next log; at the very first step, check the loss."""
        found = measures(tensors, float(self.hyper.get("beta", 1.0)))
        found["entropy"] = float(scores.entropy.sum() / sum(m.sum() for m in masks.values()))
        for name, value in found.items():
            self._metrics[f"{'' if training else 'eval_'}{name}"].append(value)
        first = training and self.state.global_step == 0 and self.start is None
        if first and self.needs_reference:
            self.start = (float(loss), self._at_reference(tensors, masks[self.sides[0]]))
            said, known = self.start
            if abs(said - known) > START * max(1.0, abs(known)):
                warnings.warn(
                    f"{self.card.name} starts at {said:.6g}, but is {known:.6g} where policy = "
                    "reference: the reference is another model, in another precision, or the "
                    "training does not start from it",
                    stacklevel=2,
                )

    def _at_reference(self, tensors: Mapping[str, Tensor], mask: Tensor) -> float:
        """The mean loss of these rows if the policy were the reference."""
        same = {
            name: tensors[f"ref_{name}"] if f"ref_{name}" in tensors else value
            for name, value in tensors.items()
        }
        same |= {
            n: torch.zeros_like(v)
            for n, v in same.items()
            if n in ("mean_log_ratio", "kl_estimate")
        }
        with torch.no_grad():
            values = self.card.fn(**same, **self.hyper)
        if values.ndim == 3:
            return float((values * mask).sum() / mask.sum())
        return float(values.mean())


def measures(tensors: Mapping[str, Tensor], beta: float) -> dict[str, float]:
    """What to log of a batch: the field's names, and who fell.

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
    ratios = {}
    for side in ("chosen", "rejected", ""):
        key = f"{side}_logps" if side else "logps"
        logps, frozen = total(key), total(f"ref_{key}")
        if logps is not None:
            found[f"logps/{side}" if side else "logps"] = float(logps.mean())
        if logps is not None and frozen is not None:
            ratios[side] = logps - frozen
            found[f"rewards/{side}" if side else "rewards"] = float(beta * ratios[side].mean())
            found[f"{side}/fell" if side else "fell"] = float((ratios[side] < 0).float().mean())
    if {"chosen", "rejected"} <= set(ratios):
        margin = ratios["chosen"] - ratios["rejected"]
        found["rewards/margins"] = float(beta * margin.mean())
        found["rewards/accuracies"] = float((margin > 0).float().mean())
        both = (ratios["chosen"] < 0) & (ratios["rejected"] < 0)
        found["both/fell"] = float(both.float().mean())
    return found


def _check(examples: Sequence[Example], card: Objective, sides: int) -> None:
    if not examples:
        raise ToyalignError("there are no rows to train on")
    have = len(examples[0].responses)
    if have != sides:
        raise ToyalignError(
            f"{card.name} learns from {card.kind}, with {sides} response(s) per row, and the data "
            f"has {have}"
        )


__all__ = ["AlignmentTrainer", "measures"]
