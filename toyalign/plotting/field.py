"""The phase field: what a loss asks for, everywhere in the plane of the two log-ratios."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from toyalign.plotting.style import CHOSEN, OTHERS, REJECTED

Array = NDArray[np.float64]


def phase_field(
    ax: Axes,
    chosen_ratio: Array,
    rejected_ratio: Array,
    push_chosen: Array,
    push_rejected: Array,
    paths: Sequence[tuple[Array, Array]] = (),
) -> None:
    """Arrows: which way the loss pushes. Lines: where training went. The start is the origin.

    To the left of the vertical line the chosen answer has become less likely than under the
    reference, below the horizontal line the rejected one has. Where the loss itself pushes the
    chosen answer down the ground is tinted. Arrows show direction; their length grows with the
    logarithm of the push.

    Args:
        ax: where to draw.
        chosen_ratio: [y, x], log π/π_ref of the chosen answer in nats, varying along x.
        rejected_ratio: [y, x], the same of the rejected answer, varying along y.
        push_chosen: [y, x], −dL/dlogπ of the chosen answer.
        push_rejected: [y, x], the same of the rejected answer.
        paths: (chosen, rejected) log-ratios of runs over time, [mark] each.
    """
    size = np.hypot(push_chosen, push_rejected)
    largest = np.nanmax(size)
    # Four decades of push are told apart; weaker ones are drawn as dots.
    length = np.clip(1 + np.log10(np.maximum(size / largest, 1e-9)) / 4, 0, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = length * push_chosen / size, length * push_rejected / size
    down = np.where(push_chosen < -1e-12 * largest, 1.0, np.nan)
    if np.isfinite(down).any():
        ax.pcolormesh(
            chosen_ratio, rejected_ratio, down, shading="nearest", cmap="Oranges", vmin=0, vmax=5
        )
    ax.quiver(
        chosen_ratio,
        rejected_ratio,
        u,
        v,
        color=OTHERS,
        angles="xy",
        pivot="mid",
        scale=1.15 * chosen_ratio.shape[1],
        width=0.006,
        headwidth=4.5,
    )
    ax.axvline(0, color="black", lw=0.7)
    ax.axhline(0, color="black", lw=0.7)
    for chosen, rejected in paths:
        ax.plot(chosen, rejected, color=CHOSEN, lw=1.1, alpha=0.75)
        ax.plot(chosen[-1], rejected[-1], "o", color=CHOSEN, ms=3)
    ax.plot(0, 0, "o", color="black", ms=4)
    ax.set_xlim(chosen_ratio.min(), chosen_ratio.max())
    ax.set_ylim(rejected_ratio.min(), rejected_ratio.max())
    ax.grid(False)
    ax.set_xlabel("chosen log-ratio (nats)", color=CHOSEN)
    ax.set_ylabel("rejected log-ratio (nats)", color=REJECTED)
