"""From log-probabilities and rows to the named tensors that a loss asked for.

This is the provider of every name in the glossary, for policies whose responses are single actions
(T = 1: per-token tensors have a token axis of length one).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY
from toyalign.rows import Rows


def score(
    needs: Sequence[str], rows: Rows, log_probs: Tensor, reference: Tensor, actions: int
) -> dict[str, Tensor]:
    """The tensors of a loss's signature.

    Args:
        needs: glossary names.
        rows: the data of this step.
        log_probs: [run, cell], the policy's, with gradient.
        reference: [run, cell], the frozen reference's.
        actions: number of actions per context.

    Returns:
        A tensor for each name, with the shape that the glossary gives it.

    Raises:
        ToyalignError: for a name that these rows have no data for.
    """
    tables = {"": log_probs, "ref_": reference, "old_": rows.behaviour}
    looked_up: dict[str, dict[str, Tensor]] = {}
    found = {}
    for name in needs:
        if name in rows.values:
            found[name] = rows.values[name]
            continue
        prefix = next((p for p in ("ref_", "old_") if name.startswith(p)), "")
        side, quantity = _split(name.removeprefix(prefix))
        table = tables[prefix]
        if quantity == "log_probs" and table is not None:
            found[name] = table.view(len(table), -1, actions)
            continue
        if side not in rows.sides or quantity == "" or table is None:
            raise ToyalignError(f"this data source has no {name} ({GLOSSARY[name].meaning})")
        if quantity in ("lengths", "mask"):
            ones = log_probs.new_ones(log_probs.shape[0], rows.count)
            found[name] = ones if quantity == "lengths" else ones.unsqueeze(-1)
            continue
        if prefix not in looked_up:
            looked_up[prefix] = _look_up(table, rows)
        logps = looked_up[prefix][side]
        found[name] = logps.unsqueeze(-1) if quantity == "token_logps" else logps
    return found


def reduce_rows(loss: Tensor, rows: Rows) -> Tensor:
    """The loss of each run, [run]: the weighted sum over rows.

    A loss with a value per token, [run, row, token], becomes the token mean over all rows; with
    one token per response that is the weighted sum as well.
    """
    per_row = loss.squeeze(-1) if loss.ndim == 3 else loss
    return (rows.weight * per_row).sum(1)


def _look_up(table: Tensor, rows: Rows) -> dict[str, Tensor]:
    """The log-probability of every response, [run, row] for each side."""
    if rows.cells is None:
        return {side: table for side in rows.sides}
    runs = len(table)
    if len(rows.sides) == 1:
        return {rows.sides[0]: table.gather(1, rows.cells[:, 0].expand(runs, -1))}
    # One look-up for both sides: its backward pass fills one table instead of two.
    cells = rows.cells.expand(runs, -1, -1)
    both = table.gather(1, cells.reshape(runs, -1)).view(cells.shape)
    return dict(zip(rows.sides, torch.unbind(both, 1), strict=True))


def _split(name: str) -> tuple[str, str]:
    """`chosen_token_logps` to (`chosen_`, `token_logps`); an unprovided quantity is empty."""
    for side in ("chosen_", "rejected_"):
        if name.startswith(side):
            return side, name.removeprefix(side)
    known = ("logps", "token_logps", "mask", "lengths", "log_probs")
    return "", name if name in known else ""
