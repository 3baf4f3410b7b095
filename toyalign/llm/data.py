"""Preference data tokenised, checked row by row before anything is trained.

Prompt and completion are tokenised each by itself, so that no token spans the boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from toyalign.errors import ToyalignError, unknown
from toyalign.llm.formats import COLUMNS, texts_of, values_of

_SHOWN = 5  # bad rows that an error names


@dataclass(frozen=True)
class Example:
    """A row of data, tokenised.

    Args:
        prompt: tokens of the prompt.
        responses: tokens of the response, or of the chosen and the rejected one, with their end.
        values: what came with the row, by its name in the glossary: `labels`, `rewards`, …
        number: of the row in the data, from 1.
        text: the prompt as the model reads it, for reward functions.
        columns: the row itself where it is a prompt, for reward functions.
        behind: tokens of the prompt with a quality prompt before it, where one was asked for.
        other: tokens of a response to another prompt, for an estimate of the KL divergence.
        scores: the reference's log-probability of every token, [token] for each response, by the
            way the example was looked at; where they were computed beforehand.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    values: Mapping[str, float] = field(default_factory=dict)
    number: int = 0
    text: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    behind: tuple[int, ...] = ()
    other: tuple[int, ...] = ()
    scores: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict, compare=False)


@dataclass
class Report:
    """What happened to the rows on the way.

    Args:
        rows: number of rows.
        cut_prompts: rows whose prompt lost its beginning.
        cut_completions: rows with a completion that lost its end, where that was allowed.
        merged: rows whose tokens would be others where prompt and completion meet.
        bad: what is wrong with rows that cannot be used, by their number.
    """

    rows: int = 0
    cut_prompts: list[int] = field(default_factory=list)
    cut_completions: list[int] = field(default_factory=list)
    merged: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


def prepare(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    kind: str,
    *,
    max_length: int = 1024,
    cut_completions: bool = False,
    quality: str = "",
) -> tuple[list[Example], Report]:
    """Check and tokenise all rows.

    Args:
        rows: from `read_rows`.
        tokenizer: of the model; with a chat template where the rows are messages.
        kind: a key of `COLUMNS`.
        max_length: most tokens of prompt and response. Prompts lose their beginning.
        cut_completions: let a completion that does not fit lose its end; else it is an error.
        quality: a quality prompt (Yu et al. 2024, arXiv 2405.21040), put before the text of the
            query: every example gets its prompt once more behind it. Of chat messages it goes
            before the first one of the user.

    Raises:
        ToyalignError: naming bad rows by number and reason, before any is used.
    """
    examples, report = sift(
        rows, tokenizer, kind,
        max_length=max_length, cut_completions=cut_completions, quality=quality,
    )  # fmt: skip
    if report.bad:
        bad = [f"row {number}: {reason}" for number, reason in report.bad.items()]
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ToyalignError(f"{len(bad)} of {len(rows)} rows: {'; '.join(bad[:_SHOWN])}{more}")
    return examples, report


def sift(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    kind: str,
    *,
    max_length: int = 1024,
    cut_completions: bool = False,
    quality: str = "",
    boundaries: bool = False,
) -> tuple[list[Example], Report]:
    """The good rows, tokenised, and what is wrong with the others; arguments as of `prepare`.

    Args:
        boundaries: also look for rows whose prompt and completion would have other tokens where
            they meet if they were tokenised as one text.

    Raises:
        ToyalignError: if there are no rows, or no such kind, or responses could not end.
    """
    if kind not in COLUMNS:
        raise unknown("kind of data", kind, COLUMNS)
    if not rows:
        raise ToyalignError("the data has no rows")
    if tokenizer.eos_token_id is None:
        raise ToyalignError("the tokenizer has no end-of-sequence token: responses could not end")
    examples, report = [], Report(rows=len(rows))
    for number, row in enumerate(rows, 1):
        try:
            text, completions = texts_of(row, kind, tokenizer)
            ids = _prompt_ids(tokenizer, text)
            responses = tuple(_response_ids(tokenizer, completion) for completion in completions)
            if len(set(responses)) < len(responses):
                raise ToyalignError("chosen and rejected are the same")
            if boundaries and any(
                _prompt_ids(tokenizer, text + end)[: len(ids)] != ids for end in completions
            ):
                report.merged.append(number)
            ids, responses = _fitted(ids, responses, max_length, cut_completions, number, report)
            behind: tuple[int, ...] = ()
            if quality:
                longer = _prompt_ids(tokenizer, texts_of(row, kind, tokenizer, quality)[0])
                behind, _ = _fitted(longer, responses, max_length, False, number, Report())
                if len(behind) < len(longer):  # it would be the quality prompt that is cut
                    raise ToyalignError(
                        f"behind the quality prompt it has {len(longer)} tokens of prompt, which "
                        f"do not fit into max_length={max_length}"
                    )
            rest = dict(row) if kind == "prompts" else {}
            values = values_of(row, kind)
            examples.append(Example(ids, responses, values, number, text, rest, behind))
        except ToyalignError as error:
            report.bad[number] = str(error)
    everywhere = set.intersection(*(set(e.values) for e in examples)) if examples else set()
    if any(set(example.values) != everywhere for example in examples):
        examples = [
            replace(example, values={n: v for n, v in example.values.items() if n in everywhere})
            for example in examples
        ]
    return examples, report


def _prompt_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The prompt's tokens with what the tokenizer begins texts with, and without its end."""
    begins = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    ids = tokenizer(text, add_special_tokens=begins)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    if not ids:  # a token must come before the first that is predicted
        begin = tokenizer.bos_token_id
        ids = [tokenizer.eos_token_id if begin is None else begin]
    return tuple(ids)


def _response_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The response's tokens with its end, which is learned too."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise ToyalignError("a completion has no tokens")
    if ids[-1] != tokenizer.eos_token_id and not text.rstrip().endswith(tokenizer.eos_token):
        ids.append(tokenizer.eos_token_id)
    return tuple(ids)


def _fitted(
    prompt: tuple[int, ...],
    responses: tuple[tuple[int, ...], ...],
    max_length: int,
    cut_completions: bool,
    number: int,
    report: Report,
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Cut a row to the length: the prompt's beginning, and only if allowed a completion's end."""
    longest = max((len(response) for response in responses), default=0)
    if longest >= max_length:
        if not cut_completions:
            raise ToyalignError(
                f"a completion has {longest} tokens and no room for a prompt within "
                f"max_length={max_length}"
            )
        report.cut_completions.append(number)
        responses = tuple(response[: max_length - 1] for response in responses)
        if len(set(responses)) < len(responses):
            raise ToyalignError("chosen and rejected are the same once they are cut to the length")
        longest = max(len(response) for response in responses)
    room = max_length - longest
    if len(prompt) > room:
        report.cut_prompts.append(number)
        prompt = prompt[-room:]
    return prompt, responses
