"""Who judges a response: a function of the user's, or a reward model."""

from collections.abc import Sequence

import torch

from toyalign.errors import ToyalignError
from toyalign.llm.loading import from_pretrained
from toyalign.llm.online import Reward
from toyalign.registry import load_from_file

_BATCH = 32  # texts that a reward model reads at once


def load_reward(which: str) -> Reward:
    """A reward from `path/to/file.py:function`, or a reward model from a folder or a hub name.

    Raises:
        ToyalignError: in one line, if there is no such function or model, or the model gives more
            than one number.
    """
    return load_from_file(which) if ".py:" in which else RewardModel(which)


class RewardModel:
    """A sequence classifier with one output, which reads the prompt and the completion after it.

    Args:
        name: what `from_pretrained` takes.

    Raises:
        ToyalignError: if there is no such model, or it gives more than one number.
    """

    def __init__(self, name: str):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.model = from_pretrained(AutoModelForSequenceClassification, name)
        self.tokenizer = from_pretrained(AutoTokenizer, name)
        if self.model.config.num_labels != 1:
            raise ToyalignError(
                f"a reward model gives one number, and {name!r} gives "
                f"{self.model.config.num_labels}"
            )
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model.eval().requires_grad_(False)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The model's number for each completion."""
        if torch.cuda.is_available():  # by now every process has chosen its own device
            self.model.cuda()
        texts = [prompt + end for prompt, end in zip(prompts, completions, strict=True)]
        begun = self.tokenizer.bos_token and texts[0].startswith(self.tokenizer.bos_token)
        found: list[float] = []
        for at in range(0, len(texts), _BATCH):
            read = self.tokenizer(texts[at : at + _BATCH], return_tensors="pt", padding=True,
                                  add_special_tokens=not begun)  # fmt: skip
            read.pop("token_type_ids", None)
            with torch.no_grad():
                logits = self.model(**read.to(self.model.device)).logits
            found += logits[:, 0].float().tolist()
        return found
