"""Rows in the field's standard formats, from files, as texts: prompt, completions and values.

A row has one of these shapes, in text or as chat messages (lists of role and content):

    prompt, chosen, rejected        pairs; without `prompt` the common beginning is the prompt;
                                    with chosen_rewards and rejected_rewards if a loss asks for them
    prompt, completion              demonstrations
    prompt, completion, label       labelled responses (true or false)
    prompt, completion, reward      responses with a reward
    prompt                          prompts, for policies that respond themselves
"""

import json
import math
import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from toyalign.errors import ToyalignError, unknown

COLUMNS = {  # by kind of data: what a row must have
    "pairs": ("chosen", "rejected"),
    "demonstrations": ("completion",),
    "labelled": ("completion", "label"),
    "samples": ("completion", "reward"),
    "prompts": ("prompt",),
}


def read_rows(source: Any) -> list[dict[str, Any]]:
    """The rows of a file (.jsonl, .json, .parquet), a `datasets` dataset, or a list.

    Raises:
        ToyalignError: if the file cannot be read as what its suffix says; a bad line is named.
    """
    if not isinstance(source, str | os.PathLike):
        return [dict(row) for row in source]
    path = Path(source)
    if not path.exists():
        raise ToyalignError(f"there is no data file {str(path)!r}")
    try:
        rows = _rows_of(path)
    except ToyalignError:
        raise
    except (ValueError, OSError) as error:  # of json, pyarrow or datasets
        raise ToyalignError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not rows:
        raise ToyalignError(f"{path} has no rows")
    for number, row in rows.items():
        if not isinstance(row, dict):
            raise ToyalignError(
                f"{path}, {'line' if path.suffix == '.jsonl' else 'row'} {number}: a row has named "
                f'columns, {{"prompt": …}}, and this is a {type(row).__name__}'
            )
    return list(rows.values())


def _rows_of(path: Path) -> dict[int, Any]:
    """What is in a file by the number of its line or row."""
    if path.is_dir():
        from datasets import load_from_disk

        return dict(enumerate(map(dict, load_from_disk(str(path))), 1))
    if path.suffix == ".parquet":
        import pandas as pd

        return dict(enumerate(map(_plain, pd.read_parquet(path).to_dict("records")), 1))
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ToyalignError(f"{path} must hold a list of rows")
        return dict(enumerate(rows, 1))
    if path.suffix != ".jsonl":
        raise unknown("suffix of a data file", path.suffix, (".jsonl", ".json", ".parquet"))
    found = {}
    # Not splitlines: a JSON string may hold a line separator of Unicode's as it is.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                found[number] = json.loads(line)
            except json.JSONDecodeError as error:
                raise ToyalignError(f"{path}, line {number}: {error}") from error
    return found


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of pandas with lists where it has arrays."""
    return {
        str(key): value.tolist() if hasattr(value, "tolist") else value
        for key, value in row.items()
    }


def texts_of(
    row: Mapping[str, Any], kind: str, tokenizer: Any, quality: str = ""
) -> tuple[str, list[str]]:
    """Prompt and completions as text, the prompt behind a quality prompt if there is one.

    Args:
        row: of the data.
        kind: a key of `COLUMNS`.
        tokenizer: whose template writes chat messages.
        quality: the quality prompt.

    Raises:
        ToyalignError: if the row is not of that kind.
    """
    row = {name: value for name, value in row.items() if value is not None}
    if "messages" in row and "completion" not in row:
        if len(_messages("messages", row["messages"])) < 2:
            raise ToyalignError("messages need a question and its answer")
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
        if isinstance(row.get(name), list):
            _messages(name, row[name])
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


def _messages(name: str, given: Any) -> list[Any]:
    """Chat messages, if that is what they are."""
    if not isinstance(given, list) or not all(isinstance(m, dict) and "role" in m for m in given):
        raise ToyalignError(f"{name} must be messages, each with a role and content")
    return given


def _behind(quality: str, prompt: Any) -> Any:
    """A prompt with a quality prompt before the query."""
    if isinstance(prompt, str):
        return quality + prompt
    messages = [dict(message) for message in prompt]
    query = next((m for m in messages if m.get("role") == "user"), messages[0] if messages else {})
    query["content"] = quality + str(query.get("content", ""))
    return messages


def values_of(row: Mapping[str, Any], kind: str) -> dict[str, float]:
    """What a loss may ask for besides the responses, by its name in the glossary.

    Raises:
        ToyalignError: for a label that is none, or a reward that is no finite number.
    """
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
    begun = _written(start, tokenizer, add_generation_prompt=True)
    texts = []
    for side in sides:
        said = [{"role": "assistant", "content": side}] if isinstance(side, str) else list(side)
        if not said or not str(said[-1].get("content", "")).strip():
            raise ToyalignError("a completion is empty")
        whole = _written(start + said, tokenizer)
        if not whole.startswith(begun):
            raise ToyalignError(
                "the chat template does not write prompt and answer one after the other: with a "
                "generation prompt it begins otherwise than with the answer"
            )
        texts.append(whole[len(begun) :])
    return begun, texts


def _written(messages: list[Any], tokenizer: Any, **given: bool) -> str:
    """Messages as text; templates refuse roles, an order or no messages in ways of their own."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **given))
    except Exception as error:
        raise ToyalignError(f"the chat template refuses the messages: {error}") from error
