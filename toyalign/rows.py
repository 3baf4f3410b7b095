"""Rows: the one currency between a world and a loss.

A row is one response, or one pair of responses, with a weight. An exact study has a row for every
arm (or every ordered pair of arms) weighted by its probability, so that nothing is drawn and
nothing is noisy; a sampled study has n rows of weight 1/n. The loss cannot tell which it got.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A weighted set of responses or pairs, for all runs at once.

    Log-probabilities live in a flat table [run, cell] with cell = context * actions + action; a
    response is named by its cell.

    Args:
        weight: [run or 1, row]; the weights of a run sum to 1.
        cells: [run or 1, side, row], the cell of each response; None stands for every cell of the
            table in order, which saves an exact study the look-up.
        sides: the glossary prefix of each side: ("",) for single responses, ("chosen_",
            "rejected_") for pairs, () where a row is a whole distribution.
        values: numbers that came with the data, [run or 1, row (, action)], by glossary name.
        behaviour: [run, cell], log-probabilities of the policy that drew the responses.
    """

    weight: Tensor
    cells: Tensor | None = None
    sides: tuple[str, ...] = ("",)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    behaviour: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of rows per run."""
        return self.weight.shape[1]

    def reordered(self, order: Tensor) -> "Rows":
        """The same rows in another order.

        Args:
            order: [run, row], row numbers, an order of its own for each run. Weights that all runs
                share belong to drawn rows, which weigh the same, and have no order.
        """
        runs, count = order.shape
        cells = self.cells
        if cells is not None:
            wide = order.unsqueeze(1).expand(runs, len(self.sides), count)
            cells = cells.expand(runs, -1, -1).gather(2, wide)
        weight = self.weight
        return replace(
            self,
            weight=weight if len(weight) == 1 else weight.gather(1, order),
            cells=cells,
            values={k: v.expand(runs, -1).gather(1, order) for k, v in self.values.items()},
        )

    def part(self, start: int, stop: int) -> "Rows":
        """The rows from start to stop, with weights that sum to 1 again."""
        weight = self.weight[:, start:stop]
        return replace(
            self,
            weight=weight / weight.sum(1, keepdim=True).clamp_min(1e-30),
            cells=None if self.cells is None else self.cells[:, :, start:stop],
            values={k: v[:, start:stop] for k, v in self.values.items()},
        )
