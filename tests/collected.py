"""Rows as a collector makes them, for a bandit of five arms."""

import toyalign as ta
from toyalign.objectives import get_objective
from toyalign.problems.sources import Collector
from toyalign.rows import Rows
from toyalign.streams import Streams

ARMS = ta.Bandit(
    (0.3, 0.25, 0.2, 0.15, 0.1),
    rewards=(0.2, 1.0, 0.2, 0.5, 1.5),
    pairs=((1, 0), (4, 2)),
)


def collector(problem, source, objective="dpo", seeds=(0,)):
    """A collector for an objective, and the world that it collects in."""
    streams = Streams(list(seeds))
    world = problem.world(streams)
    needs = get_objective(objective).needs
    return Collector(source, needs, world, world.reference_logits, streams), world


def rows_of(problem, source, objective="dpo", seeds=(0,)) -> Rows:
    """The rows of the first step, the policy being the reference."""
    made, world = collector(problem, source, objective, seeds)
    return made.rows(0, world.reference_logits)
