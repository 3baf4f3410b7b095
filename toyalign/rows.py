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
    response of one action is named by its cell, a longer one by the cells of its tokens.

    Args:
        weight: [run or 1, row]; the weights of a run sum to 1.
        cells: [run or 1, side, row], the cell of each response, or [run or 1, side, row, token],
            the cell of each of its tokens; None stands for every cell of the table in order, which
            saves an exact study the look-up.
        sides: the glossary prefix of each side: ("",) for single responses, ("chosen_",
            "rejected_") for pairs, () where a row is a whole distribution.
        values: numbers that came with the data, [run or 1, row (, action)], by glossary name.
        behaviour: [run, cell], log-probabilities of the policy that drew the responses.
        mask: [run or 1, side, row, token], 1 on the tokens that belong to a response and 0 behind
            its end, where `cells` may name any cell; with a token axis only.
    """

    weight: Tensor
    cells: Tensor | None = None
    sides: tuple[str, ...] = ("",)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    behaviour: Tensor | None = None
    mask: Tensor | None = None

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
        runs = len(order)
        cells = self.cells
        if cells is not None:
            cells = _reordered(cells, order, len(self.sides))
        mask = self.mask
        if mask is not None:
            mask = _reordered(mask, order, len(self.sides))
        weight = self.weight
        return replace(
            self,
            weight=weight if len(weight) == 1 else weight.gather(1, order),
            cells=cells,
            mask=mask,
            values={k: v.expand(runs, -1).gather(1, order) for k, v in self.values.items()},
        )

    def part(self, start: int, stop: int) -> "Rows":
        """The rows from start to stop, with weights that sum to 1 again."""
        weight = self.weight[:, start:stop]
        return replace(
            self,
            weight=weight / weight.sum(1, keepdim=True).clamp_min(1e-30),
            cells=None if self.cells is None else self.cells[:, :, start:stop],
            mask=None if self.mask is None else self.mask[:, :, start:stop],
            values={k: v[:, start:stop] for k, v in self.values.items()},
        )


def _reordered(cells: Tensor, order: Tensor, sides: int) -> Tensor:
    """[run or 1, side, row (, token)] with the rows of each run in its own order [run, row]."""
    runs, count = order.shape
    tail = cells.shape[3:]
    wide = order.view(runs, 1, count, *(1 for _ in tail)).expand(runs, sides, count, *tail)
    return cells.expand(runs, *cells.shape[1:]).gather(2, wide)
