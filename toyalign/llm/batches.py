"""Examples to padded tensors: what the model reads, and which of the texts belong together.

A batch is a set of texts, [text, token], and for every side of a row the number of its text. So two
pairs can share a response, and a response is scored once. Some losses look at a row a second time:
behind a quality prompt (`prompted_`), or with a response to another prompt (`other_`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.llm.data import Example

LOOKS = ("", "prompted_", "other_")
TEXTS = ("input_ids", "attention_mask", "completion_mask")
Batch = dict[str, Any]


def seen(example: Example, look: str) -> Example:
    """The example as one of `LOOKS` sees it."""
    if look == "prompted_":
        return replace(example, prompt=example.behind)
    if look == "other_":
        return replace(example, responses=(example.other,))
    return example


def looks_of(example: Example) -> list[str]:
    """Those of `LOOKS` for which an example has what is to be seen."""
    known = {"": True, "prompted_": example.behind, "other_": example.other}
    return [look for look in LOOKS if known[look]]


@dataclass(frozen=True)
class Collator:
    """Examples to a batch: of pairs all chosen responses come first, then all rejected ones.

    Args:
        pad: the padding token.
    """

    pad: int

    def __call__(self, examples: Iterable[Example]) -> Batch:
        """The batch.

        `input_ids`, `attention_mask`, `completion_mask` [text, token], with a look before the name
        where examples have one, and `ref_logps` [text, token − 1] where the reference's scores are
        known; `sides` [side, row], numbers of texts; `weights`, `numbers` [row]; `data`, what came
        with the rows, [row] by name; `examples` themselves, where they are prompts.
        """
        rows = list(examples)
        first, batch = rows[0], Batch()
        for look in looks_of(first):
            part = self.texts([seen(row, look) for row in rows])
            batch |= {f"{look}{name}": value for name, value in part.items()}
            if look in first.scores:
                mask = part["completion_mask"][:, 1:].bool()
                given = [row.scores[look][side] for side, row in _texts(rows, look)]
                batch[f"{look}ref_logps"] = (
                    given[0].new_zeros(mask.shape).masked_scatter(mask, torch.cat(given))
                )
        sides = max(1, len(first.responses))
        batch["sides"] = torch.arange(sides * len(rows)).view(sides, len(rows))
        batch["weights"] = torch.ones(len(rows))
        batch["numbers"] = torch.tensor([row.number for row in rows])
        if not first.responses:
            batch["examples"] = rows  # to which the policy responds
        batch["data"] = {
            name: torch.tensor([row.values[name] for row in rows]) for name in first.values
        }
        return batch

    def texts(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """Prompt and response of every text, padded on the right: `TEXTS`, [text, token] each."""
        texts = [
            (row.prompt, row.responses[side] if row.responses else ())
            for side, row in _texts(rows, "")
        ]
        long = max(len(prompt) + len(response) for prompt, response in texts)
        ids = torch.full((len(texts), long), self.pad)
        attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
        for place, (prompt, response) in enumerate(texts):
            count = len(prompt) + len(response)
            ids[place, :count] = torch.tensor(prompt + response)
            attention[place, :count] = 1
            completion[place, len(prompt) : count] = 1
        return dict(zip(TEXTS, (ids, attention, completion), strict=True))


def _texts(rows: Sequence[Example], look: str) -> list[tuple[int, Example]]:
    """Side and row of every text, in the order of a batch."""
    sides = 1 if look == "other_" else max(1, len(rows[0].responses))
    return [(side, row) for side in range(sides) for row in rows]


def with_others(examples: Sequence[Example]) -> list[Example]:
    """Every example with a response to another prompt: the next row's that has another one.

    KTO estimates its KL divergence from these (Ethayarajh et al. 2024, arXiv 2402.01306). They go
    by the rows of the data, not of the batch, so accumulation and processes do not change them.

    Raises:
        ToyalignError: if all rows have the same prompt.
    """
    if len({example.prompt for example in examples}) < 2:
        raise ToyalignError(
            "an estimate of the KL divergence needs responses to other prompts, and all rows have "
            "the same prompt"
        )
    made, count = [], len(examples)
    for place, example in enumerate(examples):
        step = 1
        while examples[(place + step) % count].prompt == example.prompt:
            step += 1
        made.append(replace(example, other=examples[(place + step) % count].responses[0]))
    return made


def pad_of(tokenizer: Any) -> int:
    """The padding token of a tokenizer; its end of sequence if it has none."""
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if found is None else found)


__all__ = ["LOOKS", "TEXTS", "Batch", "Collator", "looks_of", "pad_of", "seen", "with_others"]
