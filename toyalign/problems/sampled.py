"""Sampled rows: n responses or pairs, drawn and labelled with each run's own random numbers.

A collection is a set of groups, [run, group]; a group is a prompt with N responses. Groups visit
the contexts in turn, equally often.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from toyalign.advantages import ADVANTAGES, best_weights
from toyalign.errors import ToyalignError
from toyalign.problems.exact import preference
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.streams import Streams

_BISECT_FROM = 8192  # draws; below this the several small operations cost more than they save


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling: the first entry whose cumulative probability exceeds u.

    Args:
        probabilities: [run, action], summing to 1.
        uniforms: [run, draw], in [0, 1).

    Returns:
        Indices, [run, draw].
    """
    actions = probabilities.shape[1]
    cumulative = probabilities.cumsum(1, dtype=torch.float64)
    # The total is 1 but for rounding; scaling u by it keeps every draw inside the table.
    uniforms = uniforms * cumulative[:, -1:]
    if uniforms.numel() < _BISECT_FROM:
        return torch.searchsorted(cumulative, uniforms, right=True).clamp_(max=actions - 1)
    # A bisection without branches makes the same choice, in half the time for many draws.
    half = 1 << (actions - 1).bit_length() >> 1
    padded = torch.nn.functional.pad(cumulative, (0, 2 * half - actions), value=torch.inf)
    low = (padded[:, half - 1 : half] <= uniforms) * half
    while half > 1:
        half //= 2
        low.add_(padded[:, half - 1 :].gather(1, low) <= uniforms, alpha=half)
    return low.clamp_(max=actions - 1)


def draw_responses(
    world: World, probabilities: Tensor, groups: int, n: int, streams: Streams
) -> Tensor:
    """Cells of N responses for each group, [run, group, response].

    Args:
        probabilities: [run, cell], of the policy that responds.
        groups: number of groups, a multiple of the number of contexts.
        n: responses per group.
    """
    contexts, runs = world.contexts, len(probabilities)
    uniforms = torch.from_numpy(streams.uniforms("responses", groups * n))
    tables = probabilities.view(runs * contexts, world.actions)
    arms = draw(tables, uniforms.reshape(runs * contexts, -1)).view(runs, contexts, -1)
    if contexts > 1:
        arms = arms + torch.arange(contexts).view(1, -1, 1) * world.actions
    return arms.view(runs, groups, n)


def respond(
    world: World, probabilities: Tensor, groups: int, n: int, streams: Streams
) -> tuple[Rows, Tensor]:
    """N responses for each group, [run, group · response] rows, and their rewards, the same shape.

    Args:
        probabilities: [run, cell], of the policy that responds.
        groups: number of groups; of single actions a multiple of the number of contexts.
        n: responses per group.

    Raises:
        ToyalignError: if the problem's responses are given and no others can be drawn.
    """
    if world.respond is not None:
        return world.respond(probabilities, groups, n, streams)
    if world.sequential:
        raise ToyalignError(
            "this problem's responses are given and no others can be drawn: source='fixed'"
        )
    cells = draw_responses(world, probabilities, groups, n, streams).flatten(1)
    weight = probabilities.new_full((1, groups * n), 1 / (groups * n))
    rewards = world.rewards.expand(len(cells), -1).gather(1, cells)
    return Rows(weight, cells.unsqueeze(1)), rewards


def sampled_samples(
    world: World,
    probabilities: Tensor,
    drawn: Rows,
    rewards: Tensor,
    needs: Collection[str],
    advantage: str,
) -> Rows:
    """Drawn responses, each with its reward.

    Args:
        probabilities: [run, cell], of the policy that responded.
        drawn: the responses, [run, group · response] rows.
        rewards: [run, group, response].
        needs: the glossary names that the loss asks for; no others are computed.
        advantage: a key of `ADVANTAGES`. What is to be expected of responses of several tokens is
            not known: there "baseline" compares with the other responses of the group ("rloo").
    """
    values = {}
    if "rewards" in needs:
        values["rewards"] = rewards.flatten(1)
    if "advantages" in needs:
        expected = rewards  # looked at by "baseline" alone
        if world.sequential:
            advantage = "rloo" if advantage == "baseline" else advantage
        else:
            runs, groups, _ = rewards.shape
            expected = (probabilities * world.rewards).view(runs, world.contexts, -1).sum(-1)
            expected = expected.repeat_interleave(groups // world.contexts, 1).unsqueeze(-1)
        values["advantages"] = ADVANTAGES[advantage](rewards, expected).flatten(1)
    if "best_weights" in needs:
        values["best_weights"] = best_weights(rewards).flatten(1)
    return replace(drawn, values=values)


def sampled_pairs(
    drawn: Rows,
    rewards: Tensor,
    needs: Collection[str],
    labels: str,
    noise: float,
    gap: float,
    streams: Streams,
) -> Rows:
    """All N(N − 1)/2 pairs of each group of responses, with the rewards that a loss asks for.

    Args:
        drawn: the responses, [run, group · response] rows.
        rewards: [run, group, response].
        needs: the glossary names that the loss asks for.
        labels: "reward" or "bradley_terry", as in `preference`; the first of two equally rewarded
            responses is the chosen one.
        noise: share of labels that are flipped.
        gap: pairs whose rewards differ by less get weight 0.
    """
    runs, groups, n = rewards.shape
    place = torch.arange(groups * n).view(1, groups, n).expand(runs, -1, -1)
    left, right = torch.triu_indices(n, n, 1)
    first, second = place[..., left].flatten(1), place[..., right].flatten(1)
    rewards = rewards.flatten(1)
    better = rewards.gather(1, first) - rewards.gather(1, second)
    if labels == "bradley_terry":
        keep = torch.from_numpy(streams.uniforms("labels", first.shape[1])) < preference(
            better, labels, 0.0
        )
    else:
        keep = better >= 0
    if noise:
        keep = keep ^ (torch.from_numpy(streams.uniforms("noise", first.shape[1])) < noise)
    chosen, rejected = torch.where(keep, first, second), torch.where(keep, second, first)
    weight = better.new_full((1, first.shape[1]), 1 / first.shape[1])
    if gap:
        kept = (better.abs() >= gap).to(better.dtype)
        weight = kept / kept.sum(1, keepdim=True).clamp_min(1)
    sides = {"chosen_": chosen, "rejected_": rejected}
    won, lost = (drawn.reordered(order) for order in sides.values())
    cells, mask = (
        None if one is None or other is None else torch.cat([one, other], 1)
        for one, other in ((won.cells, lost.cells), (won.mask, lost.mask))
    )
    names = {f"{side}rewards": order for side, order in sides.items()}
    values = {name: rewards.gather(1, order) for name, order in names.items() if name in needs}
    return Rows(weight, cells, tuple(sides), values=values, mask=mask)
