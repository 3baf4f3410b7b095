"""Golden numbers of the losses that see only the margin of a pair.

Six-decimal numbers were computed apart from this package; the others are small cases by hand.
"""

import math

import pytest
import torch
from fixture import PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective

H = (1.8, -3)  # the margins of the fixture


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def at_margins(name: str, *margins: float, **hyper: float) -> tuple[list[float], list[float]]:
    """Values and derivatives by the chosen log-probability, at reference log-probs of −2e4."""
    h = row(*margins)
    inputs = dict.fromkeys(get_objective(name).needs, torch.full_like(h, -2e4))
    inputs["chosen_logps"] = h / 2 - 2e4
    inputs["rejected_logps"] = -h / 2 - 2e4
    loss = get_objective(name).fn
    value, grads = loss(**inputs, **hyper), gradients(loss, inputs, **hyper)
    assert torch.equal(grads["chosen_logps"], -grads["rejected_logps"])
    return value[0].tolist(), grads["chosen_logps"][0].tolist()


# name, hyperparameters, L, c_w; always c_l = -c_w, but for the averages of ipo_mean
PAIRWISE = [
    # -log s(b h): s(.18) = .544879, s(-.3) = .425557; c = -+ b s(-b h)
    ("dpo", {"beta": 0.1}, (0.607192, 0.854355), (-0.045512, -0.057444)),
    # .9 of that and .1 of -log s(-b h) = (.787192, .554355); c = b (s(b h) - .9)
    ("cdpo", {"beta": 0.1, "eps": 0.1}, (0.625192, 0.824355), (-0.035512, -0.047444)),
    # (.9 of the first less .1 of the second) / .8; c = -b (s(-b h) + .125)
    ("robust_dpo", {"beta": 0.1, "eps": 0.1}, (0.584692, 0.891855), (-0.058012, -0.069944)),
    # (h - 5)^2 = (-3.2)^2, (-8)^2; c = 2 (h - 5)
    ("ipo", {"tau": 0.1}, (10.24, 64), (-6.4, -16)),
    # 1 - .18, 1 + .3; c = -b
    ("hinge", {"beta": 0.1}, (0.82, 1.3), (-0.1, -0.1)),
    # q = (.544879, .425557): q (log q - log .999) + (1 - q) (log(1 - q) - log .001);
    # c = b q (1 - q) (b h - 6.906755)
    ("exo", {"beta": 0.1, "eps": 1e-3}, (2.455297, 3.286512), (-0.166814, -0.176175)),
    # z = (.09, -.15), g = s(20 z) = (.858149, .047426):
    # .141851 * .649160 + .858149 * .913931 = .876373, and .952574 * .770957 + .047426 * 1.161834
    (
        "discopop",
        {"beta": 0.05, "tau": 0.05},
        (0.876373, 0.789495),
        (-0.010371, -0.010694),
    ),
    # Margins of the policy (3, -3.5) and of the reference (1.2, -.5), sorted (-3.5, 3) and
    # (-.5, 1.2): differences by rank (-3, 1.8), which are DPO's in the other order
    ("aot", {"beta": 0.1}, (0.854355, 0.607192), (-0.045512, -0.057444)),
]


@pytest.mark.parametrize(("name", "hyper", "value", "c_w"), PAIRWISE)
def test_pairs(name, hyper, value, c_w):
    c_l = tuple(-c for c in c_w)
    check(name, PAIRS, hyper, value, chosen_logps=c_w, rejected_logps=c_l)


def test_ipo_mean():
    # r_w/m_w - r_l/m_l = .125 + .08 and -.25 - .3; target 5; c = 2 (.. - 5) / m
    value, c_w, c_l = (22.992025, 30.8025), (-1.19875, -1.85), (0.959, 2.22)
    check("ipo_mean", PAIRS, {"tau": 0.1}, value, chosen_logps=c_w, rejected_logps=c_l)


# One pair, the first of the fixture, and the same answers after a quality prompt: there
# h = (-11.5 + 12.9) - (-14 + 14.1) = 1.3, so that with b = .1 Delta = .13.
PROMPTED = {
    **{name: value[:, :1] for name, value in PAIRS.items()},
    "prompted_chosen_logps": row(-11.5),
    "prompted_rejected_logps": row(-14),
    "ref_prompted_chosen_logps": row(-12.9),
    "ref_prompted_rejected_logps": row(-14.1),
}


@pytest.mark.parametrize(
    ("lam", "sr_dpo", "c_dpo", "sr_ipo", "c_ipo"),
    [
        # -log s(.18 - .13 lam), c = -b s(.13 lam - .18); (1.8 - .13 lam - 5)^2, c = 2 (..)
        (0.0, 0.607192, -0.045512, 10.24, -6.4),
        (0.1, 0.613129, -0.045835, 10.323369, -6.426),
        (0.3, 0.625130, -0.046481, 10.491121, -6.478),
        (0.5, 0.637299, -0.047128, 10.660225, -6.53),
        (1.0, 0.668460, -0.048750, 11.0889, -6.66),
    ],
)
def test_self_refined(lam, sr_dpo, c_dpo, sr_ipo, c_ipo):
    hyper = {"beta": 0.1, "lam": lam}
    for name, value, c in (("sr_dpo", sr_dpo, c_dpo), ("sr_ipo", sr_ipo, c_ipo)):
        check(name, PROMPTED, hyper, (value,), chosen_logps=(c,), rejected_logps=(-c,))


def test_a_prompt_that_changes_nothing_scales_beta_of_sr_dpo():
    # -log s(b h - lam sg[b h]) has 1/(1 - lam) times the gradient of DPO at (1 - lam) b.
    same = {**PAIRS, **{f"prompted_{k}": v for k, v in PAIRS.items() if not k.startswith("ref_")}}
    same |= {f"ref_prompted_{k[4:]}": v for k, v in PAIRS.items() if k.startswith("ref_")}
    sr, dpo = get_objective("sr_dpo"), get_objective("dpo")
    ours = gradients(sr.fn, {need: same[need] for need in sr.needs}, beta=0.1, lam=0.75)
    theirs = gradients(dpo.fn, {need: same[need] for need in dpo.needs}, beta=0.025)
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], 4 * grad, rtol=1e-13, atol=0)


def test_infonca():
    # Rewards (1, 0) and (0, 1): labels p = s(1) = .731059 and s(-1) = .268941, the second pair the
    # wrong way round; p (-log s(b h)) + (1 - p) (-log s(-b h)); c = b (s(b h) - p)
    rewards = {"chosen_rewards": row(1, 0), "rejected_rewards": row(0, 1)}
    check(
        "infonca",
        {**PAIRS, **rewards},
        {"beta": 0.1, "alpha": 1.0},
        (0.655601, 0.635038),
        chosen_logps=(-0.018618, 0.015662),
        rejected_logps=(0.018618, -0.015662),
    )


def test_infonca_with_hard_labels_is_dpo():
    rewards = {"chosen_rewards": row(1, 3), "rejected_rewards": row(0, 1)}
    inputs = {name: value for name, value in {**PAIRS, **rewards}.items() if "lengths" not in name}
    dpo = get_objective("dpo")
    expected = dpo.fn(*(PAIRS[need] for need in dpo.needs), beta=0.1)
    soft = get_objective("infonca").fn(**inputs, beta=0.1, alpha=1e-4)
    assert torch.equal(soft, expected)


def test_offset_dpo():
    # Gaps 2 and 1/2, offsets log 2 and -log 2: -log s(.18 - .693147), -log s(-.3 + .693147);
    # c = -b s(-..)
    rewards = {"chosen_rewards": row(3, 1), "rejected_rewards": row(1, 0.5)}
    check(
        "offset_dpo",
        {**PAIRS, **rewards},
        {"beta": 0.1, "alpha": 1.0},
        (0.982281, 0.515771),
        chosen_logps=(-0.062554, -0.040296),
        rejected_logps=(0.062554, 0.040296),
    )


@pytest.mark.parametrize("gap", [0.0, -2.0])
def test_offset_dpo_hardly_sees_a_pair_without_a_gap(gap):
    # It counts as a gap of 1e-6: s(log 1e-6) = 1e-6 / (1 + 1e-6) where h = 0.
    inputs = dict.fromkeys(get_objective("offset_dpo").needs, row(-3))
    inputs["chosen_rewards"], inputs["rejected_rewards"] = row(gap), row(0)
    grads = gradients(get_objective("offset_dpo").fn, inputs, beta=1.0)
    assert grads["chosen_logps"].item() == pytest.approx(-1e-6 / (1 + 1e-6), rel=1e-9)


def test_the_noise_corrected_losses_at_their_turning_points():
    # cdpo and exo rest at s(b h) = 1 - eps: b h = log 9 and log 999. robust_dpo never rests.
    for name, eps, rest in (("cdpo", 0.1, math.log(9)), ("exo", 1e-3, math.log(999))):
        _, c = at_margins(name, 10 * rest - 1, 10 * rest, 10 * rest + 1, beta=0.1, eps=eps)
        assert c[0] < 0 < c[2]
        assert abs(c[1]) < 1e-12
    _, c = at_margins("robust_dpo", 1e4, beta=0.1, eps=0.1)
    assert c == [pytest.approx(-0.1 * 0.1 / 0.8, rel=1e-12)]


def test_robust_dpo_is_unbiased():
    # Labels flipped with probability eps: its mean is DPO's loss on the true labels.
    h = (4.0, -0.5, 0.0)
    right, _ = at_margins("robust_dpo", *h, beta=0.3, eps=0.2)
    flipped, _ = at_margins("robust_dpo", *(-x for x in h), beta=0.3, eps=0.2)
    dpo, _ = at_margins("dpo", *h, beta=0.3)
    mean = [0.8 * x + 0.2 * y for x, y in zip(right, flipped, strict=True)]
    assert mean == pytest.approx(dpo, abs=1e-14)


def test_hinge_lets_a_wide_margin_alone():
    value, c = at_margins("hinge", 19.0, 20.0, 21.0, -1e4, beta=0.05)
    assert value == pytest.approx([0.05, 0, 0, 501], abs=1e-9)
    assert c == [-0.05, 0, 0, -0.05]


def test_discopop_is_wrong_about_the_start():
    # dL/dz at z = 0: g = 1/2, g' = 1/(4 tau) = 5: 5 (1 - log 2) - 1/2 - 1/4 = .784264, positive
    _, c = at_margins("discopop", -0.119 / 0.05, -0.118 / 0.05, 0, 0.0719 / 0.05, 0.0721 / 0.05)
    assert [x > 0 for x in c] == [False, True, True, True, False]
    assert c[2] == pytest.approx(0.05 * (5 * (1 - math.log(2)) - 0.75), rel=1e-12)


@pytest.mark.parametrize("tau", [0.05, 1.0, 3.0])
def test_discopop_is_the_original_where_that_is_finite(tau):
    h = (-300.0, -30.0, -1.0, 0.0, 2.0, 50.0, 900.0)
    value, _ = at_margins("discopop", *h, beta=0.1, tau=tau)
    for x, found in zip(h, value, strict=True):
        z, g = 0.1 * x, sigmoid(0.1 * x / tau)
        assert found == pytest.approx((1 - g) * math.log1p(math.exp(-z)) + g * math.exp(-z))


@pytest.mark.parametrize("name", ["exo", "discopop", "robust_dpo", "cdpo", "hinge"])
def test_far_from_the_reference(name):
    # At 1e4 nats: exp(500) is finite, exp(1e4) is not.
    for beta in (0.1, 1.0):
        for numbers in at_margins(name, 1e4, -1e4, beta=beta):
            assert all(math.isfinite(x) for x in numbers)


def test_discopop_does_not_overflow_at_a_high_temperature():
    value, c = at_margins("discopop", -1e4, beta=1.0, tau=10.0)
    assert all(math.isfinite(x) for x in (*value, *c))
    assert c[0] < 0


def test_aot_compares_ranks():
    # The reference's two margins swapped: DPO would see (3.5, -4.7), AOT sees no difference.
    swapped = {
        name: value.flip(1) if name.startswith("ref_") else value for name, value in PAIRS.items()
    }
    check(
        "aot",
        swapped,
        {"beta": 0.1},
        (0.854355, 0.607192),
        chosen_logps=(-0.045512, -0.057444),
        rejected_logps=(0.045512, 0.057444),
    )


def test_aot_ranks_equal_margins_in_the_order_of_their_rows():
    # Two pairs of margin 0 against reference margins -1 and 1: differences by rank 1 and -1.
    inputs = {
        "chosen_logps": row(-4, -5),
        "rejected_logps": row(-4, -5),
        "ref_chosen_logps": row(-2, -4),
        "ref_rejected_logps": row(-3, -3),
    }
    found = gradients(get_objective("aot").fn, inputs, beta=1.0)["chosen_logps"][0]
    expected = tensor([-sigmoid(-1), -sigmoid(1)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
