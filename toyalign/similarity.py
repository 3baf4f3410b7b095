"""How alike two responses are: by their tokens, and by what a model makes of them.

Pure functions of arrays. Two stories of likelihood displacement are told with these numbers: small
edits let the chosen answer fall (Pal et al. 2024, arXiv 2402.13228), or similar hidden states do
(Razin et al. 2024, arXiv 2410.08847), who report that the first does not order their data.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from toyalign.errors import ToyalignError

GROUPS = ("prefix", "edited", "later")


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Normalised Levenshtein distance of two token sequences, in [0, 1].

    The least number of insertions, deletions and replacements that turn one into the other, over
    the length of the longer one; 0 for two empty sequences.

    Args:
        one: tokens of a response, of any kind that can be compared.
        other: tokens of the other.

    Source: Pal et al. 2024, arXiv 2402.13228, section 3 (normalised edit distance of pairs).
    """
    longest = max(len(one), len(other))
    if longest == 0:
        return 0.0
    row = np.arange(len(other) + 1)
    for count, token in enumerate(one, 1):
        replaced = row[:-1] + np.array([token != there for there in other], dtype=int)
        best = np.concatenate([[count], np.minimum(replaced, row[1:] + 1)])
        # An insertion costs one per step to the right: a running minimum of best − place.
        place = np.arange(len(best))
        row = np.minimum.accumulate(best - place) + place
    return float(row[-1]) / longest


def token_groups(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Which tokens of a pair of equal length are prefix, edited or later ones.

    Args:
        chosen: [..., token], token numbers.
        rejected: [..., token], likewise.

    Returns:
        Booleans, [group, ..., token] with the groups of `GROUPS`: before the first difference; all
        differences; equal tokens after the first difference. Every token is in one group.

    Raises:
        ToyalignError: if the shapes differ.

    Source: Pal et al. 2024, arXiv 2402.13228, figure 4 (token index relative to the edit).
    """
    if chosen.shape != rejected.shape:
        raise ToyalignError(
            f"the tokens of a pair must have one shape, not {list(chosen.shape)} and "
            f"{list(rejected.shape)}: groups are told apart position by position"
        )
    edited = chosen != rejected
    begun = edited.cumsum(-1) > 0
    return torch.stack([~begun, edited, begun & ~edited])


def ches(chosen: Tensor, rejected: Tensor, normalised: bool = False) -> Tensor:
    """Centred hidden embedding similarity of the responses of a pair; higher is more alike.

    CHES = ⟨Σ_k h⁺_k, Σ_k' h⁻_k'⟩ − ‖Σ_k h⁺_k‖²

    Args:
        chosen: [..., position, hidden], last-layer hidden states that predict the tokens of the
            chosen response: from the last token of the prompt to the last but one of the response.
        rejected: [..., position, hidden], the same of the rejected response; another number of
            positions is fine.
        normalised: divide the first term by |y⁺|·|y⁻| and the second by |y⁺|².

    Returns:
        [...], in units of squared hidden states.

    Raises:
        ToyalignError: if the hidden sizes differ or a response has no position.

    Source: Razin et al. 2024, arXiv 2410.08847, definition 2 and its length-normalised form.
    """
    if chosen.shape[-1] != rejected.shape[-1] or 0 in (chosen.shape[-2], rejected.shape[-2]):
        raise ToyalignError(
            "hidden states must be [..., position, hidden] of one hidden size, with a position, "
            f"not {list(chosen.shape)} and {list(rejected.shape)}"
        )
    up, down = (h.mean(-2) if normalised else h.sum(-2) for h in (chosen, rejected))
    return (up * (down - up)).sum(-1)
