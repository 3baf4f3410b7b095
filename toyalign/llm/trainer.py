"""A trainer for any loss of the package, or of a user's file, on a language model.

It is `transformers.Trainer` with another loss: resuming, schedules, mixed precision, adapters,
FSDP, DeepSpeed and logging back-ends are inherited through its public hooks and not rewritten.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Batch, Collator, pad_of
from toyalign.llm.checkpoints import Marked, last_whole
from toyalign.llm.data import Example
from toyalign.llm.logged import coefficients, measures
from toyalign.llm.logprobs import CHUNK, Scores, unwrapped
from toyalign.llm.online import OnPolicy
from toyalign.llm.own import Own
from toyalign.llm.reference import scored_beforehand
from toyalign.llm.rows import rows_for
from toyalign.llm.scorer import Scorer
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.plan import settled_view
from toyalign.views import Residual

START = 1e-3  # how far the first loss may lie from its value at policy = reference, relatively


class AlignmentTrainer(Trainer):
    """Train a causal language model with an objective.

    Args:
        model: a model of `transformers` or peft, or what `from_pretrained` takes.
        objective: a registered name, `path/to/file.py:function`, or a function.
        args: training arguments; columns are never removed, whatever they say.
        train_dataset: examples from `llm.data.prepare`, of the objective's kind; prompts, if the
            policy writes its own responses.
        eval_dataset: the same, to be looked at.
        processing_class: the tokenizer.
        hyper: hyperparameters of the objective.
        reference: the frozen reference; if not given, the model without its adapter, or a copy of
            it as it is now. Objectives without a reference need none.
        precompute: a file: score the reference once, keep its scores there and not the reference.
        on_policy: how the policy's own responses are collected and judged.
        view: the residual view's settings, of an objective that has it (`ift`).
        chunk: tokens whose logits exist at once.
        **trainer: further arguments of `transformers.Trainer`.

    Raises:
        ToyalignError: for an unknown objective or hyperparameter, data that has not what the
            objective asks for, or the scores of another reference.

    Rows of a batch weigh alike, over the whole accumulated batch and all processes; the tokens of a
    loss per token likewise. So accumulation and processes change nothing but rounding, unless a
    loss looks at the other rows of its batch (`aot`).
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
        precompute: str | Path | None = None,
        on_policy: OnPolicy | None = None,
        view: Residual | None = None,
        chunk: int = CHUNK,
        **trainer: Any,
    ):
        self.card = card = get_objective(objective)
        self.hyper = card.settings(dict(hyper or {}))
        self.scorer = Scorer(card, settled_view(view, card), chunk)
        sets = [rows_for(card, rows, on_policy) for rows in (train_dataset, eval_dataset) if rows]
        if not sets:
            raise ToyalignError("there are no rows to train on")
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
        super().__init__(
            model=network,
            args=args,
            train_dataset=sets[0],
            eval_dataset=sets[1] if len(sets) > 1 else None,
            processing_class=processing_class,
            data_collator=Collator(pad_of(processing_class)),
            **trainer,
        )
        self.own: Own | None = None
        if on_policy is not None:
            place = self.accelerator.process_index
            self.own = Own(on_policy, card, sets, processing_class, args.seed, place)
            self.add_callback(self.own)
        self.add_callback(Marked)
        if not self.scorer.compares:
            return
        if precompute is not None:
            self._precompute(self.model if reference is None else reference, Path(precompute))
        elif reference is not None or not hasattr(self.model, "disable_adapter"):
            frozen = copy.deepcopy(unwrapped(network)) if reference is None else reference
            frozen.eval().requires_grad_(False)
            self.scorer.reference = self.accelerator.prepare_model(frozen, evaluation_mode=True)

    # --- the loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective's loss, a share of the mean over the whole accumulated batch."""
        tensors, scores = self.scorer.tensors(model, inputs, self.state.global_step)
        values, rows = self.card.fn(**tensors, **self.hyper), inputs["sides"].shape[1]
        if tuple(values.shape[:2]) != (1, rows):
            raise ToyalignError(
                f"{self.card.name} returned shape {list(values.shape)}, but must return one value "
                f"per row, [1, {rows}], or per token: take no mean and no sum"
            )
        weighted, own = self._weighted(values, inputs)
        total = own if num_items_in_batch is None else num_items_in_batch[values.ndim - 2]
        loss = weighted.sum() / total.clamp(min=1)
        if num_items_in_batch is not None:  # processes average their gradients
            loss = loss * self.accelerator.num_processes
        self._note(tensors, inputs, weighted, own, scores, model.training)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _precompute(self, reference: Any, path: Path) -> None:
        """Score all rows with the reference; the first process does it, the others read it."""
        if self.scorer.whole:
            raise ToyalignError(
                f"{self.card.name} needs the reference's whole distributions, which are too large "
                "to be scored beforehand"
            )
        if self.own is not None:
            raise ToyalignError(
                "the policy's own responses cannot be scored before they are written"
            )
        places = {
            "train_dataset": path,
            "eval_dataset": path.with_name(f"{path.stem}-eval{path.suffix}"),
        }
        self.scorer.beforehand = True
        with self.accelerator.main_process_first():
            for name, place in places.items():
                rows = getattr(self, name)
                if rows:
                    scored = scored_beforehand(
                        rows, reference.to(self.args.device), self.processing_class, place,
                        batch=self.args.per_device_train_batch_size, chunk=self.scorer.chunk,
                    )  # fmt: skip
                    setattr(self, name, scored)

    # --- hooks of the trainer

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; True goes on from the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(last_whole(Path(str(self.args.output_dir))))
        if isinstance(resume_from_checkpoint, str) and self.own is not None:
            self.own.restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The micro-batches of a step, and their rows and tokens over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.own is not None and batches:
            batches = self._written(self.own, batches)
        batches = self._with_means(self.model_wrapped, batches)
        first, counts = self.scorer.sides[0], torch.zeros(2, device=device)
        for batch in batches:
            tokens = batch["weights"].unsqueeze(-1) * self.scorer.masks(batch)[first][0]
            counts += torch.stack([batch["weights"].sum(), tokens.sum()])
        return batches, self.accelerator.gather(counts[None]).sum(0)

    def _written(self, own: Own, asked: list[Batch]) -> list[Batch]:
        """The policy's own responses for a step, new ones or those that are to be used again."""
        batches, said = own.batches(self.model_wrapped, asked, self.state.global_step)
        for name, value in said.items():
            self._metrics[name].append(value)
        if said and own.settings.fresh_every > 1:  # who wrote them will be gone
            with torch.no_grad():
                for batch in batches:
                    seen = self._prepare_inputs(batch)
                    batch["old_logps"] = self.scorer.policy(self.model_wrapped, seen)[0].logps
        return batches

    def _with_means(self, model: Any, batches: Sequence[Batch]) -> list[Batch]:
        """The batches on the device, with the means over all rows that the loss asks for."""
        ready: list[Batch] = [self._prepare_inputs(batch) for batch in batches]
        for name in self.scorer.means:
            sums = self.scorer.log_ratios(name, model, ready)
            total, count = self.accelerator.gather(sums[None]).sum(0)
            mean = (total / count).clamp(min=0 if name == "kl_estimate" else None).view(1)
            for batch in ready:
                batch["data"] = {**batch["data"], name: mean}
        return ready

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of an evaluation batch; its metrics are logged as those of training are."""
        if self.own is not None:
            place = (self.state.global_step, int(inputs["numbers"][0]))
            inputs, said = self.own.written(model, inputs, place, evaluate=True)
            for name, value in said.items():
                self._metrics[f"eval_{name}"].append(value)
        (inputs,) = self._with_means(model, [inputs])
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
        inputs: Batch,
        weighted: Tensor,
        own: Tensor,
        scores: Scores,
        training: bool,
    ) -> None:
        """Keep this batch's numbers for the next log; at the very first step, check the loss."""
        mask = inputs["completion_mask"][:, 1:]
        found = measures(tensors, float(self.hyper.get("beta", 1.0)))
        found["entropy"] = float(scores.entropy.sum() / mask.sum())
        if weighted.requires_grad:
            sides = dict(zip(self.scorer.sides, inputs["sides"], strict=True))
            found |= coefficients(weighted, scores.logps, mask, sides)
        for name, value in found.items():
            self._metrics[f"{'' if training else 'eval_'}{name}"].append(value)
        first = training and self.state.global_step == 0 and self.start is None
        if first and self.scorer.compares:
            known = self._at_reference(tensors, inputs)
            said = float(weighted.detach().sum() / own.clamp(min=1))
            self.start = (said, known)
            if abs(said - known) > START * max(1.0, abs(known)):
                warnings.warn(
                    f"{self.card.name} starts at {said:.6g}, but is {known:.6g} where policy = "
                    "reference: the reference is another model, in another precision, or the "
                    "training does not start from it",
                    stacklevel=2,
                )

    def _at_reference(self, tensors: Mapping[str, Tensor], inputs: Batch) -> float:
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
            weighted, own = self._weighted(self.card.fn(**same, **self.hyper), inputs)
        return float(weighted.sum() / own.clamp(min=1))

    def _weighted(self, values: Tensor, inputs: Batch) -> tuple[Tensor, Tensor]:
        """A loss per row or per token times the weights, and what their sum is a mean over."""
        if values.ndim == 3:
            mask = self.scorer.masks(inputs)[self.scorer.sides[0]]
            shares = inputs["weights"][None, :, None] * mask
            return values * shares, shares.sum()
        return values * inputs["weights"], inputs["weights"].sum()


__all__ = ["AlignmentTrainer"]
