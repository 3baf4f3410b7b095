"""What a loss's gradient does, in words that are computed from its coefficients.

Nothing here is written for a loss in particular: each sentence is a measurement of the push
−dL/d(log-probability) at some log-ratios, so it is true of any loss, a user's too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toyalign.objectives import Objective
from toyalign.objectives.coefficients import push_on_pair

Array = NDArray[np.float64]

_FAR = 20.0  # nats of margin
_LEVEL = -30.0  # log-probability of an answer of a pair under the reference, nats
_NEAR, _USUAL = 5.0, -6.0  # both for a single response, whose own probability may count
_PLANE = np.linspace(-6, 6, 25)  # nats


def gradient_in_words(card: Objective) -> list[str]:
    """Sentences on the push at the start, far from it, and on either side of the reference.

    Args:
        card: the objective, looked at with its default hyperparameters.
    """
    if card.kind in ("pairs", "labelled"):
        return _of_pair(card)
    if card.kind == "demonstrations":
        return _of_one(card)
    return []


def _push(
    card: Objective, chosen: Sequence[float], rejected: Sequence[float], level: float = _LEVEL
) -> Array:
    """The push on chosen and rejected, [side, point]."""
    at = (np.array(chosen, dtype=float), np.array(rejected, dtype=float))
    return np.array(push_on_pair(card, *at, reference=(level, level), hyper=card.hyper))


def _of_one(card: Objective) -> list[str]:
    (start, above, below), _ = _push(card, [0, _NEAR, -_NEAR], [0, 0, 0], _USUAL)
    return [
        f"At the start it {_moves(start)} of log-probability −6 ({_amount(start)}).",
        f"5 nats above its reference the push on it {_compared(above, start)}; 5 nats below it "
        f"{_compared(below, start)}.",
    ]


def _of_pair(card: Objective) -> list[str]:
    (up, won_up, lost_up, sunk_up), (down, won_down, lost_down, sunk_down) = _push(
        card, [0, _FAR / 2, -_FAR / 2, -_FAR], [0, -_FAR / 2, _FAR / 2, 0]
    )
    lines = [
        f"At the start it {_moves(up, 'the chosen answer')} ({_amount(up)}) and "
        f"{_moves(down, 'the rejected one')} ({_amount(down)})."
    ]
    chosen, rejected = (grid.ravel() for grid in np.meshgrid(_PLANE, _PLANE))
    push = _push(card, list(chosen), list(rejected))
    size = np.abs(push).max()
    if np.abs(push.sum(0)).max() < 1e-9 * size:
        lines.append(
            "Within ±6 nats the two pushes are equally large and opposite: only the difference "
            "counts, so both answers may fall while the loss improves."
        )
    first = up - down
    lines.append(
        f"Once a pair is won by 20 nats the push apart {_compared(won_up - won_down, first)}; on a "
        f"pair that is lost by 20 nats it {_compared(lost_up - lost_down, first)}."
    )
    for side, row, sign in (("chosen", push[0], -1), ("rejected", push[1], 1)):
        wrong = sign * row > 1e-9 * size
        way = "down" if sign < 0 else "up"
        if wrong.any():
            lines.append(
                f"It pushes the {side} answer {way} on {wrong.mean():.0%} of the plane of "
                "log-ratios within ±6 nats."
            )
        elif np.abs(row).max() > 0:
            lines.append(f"Within ±6 nats it never pushes the {side} answer {way}.")
    if abs(sunk_up) > 1.5 * abs(sunk_down) and abs(up) <= 1.1 * abs(down):
        lines.append(
            f"A chosen answer that has fallen 20 nats below its reference is pushed "
            f"{'up' if sunk_up > 0 else 'down'} {_times(sunk_up, sunk_down)}."
        )
    return lines


def _moves(push: float, what: str = "the response") -> str:
    verb = "raises" if push > 0 else "lowers" if push < 0 else "leaves alone"
    return f"{verb} {what}"


def _amount(push: float) -> str:
    return f"{push:+.3g} per nat" if push else "no push"


def _times(push: float, other: float) -> str:
    if not other:
        return "while the rejected one is let alone"
    return f"{abs(push / other):.3g} times as hard as the rejected one is pushed"


def _compared(push: float, first: float) -> str:
    """How a push compares with the first one."""
    if first == 0:
        return f"is {push:+.3g}"
    ratio = push / first
    if ratio < -1e-9:
        return f"has turned round ({ratio:.3g} times the first one)"
    if ratio < 1e-9:
        return "is gone"
    if abs(ratio - 1) < 5e-3:
        return "is still the same"
    if ratio < 0.995:
        return f"has faded to {ratio:.2g} of the first one"
    return f"is {ratio:.3g} times the first one"
