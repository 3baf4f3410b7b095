"""A lake as a map: where one goes, how often, and along which path one was shown."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from toyalign.plotting.style import CHOSEN, GAINER, OTHERS, REJECTED

_LETTERS = {"S": "start", "G": "goal"}
_COLOURS = {"H": "#4A5A68", "G": "#CDE7C4"}
_ARROWS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # left, down, right, up; rows count downwards
_FAINT = 0.3  # moves less likely than this are not drawn


def lake_map(
    ax: Axes,
    desc: Sequence[str],
    policy: ArrayLike | None = None,
    visits: ArrayLike | None = None,
    path: Sequence[int] = (),
    worse: Sequence[int] = (),
) -> None:
    """Draw a lake: holes dark, the goal green, an arrow for every likely move.

    Args:
        ax: where to draw.
        desc: the rows of the map, letters S, F, H and G.
        policy: [state, action], probabilities of left, down, right and up; an arrow's length is
            that of its move, and moves below 0.3 are left out.
        visits: [state], how often each cell is visited; the more, the bluer.
        path: cells of the demonstrated path, in order.
        worse: cells of the rejected path.
    """
    tall, wide = len(desc), len(desc[0])
    heat = np.zeros(tall * wide) if visits is None else np.asarray(visits, dtype=float)
    heat = heat / max(heat.max(), 1e-12)
    for state, letter in enumerate("".join(desc)):
        row, column = divmod(state, wide)
        corner = (column - 0.5, row - 0.5)
        colour = _COLOURS.get(letter, "#F4F7FA")
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", lw=1.5))
        if letter not in "HG" and heat[state] > 0:
            ax.add_patch(Rectangle(corner, 1, 1, facecolor=CHOSEN, alpha=0.45 * heat[state], lw=0))
        if letter in _LETTERS:
            ax.text(column, row + 0.42, _LETTERS[letter], ha="center", fontsize=6, color=GAINER)
    for cells, colour, style in ((worse, REJECTED, ":"), (path, CHOSEN, "-")):
        if len(cells):
            rows, columns = np.divmod(np.asarray(cells), wide)
            ax.plot(columns, rows, color=colour, ls=style, lw=4, alpha=0.35, zorder=2)
    if policy is not None:
        _arrows(ax, desc, np.asarray(policy, dtype=float))
    ax.set(xlim=(-0.5, wide - 0.5), ylim=(tall - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _arrows(ax: Axes, desc: Sequence[str], policy: np.ndarray) -> None:
    wide = len(desc[0])
    for state, letter in enumerate("".join(desc)):
        if letter in "HG":
            continue
        row, column = divmod(state, wide)
        for (right, down), share in zip(_ARROWS, policy[state], strict=True):
            if share >= _FAINT:
                ax.annotate(
                    "",
                    (column + 0.42 * share * right, row + 0.42 * share * down),
                    (column, row),
                    arrowprops={"arrowstyle": "->", "color": GAINER, "lw": 0.5 + share},
                    zorder=3,
                )
            elif policy[state].max() < _FAINT:
                ax.plot(column, row, marker="o", ms=2, color=OTHERS, zorder=3)
