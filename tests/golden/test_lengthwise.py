"""Golden numbers of the losses in which tokens and lengths count.

Six-decimal numbers were computed apart from this package; the others are small cases by hand.
"""

import math

import pytest
import torch
from fixture import HALF_UNIT, PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective

LOG2 = math.log(2)


def token(*numbers: float) -> torch.Tensor:
    """One response of some tokens, [1, 1, token]."""
    return tensor([[numbers]], dtype=torch.float64)


def near(*numbers: float) -> object:
    """Equal but for rounding."""
    return pytest.approx(numbers, abs=1e-14, rel=0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# name, hyperparameters, L, c_w, c_l
LENGTHS = [
    # r_w/m_w - r_l/m_l = (.205, -.55): -log s(.0205), -log s(-.055); c = -+ b s(-u) / m
    (
        "dpo_norm",
        {"beta": 0.1},
        (0.682950, 0.721025),
        (-0.006186, -0.008562),
        (0.004949, 0.010275),
    ),
    # m_w - m_l = (-2, 1): b h + a (m_w - m_l) = (.18 - .02, -.3 + .01); the second pair, whose
    # chosen answer is the longer one, is pushed with .572 of b instead of .574
    (
        "r_dpo",
        {"beta": 0.1, "alpha": 0.01},
        (0.616344, 0.848623),
        (-0.046009, -0.057200),
        (0.046009, 0.057200),
    ),
]


@pytest.mark.parametrize(("name", "hyper", "value", "c_w", "c_l"), LENGTHS)
def test_lengths(name, hyper, value, c_w, c_l):
    check(name, PAIRS, hyper, value, chosen_logps=c_w, rejected_logps=c_l)


def test_r_dpo_weighs_a_longer_chosen_answer_less():
    # the same log-ratios, the chosen answer 40 tokens longer or shorter
    ratios = {name: row(0.0, 0.0) for name in PAIRS if name.endswith("logps")}
    lengths = {"chosen_lengths": row(50, 10), "rejected_lengths": row(10, 50)}
    (longer, shorter), _ = (
        grad[0].tolist()
        for grad in gradients(get_objective("r_dpo").fn, {**ratios, **lengths}).values()
    )
    assert shorter < longer < 0


# --- ld_dpo

# Log-ratios (1, 2, 4) of a chosen answer with three tokens, (1) of a rejected one with one: only
# the first token of the chosen answer has a counterpart.
TAILED = {
    "chosen_token_logps": token(-1, -1, -1, -9),
    "ref_chosen_token_logps": token(-2, -3, -5, -7),
    "rejected_token_logps": token(-3, -9, -9, -9),
    "ref_rejected_token_logps": token(-4, -7, -7, -7),
    "chosen_mask": token(1, 1, 1, 0),
    "rejected_mask": token(1, 0, 0, 0),
    "chosen_lengths": row(3),
    "rejected_lengths": row(1),
}


@pytest.mark.parametrize("padding", ["right", "left"])
def test_ld_dpo(padding):
    # with a = 1/2, r'_w = 1 + (2 + 4)/2 = 4 and r'_l = 1: -log s(.1 * 3); c = -+ b s(-.3) v_t
    inputs = TAILED
    if padding == "left":
        inputs = {
            "chosen_token_logps": token(-9, -1, -1, -1),
            "ref_chosen_token_logps": token(-7, -2, -3, -5),
            "rejected_token_logps": token(-9, -9, -9, -3),
            "ref_rejected_token_logps": token(-7, -7, -7, -4),
            "chosen_mask": token(0, 1, 1, 1),
            "rejected_mask": token(0, 0, 0, 1),
            "chosen_lengths": row(3),
            "rejected_lengths": row(1),
        }
    loss = get_objective("ld_dpo").fn
    assert loss(**inputs, beta=0.1, alpha=0.5)[0].tolist() == near(math.log1p(math.exp(-0.3)))
    found = gradients(loss, inputs, beta=0.1, alpha=0.5)
    push = 0.1 * sigmoid(-0.3)
    chosen, rejected = [-push, -push / 2, -push / 2, 0], [push, 0, 0, 0]
    if padding == "left":
        chosen, rejected = [0, -push, -push / 2, -push / 2], [0, 0, 0, push]
    assert found["chosen_token_logps"].flatten().tolist() == near(*chosen)
    assert found["rejected_token_logps"].flatten().tolist() == near(*rejected)


def test_ld_dpo_is_the_formula_of_trl():
    # TRL: places are the cumulative mask; the sum over the shared places plus a times the tail's
    made = torch.Generator().manual_seed(3)
    rows, tokens, alpha, beta = 6, 7, 0.3, 0.2
    tail = torch.tensor([[1, 4, 7, 3, 5, 2], [2, 4, 1, 7, 3, 6]])
    masks = (torch.arange(tokens) < tail.unsqueeze(-1)).double().flip(-1)
    ratios = torch.randn(2, rows, tokens, generator=made, dtype=torch.float64)
    place, shared = masks.cumsum(-1), tail.amin(0)[:, None]
    inside, beyond = (place > 0) & (place <= shared), place > shared
    totals = (ratios * inside * masks).sum(-1) + alpha * (ratios * beyond * masks).sum(-1)
    expected = -torch.nn.functional.logsigmoid(beta * (totals[0] - totals[1]))
    zero = torch.zeros(1, rows, tokens, dtype=torch.float64)
    found = get_objective("ld_dpo").fn(
        ratios[:1],
        ratios[1:],
        zero,
        zero,
        masks[:1],
        masks[1:],
        tail[:1],
        tail[1:],
        beta=beta,
        alpha=alpha,
    )
    torch.testing.assert_close(found[0], expected, rtol=1e-14, atol=1e-14)


def test_ld_dpo_with_a_full_tail_is_dpo():
    # r_w = 7, r_l = 1
    value = get_objective("ld_dpo").fn(**TAILED, beta=0.1, alpha=1.0)
    assert value[0].tolist() == near(math.log1p(math.exp(-0.6)))


# --- wpo

# The chosen answer: tokens of probability .8 and .2 out of (.8, .2), then padding; the mean of the
# distribution under itself is .68, so w = sqrt(.8/.68 * .2/.68) = .4/.68. The rejected answer: one
# token out of (.5, .5), w = 1. The log-ratios are 2 and -1.
WEIGHED = {
    "chosen_token_logps": token(0.8, 0.2, 0.5).log(),
    "ref_chosen_token_logps": token(0.8, 0.2, 0.9).log() - 1,
    "rejected_token_logps": token(0.5, 0.1, 0.1).log(),
    "ref_rejected_token_logps": token(0.5, 0.3, 0.3).log() + 1,
    "chosen_log_probs": tensor([[[[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]]]]).double().log(),
    "rejected_log_probs": tensor([[[[0.5, 0.5], [0.9, 0.1], [0.9, 0.1]]]]).double().log(),
    "chosen_mask": token(1, 1, 0),
    "rejected_mask": token(1, 0, 0),
}


def test_wpo():
    loss, weight = get_objective("wpo").fn, 0.4 / 0.68
    value = loss(**WEIGHED, beta=0.1).item()
    assert value == pytest.approx(weight * math.log1p(math.exp(-0.3)), abs=1e-7)  # log of float32
    found = gradients(loss, WEIGHED, beta=0.1)
    push = weight * 0.1 * sigmoid(-0.3)
    expected = {"chosen_token_logps": [-push, -push, 0], "rejected_token_logps": [push, 0, 0]}
    for name, grad in expected.items():
        assert found[name].flatten().tolist() == pytest.approx(grad, abs=1e-7)
    for name in ("chosen_log_probs", "rejected_log_probs"):
        assert found[name].abs().max() == 0  # the weight is held constant


# --- tdpo


def two_actions(divergence: float) -> list[float]:
    """A distribution p with KL((1/2, 1/2)||p) = -log(4 p (1 - p))/2 as given."""
    high = (1 + math.sqrt(1 - math.exp(-2 * divergence))) / 2
    return [high, 1 - high]


def along(first: float, second: float) -> torch.Tensor:
    """Whole distributions, [1, 2, 2, 2]: the divergence of each pair, then a masked place."""
    masked = [0.99, 0.01]
    made = [[two_actions(first), masked], [two_actions(second), masked]]
    return tensor([made], dtype=torch.float64).log()


# D_w = (.4, .7), D_l = (.9, .3)
WATCHED = {
    **PAIRS,
    "chosen_log_probs": along(0.4, 0.7),
    "rejected_log_probs": along(0.9, 0.3),
    "ref_chosen_log_probs": torch.full((1, 2, 2, 2), 0.5, dtype=torch.float64).log(),
    "ref_rejected_log_probs": torch.full((1, 2, 2, 2), 0.5, dtype=torch.float64).log(),
    "chosen_mask": tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64),
    "rejected_mask": tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64),
}


@pytest.mark.parametrize(
    ("name", "hyper", "value", "push", "shares"),
    [
        # h - (D_l - D_w) = (1.3, -2.6)
        ("tdpo1", {}, (0.630258, 0.831573), (0.046755, 0.056464), (1, 1)),
        # h - (D_l - D_w)/2 = (1.55, -2.8), D_w held constant
        ("tdpo2", {"alpha": 0.5}, (0.618647, 0.842915), (0.046133, 0.056955), (0, 0.5)),
    ],
)
def test_tdpo(name, hyper, value, push, shares):
    card = get_objective(name)
    inputs = {need: WATCHED[need] for need in card.needs}
    found = gradients(card.fn, inputs, beta=0.1, **hyper)
    values = card.fn(**inputs, beta=0.1, **hyper)[0].tolist()
    assert values == pytest.approx(value, abs=HALF_UNIT, rel=0)
    assert found["chosen_logps"][0].tolist() == pytest.approx([-p for p in push], abs=HALF_UNIT)
    assert found["rejected_logps"][0].tolist() == pytest.approx(push, abs=HALF_UNIT)
    # On the distributions: the push of the margin times the reference's probability, 1/2.
    for side, sign, share in (("chosen", 1, shares[0]), ("rejected", -1, shares[1])):
        grad = found[f"{side}_log_probs"][0]
        expected = [[sign * share * p / 2] * 2 for p in push]
        for pair, wanted in zip(grad[:, 0].tolist(), expected, strict=True):
            assert pair == pytest.approx(wanted, abs=HALF_UNIT, rel=0)
        assert grad[:, 1].abs().max() == 0  # under the mask


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_tdpo_counts_nothing_where_the_reference_never_goes(name):
    # reference (1, 0) against (1/2, 1/2): KL = log 2; against (1, 0) itself: 0
    never = tensor([[[[1.0, 0.0]]]], dtype=torch.float64).log()
    inputs = {
        **{need: row(-1) for need in PAIRS if need.endswith("logps")},
        "ref_chosen_log_probs": never,
        "ref_rejected_log_probs": never,
        "chosen_log_probs": never.clone(),
        "rejected_log_probs": torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64).log(),
        "chosen_mask": token(1),
        "rejected_mask": token(1),
    }
    card = get_objective(name)
    share = card.hyper.get("alpha", 1.0)
    expected = math.log1p(math.exp(0.1 * share * LOG2))
    assert card.fn(**inputs)[0].tolist() == near(expected)
    for grad in gradients(card.fn, inputs).values():
        assert torch.isfinite(grad).all()


# --- far from the reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["dpo_norm", "r_dpo", "ipo_mean", "ld_dpo", "wpo", "tdpo1", "tdpo2"]
)
def test_finite_far_from_the_reference(name, dtype):
    # 500 tokens, each 20 nats away from the reference on either side of either answer
    tokens, needs = 500, get_objective(name).needs
    signs = tensor([[(a, b) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)]]).unbind(-1)
    inputs = {}
    for side, sign in zip(("chosen", "rejected"), signs, strict=True):
        policy = torch.where(sign < 0, -20.02, -0.02).unsqueeze(-1).expand(-1, -1, tokens)
        reference = torch.where(sign > 0, -20.02, -0.02).unsqueeze(-1).expand(-1, -1, tokens)
        for prefix, values in (("", policy), ("ref_", reference)):
            inputs[f"{prefix}{side}_token_logps"] = values
            inputs[f"{prefix}{side}_logps"] = values.sum(-1)
            other = torch.log(-torch.expm1(values))
            inputs[f"{prefix}{side}_log_probs"] = torch.stack([values, other], -1)
        inputs[f"{side}_mask"] = torch.ones_like(policy)
        inputs[f"{side}_lengths"] = torch.full(sign.shape, float(tokens))
    inputs = {need: inputs[need].to(dtype) for need in needs}
    loss = get_objective(name).fn
    assert torch.isfinite(loss(**inputs)).all()
    for grad in gradients(loss, inputs).values():
        assert torch.isfinite(grad).all()
