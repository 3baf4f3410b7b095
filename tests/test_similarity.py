"""Edit distance, token groups and CHES against numbers worked out by hand."""

import pytest
import torch

from toyalign.errors import ToyalignError
from toyalign.similarity import ches, edit_distance, token_groups


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("kitten", "sitting", 3 / 7),
        ("abc", "abc", 0),
        ("", "", 0),
        ("", "ab", 1),
        ("abcd", "bcd", 1 / 4),  # a deletion, not four replacements
        ("flaw", "lawn", 2 / 4),
    ],
)
def test_edit_distance(one, other, expected):
    assert edit_distance(one, other) == pytest.approx(expected, abs=1e-15)
    assert edit_distance(list(other), list(one)) == pytest.approx(expected, abs=1e-15)


def test_token_groups():
    chosen = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
    rejected = torch.tensor([[1, 9, 3, 9, 5], [1, 2, 3, 4, 5]])
    prefix, edited, later = token_groups(chosen, rejected).int().tolist()
    assert prefix == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert edited == [[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert later == [[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
    with pytest.raises(ToyalignError, match=r"must have one shape, not \[2, 5\] and \[2, 4\]"):
        token_groups(chosen, rejected[:, :4])


def test_ches():
    # Sums (4, 2) and (1, 1): 4 + 2 − (16 + 4) = −14. Means (2, 1) and (1, 1): 2 + 1 − 5 = −2.
    chosen = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    rejected = torch.tensor([[1.0, 1.0]])
    assert ches(chosen, rejected).item() == -14
    assert ches(chosen, rejected, normalised=True).item() == -2
    assert ches(chosen, chosen).item() == 0
    with pytest.raises(ToyalignError, match="of one hidden size, with a position"):
        ches(chosen, rejected[:0])
