"""What becomes of given answers while a model is trained: scored token by token, time and again."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from toyalign.llm.batches import TEXTS, Collator
from toyalign.llm.data import Example
from toyalign.llm.logprobs import CHUNK, score

Rows = list[tuple[Tensor, ...]]


def score_rows(
    model: Any, examples: Sequence[Example], pad: int, *, batch: int = 32, chunk: int = CHUNK
) -> Rows:
    """Log-probability of every token of every response, without gradient and noise.

    Args:
        model: a causal language model, possibly wrapped.
        examples: from `llm.data.prepare`.
        pad: the padding token.
        batch: examples that are scored at once, neighbours in length.
        chunk: tokens whose logits exist at once.

    Returns:
        For each example a tensor [token] per response, nats, on the CPU.
    """
    training, first = model.training, next(model.parameters())
    order = sorted(range(len(examples)), key=lambda place: _length(examples[place]))
    # Made beforehand: small tensors that are kept from between large ones stop the allocator from
    # using their memory again.
    kind = torch.promote_types(first.dtype, torch.float32)
    found: Rows = [
        tuple(torch.empty(len(response), dtype=kind) for response in example.responses)
        for example in examples
    ]
    model.eval()
    try:
        for at in range(0, len(order), batch):
            places = order[at : at + batch]
            inputs = Collator(pad).texts([examples[place] for place in places])
            texts = (inputs[name].to(first.device) for name in TEXTS)
            with torch.no_grad():
                scores, _ = score(model, *texts, chunk=chunk, entropy=False)
            inside = inputs["completion_mask"][:, 1:].bool()
            for text, (logps, mask) in enumerate(zip(scores.logps.cpu(), inside, strict=True)):
                side, row = divmod(text, len(places))
                found[places[row]][side].copy_(logps[mask])
    finally:
        model.train(training)
    return found


def _length(example: Example) -> int:
    return len(example.prompt) + max(len(response) for response in example.responses)


class Watch(TrainerCallback):
    """Score sets of examples at given steps of a training, before the first and after the last too.

    Args:
        sets: examples by the name of their set, for example "trained" and "unseen".
        pad: the padding token.
        steps: at which to look, counted in gradient steps; the first and last are always looked at.
        batch: examples that are scored at once.

    `found[name][step]` is what `score_rows` returns. Hand it to a trainer as `callbacks=[watch]`.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Example]],
        pad: int,
        steps: Collection[int] = (),
        batch: int = 64,
    ):
        self.sets, self.pad, self.steps, self.batch = sets, pad, set(steps), batch
        self.found: dict[str, dict[int, Rows]] = {name: {} for name in sets}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The start."""
        self._look(given["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """A step that was asked for."""
        if state.global_step in self.steps:
            self._look(given["model"], state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The end."""
        self._look(given["model"], state.global_step)

    def _look(self, model: Any, step: int) -> None:
        for name, examples in self.sets.items():
            if step not in self.found[name]:
                self.found[name][step] = score_rows(model, examples, self.pad, batch=self.batch)
