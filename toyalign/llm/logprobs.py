"""Log-probabilities of completion tokens, chunk by chunk: the one primitive under every loss.

Logits of all positions and a large vocabulary are the largest tensor of a training step, and most
of it is never read. Here the language-model head is applied to the hidden states of completion
tokens alone, a chunk of them at a time, and again in the backward pass instead of being kept.
Logits are turned to float32 before the softmax, whatever the model's type, and sums are float32.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toyalign.errors import ToyalignError

CHUNK = 1024  # tokens whose logits exist at once
_WARPED = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Scores:
    """What was said of each token; zeros where the mask is 0.

    Args:
        logps: [row, token], log-probability of the token, nats, float32 (float64 of such a model).
        entropy: [row, token], of the distribution that it was taken from, nats, a constant.
    """

    logps: Tensor
    entropy: Tensor


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
) -> Scores:
    """Log-probabilities of tokens, from the hidden states that predict them.

    Args:
        hidden: [row, token, width], already shifted: the state before each token.
        weight: [vocabulary, width], of the language-model head.
        targets: [row, token], the tokens.
        mask: [row, token], 1 on the tokens that are wanted; no others are computed.
        bias: [vocabulary], of the head, if it has one.
        chunk: tokens whose logits exist at once.

    Raises:
        ToyalignError: if the shapes do not fit together, or the chunk is below 1.
    """
    if chunk < 1:
        raise ToyalignError(f"chunk must be at least 1 token, not {chunk}")
    if hidden.shape[:2] != targets.shape or targets.shape != mask.shape:
        raise ToyalignError(
            f"hidden states {list(hidden.shape)}, targets {list(targets.shape)} and mask "
            f"{list(mask.shape)} do not belong together: [row, token, width], [row, token] twice"
        )
    wanted = mask.bool()
    states, tokens = hidden[wanted], targets[wanted]
    pieces = [
        checkpoint(_of_chunk, states[at : at + chunk], weight, bias, tokens[at : at + chunk],
                   use_reentrant=False)
        for at in range(0, len(tokens), chunk)
    ]  # fmt: skip
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    zeros = torch.zeros(targets.shape, dtype=kind, device=hidden.device)
    if not pieces:  # nothing is wanted, but a gradient must still find its way
        return Scores(zeros + 0 * hidden.sum().to(kind), zeros)
    logps, entropy = (torch.cat(part) for part in zip(*pieces, strict=True))
    return Scores(
        zeros.masked_scatter(wanted, logps), zeros.masked_scatter(wanted, entropy.detach())
    )


def _of_chunk(
    states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of its distribution, [token] each."""
    logits = nn.functional.linear(states, weight, bias)
    if logits.dtype != torch.float64:
        logits = logits.float()
    log_probs = torch.log_softmax(logits, -1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1)
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropy


def score(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    *,
    chunk: int = CHUNK,
    whole: bool = False,
    **inputs: Any,
) -> tuple[Scores, Tensor | None]:
    """Score the completion tokens of a batch with a causal language model of `transformers`.

    The model's own forward runs, wrapped as it may be (DDP, FSDP, DeepSpeed, LoRA); only its head
    is exchanged while it does. Models that bend their logits afterwards are scored from all logits.

    Args:
        model: a causal language model, possibly wrapped.
        input_ids: [row, token].
        attention_mask: [row, token].
        completion_mask: [row, token], 1 on completion tokens.
        chunk: tokens whose logits exist at once.
        whole: also return the whole distribution at every position, which needs all logits.
        **inputs: what the model is to be given besides, for example `inputs_embeds` instead of ids.

    Returns:
        Scores of the tokens from the second on, [row, token − 1], and the log-probabilities
        [row, token − 1, vocabulary] if `whole`.

    Raises:
        ToyalignError: if the model has no language-model head.
    """
    targets, mask = input_ids[:, 1:], completion_mask[:, 1:]
    given = {"attention_mask": attention_mask, "use_cache": False, **inputs}
    if "inputs_embeds" not in given:
        given["input_ids"] = input_ids
    config = getattr(unwrapped(model), "config", None)
    bent = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _WARPED)
    if whole or bent:
        logits = model(**given).logits[:, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        log_probs = torch.log_softmax(logits, -1)
        entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1).detach() * mask
        logps = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
        return Scores(logps, entropy), log_probs if whole else None
    with _scoring(model, targets, mask, chunk):
        found = model(**given).logits
    return Scores(found[..., 0], found[..., 1].detach()), None


def _scoring(
    model: nn.Module, targets: Tensor, mask: Tensor, chunk: int
) -> AbstractContextManager[None]:
    """Let the head return, instead of logits, the scores of given tokens, [row, token − 1, 2]."""

    def scores(hidden: Tensor, head: Any) -> Tensor:
        found = token_logps(
            hidden[:, :-1], head.weight, targets, mask,
            bias=getattr(head, "bias", None), chunk=chunk,
        )  # fmt: skip
        return torch.stack([found.logps, found.entropy], -1)

    return exchanged_head(model, scores)


@contextmanager
def exchanged_head(model: nn.Module, forward: Callable[[Tensor, Any], Tensor]) -> Iterator[None]:
    """Let the model's head compute something else from the hidden states, while this lasts.

    Args:
        model: a causal language model, possibly wrapped.
        forward: takes the hidden states [row, token, width] and the head.
    """
    head = head_of(model)
    own = head.forward
    head.forward = lambda hidden: forward(hidden, head)
    try:
        yield
    finally:
        head.forward = own


def head_of(model: nn.Module) -> Any:
    """The language-model head of a model, under whatever wraps it.

    Raises:
        ToyalignError: if it has none, or one that is trained through an adapter.
    """
    inner = unwrapped(model)
    find = getattr(inner, "get_output_embeddings", lambda: None)
    head = find()
    if head is None or not hasattr(head, "weight"):
        raise ToyalignError(
            f"{type(inner).__name__} has no language-model head: load it with AutoModelForCausalLM"
        )
    if hasattr(head, "base_layer"):
        raise ToyalignError(
            "the language-model head carries an adapter, so that it is more than one matrix: leave "
            "lm_head out of the adapter's target_modules"
        )
    return head


def unwrapped(model: nn.Module) -> Any:
    """The model itself, without DDP, FSDP, a compiler or an adapter around it."""
    inner: Any = model
    while True:
        if hasattr(inner, "get_base_model"):  # peft
            inner = inner.get_base_model()
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif hasattr(inner, "module") and isinstance(inner.module, nn.Module):
            inner = inner.module
        else:
            return inner
