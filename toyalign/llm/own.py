"""The policy's own responses over the steps of a training: written, used again, saved with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Batch
from toyalign.llm.online import OnPolicy, collect
from toyalign.objectives import Objective


class Own(TrainerCallback):
    """Collections of responses, a new one every `fresh_every` steps.

    Args:
        settings: how responses are collected and judged.
        card: the objective.
        tokenizer: of the model.
        seed: of the training; a collection depends on it, on the step and on the process.
        process: number of this process.

    `kept` are the batches of the collection that is in use.
    """

    def __init__(
        self,
        settings: OnPolicy,
        card: Objective,
        tokenizer: Any,
        seed: int,
        process: int,
    ):
        self.settings, self._card, self._tokenizer = settings, card, tokenizer
        self._seed, self._process = seed, process
        self.kept: list[Batch] = []

    def batches(
        self, model: Any, asked: Sequence[Batch], step: int
    ) -> tuple[list[Batch], dict[str, float]]:
        """The batches of a step, and what to log if they were written now.

        Args:
            model: the policy, possibly wrapped.
            asked: batches of prompts.
            step: number of the gradient step, from 0.
        """
        if step % self.settings.fresh_every == 0 or len(self.kept) < len(asked):
            made = [self.written(model, batch, (step, part)) for part, batch in enumerate(asked)]
            self.kept = [batch for batch, _ in made]
            said = [found for _, found in made]
            return self.kept, {k: sum(f[k] for f in said) / len(said) for k in said[0]}
        return self.kept[: len(asked)], {}

    def written(
        self, model: Any, asked: Batch, place: tuple[int, int]
    ) -> tuple[Batch, dict[str, float]]:
        """Responses to a batch of prompts, and what to log about them.

        Args:
            model: the policy, possibly wrapped.
            asked: a batch of prompts.
            place: the step and the part of it; the draws depend on them.
        """
        root = np.random.SeedSequence([self._seed, self._process, *place])
        seed = int(root.generate_state(1)[0])
        prompts = asked["examples"]
        return collect(model, prompts, self._card, self.settings, self._tokenizer, seed)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keep what later steps are to use again beside the checkpoint."""
        if self.settings.fresh_every > 1:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.kept, folder / self._name)

    def restore(self, checkpoint: Path) -> None:
        """Go on with the responses that were kept beside a checkpoint.

        Raises:
            ToyalignError: if there are none.
        """
        if self.settings.fresh_every > 1:
            if not (checkpoint / self._name).is_file():
                raise ToyalignError(f"{checkpoint} has no responses of the policy to go on with")
            self.kept = torch.load(checkpoint / self._name, map_location="cpu", weights_only=True)

    @property
    def _name(self) -> str:
        return f"responses-{self._process}.pt"
