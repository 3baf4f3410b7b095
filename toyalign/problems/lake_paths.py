"""Paths across a lake that is not slippery, good and bad, and policies to start from."""

import numpy as np
from numpy.typing import NDArray

from toyalign.errors import ToyalignError, unknown
from toyalign.problems.lake import Array, Lake, Path, optimal_policy, walk

NEGATIVES = ("detour", "hole", "wrong_turn", "wander", "policy")
STARTS = ("rand", "noisy", "mix", "bad")
_FLOOR = 0.1  # share of uniform moves in a cloned start


def _distances(lake: Lake, ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Fewest moves from every state to one of `ends`; a large number where there is no way."""
    following = lake.next_state
    far = np.full(lake.states, 10**6)
    far[ends] = 0
    while True:
        new = np.where(ends | lake.terminal, far, np.minimum(far, 1 + far[following].min(1)))
        if (new == far).all():
            return far
        far = new


def _goals(lake: Lake) -> NDArray[np.bool_]:
    return np.array([letter == "G" for row in lake.desc for letter in row])


def _first(
    lake: Lake,
    length: int,
    distances: NDArray[np.int64],
    begins: frozenset[int] = frozenset(range(4)),
) -> Path | None:
    """The first path of exactly `length` moves, in the order of actions, that visits no cell twice.

    Args:
        distances: fewest moves from each state to where the path is to end.
        begins: the moves that it may begin with.
    """
    following, start = lake.next_state, int(lake.start.argmax())
    todo: list[tuple[int, tuple[int, ...], frozenset[int]]] = [(start, (), frozenset({start}))]
    while todo:
        state, actions, seen = todo.pop()
        left = length - len(actions)
        if left == 0:
            if distances[state] == 0:
                return walk(lake, actions)
            continue
        for action in reversed(range(4)):
            then = int(following[state, action])
            ended = lake.terminal[then] and left > 1
            if not actions and action not in begins:
                continue
            if then not in seen and not ended and distances[then] <= left - 1:
                todo.append((then, (*actions, action), seen | {then}))
    return None


def demonstration(lake: Lake) -> Path:
    """A shortest path to the goal; of several the first in the order left, down, right, up.

    Raises:
        ToyalignError: if there is no way to the goal.
    """
    distances = _distances(lake, _goals(lake))
    path = _first(lake, int(distances[lake.start.argmax()]), distances)
    if path is None:
        raise ToyalignError("there is no way from the start of this lake to its goal")
    return path


def negative(lake: Lake, kind: str, rng: np.random.Generator) -> Path:
    """A worse path than the demonstration.

    Args:
        kind: "detour" (the shortest successful path that is longer), "hole" (the shortest way into
            a hole, which may begin like the demonstration), "wrong_turn" (the shortest way into a
            hole that begins with a move that is not optimal), "wander" (ten moves, none of them
            optimal where it is taken, none ending the episode), "policy" (a rollout of the uniform
            policy, at most 30 moves).
        rng: of the wandering and the rollout.

    Raises:
        ToyalignError: for an unknown kind, or a lake that has no such path.
    """
    if kind not in NEGATIVES:
        raise unknown("negative", kind, NEGATIVES)
    if kind in ("wander", "policy"):
        return _strayed(lake, kind == "wander", rng)
    goals = _goals(lake)
    distances = _distances(lake, goals if kind == "detour" else lake.terminal & ~goals)
    start = int(lake.start.argmax())
    shortest = int(distances[start])
    begins = frozenset(range(4))
    if kind == "wrong_turn":
        begins = frozenset(np.flatnonzero(optimal_policy(lake)[start] == 0).tolist())
    for length in range(shortest + (kind == "detour"), min(shortest + 9, lake.states)):
        path = _first(lake, length, distances, begins)
        if path is not None:
            return path
    raise ToyalignError(f"this lake has no {kind}: " + "/".join(lake.desc))


def _strayed(lake: Lake, wandering: bool, rng: np.random.Generator) -> Path:
    """Ten moves that are never optimal and end nothing; or up to thirty of the uniform policy."""
    optimal, following = optimal_policy(lake), lake.next_state
    state, actions = int(lake.start.argmax()), []
    for _ in range(10 if wandering else 30):
        usable = np.ones(4, dtype=bool)
        if wandering:
            usable = (optimal[state] == 0) & ~lake.terminal[following[state]]
        if not usable.any():
            raise ToyalignError(f"cell {state} of this lake has no move that wanders")
        actions.append(int(rng.choice(np.flatnonzero(usable))))
        state = int(following[state, actions[-1]])
        if lake.terminal[state]:
            break
    return walk(lake, actions)


def starting_policy(lake: Lake, kind: str, demo: Path, other: Path) -> Array:
    """The policy that training starts from, [state, action].

    Args:
        kind: "rand" (uniform), "noisy" (0.3 T* + 0.7 uniform), "mix" and "bad" (0.9 of a clone of
            the two paths, mixed 50/50 or 20/80 where both pass, and 0.1 uniform; uniform where
            neither passes).
        demo: the optimal path.
        other: the other one.

    Raises:
        ToyalignError: for an unknown kind.
    """
    uniform = np.full((lake.states, 4), 0.25)
    if kind not in STARTS:
        raise unknown("start", kind, STARTS)
    if kind == "rand":
        return uniform
    if kind == "noisy":
        return 0.3 * optimal_policy(lake) + 0.7 * uniform
    counts = np.zeros((lake.states, 4))
    own = 0.5 if kind == "mix" else 0.2
    for path, share in ((demo, own), (other, 1 - own)):
        np.add.at(counts, (path.states, path.actions), share)
    visited = counts.sum(1) > 0
    cloned = counts[visited] / counts[visited].sum(1, keepdims=True)
    uniform[visited] = (1 - _FLOOR) * cloned + _FLOOR * uniform[visited]
    return uniform


def kappa(lake: Lake, demo: Path) -> float:
    """Share of one-step deviations from a path after which its next move is optimal all the same.

    A deviation is any other move than the demonstrated one, in any cell of the path but the last,
    that does not end the episode; a bump into a wall is one. Of tied best moves the path's own
    counts in its cells.
    """
    optimal, hits = optimal_policy(lake, path=demo) > 0, []
    for state, own, then in zip(demo.states, demo.actions, demo.actions[1:], strict=False):
        for action in range(4):
            reached = lake.next_state[state, action]
            if action != own and not lake.terminal[reached]:
                hits.append(optimal[reached, then])
    return float(np.mean(hits))


def nu(lake: Lake, path: Path) -> float:
    """Share of a path's moves that are not optimal where they are made."""
    return float((optimal_policy(lake)[path.states, path.actions] == 0).mean())
