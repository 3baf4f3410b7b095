"""The figures of single trajectories: what `toyalign run --plot` draws."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toyalign.plotting.marks import mass_bars, traces
from toyalign.plotting.style import house_style, new_figure
from toyalign.trajectory import Trajectory


@house_style()
def plot_mass(trajectory: Trajectory) -> Figure:
    """Mass bars of one trajectory: the mean over its runs at the end, the reference dashed."""
    figure, axes = new_figure(1, 1, width=3.6)
    _bars(axes[0, 0], trajectory)
    axes[0, 0].set_title(trajectory.objective)
    return figure


@house_style()
def plot_runs(trajectories: Sequence[Trajectory]) -> Figure:
    """One column per trajectory: where the mass went, and the log-probabilities on the way.

    Trajectories of a problem with measures of its own: one panel for each of those.
    """
    if trajectories[0].own_measures:
        return _own_measures(trajectories)
    figure, axes = new_figure(2, len(trajectories), width=2.9, height=2.1, sharey="row")
    for column, trajectory in enumerate(trajectories):
        _bars(axes[0, column], trajectory)
        axes[0, column].set_title(f"{trajectory.objective} ({trajectory.policy})")
        traces(axes[1, column], trajectory)
        axes[1, column].legend(loc="lower left")
        if column:
            axes[0, column].set_ylabel("")
            axes[1, column].set_ylabel("")
    return figure


def _own_measures(trajectories: Sequence[Trajectory]) -> Figure:
    """A panel for each measure, a line for each trajectory: the mean over its runs."""
    first = trajectories[0]
    figure, axes = new_figure(1, len(first.own_measures), width=2.9, height=2.3)
    for ax, name in zip(axes[0], first.own_measures, strict=True):
        for trajectory in trajectories:
            values = np.nanmean(trajectory.own_measures[name], axis=1)
            ax.plot(trajectory.steps, values, label=trajectory.objective)
        ax.set_title(name.replace("_", " "))
        ax.set_ylabel(first.own_units[name])
        ax.set_xlabel("gradient step")
    axes[0, 0].legend(loc="best")
    return figure


def _bars(ax: Axes, trajectory: Trajectory) -> None:
    chosen = [pair[0] for pair in trajectory.pairs]
    rejected = [pair[1] for pair in trajectory.pairs]
    final = np.nanmean(np.exp(trajectory.final), axis=(0, 1))
    mass_bars(ax, final, np.exp(trajectory.reference).mean((0, 1)), chosen, rejected)
