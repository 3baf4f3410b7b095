"""Exact rows: every response or every ordered pair, weighted by its probability. Nothing is drawn.

Contexts weigh the same.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from toyalign.advantages import exact_advantages, exact_best_weights
from toyalign.errors import ToyalignError
from toyalign.problems.world import World
from toyalign.rows import Rows

MOST_ROWS = 100_000


def preference(better: Tensor, labels: str, noise: float) -> Tensor:
    """Probability that the first of two responses is labelled as chosen.

    Args:
        better: reward of the first less reward of the second.
        labels: "reward" (the higher reward wins, equal ones are a coin toss) or "bradley_terry"
            (σ of the difference).
        noise: share of labels that are flipped.
    """
    if labels == "bradley_terry":
        wins = torch.sigmoid(better)
    else:
        wins = 0.5 * (1 + torch.sign(better))
    return wins * (1 - 2 * noise) + noise


def exact_samples(
    world: World, behaviour: Tensor, needs: Collection[str], responses: int, advantage: str
) -> Rows:
    """All arms, weighted by their probability under whoever draws them.

    Args:
        behaviour: [run, cell], log-probabilities of the policy that responds.
        needs: the glossary names that the loss asks for; no others are computed.
        responses: the N of Best-of-N.
        advantage: a key of `ADVANTAGES`.
    """
    shape = (-1, world.contexts, world.actions)
    weight = behaviour.exp().view(shape)
    rewards = world.rewards.view(shape)
    values = {}
    if "rewards" in needs:
        values["rewards"] = world.rewards.expand(world.runs, -1)
    if "advantages" in needs:
        values["advantages"] = exact_advantages(advantage, rewards, weight).flatten(1)
    if "best_weights" in needs:
        values["best_weights"] = exact_best_weights(rewards, weight, responses).flatten(1)
    return Rows((weight / world.contexts).flatten(1), values=values, behaviour=behaviour)


def exact_pairs(world: World, behaviour: Tensor, labels: str, noise: float) -> Rows:
    """All ordered pairs of two independent responses, times the probability of that label.

    Args:
        behaviour: [run, cell], log-probabilities of the policy that responds.
        labels: as in `preference`.
        noise: share of labels that are flipped.

    A pair of equal responses keeps its weight, though it teaches nothing, so that the weights are
    those of what would be drawn.

    Raises:
        ToyalignError: where the pairs would be too many.
    """
    count = world.contexts * world.actions**2
    if count > MOST_ROWS:
        raise ToyalignError(
            f"exact pairs of {world.actions} arms in {world.contexts} context(s) are {count:,} "
            f"rows for every run (at most {MOST_ROWS:,}): draw them, with Source(exact=False)"
        )
    shape = (-1, world.contexts, world.actions)
    weight = behaviour.exp().view(shape)
    rewards = world.rewards.view(shape)
    wins = preference(rewards.unsqueeze(-1) - rewards.unsqueeze(-2), labels, noise)
    both = weight.unsqueeze(-1) * weight.unsqueeze(-2)  # [run, context, chosen, rejected]
    cell = torch.arange(world.cells).view(world.contexts, world.actions)
    chosen, rejected = torch.broadcast_tensors(cell.unsqueeze(-1), cell.unsqueeze(-2))
    return Rows(
        weight=(2 * both * wins / world.contexts).flatten(1),
        cells=torch.stack([chosen.flatten(), rejected.flatten()])[None],
        sides=("chosen_", "rejected_"),
    )


def own_pairs(world: World, noise: float) -> Rows:
    """The problem's own pairs, with both labels of each where some are flipped.

    Raises:
        ToyalignError: if the problem has no pairs.
    """
    if world.pair_rows is not None:
        rows = world.pair_rows
        return _with_flipped(rows, noise) if noise else rows
    if world.sequential:
        raise ToyalignError("this problem has no pairs of its own: collect responses")
    if world.pairs is None:
        raise ToyalignError(
            "this problem has no pairs of its own: give Bandit(pairs=[(chosen, rejected)]), or "
            "collect pairs with source='reference' or source='policy'"
        )
    cells = world.pairs
    count = cells.shape[2]
    weight = torch.full((1, count), 1 / count, dtype=world.rewards.dtype)
    rows = Rows(weight=weight, cells=cells, sides=("chosen_", "rejected_"))
    return _with_flipped(rows, noise) if noise else rows


def _with_flipped(rows: Rows, noise: float) -> Rows:
    """Both labels of every pair, the wrong one with the weight of the noise."""
    assert rows.cells is not None
    weight = torch.cat([rows.weight * (1 - noise), rows.weight * noise], 1)
    flipped = [None if t is None else torch.cat([t, t.flip(1)], 2) for t in (rows.cells, rows.mask)]
    return replace(rows, weight=weight, cells=flipped[0], mask=flipped[1])


def exact_demonstrations(world: World) -> Rows:
    """All responses, weighted by their probability among the demonstrations.

    Raises:
        ToyalignError: if responses have several tokens and none are demonstrated.
    """
    if world.demonstration_rows is not None:
        return world.demonstration_rows
    if world.sequential:
        raise ToyalignError("this problem has no demonstrations: collect responses")
    return Rows(weight=world.demonstrations)


def distributions(world: World) -> Rows:
    """One row for each context: the whole distribution there, beside the target's.

    Raises:
        ToyalignError: if the responses are the policy's own and nothing says what they should be.
    """
    if world.write is not None:
        raise ToyalignError(
            "this problem has no target distribution: its responses are what the policy writes"
        )
    target = world.target_log_probs.view(-1, world.contexts, world.actions)
    target = target.expand(world.runs, -1, -1)
    weight = target.new_full((1, world.contexts), 1 / world.contexts)
    return Rows(weight=weight, sides=(), values={"target_log_probs": target})
