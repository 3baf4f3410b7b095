"""Responses that a language model writes itself, drawn from the very distribution it is scored by.

No nucleus, no penalty, no top-k, whatever the model's own generation settings say: a response drawn
by other rules than those of its log-probability is not the policy's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.llm.logprobs import unwrapped

Tokens = tuple[int, ...]


def write(
    model: Any,
    prompts: Sequence[Tokens],
    *,
    eos: int,
    responses: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
) -> list[list[Tokens]]:
    """Let a model respond, all prompts in one batch, with torch's global random numbers.

    Args:
        model: a causal language model of `transformers`, possibly wrapped.
        prompts: tokens of each prompt.
        eos: the token that ends a response; it is kept. One that is cut off has none.
        responses: N, for each prompt.
        max_new_tokens: most tokens of a response.
        temperature: 1 draws from the policy itself; 0 always takes the most likely token.

    Returns:
        Tokens of each response, by prompt.

    Raises:
        ToyalignError: for a number that makes no sense, or prompts that leave the model no room.
    """
    if responses < 1 or max_new_tokens < 1:
        raise ToyalignError(
            f"responses={responses} and max_new_tokens={max_new_tokens} must be at least 1"
        )
    if temperature < 0:
        raise ToyalignError(f"temperature must be 0 or more, not {temperature}")
    from transformers import GenerationConfig

    inner = unwrapped(model)
    ids, attention = left_padded(prompts, eos)
    most = getattr(inner.config, "max_position_embeddings", None)
    if most is not None and ids.shape[1] + max_new_tokens > most:
        raise ToyalignError(
            f"a prompt of {ids.shape[1]} tokens and a response of {max_new_tokens} do not fit into "
            f"the model's {most} positions"
        )
    drawn = {
        "do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    }  # fmt: skip
    config = GenerationConfig(
        **(drawn if temperature else {"do_sample": False}), repetition_penalty=1.0,
        no_repeat_ngram_size=0, num_beams=1, num_return_sequences=responses,
        max_new_tokens=max_new_tokens, eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    training, usual = inner.training, inner.generation_config
    inner.eval()
    inner.generation_config = GenerationConfig()  # what it forbids or demands would be obeyed
    try:
        with torch.no_grad():
            found = inner.generate(
                input_ids=ids.to(inner.device), attention_mask=attention.to(inner.device),
                generation_config=config,
            )  # fmt: skip
    finally:
        inner.train(training)
        inner.generation_config = usual
    texts = [_ended(text, eos) for text in found[:, ids.shape[1] :].tolist()]
    return [texts[at : at + responses] for at in range(0, len(texts), responses)]


def left_padded(prompts: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, [prompt, token]; what is written follows every prompt at once."""
    long = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), long), pad)
    attention = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, long - len(prompt) :] = torch.tensor(prompt)
        attention[place, long - len(prompt) :] = 1
    return ids, attention


def _ended(tokens: list[int], eos: int) -> Tokens:
    """A response up to its end, which belongs to it."""
    return tuple(tokens[: tokens.index(eos) + 1] if eos in tokens else tokens)
