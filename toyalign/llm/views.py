"""The residual view on a language model: the answer's own tokens mixed with the policy's.

Hua et al. 2024 (arXiv 2405.11870, equation 17): the embedding of every token of the answer but for
what the policy itself would have put in its place. No gradient flows through that choice, nor into
the embedding of what was chosen; the answer's own tokens are learned as by SFT, which λ = 0 is.
(The released code looks the embeddings up in a frozen copy, so that there they are not learned.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toyalign.llm.batches import TEXTS
from toyalign.llm.logprobs import exchanged_head, unwrapped
from toyalign.streams import Streams
from toyalign.views import Residual


def own_tokens(model: nn.Module, batch: dict[str, Any], choice: str, chunk: int) -> Tensor:
    """What the policy would put in the place of every token of the answers, [text, token].

    Args:
        model: a causal language model, possibly wrapped.
        batch: from a `Collator`.
        choice: "greedy" or "sampled", as in `toyalign.views.Residual`.
        chunk: tokens whose logits exist at once.
    """
    ids, attention, completion = (batch[name] for name in TEXTS)
    wanted, own = completion[:, 1:].bool(), ids.clone()
    given = {"input_ids": ids, "attention_mask": attention, "use_cache": False}
    if choice == "sampled":  # from the logits as the model bends them, if it does
        with torch.no_grad():
            shares = model(**given).logits[:, :-1][wanted].float().softmax(-1)
        own[:, 1:][wanted] = torch.multinomial(shares, 1).squeeze(-1)
        return own

    def chosen(hidden: Tensor, head: Any) -> Tensor:
        states = hidden[:, :-1][wanted]
        pieces = [
            nn.functional.linear(
                states[at : at + chunk], head.weight, getattr(head, "bias", None)
            ).argmax(-1)
            for at in range(0, len(states), chunk)
        ]
        own[:, 1:][wanted] = torch.cat(pieces)
        return hidden[..., :1]

    with torch.no_grad(), exchanged_head(model, chosen):
        model(**given)
    return own


@contextmanager
def mixed(
    model: nn.Module, batch: dict[str, Any], view: Residual, step: int, chunk: int
) -> Iterator[None]:
    """Let the model read, within the answers, a mixture of their tokens and its own.

    Args:
        model: a causal language model, possibly wrapped.
        batch: from a `Collator`.
        view: the share, the choice and the schedule.
        step: number of the gradient step, from 0.
        chunk: tokens whose logits exist at once.
    """
    own = own_tokens(model, batch, view.choice, chunk)
    embedding = unwrapped(model).get_input_embeddings()
    # A stream of the step's own: λ is the same in all parts of a batch and on all processes.
    share = view.share(step, Streams([step])).item() * batch["completion_mask"].unsqueeze(-1)

    def mixture(module: nn.Module, _: Any, found: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = module.forward(own)
        return (1 - share).to(found.dtype) * found + share.to(found.dtype) * theirs

    hook = embedding.register_forward_hook(mixture)
    try:
        yield
    finally:
        hook.remove()


__all__ = ["mixed", "own_tokens"]
