"""Golden numbers of the losses on pairs that need no reference.

Six-decimal numbers were computed apart from this package; the others are small cases by hand.
"""

import math

import pytest
import torch
from fixture import PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective

# name, hyperparameters, L, c_w, c_l
REFERENCE_FREE = [
    # A_w = (-1.5, -2.416667), A_l = (-1.5, -2.2): u = (0 - 1, -.433333 - 1); c = -+ (b/m) s(-u)
    (
        "simpo",
        {"beta": 2.0, "gamma": 1.0},
        (1.313262, 1.647244),
        (-0.182765, -0.269140),
        (0.146212, 0.322968),
    ),
    # the preference alone: S_w - S_l = (3, -3.5)
    (
        "cpo",
        {"beta": 0.1, "alpha": 0.0},
        (0.554355, 0.883382),
        (-0.042556, -0.058662),
        (0.042556, 0.058662),
    ),
    # and with the likelihood: plus -A_w = (1.5, 2.416667), less 1/m_w = (.125, .166667) in c_w
    (
        "cpo",
        {"beta": 0.1, "alpha": 1.0},
        (2.054355, 3.300049),
        (-0.167556, -0.225328),
        (0.042556, 0.058662),
    ),
    # the rewards (1 - e^(-A/4)) 4 = (-1.819966, -3.319209) and (-1.819966, -2.933012);
    # c = -+ (b/m) s(-u) e^(-A/4)
    (
        "alphapo",
        {"alpha": 0.25, "beta": 2.5, "gamma": 0.1},
        (0.744397, 1.360997),
        (-0.238700, -0.566906),
        (0.190960, 0.644419),
    ),
    # log-odds of e^A: (-1.247522, -2.323284) and (-1.247522, -2.082580);
    # c_w = -(1 + lam s(-u)/(1 - e^A))/m, c_l = (lam s(-u)/(1 - e^A))/m
    (
        "orpo",
        {"lam": 0.1},
        (1.569315, 2.498736),
        (-0.133045, -0.176912),
        (0.006436, 0.012593),
    ),
    # S_w - S_l = (3, -3.5): hinges 0 and 1 + 3.5, and the likelihood .1 (12, 14.5)
    ("slic", {"delta": 1.0, "lam": 0.1}, (1.2, 5.95), (-0.1, -1.1), (0, 1)),
]


@pytest.mark.parametrize(("name", "hyper", "value", "c_w", "c_l"), REFERENCE_FREE)
def test_reference_free(name, hyper, value, c_w, c_l):
    check(name, PAIRS, hyper, value, chosen_logps=c_w, rejected_logps=c_l)


def test_slic_at_the_kink():
    # S_w - S_l = delta: the hinge is 0 and does not push; the chosen answer is still raised by lam
    inputs = {"chosen_logps": row(-2), "rejected_logps": row(-3)}
    found = gradients(get_objective("slic").fn, inputs, delta=1.0, lam=0.25)
    assert [grad.item() for grad in found.values()] == [-0.25, 0]


def test_alphapo_without_a_bend_is_simpo():
    hyper = {"beta": 2.0, "gamma": 1.0}
    inputs = {name: PAIRS[name] for name in get_objective("simpo").needs}
    simpo, alphapo = get_objective("simpo").fn, get_objective("alphapo").fn
    assert torch.equal(alphapo(**inputs, **hyper, alpha=0.0), simpo(**inputs, **hyper))
    found, expected = (
        gradients(alphapo, inputs, **hyper, alpha=0.0),
        gradients(simpo, inputs, **hyper),
    )
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_of_a_certain_answer_is_finite(dtype):
    # p = 1 on one side: the odds stand at 1/eps; a rejected answer is pushed with about lam/eps
    inputs = {
        "chosen_logps": row(0, -1).to(dtype),
        "rejected_logps": row(-1, 0).to(dtype),
        "chosen_lengths": row(1, 1).to(dtype),
        "rejected_lengths": row(1, 1).to(dtype),
    }
    loss, eps = get_objective("orpo").fn, torch.finfo(dtype).eps
    odds = math.e - 1  # (1 - p)/p at p = 1/e
    expected = [0.1 * math.log1p(eps / odds), 1 + 0.1 * math.log1p(odds / eps)]
    assert loss(**inputs)[0].tolist() == pytest.approx(expected, rel=1e-6)
    found = gradients(loss, inputs)
    assert torch.isfinite(found["chosen_logps"]).all()
    assert found["rejected_logps"][0, 1].item() == pytest.approx(0.1 / eps, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["slic", "simpo", "cpo", "orpo", "alphapo"])
def test_finite_for_any_likelihood(name, dtype):
    totals = [0.0, -1e-9, -1.0, -300.0, -1e4]
    pairs = tensor([[(w, lose) for w in totals for lose in totals]], dtype=dtype)
    inputs = {
        "chosen_logps": pairs[..., 0],
        "rejected_logps": pairs[..., 1],
        "chosen_lengths": torch.ones_like(pairs[..., 0]),
        "rejected_lengths": torch.full_like(pairs[..., 0], 3.0),
    }
    card = get_objective(name)
    inputs = {need: inputs[need] for need in card.needs}
    assert torch.isfinite(card.fn(**inputs)).all()
    for grad in gradients(card.fn, inputs).values():
        assert torch.isfinite(grad).all()
