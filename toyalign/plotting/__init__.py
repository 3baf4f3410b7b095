"""Figures: a house style and a few marks. They read tables and trajectories, never simulators."""

from toyalign.plotting.field import phase_field
from toyalign.plotting.heat import heat_table
from toyalign.plotting.lake import lake_map
from toyalign.plotting.marks import curves, dots, mass_bars, traces
from toyalign.plotting.runs import plot_mass, plot_runs
from toyalign.plotting.style import (
    CHOSEN,
    GAINER,
    MARKERS,
    OBJECTIVE_COLOURS,
    OTHERS,
    REFERENCE,
    REJECTED,
    colour_of,
    house_style,
    label_panels,
    new_figure,
    save_figure,
)

__all__ = [
    "CHOSEN",
    "GAINER",
    "MARKERS",
    "OBJECTIVE_COLOURS",
    "OTHERS",
    "REFERENCE",
    "REJECTED",
    "colour_of",
    "curves",
    "dots",
    "heat_table",
    "house_style",
    "label_panels",
    "lake_map",
    "mass_bars",
    "new_figure",
    "phase_field",
    "plot_mass",
    "plot_runs",
    "save_figure",
    "traces",
]
