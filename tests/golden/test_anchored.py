"""Golden numbers of the losses that hold each answer of a pair to the reference for itself.

Six-decimal numbers were computed apart from this package; the others are small cases by hand.
"""

import math

import pytest
import torch
from fixture import PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective


def at_ratios(name: str, chosen: tuple, rejected: tuple, **hyper: float) -> dict[str, list[float]]:
    """The derivatives by the summed log-probabilities, at these log-ratios."""
    card = get_objective(name)
    inputs = dict.fromkeys(card.needs, torch.full_like(row(*chosen), -9.0))
    inputs["chosen_logps"] = row(*chosen) - 9
    inputs["rejected_logps"] = row(*rejected) - 9
    found = gradients(card.fn, inputs, **hyper)
    return {side: grad[0].tolist() for side, grad in found.items()}


# name, hyperparameters, L, c_w, c_l
ANCHORED = [
    # penalty 5 max(0, -r_w) = (0, 7.5): the argument is b (1.8, -10.5); the second chosen answer
    # lies below its reference and is pulled 1 + 5 times as hard as the rejected one is pushed
    (
        "dpop",
        {"beta": 0.1, "lam": 5.0},
        (0.607192, 1.350058),
        (-0.045512, -0.444465),
        (0.045512, 0.074077),
    ),
    # max(0, r_l) = (0, 1.5): the first rejected answer lies below its reference and is let alone
    ("minor_dpo", {"beta": 0.1}, (0.644397, 0.854355), (-0.047502, -0.057444), (0, 0.057444)),
    # b r_w = (.01, -.015), b r_l = (-.008, .015); c_w = -b s(-b r_w) + b/2 s(b r_w),
    # c_l = b/2 s(b r_l)
    (
        "nca",
        {"beta": 0.01},
        (1.381817, 1.393851),
        (-0.002463, -0.002556),
        (0.002490, 0.002519),
    ),
    # targets +-500: (1 - 500)^2 + (-.8 + 500)^2, 501.5^2 twice; here without the half
    (
        "sppo",
        {"beta": 0.001, "win": 1.0, "scale": 1.0},
        (498201.64, 503004.5),
        (-998, -1003),
        (998.4, 1003),
    ),
    # targets +-300: (299^2 + 299.2^2) / 2, 301.5^2
    (
        "sppo",
        {"beta": 0.001, "win": 0.8, "scale": 0.5},
        (89460.82, 90902.25),
        (-299, -301.5),
        (299.2, 301.5),
    ),
    # s(-b r_w) = (.475021, .537430), s(b r_l) = (.480011, .537430); c = -+ b s(x) s(-x)
    (
        "apo_zero",
        {"beta": 0.1},
        (0.955031, 1.074860),
        (-0.024938, -0.024860),
        (0.024960, 0.024860),
    ),
    # s(b r_w) + s(-b h) = .524979 + .455121 and .462570 + .574443; with d(x) = s(x) s(-x):
    # c_w = b (d(b r_w) - d(b h)) > 0, c_l = b d(b h)
    (
        "apo_down",
        {"beta": 0.1},
        (0.980100, 1.037013),
        (0.000139, 0.000414),
        (0.024799, 0.024446),
    ),
    # targets +-5: -log s(1.8) = .152978, -log s(-3) = 3.048587, and 16 + 17.64, 42.25 + 42.25;
    # c_w = -s(-h) + 2 (r_w - 5), c_l = s(-h) + 2 (r_l + 5)
    (
        "cal_dpo",
        {"beta": 0.1, "weight": 1.0},
        (33.792978, 87.548587),
        (-8.141851, -13.952574),
        (8.541851, 13.952574),
    ),
    # DPO's .607192, .854355 and 12/8, 14.5/6; c_w gets -1/8, -1/6
    (
        "dpo_nll",
        {"beta": 0.1, "alpha": 1.0},
        (2.107192, 3.271022),
        (-0.170512, -0.224111),
        (0.045512, 0.057444),
    ),
    # r_w sorted (-1.5, 1), r_l sorted (-.8, 1.5): differences by rank -.7 and -.5; the first pair
    # has the higher chosen and the lower rejected answer
    (
        "aot_unpaired",
        {"beta": 0.1},
        (0.728760, 0.718460),
        (-0.051250, -0.051749),
        (0.051749, 0.051250),
    ),
]


@pytest.mark.parametrize(("name", "hyper", "value", "c_w", "c_l"), ANCHORED)
def test_anchored(name, hyper, value, c_w, c_l):
    check(name, PAIRS, hyper, value, chosen_logps=c_w, rejected_logps=c_l)


@pytest.mark.parametrize(
    ("mean", "value", "c_w", "c_l"),
    [
        # -log s(b r_w) - log s(-b r_l) with b r_w = (.1, -.15), b r_l = (-.08, .15)
        (0.0, (1.298344, 1.541914), (-0.047502, -0.053743), (0.048001, 0.053743)),
        # the mean of (1, -1.5, -.8, 1.5) is .05, so that d = .005 is taken off every reward
        (0.05, (1.298325, 1.541920), (-0.047627, -0.053867), (0.047876, 0.053619)),
    ],
)
def test_bco(mean, value, c_w, c_l):
    data = {**PAIRS, "mean_log_ratio": row(mean)}
    check("bco", data, {"beta": 0.1}, value, chosen_logps=c_w, rejected_logps=c_l)


def test_bco_is_an_upper_bound_of_dpo():
    # s(x) s(y) < s(x + y)
    bco, dpo = get_objective("bco"), get_objective("dpo")
    grid = torch.linspace(-60, 60, 25, dtype=torch.float64)
    chosen, rejected = (axis.flatten()[None] for axis in torch.meshgrid(grid, grid, indexing="ij"))
    zero = torch.zeros_like(chosen)
    bound = bco.fn(chosen, rejected, zero, zero, row(0), beta=0.1)
    assert (bound > dpo.fn(chosen, rejected, zero, zero, beta=0.1)).all()


def test_xpo():
    # DPO's .607192, .854355 and a S of a third response: .01 (-2), .01 (-7); c = a on it
    check(
        "xpo",
        {**PAIRS, "logps": row(-2, -7)},
        {"beta": 0.1, "alpha": 0.01},
        (0.587192, 0.784355),
        chosen_logps=(-0.045512, -0.057444),
        rejected_logps=(0.045512, 0.057444),
        logps=(0.01, 0.01),
    )


def test_nca_turns_round_at_log_2_over_beta():
    # s(-b r) = s(b r) / 2 at b r = log 2; a falling rejected answer is let go, a risen one is not
    rest = math.log(2) / 0.1
    c = at_ratios("nca", (rest - 1, rest, rest + 1), (-100, 0, 100), beta=0.1)
    assert c["chosen_logps"][0] < 0 < c["chosen_logps"][2]
    assert abs(c["chosen_logps"][1]) < 1e-15
    assert c["rejected_logps"] == pytest.approx([2.26989e-6, 0.025, 0.05], rel=1e-4)


@pytest.mark.parametrize("name", ["sppo", "cal_dpo"])
def test_the_regressions_turn_round_beyond_their_targets(name):
    target = 0.5 / 0.001
    at = (target - 2, target + 2)
    c = at_ratios(name, at, tuple(-x for x in at), beta=0.001)
    assert c["chosen_logps"][0] < 0 < c["chosen_logps"][1]
    assert c["rejected_logps"][0] > 0 > c["rejected_logps"][1]


def test_sppo_without_a_preference_stays_at_the_reference():
    c = at_ratios("sppo", (0.0,), (0.0,), win=0.5)
    assert c == {"chosen_logps": [0.0], "rejected_logps": [0.0]}


def test_apo_down_lowers_the_chosen_answer_when_the_margin_is_the_farther_one():
    # c_w = b (d(b r_w) - d(b h)), d even and falling: positive where |r_w| < |h|; 0 at the start
    c = at_ratios("apo_down", (0, 2, 2, -3), (0, 1, -1, 1))
    assert c["chosen_logps"][0] == 0
    assert [x > 0 for x in c["chosen_logps"][1:]] == [False, True, True]
    assert min(c["rejected_logps"]) > 0


def test_aot_unpaired_forgets_who_belongs_to_whom():
    swapped = {
        name: value.flip(1) if "rejected" in name else value for name, value in PAIRS.items()
    }
    value, c_w, c_l = (0.728760, 0.718460), (-0.051250, -0.051749), (0.051250, 0.051749)
    check("aot_unpaired", swapped, {"beta": 0.1}, value, chosen_logps=c_w, rejected_logps=c_l)


def test_one_row_of_either_aot_is_dpo():
    dpo = get_objective("dpo")
    inputs = {need: PAIRS[need][:, 1:] for need in dpo.needs}
    for name in ("aot", "aot_unpaired"):
        found = get_objective(name).fn(**inputs, beta=0.1)
        torch.testing.assert_close(found, dpo.fn(**inputs, beta=0.1), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "name", ["nca", "bco", "sppo", "apo_zero", "apo_down", "cal_dpo", "dpo_nll", "xpo"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_reference(name, dtype):
    card = get_objective(name)
    far = tensor([[1e4, 1e4, -1e4, -1e4]], dtype=dtype)
    inputs = dict.fromkeys(card.needs, torch.full_like(far, -1e4))
    inputs["chosen_logps"], inputs["rejected_logps"] = far - 1e4, far[:, [0, 2, 1, 3]] - 1e4
    inputs = {k: v[:, :1] if k == "mean_log_ratio" else v for k, v in inputs.items()}
    assert torch.isfinite(card.fn(**inputs)).all()
    for grad in gradients(card.fn, inputs).values():
        assert grad.dtype == dtype
        assert torch.isfinite(grad).all()
