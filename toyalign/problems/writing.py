"""Responses that a policy writes itself, token by token, and a reward for the whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from toyalign.errors import ToyalignError, unknown
from toyalign.problems import problem
from toyalign.problems.bandit import gaussian_reward, squashed_cauchy
from toyalign.problems.sampled import draw
from toyalign.problems.sequences import SequenceWorld
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.streams import Streams

Judge = Callable[[Tensor, Tensor], Tensor]  # tokens, prompts -> rewards [run, response]
Inside = Callable[[Tensor], Tensor]  # tokens -> which of them count


@dataclass(frozen=True)
class SequenceBandit:
    """A prompt of one token and a response of several, each drawn alike by the reference.

    The reward is the mean reward of all tokens, the prompt's included. A policy that writes
    (`Transformer`) starts from texts whose tokens are independent draws of the reference.

    Args:
        reference: [token], probability of each token.
        rewards: [token], reward of each.
        tokens: T, length of every response.
        prompts: number of prompts; each run draws their tokens.
        texts: number of texts in the corpus that the policy learns to write from.
        name: what tables and figures call it.

    Raises:
        ToyalignError: if the lengths of the arrays differ or a number is below 1.

    Source: the N-dimensional bandit in the released code of Tajwar et al. 2024, arXiv 2404.14367.
    """

    reference: Sequence[float]
    rewards: Sequence[float]
    tokens: int = 9
    prompts: int = 10
    texts: int = 2048
    name: str = "sequence_bandit"
    pairs: tuple[()] = field(default=(), init=False)

    usual_policy: ClassVar[str] = "transformer"

    def __post_init__(self) -> None:
        if len(self.reference) != len(self.rewards) or len(self.rewards) < 2:
            raise ToyalignError(
                f"reference and rewards need one number per token, not {len(self.reference)} and "
                f"{len(self.rewards)}"
            )
        for name in ("tokens", "prompts", "texts"):
            if getattr(self, name) < 1:
                raise ToyalignError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def units(self) -> dict[str, str]:
        """The unit of everything in `measure`."""
        return {"expected_reward": "reward", "kl_to_reference": "nats", "distinct": "tokens"}

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The prompts and the corpus of each run; responses come when a policy writes them."""
        drawn = torch.from_numpy(
            streams.uniforms("states", self.prompts + self.texts * self.tokens).copy()
        )
        asked = (drawn[:, : self.prompts] * len(self.rewards)).long()
        shares = torch.tensor(self.reference, dtype=torch.float64).expand(streams.runs, -1)
        corpus = draw(shares, drawn[:, self.prompts :]).view(streams.runs, -1, self.tokens)
        return opened(
            corpus,
            torch.arange(self.texts) % self.prompts,
            len(self.rewards),
            dtype,
            partial(self._judge, asked),
            torch.ones_like,
        )

    def _judge(self, asked: Tensor, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Rewards [run, response]."""
        rewards = torch.tensor(self.rewards, dtype=torch.float64)
        shown = rewards[asked.gather(1, prompts)]
        return (shown + rewards[tokens].sum(-1)) / (1 + self.tokens)

    def measure(self, world: World, log_probs: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """What the policy wrote: mean reward, sampled KL to the reference, tokens that it uses.

        Args:
            world: of responses that the policy wrote.
            log_probs: [run, cell], its table there.
            reference: [run, cell], the reference's.
        """
        rewards, ratio = looked_at(world, log_probs, reference)
        assert world.tokens is not None
        distinct = [len(row.unique()) for row in world.tokens]
        return {
            "expected_reward": rewards.mean(-1),
            "kl_to_reference": ratio.mean(-1),
            "distinct": torch.tensor(distinct, dtype=log_probs.dtype),
        }


def opened(
    corpus: Tensor,
    about: Tensor,
    vocabulary: int,
    dtype: torch.dtype,
    judge: Judge,
    inside: Inside,
) -> SequenceWorld:
    """A world in which nothing is written yet but the corpus.

    Args:
        corpus: [run, text, token], what a policy learns to write from.
        about: [text], the prompt of each text; every prompt has one.
        vocabulary: number of tokens.
        dtype: of the tables.
        judge: from tokens [run, response, token] and prompts [run, response] to rewards
            [run, response].
        inside: from tokens to which of them belong to their response, the same shape.
    """
    runs, _, wide = corpus.shape
    prompts = int(about.max()) + 1
    nothing = torch.zeros(1, vocabulary, dtype=dtype).expand(runs, -1)
    world = SequenceWorld(
        contexts=prompts * wide,
        actions=vocabulary,
        reference_logits=nothing,
        rewards=nothing[:1],
        target_log_probs=nothing,
        demonstrations=nothing,
        tokens=corpus[:, :prompts],
        prompts=torch.arange(prompts)[None],
        groups=prompts,
        corpus=corpus,
        corpus_prompts=about,
    )
    return replace(world, write=partial(_written, world, judge, inside))


def looked_at(world: World, log_probs: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of the written responses, and their log-ratios to the reference, [run, response]."""
    assert world.respond is not None
    rows, rewards = world.respond(log_probs, 1, 1, Streams([0]))
    assert rows.cells is not None and rows.mask is not None
    cells = rows.cells.expand(len(log_probs), -1, -1, -1)
    ratio = (log_probs - reference).gather(1, cells.flatten(1)).view(cells.shape) * rows.mask
    return rewards, ratio.sum(-1).flatten(1)


def with_pairs(world: SequenceWorld, chosen: Tensor, rejected: Tensor, inside: Inside) -> World:
    """An opened world whose responses so far are those of preference pairs.

    Args:
        world: from `opened`.
        chosen: [run or 1, pair, token]; the pairs go round the prompts.
        rejected: the same.
        inside: as for `opened`.
    """
    tokens = torch.cat([chosen, rejected], 1)
    many, wide = tokens.shape[1:]
    cells = torch.arange(many * wide).view(1, many, wide) * world.actions + tokens
    mask = inside(tokens).to(world.reference_logits.dtype)
    sides, masks = (each.unflatten(1, (2, many // 2)) for each in (cells, mask))
    return replace(
        world,
        contexts=many * wide,
        tokens=tokens,
        prompts=(torch.arange(many // 2) % world.groups).repeat(2)[None],
        pair_rows=Rows(
            mask.new_full((1, many // 2), 2 / many), sides, ("chosen_", "rejected_"), mask=masks
        ),
    )


def _written(
    world: SequenceWorld,
    judge: Judge,
    inside: Inside,
    policy: Any,
    theta: Tensor,
    groups: int,
    n: int,
    streams: Streams,
    purpose: str,
) -> World:
    """The world of the responses that a policy writes now; groups go round the prompts."""
    assert world.tokens is not None
    runs, wide, count = len(theta), world.tokens.shape[-1], groups * n
    prompts = (torch.arange(groups) % world.groups).repeat_interleave(n).expand(runs, -1)
    uniforms = torch.from_numpy(streams.uniforms(purpose, count * wide).copy())
    tokens = policy.write(theta, world, prompts, uniforms.view(runs, count, wide))
    rewards = judge(tokens, prompts).to(world.reference_logits.dtype)
    cells = torch.arange(count * wide).view(1, count, wide) * world.actions + tokens
    rows = Rows(
        weight=rewards.new_full((1, count), 1 / count),
        cells=cells.unsqueeze(1),
        mask=inside(tokens).to(rewards.dtype).unsqueeze(1),
    )
    return replace(
        world,
        contexts=count * wide,
        tokens=tokens,
        prompts=prompts,
        respond=lambda *_: (rows, rewards),
        write=partial(_written, world, judge, inside),
    )


@problem
def sequence_bandit(where: str = "far", **changes: Any) -> SequenceBandit:
    """A prompt token and nine to write, of 100, whose reward peaks far from the reference or near.

    Source: Tajwar et al. 2024, arXiv 2404.14367, the N-dimensional bandit of the released code.

    Args:
        where: "far" (the reward peaks at token 70) or "near" (20).
        **changes: fields of `SequenceBandit` to set otherwise.

    Raises:
        ToyalignError: for another place.
    """
    peaks = {"far": 70, "near": 20}
    if where not in peaks:
        raise unknown("place of the reward", where, peaks)
    settings = {
        "reference": tuple(squashed_cauchy()),
        "rewards": tuple(gaussian_reward(100, peaks[where])),
        "name": "sequence_bandit" + ("" if where == "far" else f"_{where}"),
    }
    return SequenceBandit(**{**settings, **changes})
