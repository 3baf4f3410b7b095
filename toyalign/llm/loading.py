"""A model and its tokenizer from a folder or a hub name, with an adapter if one is asked for."""

import sys
from pathlib import Path
from typing import Any

import torch

from toyalign.errors import ToyalignError

_SMALL = 2_000_000  # parameters


def load(name: str, rank: int | None = None, seed: int = 0) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    The weights are in float32: in half precision a small step would round to none. With an adapter
    they are as they were saved, since they stay as they are. A folder with an adapter is loaded as
    the model with the adapter merged into it.

    Args:
        name: what `from_pretrained` takes.
        rank: of a low-rank adapter on all linear layers but the head.
        seed: of the adapter's start.

    Raises:
        ToyalignError: in one line, if there is no such model or it is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    if rank is not None and rank < 1:
        raise ToyalignError(f"the rank of an adapter must be at least 1, not {rank}")
    dtype = torch.float32 if rank is None else "auto"
    if (Path(name) / "adapter_config.json").is_file():
        model = _merged(name, dtype)
    else:
        model = from_pretrained(AutoModelForCausalLM, name, dtype=dtype)
    tokenizer = load_tokenizer(name)
    if rank is None:
        return model, tokenizer
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config), tokenizer


def _merged(name: str, dtype: Any) -> Any:
    """A model with its adapter merged into it, so that another may be put on top."""
    from peft import AutoPeftModelForCausalLM

    try:
        found = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
    except Exception as error:  # of peft, and of all that loads the model below
        raise ToyalignError(f"cannot load the adapter {name!r}: {_reason(error)}") from error
    return found.requires_grad_(True)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model.

    Raises:
        ToyalignError: in one line, if there is none.
    """
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, name)


def from_pretrained(cls: Any, name: str, **given: Any) -> Any:
    """Load a model or a tokenizer with a class of `transformers`.

    Raises:
        ToyalignError: in one line, if there is nothing of that name, or it is something else: a
            model without the head that is asked for would get one of random numbers.
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing weights is the error below
    try:
        if not hasattr(cls, "from_config"):
            return cls.from_pretrained(name)
        found, said = cls.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **given
        )
    except Exception as error:  # of transformers, safetensors, json, pickle and the hub
        raise ToyalignError(f"cannot load {name!r}: {_reason(error)}") from error
    finally:
        logging.set_verbosity(told)
    for key, here, wanted in sorted(said["mismatched_keys"]):
        raise ToyalignError(
            f"cannot load {name!r}: its {key} is {list(here)}, and by config.json {list(wanted)}"
        )
    if said["missing_keys"]:
        missing = sorted(said["missing_keys"])
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        kind = type(found).__name__
        raise ToyalignError(
            f"cannot load {name!r}: it has no {missing[0]}{more}, which a {kind} needs"
        )
    return found


def _reason(error: Exception) -> str:
    """The first line of what another library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def few_threads(model: Any) -> None:
    """Let a small model compute in one thread: on many small tensors threads only wait."""
    if sum(parameter.numel() for parameter in model.parameters()) < _SMALL:
        torch.set_num_threads(1)
