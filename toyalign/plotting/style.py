"""The house style: roles of colours, sizes that stay legible at half a column, stable files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from toyalign.errors import ToyalignError
from toyalign.files import whole

# Roles, the same in every figure; safe for colour-blind readers (Okabe and Ito 2008).
CHOSEN, REJECTED, OTHERS, REFERENCE = "#0072B2", "#D55E00", "#8C8C8C", "#000000"
GAINER = "#4D4D4D"

# Objectives wear colours that no role has (after Tol 2021, "muted"), with a marker each.
OBJECTIVE_COLOURS = {
    "sft": "#117733",
    "dpo": "#332288",
    "ipo": "#CC6677",
    "dpop": "#44AA99",
    "minor_dpo": "#AA4499",
    "unlikelihood": "#999933",
    "npo": "#882255",
    "minor_sft": "#66A61E",
    "best_of_n": "#2F6B7C",
    "rwr": "#999933",
    "reinforce": "#882255",
    "ppo_clip": "#44AA99",
    "forward_kl": "#117733",
    "reverse_kl": "#B0713A",
    "jsd": "#AA4499",
}
_SPARE = ("#5A3E85", "#8A6F3A", "#3F7F5F", "#7A7A2A", "#9C4F6B")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "toyalign",  # the same ids in the same figure
    "svg.fonttype": "path",
}


def colour_of(objective: str) -> str:
    """The colour of an objective; one without a colour of its own gets a spare one by its name."""
    spare = _SPARE[sum(objective.encode()) % len(_SPARE)]
    return OBJECTIVE_COLOURS.get(objective, spare)


def house_style() -> Any:
    """The style as a context (`with house_style():`) or a decorator; nothing global is changed."""
    return mpl.rc_context(_STYLE)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 2.9, height: float = 2.4, **grid: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure outside pyplot's global list; draw on it within `house_style()`.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        width: of a panel, inches.
        height: of a panel, inches.
        **grid: passed to `Figure.subplots`, for example sharey=True.

    Returns:
        The figure and its axes, [row, column].
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, **grid))


def label_panels(axes: Iterable[Axes]) -> None:
    """Put a, b, c before the titles, so that a text can speak of a panel."""
    for letter, ax in zip("abcdefghijklmnop", axes, strict=False):
        ax.set_title(f"{letter}  {ax.get_title(loc='left')}", loc="left")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the file is whole or not there, and equal figures give equal files.

    Raises:
        ToyalignError: for a suffix other than .svg, .png or .pdf.
        OSError: if the place cannot be written.
    """
    path = Path(path)
    metadata = {".svg": {"Date": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in metadata:
        raise ToyalignError(
            f"cannot draw to {path.name!r}: the suffix must be one of {', '.join(metadata)}"
        )
    with whole(path) as part, house_style():
        figure.savefig(part, format=path.suffix[1:], metadata=metadata[path.suffix])
    return path
