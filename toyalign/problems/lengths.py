"""Length problems: a reward model that has only seen pairs decides how long responses get."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from toyalign.errors import ToyalignError, unknown
from toyalign.problems import problem
from toyalign.problems.sampled import draw
from toyalign.problems.world import World
from toyalign.problems.writing import looked_at, opened, with_pairs
from toyalign.streams import Streams

RULES = ("min", "mode", "skew")
END = 0  # the token that ends a response
_FITS = 20  # Newton steps of the reward model
_SHRINK = 1e-3  # its L2 penalty: labels are without noise, and nothing else bounds it


@dataclass(frozen=True)
class Lengths:
    """Responses of up to T tokens; short ones are preferred, or those of the usual length.

    The reference writes lengths around `usual`, with tokens that mean nothing. Preference pairs are
    judged by the true rule: "min" and "skew" prefer the shorter response, "mode" the one nearer to
    the usual length. Pairs of "skew" come from shorter texts than the reference writes, those of
    the others from texts like its own. Rewards of what a policy writes are a reward model's,
    learned from the pairs: linear in how often each token occurs and in which positions are
    reached, so that any function of the length can be learned where there are data, and the trend
    goes on where there are none.

    Args:
        rule: "min", "mode" or "skew".
        vocabulary: V, number of tokens; token 0 ends a response.
        tokens: T, the most tokens of a response, its end included.
        prompts: number of prompts, which mean nothing either.
        usual: the usual length, in tokens without the end.
        count: preference pairs that a policy may be trained on.
        judged: preference pairs that the reward model is trained on.
        texts: texts in the corpus that the policy learns to write from.
        name: what tables and figures call it.

    Raises:
        ToyalignError: for an unknown rule or numbers that do not fit.

    Source: the synthetic length problems of Tajwar et al. 2024, arXiv 2404.14367, section 5, whose
    language model, texts and truncation are replaced by these.
    """

    rule: str = "min"
    vocabulary: int = 6
    tokens: int = 16
    prompts: int = 4
    usual: int = 8
    count: int = 64
    judged: int = 512
    texts: int = 1024
    name: str = "lengths"
    pairs: tuple[()] = field(default=(), init=False)
    has_pairs: bool = field(default=True, init=False)

    usual_policy: ClassVar[str] = "transformer"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        least = {"vocabulary": 2, "tokens": 3, "prompts": 1, "usual": 1, "count": 1, "judged": 1}
        for name, bound in {**least, "texts": self.prompts}.items():
            if getattr(self, name) < bound:
                raise ToyalignError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        if self.usual >= self.tokens:
            raise ToyalignError(
                f"usual={self.usual} must be shorter than the {self.tokens} tokens of a response"
            )

    @property
    def units(self) -> dict[str, str]:
        """The unit of everything in `measure`."""
        return {
            "length": "tokens",
            "true_reward": "reward",
            "expected_reward": "reward, the reward model's",
            "kl_to_reference": "nats",
        }

    def shares(self, short: bool) -> Tensor:
        """Probability of each length 0 … T − 1, of the reference's texts or of the short ones."""
        length = torch.arange(self.tokens, dtype=torch.float64)
        logits = -length / 1.5 if short else -(((length - self.usual) / 2.5) ** 2)
        return torch.softmax(logits, 0)

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The texts, pairs and reward model of each run."""
        runs, wide = streams.runs, self.tokens
        sizes = [self.texts, 2 * self.judged, 2 * self.count]
        drawn = torch.from_numpy(streams.uniforms("states", sum(sizes) * (wide + 1)).copy())
        short = self.rule == "skew"
        corpus, judged, shown = (
            self._texts(part.view(runs, size, wide + 1), short and size != self.texts)
            for part, size in zip(
                drawn.split([s * (wide + 1) for s in sizes], 1), sizes, strict=True
            )
        )
        model = fit_reward(self._features(judged), self.truth(judged))
        world = opened(
            corpus,
            torch.arange(self.texts) % self.prompts,
            self.vocabulary,
            dtype,
            partial(self._judge, *model),
            counted,
        )
        first, second = shown.chunk(2, 1)
        keep = (self.truth(first) >= self.truth(second)).unsqueeze(-1)
        chosen, rejected = torch.where(keep, first, second), torch.where(keep, second, first)
        return with_pairs(world, chosen, rejected, counted)

    def measure(self, world: World, log_probs: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """What the policy wrote: length without the end, true and modelled reward, sampled KL.

        Args:
            world: of responses that the policy wrote.
            log_probs: [run, cell], its table there.
            reference: [run, cell], the reference's.
        """
        rewards, ratio = looked_at(world, log_probs, reference)
        assert world.tokens is not None
        kind = log_probs.dtype
        return {
            "length": length_of(world.tokens).to(kind).mean(-1),
            "true_reward": self.truth(world.tokens).to(kind).mean(-1),
            "expected_reward": rewards.mean(-1),
            "kl_to_reference": ratio.mean(-1),
        }

    def truth(self, tokens: Tensor) -> Tensor:
        """The true rule as a reward from 0 to 1, [run, response]."""
        length = length_of(tokens).double()
        off = (length - self.usual).abs() if self.rule == "mode" else length
        return 1 - off / self.tokens

    def _texts(self, uniforms: Tensor, short: bool) -> Tensor:
        """Texts [run, text, token]: a length, tokens that mean nothing, then ends."""
        runs, texts, _ = uniforms.shape
        shares = self.shares(short).expand(runs, -1)
        length = draw(shares, uniforms[..., 0].contiguous()).unsqueeze(-1)
        words = 1 + (uniforms[..., 1:] * (self.vocabulary - 1)).long()
        return torch.where(torch.arange(self.tokens) < length, words, END).view(runs, texts, -1)

    def _features(self, tokens: Tensor) -> Tensor:
        """[run, response, feature]: how often each word occurs, and which positions are reached."""
        inside = counted(tokens) & (tokens != END)
        words = torch.nn.functional.one_hot(tokens, self.vocabulary)[..., 1:] * inside.unsqueeze(-1)
        return torch.cat([words.sum(-2), inside], -1).double()

    def _judge(
        self, weight: Tensor, mean: Tensor, scale: Tensor, tokens: Tensor, prompts: Tensor
    ) -> Tensor:
        """The reward model's rewards of responses, [run, response]."""
        rewards = (self._features(tokens) * weight.unsqueeze(1)).sum(-1)
        return (rewards - mean) / scale


def counted(tokens: Tensor) -> Tensor:
    """Which tokens belong to a response, [..., token]: all up to the first end, that included."""
    ended = (tokens == END).cumsum(-1)
    return (ended == 0) | ((ended == 1) & (tokens == END))


def length_of(tokens: Tensor) -> Tensor:
    """Tokens before the first end, [..., response]."""
    return (counted(tokens) & (tokens != END)).sum(-1)


def fit_reward(features: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A linear reward from pairs, by logistic regression; then its mean and scale on the pairs.

    Args:
        features: [run, 2·pair, feature], the first responses of all pairs, then the second ones.
        truth: [run, 2·pair], true rewards; the higher of a pair is preferred, ties are left out.

    Returns:
        Weights [run, feature], mean and standard deviation [run, 1] of the rewards.
    """
    # Run by run: sums over a batch of runs round differently with their number.
    weight = torch.stack([_logistic(x, t) for x, t in zip(features, truth, strict=True)])
    rewards = (features * weight.unsqueeze(1)).sum(-1)
    return weight, rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True).clamp_min(1e-6)


def _logistic(features: Tensor, truth: Tensor) -> Tensor:
    """Ridge-penalised logistic regression of one run, [feature], by Newton's method."""
    better = torch.sub(*truth.chunk(2)).sign()
    gaps = torch.sub(*features.chunk(2)) * better.unsqueeze(-1)
    weight = gaps.new_zeros(gaps.shape[1])
    ridge = 2 * _SHRINK * torch.eye(gaps.shape[1], dtype=gaps.dtype)
    counts = better.abs() / len(gaps)
    for _ in range(_FITS):
        wrong = counts * torch.sigmoid(-gaps @ weight)
        bend = gaps.T @ ((wrong * torch.sigmoid(gaps @ weight)).unsqueeze(-1) * gaps) + ridge
        weight = weight + torch.linalg.solve(bend, gaps.T @ wrong - 2 * _SHRINK * weight)
    return weight


@problem
def lengths(rule: str = "min", **changes: Any) -> Lengths:
    """Responses that should be short, or of the usual length, by a reward model's judgement.

    Source: the Min, Mode and Skew Length problems of Tajwar et al. 2024, arXiv 2404.14367.

    Args:
        rule: "min", "mode" or "skew".
        **changes: fields of `Lengths` to set otherwise.
    """
    name = "lengths" + ("" if rule == "min" else f"_{rule}")
    return Lengths(**{"rule": rule, "name": name, **changes})
