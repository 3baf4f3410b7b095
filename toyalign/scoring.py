"""From log-probabilities and rows to the named tensors that a loss asked for.

This is the provider of every name in the glossary. Where responses are single actions, T = 1:
per-token tensors have a token axis of length one. Behind a quality prompt a policy that knows of
one has a table of its own; to any other it says nothing and leaves the context as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY, parts
from toyalign.rows import Rows


def constants(
    needs: Sequence[str],
    rows: Rows,
    reference: Tensor,
    actions: int,
    prompted: Tensor | None = None,
) -> dict[str, Tensor]:
    """Those tensors of a signature that do not change while the rows stay the same.

    The reference's log-probabilities, the sampling policy's, lengths, masks, and what came with
    the data.

    Args:
        needs: glossary names.
        rows: the data.
        reference: [run, cell], the frozen reference's log-probabilities.
        actions: number of actions per context.
        prompted: [run, cell], the reference's behind the quality prompt, where that says anything.

    Raises:
        ToyalignError: for a name that these rows have no data for.
    """
    behind = reference if prompted is None else prompted
    tables = {"ref_prompted_": behind, "ref_": reference, "old_": rows.behaviour}
    found: dict[str, Tensor] = {}
    for prefix, table in tables.items():
        rest = [name for name in needs if name not in rows.values and name not in found]
        asked = [name for name in rest if name.startswith(prefix)]
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
            mask = _mask(rows, side, reference)
            if quantity == "lengths":  # one token each needs no sum, and no memory
                mask = mask.squeeze(-1) if rows.mask is None else mask.sum(-1)
            found[name] = mask
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
            found[name] = _per_token(logps) if quantity == "token_logps" else _summed(logps)
        else:
            raise _missing(name)
    return found


def reduce_rows(loss: Tensor, rows: Rows) -> Tensor:
    """The loss of each run, [run]: the sum weighted by `weights`."""
    return (weights(loss, rows) * loss).flatten(1).sum(1)


def weights(loss: Tensor, rows: Rows) -> Tensor:
    """The weight of every entry of a loss, [run or 1, row] or [run or 1, row, token].

    A loss with a value per token, [run, row, token], becomes the token mean over all rows; with
    one token per response that is the weighted sum over rows as well.
    """
    if loss.ndim == 2:
        return rows.weight
    weight = rows.weight.unsqueeze(-1)
    if rows.mask is None:
        return weight
    on_tokens = weight * rows.mask[:, 0]
    return on_tokens / on_tokens.sum((1, 2), keepdim=True)


def _look_up(table: Tensor, rows: Rows) -> dict[str, Tensor]:
    """The log-probability of every response for each side, [run, row], or of its tokens."""
    if rows.cells is None:
        return {side: table for side in rows.sides}
    cells = rows.cells.expand(len(table), *rows.cells.shape[1:])
    # One look-up for both sides: its backward pass fills one table instead of two.
    both = table.gather(1, cells.reshape(len(table), -1)).view(cells.shape)
    if rows.mask is not None:
        both = both * rows.mask
    return dict(zip(rows.sides, torch.unbind(both, 1), strict=True))


def _summed(logps: Tensor) -> Tensor:
    """[run, row] from what `_look_up` found."""
    return logps if logps.ndim == 2 else logps.sum(-1)


def _per_token(logps: Tensor) -> Tensor:
    """[run, row, token] from what `_look_up` found."""
    return logps.unsqueeze(-1) if logps.ndim == 2 else logps


def _mask(rows: Rows, side: str, reference: Tensor) -> Tensor:
    """Which tokens belong to a response of a side, [run, row, token]."""
    runs = len(reference)
    if rows.mask is None:
        return reference.new_ones(1, 1, 1).expand(runs, rows.count, 1)
    return rows.mask[:, rows.sides.index(side)].to(reference.dtype).expand(runs, -1, -1)


def _cells(table: Tensor, rows: Rows, side: str) -> Tensor:
    """The cell of each token of each response of a side, [run or 1, row, token]."""
    if rows.cells is None:
        return torch.arange(table.shape[1])[None, :, None]
    cells = rows.cells[:, rows.sides.index(side)]
    return cells if rows.mask is not None else cells.unsqueeze(-1)


def _in_context(values: Tensor, rows: Rows, side: str, table: Tensor, actions: int) -> Tensor:
    """What holds in every context, [run, context], summed over each response's own, [run, row]."""
    runs = len(values)
    contexts = (_cells(table, rows, side) // actions).expand(runs, -1, -1)
    there = values.gather(1, contexts.reshape(runs, -1)).view(contexts.shape)
    return (there if rows.mask is None else there * _mask(rows, side, table)).sum(-1)


def _everything(table: Tensor, rows: Rows, side: str, actions: int) -> Tensor:
    """The whole distribution that each token was one action of, [run, row, token, action]."""
    runs = len(table)
    whole = table.view(runs, -1, actions)
    if whole.shape[1] == 1:
        return whole.expand(runs, rows.count, actions).unsqueeze(2)
    context = (_cells(table, rows, side) // actions).expand(runs, -1, -1)
    flat = context.reshape(runs, -1, 1).expand(-1, -1, actions)
    return whole.gather(1, flat).view(*context.shape, actions)


def _mean_log_ratio(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """The mean of log π/π_ref over all responses of all sides, [run, 1]."""
    ratios = _look_up(table - reference, rows)
    mean = torch.stack([_summed(ratio) for ratio in ratios.values()]).mean(0)
    return (rows.weight * mean).sum(1, keepdim=True)


def _kl_estimate(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """The mean of log π/π_ref over every response in every context, not below 0, [run, 1].

    KTO pairs prompts with responses to other prompts; here all combinations count. Responses of
    several tokens belong to their contexts: for them it is KL(π‖π_ref), summed over the contexts
    of a response, which is what KTO's mismatched pairs estimate.
    """
    runs = len(table)
    if rows.mask is not None:
        kl = (table.exp() * (table - reference)).view(runs, -1, actions).sum(-1)
        along = torch.stack([_in_context(kl, rows, side, table, actions) for side in rows.sides])
        return (rows.weight * along.mean(0)).sum(1, keepdim=True).clamp(min=0)
    ratio = (table - reference).view(runs, -1, actions).mean(1)
    arms = _cells(table, rows, rows.sides[0]).squeeze(-1) % actions
    ratios = ratio.gather(1, arms.expand(runs, -1))
    return (rows.weight * ratios).sum(1, keepdim=True).clamp(min=0)


def _reference_response(table: Tensor, reference: Tensor, rows: Rows, actions: int) -> Tensor:
    """What log π is on average for a response of the reference to each pair's prompt, [run, row].

    A pair has no third response; its expectation is the same term without noise, token by token
    in the contexts of the chosen response.
    """
    mean = (reference.exp() * table).view(len(table), -1, actions).sum(-1)
    return _in_context(mean, rows, "chosen_", table, actions)


_PAIR = ("chosen_", "rejected_")
_COMPARED = {"mean_log_ratio": _mean_log_ratio, "kl_estimate": _kl_estimate}


def _missing(name: str) -> ToyalignError:
    term = GLOSSARY.get(name)
    return ToyalignError(f"this data source has no {name}" + (f" ({term.meaning})" if term else ""))
