"""From log-probabilities and rows to the named tensors that a loss asked for.

This is the provider of every name in the glossary, for policies whose responses are single actions
(T = 1: per-token tensors have a token axis of length one). A quality prompt has no words to read in
such a world: it leaves the context as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY, parts
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
            found |= from_table(asked, rows, table, actions)
    for name in needs:
        _, side, quantity = parts(name)
        if name in rows.values:
            value = rows.values[name]
            found[name] = value.expand(len(reference), *value.shape[1:])
        elif quantity in ("lengths", "mask"):
            if side not in rows.sides:
                raise _missing(name)
            ones = reference.new_ones(1, 1).expand(len(reference), rows.count)
            found[name] = ones if quantity == "lengths" else ones.unsqueeze(-1)
    return found


def from_table(
    names: Sequence[str],
    rows: Rows,
    table: Tensor,
    actions: int,
    reference: Tensor | None = None,
) -> dict[str, Tensor]:
    """The log-probabilities `names`, looked up in a policy's table [run, cell].

    Args:
        names: glossary names; a prefix such as "ref_" says whose table this is.
        rows: the data.
        table: [run, cell], that policy's log-probabilities.
        actions: number of actions per context.
        reference: [run, cell], the frozen reference's, for names that compare the two.

    Raises:
        ToyalignError: for a name that these rows have no data for.
    """
    found: dict[str, Tensor] = {}
    responses: dict[str, Tensor] = {}
    for name in names:
        whose, side, quantity = parts(name)
        if quantity == "log_probs" and not rows.sides and not side:
            found[name] = table.view(len(table), -1, actions)
        elif quantity == "log_probs" and side in rows.sides:
            found[name] = _everything(table, rows, side, actions)
        elif reference is not None and rows.sides and quantity in _COMPARED:
            found[name] = _COMPARED[quantity](table.detach(), reference, rows, actions)
        elif reference is not None and name == "logps" and rows.sides == _PAIR:
            found[name] = _reference_response(table, reference, rows, actions)
        elif side in rows.sides and quantity in ("logps", "token_logps"):
            responses = responses or _look_up(table, rows)
            logps = responses[side].detach() if whose else responses[side]
            found[name] = logps.unsqueeze(-1) if quantity == "token_logps" else logps
        else:
            raise _missing(name)
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


def _cells(table: Tensor, rows: Rows, side: str) -> Tensor:
    """The cell of each response of a side, [run or 1, row]."""
    if rows.cells is None:
        return torch.arange(table.shape[1])[None]
    return rows.cells[:, rows.sides.index(side)]


def _everything(table: Tensor, rows: Rows, side: str, actions: int) -> Tensor:
    """The whole distribution that each response was one action of, [run, row, 1, action]."""
    runs = len(table)
    whole = table.view(runs, -1, actions)
    if whole.shape[1] == 1:
        return whole.expand(runs, rows.count, actions).unsqueeze(2)
    context = (_cells(table, rows, side) // actions).expand(runs, -1)
    return whole.gather(1, context.unsqueeze(-1).expand(-1, -1, actions)).unsqueeze(2)


def _mean_log_ratio(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """The mean of log π/π_ref over all responses of all sides, [run, 1]."""
    ratios = _look_up(table - reference, rows)
    mean = torch.stack(list(ratios.values())).mean(0)
    return (rows.weight * mean).sum(1, keepdim=True)


def _kl_estimate(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """The mean of log π/π_ref over every response in every context, not below 0, [run, 1].

    KTO pairs prompts with responses to other prompts; here all combinations count.
    """
    runs = len(table)
    ratio = (table - reference).view(runs, -1, actions).mean(1)
    arms = _cells(table, rows, rows.sides[0]) % actions
    ratios = ratio.gather(1, arms.expand(runs, -1))
    return (rows.weight * ratios).sum(1, keepdim=True).clamp(min=0)


def _reference_response(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """What log π is on average for a response of the reference to each pair's prompt, [run, row].

    A pair has no third response; its expectation is the same term without noise.
    """
    runs = len(table)
    mean = (reference.exp() * table).view(runs, -1, actions).sum(-1)
    return mean.gather(1, (_cells(table, rows, "chosen_") // actions).expand(runs, -1))


_PAIR = ("chosen_", "rejected_")
_COMPARED = {"mean_log_ratio": _mean_log_ratio, "kl_estimate": _kl_estimate}


def _missing(name: str) -> ToyalignError:
    term = GLOSSARY.get(name)
    return ToyalignError(f"this data source has no {name}" + (f" ({term.meaning})" if term else ""))
