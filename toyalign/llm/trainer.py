"""A trainer for any loss of the package, or of a user's file, on a language model.

It is `transformers.Trainer` with another loss: resuming, schedules, mixed precision, adapters,
FSDP, DeepSpeed and logging back-ends are inherited through its public hooks and not rewritten.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Batch, Collator, pad_of
from toyalign.llm.checkpoints import Marked, forget_marks, last_whole
from toyalign.llm.data import Example
from toyalign.llm.guards import (
    check_adapter,
    check_finite,
    check_fits,
    check_gradient,
    check_weights,
    loss_of,
    without_noise,
)
from toyalign.llm.loading import load
from toyalign.llm.logged import Notes, coefficients, measures
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
        eval_dataset: the same, to be looked at, or several sets by name.
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
        eval_dataset: Sequence[Example] | Mapping[str, Sequence[Example]] | None = None,
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
        self._on_policy, self._notes, self._prefix = on_policy, Notes(), "eval_"
        if precompute is not None and not self.scorer.compares:
            raise ToyalignError(f"{card.name} compares with no reference: there is none to score")
        rows, held_out = rows_for(card, train_dataset, on_policy), self._rows(eval_dataset)
        self._seen: tuple[int, float] | None = None
        self.start: tuple[float, float] | None = None  # the first loss, and what it should be
        network: nn.Module = load(model)[0] if isinstance(model, str) else model
        new_tokens = 0 if on_policy is None else on_policy.max_new_tokens
        sets = [rows, *_each(held_out)]
        for one in (network,) if reference is None else (network, reference):
            check_fits(one, sets, processing_class, new_tokens)
        without_noise(network)
        if args.n_gpu > 1:
            raise ToyalignError(
                f"{args.n_gpu} GPUs and one process: start it with torchrun or accelerate launch, "
                "or let it see one (CUDA_VISIBLE_DEVICES=0)"
            )
        args.remove_unused_columns = False
        if not torch.cuda.is_available():  # torch warns of what it would not use
            args.dataloader_pin_memory = False
        super().__init__(
            model=network,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=processing_class,
            data_collator=Collator(pad_of(processing_class)),
            **trainer,
        )
        self.own: Own | None = None
        if on_policy is not None:
            place = self.accelerator.process_index
            self.own = Own(on_policy, card, processing_class, args.seed, place)
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
        else:
            check_adapter(network)

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
        mask = self.scorer.masks(inputs)[self.scorer.sides[0]]
        values = loss_of(self.card, tensors, self.hyper, mask)
        weighted, own = self._weighted(values, inputs)
        check_finite(self.card.name, self.state.global_step + 1, weighted, scores.logps)
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
        kept = next(reference.parameters()).device
        with self.accelerator.main_process_first(), self.accelerator.autocast():
            for name, place in places.items():
                rows = getattr(self, name)
                if isinstance(rows, dict):
                    raise ToyalignError("scores beforehand are of one eval_dataset, not of several")
                if rows:
                    scored = scored_beforehand(
                        rows, reference.to(self.args.device), self.processing_class, place,
                        precision=self.accelerator.mixed_precision,
                        batch=self.args.per_device_train_batch_size, chunk=self.scorer.chunk,
                    )  # fmt: skip
                    setattr(self, name, scored)
        reference.to(kept)

    def _rows(self, given: Any) -> Any:
        """Rows to be looked at, or several sets of them by name, with what the objective needs."""
        if isinstance(given, Mapping):
            return {name: self._rows(rows) for name, rows in given.items()}
        return rows_for(self.card, given, self._on_policy) if given else None

    # --- hooks of the trainer

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; True goes on from the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole(Path(str(self.args.output_dir)))
        if resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
            if self.own is not None:
                self.own.restore(checkpoint)
            if self.is_world_process_zero():
                forget_marks(checkpoint.parent, int(checkpoint.name.rpartition("-")[2]))
        whence = str(resume_from_checkpoint) if resume_from_checkpoint else None
        found = super().train(whence, trial, ignore_keys_for_eval)
        check_weights(self.model, self.state.global_step)
        return found

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Look at rows that are not trained on, those of the trainer if none are given."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._rows(eval_dataset)
        self._prefix = f"{metric_key_prefix}_"
        found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

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
        with self.accelerator.autocast():  # as they are scored
            batches, said = own.batches(self.model_wrapped, asked, self.state.global_step)
        self._notes.add(said, 1.0)
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
            mean = (total / count).view(1)
            if name == "kl_estimate":  # a divergence is at least 0, its estimate need not be
                mean = mean.clamp(min=0)
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
            with self.accelerator.autocast():
                inputs, said = self.own.written(model, inputs, place)
            self._notes.add(said, 1.0, self._prefix)
        (inputs,) = self._with_means(model, [inputs])
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was noted since the last log.

        Raises:
            ToyalignError: if the gradient was no number, before such weights can be saved.
        """
        if not self.args.fp16:  # which passes over such steps by itself
            check_gradient(self.card.name, self.state.global_step, logs.get("grad_norm", 0.0))
        prefix = self._prefix if any(name.startswith(self._prefix) for name in logs) else ""
        logs |= self._notes.take(prefix, self.accelerator.gather, self.args.device)
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
        found = measures(tensors, float(self.hyper.get("beta", 1.0)), inputs["weights"])
        found["entropy"] = float(scores.entropy.sum() / mask.sum())
        if weighted.requires_grad:
            sides = dict(zip(self.scorer.sides, inputs["sides"], strict=True))
            found |= coefficients(weighted, scores.logps, mask, sides)
        rows = float(inputs["weights"].sum())
        self._notes.add(found, rows, "" if training else self._prefix)
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
        same |= {name: torch.zeros_like(same[name]) for name in self.scorer.means}
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


def _each(held_out: Any) -> list[Sequence[Example]]:
    """Sets of rows one by one, however they were given."""
    if isinstance(held_out, dict):
        return list(held_out.values())
    return [held_out] if held_out else []


__all__ = ["AlignmentTrainer"]
