"""Log-probabilities of completion tokens, chunk by chunk: the one primitive under every loss.

Logits of all positions and a large vocabulary are the largest tensor of a training step, and most
of it is never read. Here the language-model head is applied to the hidden states of completion
tokens alone, a chunk of them at a time, and again in the backward pass instead of being kept.
Logits are turned to float32 before the softmax, whatever the model's type, and sums are float32.

The gradient is written out: for a token y with logits z, d log p(y) / dz = onehot(y) − p. So the
backward pass needs one softmax and no second entropy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toyalign.errors import ToyalignError

CHUNK = 1024  # tokens whose logits exist at once
_BENT: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()  # models that were looked at


@dataclass(frozen=True)
class Scores:
    """What was said of each token; zeros where the mask is 0.

    Args:
        logps: [row, token], log-probability of the token, nats, float32 (float64 of such a model).
        entropy: [row, token], of the distribution that it was taken from, nats, a constant; zeros
            if it was not asked for.
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
    entropy: bool = True,
) -> Scores:
    """Log-probabilities of tokens, from the hidden states that predict them.

    Args:
        hidden: [row, token, width], already shifted: the state before each token.
        weight: [vocabulary, width], of the language-model head.
        targets: [row, token], the tokens.
        mask: [row, token], 1 on the tokens that are wanted; no others are computed.
        bias: [vocabulary], of the head, if it has one.
        chunk: tokens whose logits exist at once.
        entropy: also compute the entropy; it costs about as much as the softmax.

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
    device = hidden.device.type
    # Cast here, where autograd sees it: the backward pass runs outside of autocast.
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        kind = torch.get_autocast_dtype(device)
        states, weight = states.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    logps, entropies = _Taken.apply(states, weight, bias, tokens, chunk, entropy)
    zeros = torch.zeros(targets.shape, dtype=logps.dtype, device=hidden.device)
    return Scores(zeros.masked_scatter(wanted, logps), zeros.masked_scatter(wanted, entropies))


class _Taken(torch.autograd.Function):
    """Log-probability of each token and entropy of its distribution, [token] each."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        chunk: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(states, weight, bias, tokens)
        ctx.chunk = chunk
        kind = torch.float64 if states.dtype == torch.float64 else torch.float32
        logps = torch.zeros(len(tokens), dtype=kind, device=states.device)
        entropies = torch.zeros_like(logps)
        for part in _parts(len(tokens), chunk):
            log_probs = torch.log_softmax(_logits(states[part], weight, bias), -1)
            logps[part] = log_probs.gather(-1, tokens[part].unsqueeze(-1)).squeeze(-1)
            if entropy:  # 0·log 0 is 0
                entropies[part] = -log_probs.exp().mul_(log_probs).nansum(-1)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, push: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens = ctx.saved_tensors
        kind = push.dtype  # sums over chunks are not rounded to the model's type in between
        needed = ctx.needs_input_grad
        to_states = torch.zeros_like(states) if needed[0] else None
        to_weight = torch.zeros_like(weight, dtype=kind) if needed[1] else None
        to_bias = torch.zeros_like(bias, dtype=kind) if needed[2] else None
        for part in _parts(len(tokens), ctx.chunk):
            probs = torch.softmax(_logits(states[part], weight, bias), -1)
            pull = push[part].unsqueeze(-1)
            slope = probs.mul_(-pull).scatter_add_(-1, tokens[part].unsqueeze(-1), pull)
            slope = slope.to(states.dtype)
            if to_states is not None:
                torch.mm(slope, weight, out=to_states[part])
            if to_weight is not None and weight.dtype == kind:
                to_weight.addmm_(slope.T, states[part])
            elif to_weight is not None:
                to_weight += slope.T @ states[part]
            if to_bias is not None:
                to_bias += slope.sum(0)
        to_weight = None if to_weight is None else to_weight.to(weight.dtype)
        to_bias = None if to_bias is None or bias is None else to_bias.to(bias.dtype)
        return to_states, to_weight, to_bias, None, None, None


def _parts(tokens: int, chunk: int) -> list[slice]:
    return [slice(at, at + chunk) for at in range(0, tokens, chunk)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = nn.functional.linear(states, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


def score(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    *,
    chunk: int = CHUNK,
    entropy: bool = True,
    whole: bool = False,
) -> tuple[Scores, Tensor | None]:
    """Score the completion tokens of a batch with a causal language model of `transformers`.

    The model's own forward runs, wrapped as it may be (DDP, FSDP, DeepSpeed, LoRA); only its head
    is exchanged while it does. Models that bend what their head returns, by a cap or a factor, show
    it at the first look and are scored from all logits.

    Args:
        model: a causal language model, possibly wrapped.
        input_ids: [row, token].
        attention_mask: [row, token].
        completion_mask: [row, token], 1 on completion tokens.
        chunk: tokens whose logits exist at once.
        entropy: also compute the entropy.
        whole: also return the whole distribution at every position, which needs all logits.

    Returns:
        Scores of the tokens from the second on, [row, token − 1], and the log-probabilities
        [row, token − 1, vocabulary] if `whole`.

    Raises:
        ToyalignError: if the model has no language-model head.
    """
    targets, mask = input_ids[:, 1:], completion_mask[:, 1:]
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    inner = unwrapped(model)
    if not whole and not _BENT.get(inner, False):
        found, made = _by_head(model, given, targets, mask, chunk, entropy)
        if inner not in _BENT:
            _BENT[inner] = not _same(found, made)
        if not _BENT[inner]:
            return Scores(found[..., 0], found[..., 1].detach()), None
    logits = model(**given).logits[:, :-1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = torch.log_softmax(logits, -1)
    logps = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
    entropies = torch.zeros_like(logps)
    if entropy:
        entropies = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1).detach() * mask
    return Scores(logps, entropies), log_probs if whole else None


def _by_head(
    model: nn.Module,
    given: dict[str, Any],
    targets: Tensor,
    mask: Tensor,
    chunk: int,
    entropy: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The scores of given tokens, [row, token − 1, 2], as they come out of the model and its head.

    The head returns them instead of logits.
    """
    made: list[Tensor] = []

    def scores(hidden: Tensor, head: Any) -> Tensor:
        found = token_logps(
            hidden[:, :-1], head.weight, targets, mask,
            bias=getattr(head, "bias", None), chunk=chunk, entropy=entropy,
        )  # fmt: skip
        made.append(torch.stack([found.logps, found.entropy], -1))
        return made[-1]

    with exchanged_head(model, scores):
        return model(**given).logits, made


def _same(found: Tensor, made: list[Tensor]) -> bool:
    """Whether a model returned what its head did, and nothing bent."""
    if len(made) != 1 or found.shape != made[0].shape:
        return False
    return torch.allclose(found.detach(), made[0].detach(), rtol=0, atol=0, equal_nan=True)


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
