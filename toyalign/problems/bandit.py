"""The categorical bandit: one-token language model, K arms for a vocabulary.

The reference distribution, the rewards and the demonstrations are arrays that anyone may supply;
below the class stand the named instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from toyalign.errors import ToyalignError
from toyalign.problems import problem
from toyalign.problems.world import World
from toyalign.streams import Streams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bandit:
    """Arms with a reference probability and a reward each.

    Args:
        reference: [action], probabilities of the reference policy; they must be positive.
        rewards: [action], the reward of each arm; zeros if not given.
        pairs: (chosen, rejected) arms, the problem's own preference data, all of equal weight.
        target: [action], the distribution to be learned, which the demonstrations follow. If not
            given it is the optimum of expected reward − temperature · KL to the reference, and the
            demonstrations are the chosen arms of `pairs` where there are any.
        temperature: the KL penalty of that optimum, in units of reward.
        spread: standard deviation, in nats, of normal noise that each run adds to the reference's
            logits: a start of its own for every seed.
        prompts: number of contexts. They share rewards and reference; a policy that reads the
            context sees a random state for each.
        state_size: length of those states, uniform on [0, 1); 0 for none.
        unseen: number of further contexts that are only looked at, never trained on.
        knowledge: correlation, from 0 to 1, of what a policy may know of an arm's quality with its
            reward; each run knows something else. Policy `informed` reads it.
        name: what tables and figures call it.

    Raises:
        ToyalignError: if the arrays differ in length, or probabilities are not positive or do not
            sum to 1, or a pair names an arm that does not exist.
    """

    reference: ArrayLike
    rewards: ArrayLike | None = None
    pairs: Sequence[tuple[int, int]] = ()
    target: ArrayLike | None = None
    temperature: float = 0.1
    spread: float = 0.0
    prompts: int = 1
    state_size: int = 0
    unseen: int = 0
    knowledge: float | None = None
    name: str = "bandit"

    def __post_init__(self) -> None:
        reference = _probabilities("reference", self.reference)
        if reference.min() <= 0:
            raise ToyalignError(
                "reference probabilities must be positive: an arm of probability 0 has no logit "
                "and can never be learned"
            )
        rewards = np.zeros(len(reference)) if self.rewards is None else _array(self.rewards)
        if not np.isfinite(rewards).all():
            raise ToyalignError("rewards must be finite numbers")
        arrays = {"reference": reference, "rewards": rewards}
        if self.target is not None:
            arrays["target"] = _probabilities("target", self.target)
        for name, array in arrays.items():
            if array.shape != reference.shape:
                raise ToyalignError(
                    f"{name} has shape {array.shape}, but the reference has {len(reference)} arms"
                )
            object.__setattr__(self, name, array)
        for pair in self.pairs:
            if len(pair) != 2 or not all(0 <= arm < len(reference) for arm in pair):
                raise ToyalignError(
                    f"pair {pair} is not a (chosen, rejected) pair of arms 0..{len(reference) - 1}"
                )
        if not 0 <= self.spread < np.inf:
            raise ToyalignError(f"spread must be 0 or more, and finite, not {self.spread}")
        if self.knowledge is not None and not 0 <= self.knowledge <= 1:
            raise ToyalignError(f"knowledge must lie between 0 and 1, not {self.knowledge}")
        if self.knowledge is not None and np.ptp(rewards) == 0:
            raise ToyalignError("all rewards are equal: there is no quality to know of")
        if self.prompts < 1:
            raise ToyalignError(f"a bandit needs at least one prompt, not {self.prompts}")

    @property
    def arms(self) -> int:
        """Number of arms."""
        return len(np.asarray(self.reference))

    def optimum(self, beta: float) -> Array:
        """The policy that maximises E[R] − β·KL(π‖π_ref): proportional to π_ref · exp(R/β).

        Args:
            beta: KL penalty, in units of reward.

        Returns:
            Probabilities, [action].
        """
        logits = np.log(_array(self.reference)) + _array(self.rewards) / beta
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def best_of(self, draws: int) -> float:
        """Expected reward of the best of `draws` independent responses of the reference."""
        rewards, reference = _array(self.rewards), _array(self.reference)
        levels = np.unique(rewards)
        below = np.array([reference[rewards <= level].sum() for level in levels]) ** draws
        return float(levels @ np.diff(below, prepend=0.0))

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> World:
        """The problem as tensors, for the runs whose random streams are given."""
        # Without noise all runs share one row, and nothing below takes memory for more.
        logits = torch.from_numpy(np.log(_array(self.reference)))[None]
        if self.spread:
            noise = torch.from_numpy(streams.normals("reference", self.arms))
            logits = torch.log_softmax(logits + self.spread * noise, -1)
        rewards = torch.from_numpy(_array(self.rewards))[None]
        if self.target is None:
            target = torch.log_softmax(logits + rewards / self.temperature, -1)
        else:
            target = torch.from_numpy(_array(self.target)).log().expand_as(logits)
        demonstrations = target.exp()
        if self.pairs and self.target is None:
            chosen = np.bincount([pair[0] for pair in self.pairs], minlength=self.arms)
            demonstrations = torch.from_numpy(chosen / len(self.pairs))[None]
        pairs = None
        if self.pairs:
            arms = torch.tensor(self.pairs).T  # [side, pair]
            shift = torch.arange(self.prompts).view(1, -1, 1) * self.arms
            pairs = (arms.unsqueeze(1) + shift).flatten(1)[None]
        states = unseen = None
        if self.state_size:
            count = (self.prompts + self.unseen) * self.state_size
            drawn = torch.from_numpy(streams.uniforms("states", count).copy()).to(dtype)
            drawn = drawn.view(len(drawn), -1, self.state_size)
            states, unseen = drawn.split([self.prompts, self.unseen], 1)
        return World(
            contexts=self.prompts,
            actions=self.arms,
            reference_logits=logits.repeat(1, self.prompts).to(dtype).expand(streams.runs, -1),
            rewards=rewards.repeat(1, self.prompts).to(dtype),
            target_log_probs=target.repeat(1, self.prompts).to(dtype),
            demonstrations=(demonstrations.repeat(1, self.prompts) / self.prompts).to(dtype),
            pairs=pairs,
            states=states,
            unseen_states=unseen if self.unseen else None,
            quality=self._quality(rewards, streams).to(dtype)
            if self.knowledge is not None
            else None,
        )

    def _quality(self, rewards: torch.Tensor, streams: Streams) -> torch.Tensor:
        """Rewards and noise, each standardised, mixed as `knowledge` says, [run, cell]."""
        assert self.knowledge is not None
        noise = torch.from_numpy(streams.normals("quality", self.arms))
        known, wrong = (
            (values - values.mean(-1, keepdim=True)) / values.std(-1, correction=0, keepdim=True)
            for values in (rewards, noise)
        )
        mixed = self.knowledge * known + (1 - self.knowledge**2) ** 0.5 * wrong
        return mixed.repeat(1, self.prompts)


def _array(values: ArrayLike | None) -> Array:
    return np.asarray(values, dtype=np.float64)


def _probabilities(name: str, values: ArrayLike) -> Array:
    array = _array(values)
    if array.ndim != 1 or len(array) < 2:
        raise ToyalignError(f"{name} must be a list of at least two probabilities")
    if not np.isfinite(array).all() or array.min() < 0 or abs(array.sum() - 1) > 1e-6:
        raise ToyalignError(
            f"{name} must be probabilities that sum to 1; these sum to {array.sum():.6g} and the "
            f"smallest is {array.min():.6g}"
        )
    return array / array.sum()


def squashed_cauchy(arms: int = 100, location: float = -0.7, scale: float = 0.4) -> Array:
    """The reference of the 100-arm bandit: a Cauchy variable squashed by tanh into (−1, 1).

    The interval is cut into `arms` equal bins; the probability of a bin is a difference of the
    Cauchy distribution function, so nothing is drawn. Source: the code of Tajwar et al. 2024,
    arXiv 2404.14367, which draws a histogram of this distribution instead.

    Returns:
        Probabilities, [action].
    """
    edges = np.linspace(-1, 1, arms + 1)
    with np.errstate(divide="ignore"):
        inverse = np.arctanh(edges)  # −∞ and ∞ at the ends
    return np.diff(0.5 + np.arctan((inverse - location) / scale) / np.pi)


def gaussian_reward(arms: int, peak: float, width: float = 10.0) -> Array:
    """exp(−((i − peak) / width)²) for each arm i, [action]."""
    return np.exp(-(((np.arange(arms) - peak) / width) ** 2))


@problem
def far(**changes: Any) -> Bandit:
    """100 arms whose reward peaks at arm 70, where the reference has next to nothing.

    Source: Tajwar et al. 2024, arXiv 2404.14367, the reward R1 of the didactic bandit.

    Args:
        **changes: fields of `Bandit` to set otherwise, for example prompts.
    """
    settings = {"reference": squashed_cauchy(), "rewards": gaussian_reward(100, 70), "name": "far"}
    return Bandit(**{**settings, **changes})


@problem
def near(**changes: Any) -> Bandit:
    """100 arms whose reward peaks at arm 20, in the hump of the reference.

    Source: Tajwar et al. 2024, arXiv 2404.14367, the reward R2 of the didactic bandit.

    Args:
        **changes: fields of `Bandit` to set otherwise, for example prompts.
    """
    settings = {"reference": squashed_cauchy(), "rewards": gaussian_reward(100, 20), "name": "near"}
    return Bandit(**{**settings, **changes})


@problem
def two_modes(arms: int = 20, **changes: Any) -> Bandit:
    """A reference on the left; demonstrations, and equal rewards, in two modes left and right.

    Which mode does an objective go for, and how soon does it find the other one?

    Args:
        arms: number of arms.
        **changes: fields of `Bandit` to set otherwise.
    """
    place = np.arange(arms) / arms
    left, right = (np.exp(-(((place - at) / 0.08) ** 2)) for at in (0.25, 0.75))
    reference = np.exp(-(((place - 0.3) / 0.25) ** 2))
    settings = {
        "reference": reference / reference.sum(),
        "rewards": left + right,
        "target": (left + right) / (left + right).sum(),
        "name": "two_modes",
    }
    return Bandit(**{**settings, **changes})


@problem
def adjacent_arms(arms: int = 10, spread: float = 0.0, **changes: Any) -> Bandit:
    """One preference pair of neighbouring arms: two answers that are almost the same.

    The chosen arm is in the middle, the rejected one to its right, and the reference leans to the
    left, where arms resemble the chosen answer. With shared features this is where the chosen
    log-probability falls under DPO. The demonstrations are the chosen arm; it alone has a reward.

    Args:
        arms: number of arms, at least 3.
        spread: standard deviation of each run's noise on the reference's logits, in nats.
        **changes: fields of `Bandit` to set otherwise.
    """
    if arms < 3:
        raise ToyalignError(f"adjacent_arms needs at least 3 arms, not {arms}")
    chosen = (arms - 1) // 2
    reference = np.exp(-(((np.arange(arms) - chosen + 2) / 2.5) ** 2) / 2)
    demonstrated = np.eye(arms)[chosen]
    settings = {
        "reference": reference / reference.sum(),
        "rewards": demonstrated,
        "pairs": ((chosen, chosen + 1),),
        "spread": spread,
        "name": "adjacent_arms",
    }
    return Bandit(**{**settings, **changes})


@problem
def graded_arms(arms: int = 20, knowledge: float = 0.7, **changes: Any) -> Bandit:
    """Answers of graded quality, of which a policy knows something: the toy of a quality prompt.

    Rewards rise evenly in steps of a tenth and are dealt to the arms in a fixed order, so that
    neighbours are not alike; the reference is even but for each run's noise. Policy `informed`
    reads what is known of them. Source: this package's own, for the setting of Yu et al. 2024,
    arXiv 2405.21040.

    Args:
        arms: number of arms, at least 2.
        knowledge: correlation of what may be known with the reward, from 0 to 1.
        **changes: fields of `Bandit` to set otherwise.
    """
    dealt = np.random.Generator(np.random.SFC64(0)).permutation(arms) / 10
    settings = {
        "reference": np.full(arms, 1 / arms),
        "rewards": dealt,
        "knowledge": knowledge,
        "spread": 0.5,
        "name": "graded_arms",
    }
    return Bandit(**{**settings, **changes})
