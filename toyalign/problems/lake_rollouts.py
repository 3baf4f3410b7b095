"""Rolling policies out on a lake: many runs and episodes at once, by gymnasium's own rule."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toyalign.problems.lake import Lake


@dataclass(frozen=True)
class Tables:
    """A lake as tensors for stepping.

    Args:
        cumulative: [outcome, state · action], cumulative probability of the outcomes.
        following: [state · action, outcome], next state.
        reward: [state · action, outcome].
        ended: [state · action, outcome].
        start: [state], cumulative probability of the first state.
        bounds: [outcome − 1], where the next outcome begins, if that is the same for every move; on
            gymnasium's lakes it is, since terminal states, whose moves have one outcome, can have
            it as often.
    """

    cumulative: Tensor
    following: Tensor
    reward: Tensor
    ended: Tensor
    start: Tensor
    bounds: Tensor | None = None


def tables(lake: Lake) -> Tables:
    """The lake's outcomes as tensors, float64."""
    flat = torch.from_numpy(lake.outcomes).flatten(0, 1)
    cumulative = flat[..., 0].cumsum(-1)
    single = flat[:, :1, 0] >= 1
    flat = torch.where(single.unsqueeze(-1), flat[:, :1], flat)
    several = cumulative[~single[:, 0]]
    alike = len(several) and (several == several[:1]).all() and several[0, -1] >= 1
    return Tables(
        cumulative.T.contiguous(),
        flat[..., 1].long().contiguous(),
        flat[..., 2].clone(memory_format=torch.contiguous_format),
        flat[..., 3].bool().contiguous(),
        torch.from_numpy(lake.start).cumsum(0),
        several[0, :-1].clone() if alike else None,
    )


def first_above(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """The first entry whose cumulative probability exceeds a number; 0 if there is none.

    The rule of gymnasium's `categorical_sample`.

    Args:
        cumulative: [..., entry].
        uniform: [...], in [0, 1).
    """
    return (cumulative > uniform.unsqueeze(-1)).to(torch.int8).argmax(-1)


def begin(table: Tables, uniform: Tensor) -> Tensor:
    """First states, [...], from numbers in [0, 1)."""
    return first_above(table.start, uniform)


def step(table: Tables, cell: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One move of every episode.

    Args:
        table: from `tables`.
        cell: [episode], state · 4 + action.
        uniform: [episode], numbers in [0, 1).

    Returns:
        Next states, rewards and whether the episode has ended, [episode] each.
    """
    outcomes = table.following.shape[1]
    if table.bounds is not None:
        cell = cell * outcomes + torch.searchsorted(table.bounds, uniform, right=True)
    elif outcomes > 1:
        # The same choice as `first_above`, in one-dimensional look-ups, which are several times
        # as fast as gathering the rows of a table.
        *below, total = (column[cell] for column in table.cumulative)
        place = torch.stack([bound <= uniform for bound in below]).sum(0)
        cell = cell * outcomes + place * (uniform < total)
    flat = (part.view(-1) for part in (table.following, table.reward, table.ended))
    following, reward, ended = (part[cell] for part in flat)
    return following, reward, ended


def rollout(
    table: Tables, probabilities: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes of every run's own policy. Finished ones are dropped as they end.

    Args:
        table: from `tables`.
        probabilities: [run, state · 4], of each run's policy.
        uniforms: [run, episode, 1 + 2 · horizon], in [0, 1): a number for the first state, then
            for each move one for the action and one for what comes of it. None is used twice:
            where an episode starts must say nothing of how its moves go.

    Returns:
        Cells [run, episode, horizon] (state · 4 + action, 0 behind the end), a mask of the same
        shape, and the return of each episode, [run, episode].
    """
    runs, episodes, count = uniforms.shape
    horizon = count // 2
    policy = probabilities.double().view(runs, -1, 4).cumsum(-1)
    policy = policy / policy[..., -1:]
    flat = uniforms.reshape(runs * episodes, count)
    first, numbers = flat[:, 0], flat[:, 1:].view(runs * episodes, horizon, 2)
    cells = torch.zeros(runs * episodes, horizon, dtype=torch.long)
    mask = torch.zeros(runs * episodes, horizon, dtype=probabilities.dtype)
    returns = torch.zeros(runs * episodes, dtype=probabilities.dtype)
    alive = torch.arange(runs * episodes)
    state = begin(table, first)
    for moment in range(horizon):
        own = policy[alive // episodes, state]
        action = first_above(own, numbers[alive, moment, 0])
        cell = state * 4 + action
        cells[alive, moment], mask[alive, moment] = cell, 1
        state, reward, ended = step(table, cell, numbers[alive, moment, 1])
        returns[alive] += reward.to(returns.dtype)
        alive, state = alive[~ended], state[~ended]
        if not len(alive):
            break
    shape = (runs, episodes, horizon)
    return cells.view(shape), mask.view(shape), returns.view(runs, episodes)
