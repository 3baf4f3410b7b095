"""Preference data in the field's standard formats, checked row by row before anything is trained.

A row has one of these shapes, in text or as chat messages (lists of role and content):

    prompt, chosen, rejected        pairs; without `prompt` the common beginning is the prompt;
                                    with chosen_rewards and rejected_rewards if a loss asks for them
    prompt, completion              demonstrations
    prompt, completion, label       labelled responses (true or false)
    prompt, completion, reward      responses with a reward
    prompt                          prompts, for policies that respond themselves

Prompt and completion are tokenised each by itself, so that no token spans the boundary.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from toyalign.errors import ToyalignError, unknown

COLUMNS = {  # by kind of data: what a row must have
    "pairs": ("chosen", "rejected"),
    "demonstrations": ("completion",),
    "labelled": ("completion", "label"),
    "samples": ("completion", "reward"),
    "prompts": ("prompt",),
}
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
    """

    rows: int = 0
    cut_prompts: list[int] = field(default_factory=list)
    cut_completions: list[int] = field(default_factory=list)


def read_rows(source: Any) -> list[dict[str, Any]]:
    """The rows of a file (.jsonl, .json, .parquet), a `datasets` dataset, or a list.

    Raises:
        ToyalignError: if the file cannot be read as what its suffix says; a bad line is named.
    """
    if not isinstance(source, str | os.PathLike):
        return [dict(row) for row in source]
    path = Path(source)
    if path.is_dir():
        from datasets import load_from_disk

        return [dict(row) for row in load_from_disk(str(path))]
    if not path.is_file():
        raise ToyalignError(f"there is no data file {str(path)!r}")
    if path.suffix == ".parquet":
        import pandas as pd

        return [_plain(row) for row in pd.read_parquet(path).to_dict("records")]
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ToyalignError(f"{path} must hold a list of rows")
        return rows
    if path.suffix != ".jsonl":
        raise unknown("suffix of a data file", path.suffix, (".jsonl", ".json", ".parquet"))
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ToyalignError(f"{path}, line {number}: {error}") from error
    return rows


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of pandas with lists where it has arrays."""
    return {
        str(key): value.tolist() if hasattr(value, "tolist") else value
        for key, value in row.items()
    }


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
        ToyalignError: naming every kind of bad row by number and reason, before any is used.
    """
    if kind not in COLUMNS:
        raise unknown("kind of data", kind, COLUMNS)
    if not rows:
        raise ToyalignError("the data has no rows")
    if tokenizer.eos_token_id is None:
        raise ToyalignError("the tokenizer has no end-of-sequence token: responses could not end")
    examples, report, bad = [], Report(rows=len(rows)), []
    for number, row in enumerate(rows, 1):
        try:
            text, completions = _read(row, kind, tokenizer)
            ids = _prompt_ids(tokenizer, text)
            responses = tuple(_response_ids(tokenizer, completion) for completion in completions)
            if len(set(responses)) < len(responses):
                raise ToyalignError("chosen and rejected are the same")
            ids, responses = _fitted(ids, responses, max_length, cut_completions, number, report)
            behind: tuple[int, ...] = ()
            if quality:
                longer = _prompt_ids(tokenizer, _read(row, kind, tokenizer, quality)[0])
                behind, _ = _fitted(longer, responses, max_length, False, number, Report())
            rest = dict(row) if kind == "prompts" else {}
            values = _values(row, kind)
            examples.append(Example(ids, responses, values, number, text, rest, behind))
        except ToyalignError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ToyalignError(f"{len(bad)} of {len(rows)} rows: {'; '.join(bad[:_SHOWN])}{more}")
    return examples, report


def _read(
    row: Mapping[str, Any], kind: str, tokenizer: Any, quality: str = ""
) -> tuple[str, list[str]]:
    """Prompt and completions as text, the prompt behind a quality prompt if there is one."""
    row = {name: value for name, value in row.items() if value is not None}
    if "messages" in row and "completion" not in row:
        row = {**row, "prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    elif "text" in row and "completion" not in row:
        row = {**row, "completion": row["text"]}
    for name in COLUMNS[kind]:
        if name not in row:
            raise ToyalignError(f"has no {name!r} (it has {', '.join(sorted(row)) or 'nothing'})")
    sides = [row[name] for name in COLUMNS[kind] if name in ("chosen", "rejected", "completion")]
    prompt = row.get("prompt")
    for name in ("prompt", *(n for n in COLUMNS[kind] if n not in ("label", "reward"))):
        if name in row and not isinstance(row[name], str | list):
            raise ToyalignError(f"{name} must be text or messages, not {type(row[name]).__name__}")
    if prompt is None and kind == "pairs":
        prompt, sides = _common(sides)
    prompt = _behind(quality, "" if prompt is None else prompt)
    if isinstance(prompt, str) and all(isinstance(side, str) for side in sides):
        texts = list(sides)
    else:
        prompt, texts = _templated(prompt, sides, tokenizer)
    if any(not text.strip() for text in texts):
        raise ToyalignError("a completion is empty")
    if kind == "prompts" and not prompt.strip():
        raise ToyalignError("the prompt is empty")
    return prompt, texts


def _behind(quality: str, prompt: Any) -> Any:
    """A prompt with a quality prompt before the query."""
    if isinstance(prompt, str):
        return quality + prompt
    messages = [dict(message) for message in prompt]
    query = next((m for m in messages if m.get("role") == "user"), messages[0] if messages else {})
    query["content"] = quality + str(query.get("content", ""))
    return messages


def _values(row: Mapping[str, Any], kind: str) -> dict[str, float]:
    """What a loss may ask for besides the responses, by its name in the glossary."""
    if kind == "labelled":
        if row["label"] not in (True, False, 0, 1):
            raise ToyalignError(f"label must be true or false, not {row['label']!r}")
        return {"labels": float(row["label"])}
    if kind == "samples":
        return {"rewards": _number(row["reward"], "reward")}
    rewards = ("chosen_rewards", "rejected_rewards")
    if kind == "pairs" and all(row.get(name) is not None for name in rewards):
        return {name: _number(row[name], name) for name in rewards}
    return {}


def _number(given: Any, name: str) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise ToyalignError(f"{name} must be a number, not {given!r}") from None
    if not math.isfinite(number):
        raise ToyalignError(f"{name} must be finite, not {number}")
    return number


def _common(sides: list[Any]) -> tuple[Any, list[Any]]:
    """The prompt that two responses begin with, and what is left of each.

    Of texts the prompt ends after the last common space, so that no word is split.
    """
    one, other = sides
    if isinstance(one, str) and isinstance(other, str):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        length = sum(1 for _ in same)
        length = one.rfind(" ", 0, length) + 1 if length < min(len(one), len(other)) else length
        return one[:length], [one[length:], other[length:]]
    if not isinstance(one, list) or not isinstance(other, list):
        raise ToyalignError("chosen and rejected must both be text, or both messages")
    length = 0
    while length < min(len(one), len(other)) - 1 and one[length] == other[length]:
        length += 1
    return one[:length], [one[length:], other[length:]]


def _templated(prompt: Any, sides: list[Any], tokenizer: Any) -> tuple[str, list[str]]:
    """Chat messages as the tokenizer's template writes them."""
    if not getattr(tokenizer, "chat_template", None):
        raise ToyalignError("has messages, but the tokenizer has no chat template")
    start = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    start = [message for message in start if message.get("content")]
    begun = tokenizer.apply_chat_template(start, tokenize=False, add_generation_prompt=True)
    texts = []
    for side in sides:
        said = [{"role": "assistant", "content": side}] if isinstance(side, str) else list(side)
        if not said or not str(said[-1].get("content", "")).strip():
            raise ToyalignError("a completion is empty")
        whole = tokenizer.apply_chat_template(start + said, tokenize=False)
        if not whole.startswith(begun):
            raise ToyalignError(
                "the chat template does not write prompt and answer one after the other: with a "
                "generation prompt it begins otherwise than with the answer"
            )
        texts.append(whole[len(begun) :])
    return begun, texts


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
