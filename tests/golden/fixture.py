"""The two pairs that most golden numbers are computed on, and how a loss is held to them.

Summed log-probabilities, lengths and a reference:

    S_w = (-12, -14.5)     ref (-13, -13)      m_w = (8, 6)     r_w = (1, -1.5)
    S_l = (-15, -11)       ref (-14.2, -12.5)  m_l = (10, 5)    r_l = (-0.8, 1.5)

so the margins are h = r_w - r_l = (1.8, -3). A coefficient c is the derivative of the sum over both
pairs by a summed log-probability: a step of descent raises it where c < 0. Numbers are printed to
six decimals (or exactly) and held to half a unit of the last one.
"""

import pytest
import torch
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective

HALF_UNIT = 5.1e-7


def row(*numbers: float) -> torch.Tensor:
    """One run, [1, row]."""
    return tensor([numbers], dtype=torch.float64)


PAIRS = {
    "chosen_logps": row(-12, -14.5),
    "rejected_logps": row(-15, -11),
    "ref_chosen_logps": row(-13, -13),
    "ref_rejected_logps": row(-14.2, -12.5),
    "chosen_lengths": row(8, 6),
    "rejected_lengths": row(10, 5),
}
CHOSEN = {  # the chosen responses as demonstrations
    "logps": PAIRS["chosen_logps"],
    "ref_logps": PAIRS["ref_chosen_logps"],
    "lengths": PAIRS["chosen_lengths"],
}


def check(
    name: str, data: dict, hyper: dict, value: tuple, *, unit: float = HALF_UNIT, **coefficients
) -> None:
    """Hold a loss to its golden values and gradients, to half a unit of the last printed digit."""
    card = get_objective(name)
    inputs = {need: data[need] for need in card.needs}
    assert card.fn(**inputs, **hyper)[0].tolist() == pytest.approx(value, abs=unit, rel=0)
    found = gradients(card.fn, inputs, **hyper)
    assert set(found) == set(coefficients)
    for tensor_name, expected in coefficients.items():
        assert found[tensor_name][0].tolist() == pytest.approx(expected, abs=unit, rel=0)
