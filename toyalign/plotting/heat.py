"""The heat table: many numbers on one page, each written in its cell and shaded by its rank."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

# From light to dark, told apart by any eye; black figures stay legible on the darkest.
SHADES = ListedColormap(colormaps["YlGnBu"](np.linspace(0, 0.55, 256)), name="shades")


def heat_table(ax: Axes, frame: pd.DataFrame, headings: Sequence[str] = ()) -> None:
    """Numbers in cells, shaded by their order within the column.

    The smallest number of a column is the lightest and the largest the darkest; equal numbers have
    one shade, and distinct ones are evenly spaced. The shade orders, it does not judge.

    Args:
        ax: where to draw.
        frame: the numbers; its index names the lines, the first one on top, and its columns the
            columns. NaN leaves a cell empty.
        headings: one per line of the frame; where it changes, a line of its own says the new one.
    """
    shades, blank = shares(frame), [np.nan] * frame.shape[1]
    cells: list[list[float]] = []
    names: list[str] = []
    for line in range(len(frame)):
        if headings and (line == 0 or headings[line] != headings[line - 1]):
            ax.text(0, len(cells) + 0.85, headings[line], weight="bold", fontsize=7)
            cells.append(blank)
            names.append("")
        for column, number in enumerate(frame.iloc[line]):
            x, y = column + 0.5, len(cells) + 0.54
            ax.text(x, y, in_short(float(number)), ha="center", va="center", fontsize=6.5)
        cells.append(list(shades.iloc[line]))
        names.append(str(frame.index[line]))
    ax.pcolormesh(np.ma.masked_invalid(cells), cmap=SHADES, vmin=0, vmax=1, ec="white", lw=0.8)
    ax.set(xlim=(0, frame.shape[1]), ylim=(len(cells), 0))
    ax.set_yticks(np.arange(len(cells)) + 0.5, names, fontsize=7)
    ax.set_xticks(np.arange(frame.shape[1]) + 0.5, list(frame.columns), fontsize=7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for label in ax.get_xticklabels():
        label.set(rotation=35, ha="left", rotation_mode="anchor")
    ax.grid(False)
    ax.spines[:].set_visible(False)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each number stands in its column: 0 the smallest, 1 the largest, NaN if there is none.

    Numbers that agree to three digits count as equal; a column of equal numbers is 0 throughout.
    """
    rank = frame.map(lambda number: float(f"{number:.3g}")).rank(method="dense") - 1
    return rank / rank.max().clip(lower=1)


def in_short(number: float) -> str:
    """A number in at most six characters and its sign; empty for NaN."""
    size = abs(number)
    if np.isnan(number):
        return ""
    if np.isinf(number):
        words = "∞"
    elif 0 < size < 0.00005:
        words = "≈0"
    elif size >= 9.95 or abs(size - round(size)) < 1e-9:
        words = f"{size:.0f}"
    elif size >= 0.995:
        words = f"{size:.1f}"
    else:
        words = f"{size:.2g}" if size >= 0.00995 else f"{size:.4f}".rstrip("0")
    return f"−{words}" if number < 0 and words != "≈0" else words
