"""A model and its tokenizer from a folder or a hub name, with an adapter if one is asked for."""

from typing import Any

import torch

from toyalign.errors import ToyalignError


def load(name: str, rank: int | None = None, seed: int = 0) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        name: what `from_pretrained` takes.
        rank: of a low-rank adapter on all linear layers but the head.
        seed: of the adapter's start.

    Raises:
        ToyalignError: in one line, if there is no such model or it is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    model, tokenizer = from_pretrained(AutoModelForCausalLM, name), load_tokenizer(name)
    if rank is None:
        return model, tokenizer
    if rank < 1:
        raise ToyalignError(f"the rank of an adapter must be at least 1, not {rank}")
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config), tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model.

    Raises:
        ToyalignError: in one line, if there is none.
    """
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, name)


def from_pretrained(cls: Any, name: str) -> Any:
    """Load a model or a tokenizer with a class of `transformers`.

    Raises:
        ToyalignError: in one line, if there is nothing of that name, or it is something else.
    """
    try:
        return cls.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ToyalignError(f"cannot load {name!r}: {reason}") from error
