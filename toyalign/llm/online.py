"""Responses of the policy itself, judged, and put in the form that a loss asks for."""

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from toyalign.advantages import ADVANTAGES, best_weights
from toyalign.errors import ToyalignError, unknown
from toyalign.llm.batches import Batch, Collator, pad_of
from toyalign.llm.data import Example
from toyalign.llm.writing import Tokens, write
from toyalign.objectives import Objective
from toyalign.problems.sources import LABELS

Reward = Callable[..., Sequence[float]]


@dataclass(frozen=True)
class OnPolicy:
    """How responses are collected and judged; the names are those of the toy's `Source`.

    Args:
        reward: takes prompts and completions, lists of texts, and by their names the columns of the
            data that it asks for; returns a number for each completion.
        responses: N, responses to each prompt.
        fresh_every: gradient steps that a collection is used for before the next one is written;
            the prompts of the steps between are passed over.
        max_new_tokens: most tokens of a response.
        labels: which of two responses is chosen: the one of higher "reward", or as "bradley_terry"
            draws it.
        min_gap: pairs whose rewards differ by less teach nothing; pairs of equal reward never do.
        advantage: what a reward is compared with, a key of `toyalign.advantages.ADVANTAGES`, or ""
            for what the objective asks for. The expected reward of a language model is not known:
            "baseline" compares with the other responses to the prompt ("rloo").

    Raises:
        ToyalignError: for an unknown name or a number that makes no sense.
    """

    reward: Reward
    responses: int = 8
    fresh_every: int = 1
    max_new_tokens: int = 128
    labels: str = "reward"
    min_gap: float = 0.0
    advantage: str = ""

    def __post_init__(self) -> None:
        for name in ("responses", "fresh_every", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ToyalignError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.labels not in LABELS:
            raise unknown("labels", self.labels, LABELS)
        if self.advantage not in ("", *ADVANTAGES):
            raise unknown("advantage", self.advantage, ADVANTAGES)
        if self.min_gap < 0:
            raise ToyalignError(f"min_gap must be 0 or more, not {self.min_gap}")


def collect(
    model: Any,
    prompts: Sequence[Example],
    card: Objective,
    settings: OnPolicy,
    tokenizer: Any,
    seed: int,
) -> tuple[Batch, dict[str, float]]:
    """Let the policy respond to some prompts, judge the responses, and make a batch of them.

    Args:
        model: the policy, possibly wrapped.
        prompts: examples of kind "prompts".
        card: the objective; its kind says what the rows are.
        settings: how many responses, and who judges them.
        tokenizer: of the model.
        seed: of the draws; the same numbers whatever was drawn before.

    Returns:
        The batch, and what to log about the responses.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        written = write(
            model, [example.prompt for example in prompts], eos=tokenizer.eos_token_id,
            responses=settings.responses, max_new_tokens=settings.max_new_tokens,
        )  # fmt: skip
        rewards = judged(settings.reward, prompts, written, tokenizer)
        better = torch.rand(rewards.shape[0], settings.responses * (settings.responses - 1) // 2)
    rows = [
        replace(example, responses=(response,))
        for example, responses in zip(prompts, written, strict=True)
        for response in responses
    ]
    batch = Collator(pad_of(tokenizer))(rows)
    if card.kind == "samples":
        batch["data"] |= graded(rewards, card, settings.advantage)
    else:
        batch |= _ranked(rewards, card.kind, settings, better)
    spread = rewards.std(1, correction=0)
    lengths = torch.tensor([len(row.responses[0]) for row in rows], dtype=torch.float32)
    ended = [row.responses[0][-1] == tokenizer.eos_token_id for row in rows]
    return batch, {
        "reward": rewards.mean().item(),
        "reward_std": spread.mean().item(),
        "frac_reward_zero_std": (rewards == rewards[:, :1]).all(1).float().mean().item(),
        "completions/mean_length": lengths.mean().item(),
        "completions/clipped_ratio": 1 - sum(ended) / len(ended),
    }


def graded(rewards: Tensor, card: Objective, advantage: str = "") -> dict[str, Tensor]:
    """What a loss on rewards asks for, [row] by name.

    Args:
        rewards: [group, response], a group being the responses to a prompt.
        card: the objective; nothing that it does not need is computed.
        advantage: a key of `ADVANTAGES`, or "" for the card's.
    """
    found, groups = {"rewards": rewards.flatten()}, rewards[None]
    if "advantages" in card.needs:
        name = advantage or card.advantage
        compare = ADVANTAGES["rloo" if name == "baseline" else name]
        found["advantages"] = compare(groups, groups).flatten()
    if "best_weights" in card.needs:
        found["best_weights"] = best_weights(groups).flatten()
    return found


def graded_rows(examples: Sequence[Example], card: Objective) -> list[Example]:
    """Rows that came with rewards, each compared with the rows of the same prompt."""
    groups: dict[Tokens, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.prompt, []).append(place)
    made = list(examples)
    for places in groups.values():
        rewards = torch.tensor([[examples[place].values["rewards"] for place in places]])
        found = graded(rewards, card)
        for row, place in enumerate(places):
            values = {name: value[row].item() for name, value in found.items()}
            made[place] = replace(examples[place], values=values)
    return made


def _ranked(rewards: Tensor, kind: str, settings: OnPolicy, uniforms: Tensor) -> Batch:
    """All pairs of responses to the same prompt, as pairs or as the rows that a loss asks for."""
    groups, n = rewards.shape
    left, right = torch.triu_indices(n, n, 1)
    place = torch.arange(groups * n).view(groups, n)
    gap = rewards[:, left] - rewards[:, right]
    sure = torch.sigmoid(gap) if settings.labels == "bradley_terry" else (gap > 0).float()
    first = (uniforms < sure).flatten()
    one, other = place[:, left].flatten(), place[:, right].flatten()
    chosen, rejected = torch.where(first, one, other), torch.where(first, other, one)
    weights = ((gap.abs() >= settings.min_gap) & (gap != 0)).float().flatten()
    if kind == "demonstrations":
        return {"sides": chosen[None], "weights": weights}
    if kind == "labelled":
        labels = torch.ones(2 * len(chosen))
        labels[len(chosen) :] = 0
        both = torch.cat([chosen, rejected])[None]
        return {"sides": both, "weights": weights.repeat(2), "data": {"labels": labels}}
    judged = {"chosen_rewards": chosen, "rejected_rewards": rejected}
    data = {name: rewards.flatten()[places] for name, places in judged.items()}
    return {"sides": torch.stack([chosen, rejected]), "weights": weights, "data": data}


def judged(
    reward: Reward, prompts: Sequence[Example], written: Sequence[Sequence[Tokens]], tokenizer: Any
) -> Tensor:
    """The rewards of the responses, [prompt, response].

    Raises:
        ToyalignError: if the function fails, asks for a column that the data has not, or returns
            another number of rewards or one that is not finite.
    """
    each = [prompt for prompt, responses in zip(prompts, written, strict=True) for _ in responses]
    texts = tokenizer.batch_decode(
        [list(response) for responses in written for response in responses],
        skip_special_tokens=True,
    )
    given = {"prompts": [prompt.text for prompt in each], "completions": texts}
    columns = {
        name: [prompt.columns.get(name) for prompt in each]
        for name in sorted({name for prompt in prompts for name in prompt.columns})
        if name != "prompt"
    }
    name = getattr(reward, "__name__", type(reward).__name__)
    asked = _asked(reward, name, {**columns, **given})
    try:
        said = reward(**asked)
    except Exception as error:
        raise ToyalignError(f"the reward {name} raised {type(error).__name__}: {error}") from error
    try:
        rewards = torch.as_tensor([float(value) for value in said])
    except (TypeError, ValueError):
        raise ToyalignError(
            f"the reward {name} must return numbers, not {reprlib.repr(said)}"
        ) from None
    if len(rewards) != len(texts):
        raise ToyalignError(
            f"the reward {name} returned {len(rewards)} numbers for {len(texts)} completions"
        )
    if not rewards.isfinite().all():
        place = int((~rewards.isfinite()).nonzero()[0])
        raise ToyalignError(
            f"the reward {name} is {rewards[place].item()} for the completion {texts[place]!r} of "
            f"the prompt {each[place].text!r}"
        )
    return rewards.view(len(prompts), -1)


def _asked(reward: Reward, name: str, given: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the lists that a reward function names, or all if it takes any."""
    parameters = inspect.signature(reward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(given)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in given:
            raise unknown(f"column that the reward {name} asks for", parameter.name, given)
    return {p.name: given[p.name] for p in parameters if p.name in given}
