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


def constants(
    needs: Sequence[str], rows: Rows, reference: Tensor, actions: int
) -> dict[str, Tensor]:
    """Those tensors of a signature that do not change while the rows stay the same.

    The reference's log-probabilities, the sampling policy's, lengths, masks, and what came with
    the data.

    Args:
        needs: glossary names.
        rows: the data.
        reference: [run, cell], the frozen reference's log-probabilities.
        actions: number of actions per context.

    Raises:
        ToyalignError: for a name that these rows have no data for.
    """
    tables = {"ref_": reference, "old_": rows.behaviour}
    found: dict[str, Tensor] = {}
    for prefix, table in tables.items():
        asked = [name for name in needs if name.startswith(prefix) and name not in rows.values]
        if table is None and asked:
            raise _missing(asked[0])
        if table is not None:
            found |= from_table(asked, rows, table, actions, prefix)
    for name in needs:
        side, quantity = _split(name)
        if name in rows.values:
            found[name] = rows.values[name]
        elif quantity in ("lengths", "mask"):
            if side not in rows.sides:
                raise _missing(name)
            ones = reference.new_ones(1, 1).expand(len(reference), rows.count)
            found[name] = ones if quantity == "lengths" else ones.unsqueeze(-1)
    return found


def from_table(
    names: Sequence[str], rows: Rows, table: Tensor, actions: int, prefix: str = ""
) -> dict[str, Tensor]:
    """The log-probabilities `names`, looked up in a policy's table [run, cell].

    The names may all have a prefix, for example "ref_", that says whose table it is.

    Raises:
        ToyalignError: for a name that these rows have no data for.
    """
    found: dict[str, Tensor] = {}
    responses: dict[str, Tensor] = {}
    for name in names:
        side, quantity = _split(name.removeprefix(prefix))
        if quantity == "log_probs":
            found[name] = table.view(len(table), -1, actions)
            continue
        if side not in rows.sides or quantity not in ("logps", "token_logps"):
            raise _missing(name)
        if not responses:
            responses = _look_up(table, rows)
        logps = responses[side]
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
    """`chosen_token_logps` to (`chosen_`, `token_logps`)."""
    for side in ("chosen_", "rejected_"):
        if name.startswith(side):
            return side, name.removeprefix(side)
    return "", name


def _missing(name: str) -> ToyalignError:
    term = GLOSSARY.get(name)
    return ToyalignError(f"this data source has no {name}" + (f" ({term.meaning})" if term else ""))
