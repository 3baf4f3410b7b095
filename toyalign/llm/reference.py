"""The reference's scores computed once, kept in a file, and refused where they are not its own.

A reference that is scored beforehand needs no memory while the policy trains. Its scores belong to
one set of weights, one tokenizer and one set of data; the file says which, as hashes.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toyalign.errors import ToyalignError
from toyalign.files import whole
from toyalign.llm.batches import looks_of, pad_of, seen
from toyalign.llm.data import Example
from toyalign.llm.guards import ADAPTER
from toyalign.llm.logprobs import CHUNK
from toyalign.llm.watch import Rows, score_rows


def scored_beforehand(
    examples: Sequence[Example],
    model: Any,
    tokenizer: Any,
    path: Path,
    *,
    precision: str = "no",
    batch: int = 8,
    chunk: int = CHUNK,
) -> list[Example]:
    """The examples with the reference's scores, read from a file or computed and written there.

    Args:
        examples: from `llm.data.prepare`.
        model: the reference; of one with an adapter the model without it.
        tokenizer: whose tokens the examples are.
        path: the file; it is written whole or not at all.
        precision: in which it computes, as accelerate calls it.
        batch: examples that are scored at once.
        chunk: tokens whose logits exist at once.

    Raises:
        ToyalignError: if the file holds the scores of other weights, another tokenizer or other
            data, or no scores at all.
    """
    key = {
        "weights": of_weights(model),
        "tokenizer": of_tokenizer(tokenizer),
        "data": of_data(examples),
        "precision": precision,
    }
    if path.exists():
        found = _read(path, key)
    else:
        off: Callable[[], AbstractContextManager[Any]]
        off = getattr(model, "disable_adapter", nullcontext)
        with off():
            found = {
                look: score_rows(
                    model, [seen(e, look) for e in examples], pad_of(tokenizer),
                    batch=batch, chunk=chunk,
                )
                for look in looks_of(examples[0])
            }  # fmt: skip
        _write(path, key, found)
    return [
        replace(example, scores={look: rows[place] for look, rows in found.items()})
        for place, example in enumerate(examples)
    ]


def _read(path: Path, key: dict[str, str]) -> dict[str, Rows]:
    try:
        stored = torch.load(path, weights_only=True)
        was, found = stored["key"], stored["scores"]
    except Exception as error:
        raise ToyalignError(
            f"{path} holds no scores of a reference ({type(error).__name__}): name another file, "
            "or remove it"
        ) from error
    other = [name for name, value in key.items() if was.get(name) != value]
    if other:
        raise ToyalignError(
            f"{path} holds the scores of a reference with other {' and other '.join(other)}: name "
            "another file, or remove it to have them computed anew"
        )
    return {look: [tuple(row) for row in rows] for look, rows in found.items()}


def _write(path: Path, key: dict[str, str], found: dict[str, Rows]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(path) as part:
            torch.save({"key": key, "scores": found}, part)
    except (OSError, RuntimeError) as error:  # torch.save has its own words for a full disk
        reason = str(error).splitlines()[0]
        raise ToyalignError(
            f"cannot write the reference's scores to {path}: {reason} (is the disk full?)"
        ) from error


def of_weights(model: nn.Module) -> str:
    """A hash of a model's weights, those of an adapter left out."""
    state = model.state_dict()
    own = sorted(name for name in state if not any(mark in name for mark in ADAPTER))
    # An adapter wraps names: the same matrix is q_proj.weight or q_proj.base_layer.weight.
    return _hashed(part for name in own for part in _bytes_of(state[name]))


def _bytes_of(tensor: Tensor) -> tuple[bytes, bytes]:
    plain = tensor.detach().cpu().contiguous()
    said = f"{plain.dtype} {list(plain.shape)}".encode()
    return said, plain.flatten().view(torch.uint8).numpy().tobytes()


def of_tokenizer(tokenizer: Any) -> str:
    """A hash of a tokenizer's vocabulary and its special tokens."""
    known = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.special_tokens_map.items())]
    return _hashed([json.dumps(known).encode()])


def of_data(examples: Sequence[Example]) -> str:
    """A hash of all tokens of the examples, in their order."""
    return _hashed(
        json.dumps([e.prompt, e.responses, e.behind, e.other]).encode() for e in examples
    )


def _hashed(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
