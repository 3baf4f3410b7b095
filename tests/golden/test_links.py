"""Golden numbers of the losses with another link than the logarithm.

Six-decimal numbers were computed apart from this package; the others are small cases by hand.
"""

import math

import pytest
import torch
from fixture import PAIRS, check, row
from inputs import gradients
from torch import tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import get_objective
from toyalign.objectives.links import power_link

RATIOS = {name: PAIRS[name] for name in PAIRS if name.endswith("logps")}
R_W, R_L = (1, -1.5), (-0.8, 1.5)

# name, hyperparameters, L, c_w, c_l
LINKS = [
    # e^-r = (.367879, 4.481689) and (2.225541, .223130): -log s(.1 * 1.857662), -log s(-.425856);
    # c = -+ b s(-u) e^-r
    (
        "f_dpo_forward",
        {"beta": 0.1},
        (0.604572, 0.928575),
        (-0.016690, -0.271090),
        (0.100971, 0.013497),
    ),
    # log s(r) = (-.313262, -1.701413) and (-1.171101, -.201413); c = -+ b s(-u) s(-r)
    (
        "f_dpo_jsd",
        {"beta": 0.1},
        (0.651175, 0.770957),
        (-0.012871, -0.043939),
        (0.033020, 0.009804),
    ),
    # e^r + r = (3.718282, -1.276870) and (-.350671, 5.981689), both within the clip of +-2;
    # c = -+ b s(-u) (1 + e^r)
    (
        "chi_po",
        {"beta": 0.1, "r_max": 1.0},
        (0.510254, 1.120537),
        (-0.148604, -0.082426),
        (0.057923, 0.369408),
    ),
]


@pytest.mark.parametrize(("name", "hyper", "value", "c_w", "c_l"), LINKS)
def test_links(name, hyper, value, c_w, c_l):
    check(name, PAIRS, hyper, value, chosen_logps=c_w, rejected_logps=c_l)


@pytest.mark.parametrize("alpha", [0.5, 0.0, -0.7, 2.0])
def test_f_dpo_alpha(alpha):
    # f(r) = (e^((a - 1) r) - 1)/(a - 1); c = -+ b s(-u) e^((a - 1) r)
    k, beta = alpha - 1, 0.1
    score = [[(math.exp(k * r) - 1) / k for r in side] for side in (R_W, R_L)]
    arguments = [beta * (w - lose) for w, lose in zip(*score, strict=True)]
    push = [beta / (1 + math.exp(u)) for u in arguments]
    loss = get_objective("f_dpo_alpha").fn
    found = loss(**RATIOS, beta=beta, alpha=alpha)[0].tolist()
    assert found == pytest.approx([math.log1p(math.exp(-u)) for u in arguments], abs=1e-14)
    grads = gradients(loss, RATIOS, beta=beta, alpha=alpha)
    for name, sign, ratios in (("chosen_logps", -1, R_W), ("rejected_logps", 1, R_L)):
        expected = [sign * p * math.exp(k * r) for p, r in zip(push, ratios, strict=True)]
        assert grads[name][0].tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("alpha", "limit"), [(1.0, "dpo"), (0.0, "f_dpo_forward")])
@pytest.mark.parametrize("off", [0.0, 1e-9, -1e-9])
def test_f_dpo_alpha_has_the_other_divergences_as_limits(alpha, limit, off):
    columns = torch.full((1, 1), alpha + off, dtype=torch.float64)
    ours, theirs = get_objective("f_dpo_alpha").fn, get_objective(limit).fn
    value = ours(**RATIOS, alpha=columns)
    torch.testing.assert_close(value, theirs(**RATIOS), rtol=0, atol=1e-8)
    found, expected = gradients(ours, RATIOS, alpha=columns), gradients(theirs, RATIOS)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-8)


def test_a_power_near_zero_keeps_its_digits():
    x = row(2.0, -3.0).float()
    assert power_link(x, 1e-6)[0].tolist() == pytest.approx([2.000002, -2.9999955], rel=1e-6)
    assert torch.equal(power_link(x, 0.0), x)


# --- the clip of chi_po

# r_w = 3, r_l = -1: z = .1 (e^3 + 3 - e^-1 + 1) = 2.372, and the other way round
CLIPPED = {
    "chosen_logps": row(-2, -6),
    "rejected_logps": row(-6, -2),
    "ref_chosen_logps": row(-5, -5),
    "ref_rejected_logps": row(-5, -5),
}


def test_chi_po_beyond_the_clip_nothing_moves():
    loss = get_objective("chi_po").fn
    value = loss(**CLIPPED, beta=0.1, r_max=1.0)[0]
    torch.testing.assert_close(value, -logsigmoid(tensor([2.0, -2.0]).double()))
    for grad in gradients(loss, CLIPPED, beta=0.1, r_max=1.0).values():
        assert grad.abs().max() == 0
    # a wider clip, for the same pair
    z = 0.1 * (math.exp(3) + 3 - math.exp(-1) + 1)
    value = loss(**CLIPPED, beta=0.1, r_max=1.2)[0].tolist()
    assert value == pytest.approx([math.log1p(math.exp(-z)), math.log1p(math.exp(z))], abs=1e-14)


@pytest.mark.parametrize("r_max", [0.0, torch.zeros(1, 1, dtype=torch.float64)])
def test_chi_po_on_the_edge_of_the_clip_moves_as_inside(r_max):
    # the clip put where training starts: c = -+ b/2 (1 + e^0)
    inputs = {name: row(-1) for name in CLIPPED}
    found = gradients(get_objective("chi_po").fn, inputs, beta=0.1, r_max=r_max)
    assert found["chosen_logps"].item() == pytest.approx(-0.1, abs=1e-15)
    assert found["rejected_logps"].item() == pytest.approx(0.1, abs=1e-15)


# --- far from the reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("f_dpo_forward", {}),
        ("f_dpo_jsd", {}),
        ("f_dpo_alpha", {}),
        ("f_dpo_alpha", {"alpha": 1.0}),
        ("f_dpo_alpha", {"alpha": 2.0}),
        ("chi_po", {}),
        ("chi_po", {"r_max": 1e18}),
    ],
)
def test_finite_far_from_the_reference(name, hyper, dtype):
    ratios = [-1e4, -300.0, -31.0, 0.0, 31.0, 300.0, 1e4]
    pairs = tensor([[(w, lose) for w in ratios for lose in ratios]], dtype=dtype)
    inputs = {
        "chosen_logps": pairs[..., 0].clamp(max=0) - 5,
        "ref_chosen_logps": -pairs[..., 0].clamp(min=0) - 5,
        "rejected_logps": pairs[..., 1].clamp(max=0) - 5,
        "ref_rejected_logps": -pairs[..., 1].clamp(min=0) - 5,
    }
    loss = get_objective(name).fn
    assert torch.isfinite(loss(**inputs, **hyper)).all()
    for grad in gradients(loss, inputs, **hyper).values():
        assert torch.isfinite(grad).all()
