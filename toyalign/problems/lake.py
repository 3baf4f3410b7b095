"""Frozen Lake as arrays: gymnasium's own transition table, and what follows from it exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toyalign.errors import ToyalignError, unknown

Array = NDArray[np.float64]
ACTIONS = ("left", "down", "right", "up")
MAPS: dict[str, tuple[str, ...] | None] = {
    "4x4": None,  # gymnasium's own
    "8x8": None,
    "fork5_7": ("SFFF", "FHHF", "FHFF", "FFGH"),
    "fork6_10": ("SFFFF", "FHHHF", "FHFFF", "FHFHH", "FFGHH"),
    "goal_column": ("FFFFFG", "SFFFFG", "FFFFFG"),
}


@dataclass(frozen=True)
class Lake:
    """A map and its Markov decision process.

    Args:
        desc: the rows of the map, letters S, F, H and G.
        transition: [state, action, state], probabilities; a terminal state leads nowhere.
        reward: [state, action], expected reward of a move.
        terminal: [state], holes and goals.
        start: [state], probabilities of the first state.
        outcomes: [state, action, outcome, 4]: probability, next state, reward, terminated, padded
            with zeros; what gymnasium draws from, in its order.
    """

    desc: tuple[str, ...]
    transition: Array
    reward: Array
    terminal: NDArray[np.bool_]
    start: Array
    outcomes: Array

    @property
    def states(self) -> int:
        """Number of cells of the map."""
        return len(self.terminal)

    @property
    def next_state(self) -> NDArray[np.int64]:
        """Where each action leads, [state, action].

        Raises:
            ToyalignError: if the lake is slippery.
        """
        if self.outcomes.shape[2] > 1:
            raise ToyalignError("on a slippery lake an action has no certain outcome")
        return self.outcomes[:, :, 0, 1].astype(np.int64)


def lake(
    map: str | Sequence[str] = "4x4", slippery: bool = False, success_rate: float = 1 / 3
) -> Lake:
    """Read a lake from gymnasium's environment.

    Args:
        map: a key of `MAPS`, or the rows of a map.
        slippery: whether a move goes astray, to either side, with (1 − success_rate)/2 each.
        success_rate: probability that a move on a slippery lake goes where it was meant to.

    Raises:
        ToyalignError: for an unknown map, with the nearest one, or rows that are none.
    """
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    if isinstance(map, str) and map not in MAPS:
        raise unknown("map", map, MAPS)
    rows = MAPS[map] if isinstance(map, str) else tuple(map)
    if rows is not None and (
        len({len(row) for row in rows}) != 1 or set("".join(rows)) - set("SFHG") or not rows[0]
    ):
        raise ToyalignError(f"a map is rows of equal length of the letters S, F, H, G, not {rows}")
    if rows is not None and not {"S", "G"} <= set("".join(rows)):
        raise ToyalignError(f"a map needs a start S and a goal G; {list(rows)} has not both")
    if not 0 < success_rate <= 1:
        raise ToyalignError(f"success_rate must be above 0 and at most 1, not {success_rate}")
    chosen: Any = {"map_name": map} if rows is None else {"desc": list(rows)}
    env = FrozenLakeEnv(is_slippery=slippery, success_rate=success_rate, **chosen)
    desc = tuple(b"".join(row.tolist()).decode() for row in np.asarray(env.desc))
    table = env.P
    count, width = len(table), 3 if slippery else 1
    outcomes = np.zeros((count, 4, width, 4))
    for state in table:
        for action in table[state]:
            for place, (probability, following, reward, ended) in enumerate(table[state][action]):
                outcomes[state, action, place] = probability, following, reward, ended
            if len(table[state][action]) < width:  # a terminal cell has one outcome
                outcomes[state, action, 1:, 1:] = outcomes[state, action, 0, 1:]
    terminal = np.array([letter in "HG" for row in desc for letter in row])
    transition = np.zeros((count, 4, count))
    state, action, _ = np.indices(outcomes.shape[:3])
    np.add.at(transition, (state, action, outcomes[..., 1].astype(int)), outcomes[..., 0])
    transition[terminal] = 0
    reward = (outcomes[..., 0] * outcomes[..., 2]).sum(-1)
    return Lake(desc, transition, reward, terminal, np.asarray(env.initial_state_distrib), outcomes)


def random_lake(size: int, seed: int, p: float = 0.8) -> Lake:
    """A random map with a path from start to goal, made by gymnasium; deterministic moves.

    Raises:
        ToyalignError: if the map would have no room for both.
    """
    if size < 2:
        raise ToyalignError(f"size must be at least 2, not {size}")
    from gymnasium.envs.toy_text.frozen_lake import generate_random_map

    return lake(generate_random_map(size=size, p=p, seed=seed))


def value_iteration(lake: Lake, gamma: float = 0.99, tolerance: float = 1e-12) -> Array:
    """Q*, [state, action]: the discounted return of each move and the best ones after it."""
    q = np.zeros((lake.states, 4))
    while True:
        new = lake.reward + gamma * lake.transition @ q.max(1)
        if np.abs(new - q).max() < tolerance:
            return new
        q = new


def optimal_policy(lake: Lake, gamma: float = 0.99, path: "Path | None" = None) -> Array:
    """T*, [state, action]: uniform over the best moves; on a path its own moves break ties."""
    q = value_iteration(lake, gamma)
    best = q >= q.max(1, keepdims=True) - 1e-9
    policy = best / best.sum(1, keepdims=True)
    if path is not None:
        for state, action in zip(path.states, path.actions, strict=True):
            if best[state, action]:
                policy[state] = np.eye(4)[action]
    return policy


def expected_return(lake: Lake, policy: ArrayLike, gamma: float = 1.0) -> Array:
    """Return from the start by a linear solve, [...].

    Args:
        policy: [..., state, action].
        gamma: discount per move.

    Raises:
        ToyalignError: with gamma = 1, if some state is never left for an end.
    """
    pi = np.asarray(policy, dtype=float)
    moves = np.einsum("...sa,sat->...st", pi, lake.transition)
    gain = (pi * lake.reward).sum(-1)
    values = _solve(np.eye(lake.states) - gamma * moves, gain[..., None])
    return values @ lake.start


def return_within(lake: Lake, policy: ArrayLike, horizon: int) -> Array:
    """Probability of reaching the goal within a number of moves, [...]."""
    pi = np.asarray(policy, dtype=float)
    moves = np.einsum("...sa,sat->...st", pi, lake.transition)
    gain = (pi * lake.reward).sum(-1)
    values = np.zeros_like(gain)
    for _ in range(horizon):
        values = gain + (moves @ values[..., None])[..., 0]
    return values @ lake.start


def occupancy(lake: Lake, policy: ArrayLike, gamma: float = 0.99) -> Array:
    """Expected discounted visits to each state, [..., state], by a linear solve.

    Raises:
        ToyalignError: with gamma = 1, if some state is never left for an end.
    """
    moves = np.einsum("...sa,sat->...st", np.asarray(policy, dtype=float), lake.transition)
    system = np.eye(lake.states) - gamma * np.swapaxes(moves, -1, -2)
    start = np.broadcast_to(lake.start, moves.shape[:-1])[..., None]
    return _solve(system, start)


def _solve(system: Array, right: Array) -> Array:
    """The solution of a linear system for one right-hand side, [..., state]."""
    try:
        return np.asarray(np.linalg.solve(system, right)[..., 0], dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ToyalignError(
            "this policy has a state from which it never ends an episode: take gamma below 1, or "
            "return_within for a limit of moves"
        ) from None


def reachable(lake: Lake) -> NDArray[np.bool_]:
    """States that some policy visits and acts in, [state]."""
    seen = lake.start > 0
    while True:
        further = seen | ((lake.transition.sum(1) > 0) & seen[:, None]).any(0)
        if (further == seen).all():
            return seen & ~lake.terminal
        seen = further


def transition_mse(policy: ArrayLike, optimal: ArrayLike, rows: NDArray[np.bool_]) -> Array:
    """Mean squared difference of two transition matrices over some of their rows, [...]."""
    difference = (np.asarray(policy) - np.asarray(optimal))[..., rows, :]
    return (difference**2).mean((-1, -2))


@dataclass(frozen=True)
class Path:
    """A trajectory: the states in which moves were made, [token], and the moves, [token]."""

    states: NDArray[np.int64]
    actions: NDArray[np.int64]


def walk(lake: Lake, actions: Sequence[int]) -> Path:
    """The path that some moves make from the (first) start of a lake that is not slippery.

    Raises:
        ToyalignError: for a move that does not exist.
    """
    if set(actions) - set(range(4)):
        raise ToyalignError(f"moves are 0 to 3 ({', '.join(ACTIONS)}), not {list(actions)}")
    states = [int(lake.start.argmax())]
    for action in actions:
        states.append(int(lake.next_state[states[-1], action]))
    return Path(np.array(states[:-1]), np.array(actions))
