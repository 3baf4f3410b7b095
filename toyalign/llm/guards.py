"""What stops a training: rows that a model cannot read, a loss or gradient that is no number."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toyalign.catalogue import blame
from toyalign.errors import ToyalignError
from toyalign.llm.batches import pad_of
from toyalign.llm.data import Example
from toyalign.llm.logprobs import head_of, unwrapped
from toyalign.objectives import Objective

# What the weights of an adapter have in their names, as peft gives them.
ADAPTER = ("lora_", "modules_to_save", "trainable_tokens", "prompt_encoder", "ia3_")


def check_fits(
    model: Any, sets: Iterable[Sequence[Example]], tokenizer: Any, new_tokens: int = 0
) -> None:
    """Refuse rows that a model cannot read.

    Args:
        model: a causal language model of `transformers`, possibly wrapped.
        sets: examples.
        tokenizer: whose tokens they are.
        new_tokens: most tokens that are written after a prompt.

    Raises:
        ToyalignError: for a token that the model does not know, more tokens than its positions, or
            a model without a head.
    """
    head_of(model)
    inner = unwrapped(model)
    known = getattr(inner.get_input_embeddings(), "num_embeddings", math.inf)
    most = getattr(inner.config, "max_position_embeddings", None) or 0
    remedy = f"and the model knows {known} tokens: take its own tokenizer, or resize its embeddings"
    if pad_of(tokenizer) >= known:
        raise ToyalignError(f"the padding token is {pad_of(tokenizer)}, {remedy}")
    for number, text in _texts(sets):
        if max(text) >= known:
            name = tokenizer.decode([max(text)])
            raise ToyalignError(f"row {number} has token {max(text)} ({name!r}), {remedy}")
        if 0 < most < len(text) + new_tokens:
            new = f" and {new_tokens} new ones" if new_tokens else ""
            raise ToyalignError(
                f"row {number} has {len(text)} tokens{new}, and the model has {most} positions: "
                f"lower max_length{' or max_new_tokens' if new else ''}"
            )


def _texts(sets: Iterable[Sequence[Example]]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Everything that a model reads, with the number of the row."""
    for rows in sets:
        for row in rows:
            for prompt in (row.prompt, row.behind) if row.behind else (row.prompt,):
                for response in row.responses or ((),):
                    yield row.number, prompt + response
            if row.other:
                yield row.number, row.prompt + row.other


def without_noise(model: Any) -> None:
    """Switch all dropout off: noise in one of two passes would look like a log-ratio.

    Most models keep it in modules, some in numbers that they hand to functions.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and (name.endswith("dropout") or name == "layerdrop"):
                setattr(module, name, 0.0)


def check_adapter(model: Any) -> None:
    """Refuse an adapter without which the model would not be the reference.

    Raises:
        ToyalignError: if weights of the model itself are trained.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not any(mark in name for mark in ADAPTER):
            raise ToyalignError(
                f"{name} is trained and belongs to no adapter, so that the model without its "
                "adapter is no reference: give one"
            )


def check_weights(model: Any, step: int) -> None:
    """Stop before weights that are no numbers are called a checkpoint.

    Raises:
        ToyalignError: if a trained weight is not finite.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ToyalignError(
                f"{name} is not finite after step {step}: is the learning rate high? Log at every "
                "step (logging_steps=1) to see since when"
            )


def loss_of(
    card: Objective, tensors: Mapping[str, Tensor], hyper: Mapping[str, Any], mask: Tensor
) -> Tensor:
    """What a loss says of every row or token.

    Args:
        card: the objective.
        tensors: what it asks for.
        hyper: its hyperparameters.
        mask: [1, row, token], of the tokens that a loss per token is about.

    Raises:
        ToyalignError: if it fails, takes a mean, or does not depend on the policy.
    """
    with blame(card.name):
        values = card.fn(**tensors, **hyper)
    if not isinstance(values, Tensor) or values.shape not in (mask.shape, mask.shape[:2]):
        said = f"shape {list(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise ToyalignError(
            f"{card.name} returned {said}, but must return one value per row, "
            f"{list(mask.shape[:2])}, or per token: take no mean and no sum"
        )
    if torch.is_grad_enabled() and not values.requires_grad:
        raise ToyalignError(
            f"{card.name} has no gradient, as if it did not depend on the policy: is there a "
            "detach, no_grad or item too many in it?"
        )
    return values


def check_finite(name: str, step: int, values: Tensor, logps: Tensor) -> None:
    """Stop before a loss that is no number makes every weight of the model one.

    Args:
        name: of the objective.
        step: number of the gradient step, from 1.
        values: the loss, of any shape.
        logps: the log-probabilities that it was made from.

    Raises:
        ToyalignError: saying whether it is the loss or the model.
    """
    if values.isfinite().all():
        return
    bad = values.detach()[~values.isfinite()][0].item()
    if logps.isfinite().all():
        why = f"and all log-probabilities are finite: `toyalign check {name}` looks at the loss"
    else:
        why = "and the model's log-probabilities are not finite either: is the learning rate high?"
    raise ToyalignError(f"{name} is {bad} at step {step}, {why}")


def check_gradient(name: str, step: int, norm: float) -> None:
    """Stop before weights are saved that such a gradient has moved.

    Args:
        name: of the objective.
        step: number of the gradient step, from 1.
        norm: of the gradient.

    Raises:
        ToyalignError: if the norm is no finite number.
    """
    if not math.isfinite(norm):
        raise ToyalignError(
            f"the gradient of {name} is {norm} at step {step}, where its value is finite: "
            f"`toyalign check {name}` looks at the loss, or the learning rate is high"
        )
