"""Data sources: where the rows of each step come from, and how fresh they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from toyalign.advantages import ADVANTAGES
from toyalign.errors import ToyalignError, unknown
from toyalign.glossary import kind_of
from toyalign.problems.exact import (
    distributions,
    exact_demonstrations,
    exact_pairs,
    exact_samples,
    own_pairs,
)
from toyalign.problems.sampled import (
    draw,
    respond,
    sampled_pairs,
    sampled_samples,
)
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.streams import Streams

LABELS = ("reward", "bradley_terry")


@dataclass(frozen=True)
class Source:
    """Where an objective's data comes from. An axis of its own beside the objective.

    Args:
        origin: "fixed" (the problem's own pairs or demonstrations), "reference" (responses of the
            reference), "policy" (responses of the policy itself, collected anew), or "" for the
            first of these that the objective allows and the problem has.
        exact: True for every response with its probability as weight, False for drawn ones. Where
            responses have several tokens, those of a policy are always drawn.
        prompts: prompts per collection when drawing, a multiple of the problem's contexts; 0 for
            one visit to each context.
        responses: N, responses per prompt; also the N of exact Best-of-N.
        minibatch: prompts per gradient step, drawn without replacement in a new order on every
            pass; 0 for the whole collection.
        reuse: T, passes over a collection of the policy before the next one is drawn.
        fresh: for origin "reference", whether a new collection is drawn after `reuse` passes; a
            study of fixed offline data draws once.
        labels: which of two responses is chosen: "reward" or "bradley_terry".
        label_noise: share of labels that are flipped, 0 to 0.5.
        min_gap: drawn pairs whose rewards differ by less are dropped.
        advantage: what a reward is compared with, a key of `ADVANTAGES`, or "" for what the
            objective asks for.

    Raises:
        ToyalignError: for an unknown name or a number that makes no sense.
    """

    origin: str = ""
    exact: bool = True
    prompts: int = 0
    responses: int = 10
    minibatch: int = 0
    reuse: int = 1
    fresh: bool = False
    labels: str = "reward"
    label_noise: float = 0.0
    min_gap: float = 0.0
    advantage: str = ""

    def __post_init__(self) -> None:
        known = {
            "data source": (self.origin, ("", "fixed", "reference", "policy")),
            "labels": (self.labels, LABELS),
            "advantage": (self.advantage, ("", *ADVANTAGES)),
        }
        for what, (given, names) in known.items():
            if given not in names:
                raise unknown(what, given, [name for name in names if name])
        for name in ("prompts", "minibatch"):
            if getattr(self, name) < 0:
                raise ToyalignError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("responses", "reuse"):
            if getattr(self, name) < 1:
                raise ToyalignError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.label_noise <= 0.5:
            raise ToyalignError(f"label_noise must be between 0 and 0.5, not {self.label_noise}")
        if self.exact and (self.prompts or self.minibatch or self.min_gap):
            raise ToyalignError(
                "prompts, minibatch and min_gap are for drawn responses: add exact=False"
            )

    @property
    def renewed(self) -> bool:
        """Whether collections are drawn again and again."""
        return self.origin == "policy" or (self.origin == "reference" and self.fresh)

    def in_world(self, world: World) -> "Source":
        """The source as it is there: longer responses of a policy cannot be enumerated."""
        if world.sequential and self.origin != "fixed":
            return replace(self, exact=False)
        return self


class Collector:
    """Makes the rows of every step, for all runs of a chunk.

    Args:
        source: where the data comes from; its origin must be given.
        needs: glossary names of the tensors that the loss asks for.
        world: the problem.
        reference: [run, cell], log-probabilities of the reference policy.
        streams: the runs' random numbers.

    Raises:
        ToyalignError: if the problem cannot provide such rows.
    """

    def __init__(
        self,
        source: Source,
        needs: Sequence[str],
        world: World,
        reference: Tensor,
        streams: Streams,
    ):
        self._world, self._streams, self._needs = world, streams, needs
        self._kind = kind = kind_of(needs)
        self._advantage = source.advantage or "baseline"
        self._reference = reference
        source = source.in_world(world)
        self.groups = source.prompts or (world.groups if world.sequential else world.contexts)
        if not world.sequential and self.groups % world.contexts:
            raise ToyalignError(
                f"prompts={source.prompts} per collection is not a multiple of the problem's "
                f"{world.contexts} contexts, which are visited equally often"
            )
        if source.minibatch and self.groups % source.minibatch:
            raise ToyalignError(
                f"minibatch={source.minibatch} does not divide the {self.groups} prompts of a "
                "collection"
            )
        ranked = kind in ("pairs", "labelled", "demonstrations") and source.origin != "fixed"
        if ranked and not source.exact and source.responses < 2:
            raise ToyalignError("pairs need at least 2 responses per prompt, not 1")
        if kind == "distributions":
            source = replace(source, exact=True, prompts=0, minibatch=0, min_gap=0.0)
        self._source = source
        self._batches = self.groups // (source.minibatch or self.groups)
        self.fresh_every = self._batches * source.reuse
        drawn = source.origin != "fixed" and not source.exact
        self._per_collection = self.groups * source.responses if drawn else 0
        self._collection: Rows | None = None
        self._pass: Rows

    def renews(self, step: int) -> bool:
        """Whether the rows of a step begin a new collection."""
        return self._source.renewed and step % self.fresh_every == 0

    def move(self, world: World, reference: Tensor) -> None:
        """Collect from another world from now on: that of newly written responses."""
        self._world, self._reference = world, reference

    def rows(self, step: int, log_probs: Tensor) -> Rows:
        """The rows of a step.

        Args:
            step: number of the step, from 0; steps must be asked for in order.
            log_probs: [run, cell], the policy's, without gradient; a policy source draws from it.
        """
        collection = self._collection
        if collection is None or self.renews(step):
            fixed = self._source.origin != "policy"
            collection = self._collect(self._reference if fixed else log_probs)
            self._collection = collection
        if self._batches == 1:
            return collection
        batch, count = step % self._batches, collection.count
        if batch == 0:  # a new pass over the collection, in a new order of its groups
            noise = self._streams.uniforms("order", self.groups)
            groups = torch.from_numpy(noise.argsort(1)).unsqueeze(-1)
            per_group = count // self.groups
            order = groups * per_group + torch.arange(per_group)
            self._pass = collection.reordered(order.flatten(1))
        size = count // self._batches
        return self._pass.part(batch * size, (batch + 1) * size)

    def queries(self, step: int) -> int:
        """Reward queries (responses drawn and judged) per run that the first `step` steps cost."""
        if not self._source.renewed:
            return self._per_collection if step else 0
        return -(-step // self.fresh_every) * self._per_collection

    def _collect(self, behaviour: Tensor) -> Rows:
        source, world = self._source, self._world
        if self._kind == "distributions":
            return distributions(world)
        if source.origin == "fixed":
            return self._own()
        if source.exact:
            if self._kind == "samples":
                return exact_samples(
                    world, behaviour, self._needs, source.responses, self._advantage
                )
            pairs = exact_pairs(world, behaviour, source.labels, source.label_noise)
        else:
            probabilities, groups, n = behaviour.exp(), self.groups, source.responses
            drawn, rewards = respond(world, probabilities, groups, n, self._streams)
            rewards = rewards.view(len(rewards), groups, n)
            if self._kind == "samples":
                rows = sampled_samples(
                    world, probabilities, drawn, rewards, self._needs, self._advantage
                )
                return replace(rows, behaviour=behaviour)
            pairs = sampled_pairs(
                drawn,
                rewards,
                self._needs,
                source.labels,
                source.label_noise,
                source.min_gap,
                self._streams,
            )
        return self._as_asked(pairs)

    def _as_asked(self, pairs: Rows) -> Rows:
        """Pairs in the form that the loss takes, with the rewards that it asks for."""
        if self._kind == "demonstrations":
            return winners(pairs)
        if self._kind == "labelled":
            return labelled(pairs)
        asked = [name for name in self._needs if name.endswith("rewards")]
        if all(name in pairs.values for name in asked):
            return replace(pairs, values={name: pairs.values[name] for name in asked})
        if self._world.sequential:
            raise ToyalignError(f"the pairs of this problem come without {asked[0]}")
        assert pairs.cells is not None
        rewards = self._world.rewards.expand(self._world.runs, -1)
        values = {
            f"{side}rewards": rewards.gather(1, cells.expand(len(rewards), -1))
            for side, cells in zip(pairs.sides, pairs.cells.unbind(1), strict=True)
            if f"{side}rewards" in asked
        }
        return replace(pairs, values=values)

    def _own(self) -> Rows:
        """The problem's own pairs or demonstrations, or `groups` draws of them."""
        source, world = self._source, self._world
        if self._kind == "samples":
            raise ToyalignError(
                "an objective that uses rewards needs responses: source='reference' or 'policy'"
            )
        imitates = self._kind == "demonstrations"
        if not imitates:
            whole = own_pairs(world, source.label_noise)
        elif world.pair_rows is not None and world.demonstration_rows is None:
            whole = winners(world.pair_rows)
        else:
            whole = exact_demonstrations(world)
        uniforms = partial(self._uniform, "responses" if imitates else "labels")
        if source.exact:
            return whole if imitates else self._as_asked(whole)
        picks = draw(whole.weight.expand(world.runs, -1), uniforms())
        weight = whole.weight.new_full((1, self.groups), 1 / self.groups)
        if whole.cells is None:
            drawn = Rows(weight, picks.unsqueeze(1), whole.sides)
        else:
            drawn = replace(whole, weight=weight).reordered(picks)
        return drawn if imitates else self._as_asked(drawn)

    def _uniform(self, purpose: str) -> Tensor:
        return torch.from_numpy(self._streams.uniforms(purpose, self.groups))


def winners(pairs: Rows) -> Rows:
    """The chosen side of each pair, as demonstrations (supervised fine-tuning on the winners)."""
    assert pairs.cells is not None
    mask = None if pairs.mask is None else pairs.mask[:, :1]
    return Rows(pairs.weight, pairs.cells[:, :1], ("",), mask=mask)


def labelled(pairs: Rows) -> Rows:
    """Both sides of each pair as single responses, the chosen one labelled as desirable."""
    assert pairs.cells is not None
    halves = pairs.weight.repeat_interleave(2, 1) / 2
    cells, mask = (
        None if t is None else t.transpose(1, 2).flatten(1, 2).unsqueeze(1)
        for t in (pairs.cells, pairs.mask)
    )
    labels = pairs.weight.new_tensor([1.0, 0.0]).repeat(pairs.count)[None]
    return Rows(halves, cells, values={"labels": labels}, mask=mask)
