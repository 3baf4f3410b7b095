"""Golden numbers of the policy gradients, from the rewards to the push on a token."""

import math

import pytest
import torch
from fixture import HALF_UNIT, row
from inputs import gradients
from torch import tensor

from toyalign.advantages import ADVANTAGES
from toyalign.objectives import get_objective

LOG2 = math.log(2)

# One prompt with four responses: their rewards, their lengths, and a policy that is still the one
# that drew them (and the reference), so that every ratio is 1.
REWARDS = tensor([[[1.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
LENGTHS = row(2, 4, 3, 5)
MASK = (torch.arange(5) < LENGTHS.unsqueeze(-1)).double()
LOGPS = -1 - 0.1 * torch.arange(20, dtype=torch.float64).view(1, 4, 5)


def advantages(name: str) -> torch.Tensor:
    """The advantages that the card asks for, [1, response]."""
    kind = get_objective(name).advantage
    expected = REWARDS.mean(-1, keepdim=True)
    return ADVANTAGES[kind](REWARDS, expected).squeeze(1)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # mean 1/2, standard deviation sqrt(4 (1/2)^2 / 3) = .577350, plus 1e-4: .5 / .577450
        ("grpo", 0.865875),
        ("dapo", 0.865875),
        ("cispo", 0.865875),
        ("dr_grpo", 0.5),
        # the mean of the others: 1 - 1/3 and 0 - 2/3
        ("rloo", 0.666667),
    ],
)
def test_advantages(name, size):
    expected = (size, -size, -size, size)
    assert advantages(name)[0].tolist() == pytest.approx(expected, abs=HALF_UNIT, rel=0)


@pytest.mark.parametrize(
    ("name", "hyper", "push"),
    [
        # -A / m / 4: every response counts alike, so the tokens of a long one count less
        ("grpo", {}, (-0.108234, 0.054117, 0.072156, -0.043294)),
        # -A / 8 / 4
        ("dr_grpo", {"max_length": 8.0}, (-0.015625, 0.015625, 0.015625, -0.015625)),
        # -A / 14, the mean over all tokens
        ("dapo", {}, (-0.061848, 0.061848, 0.061848, -0.061848)),
        ("cispo", {}, (-0.061848, 0.061848, 0.061848, -0.061848)),
        # the same with the advantages of DAPO
        ("ppo_clip", {}, (-0.061848, 0.061848, 0.061848, -0.061848)),
    ],
)
def test_the_push_on_a_token_at_the_start(name, hyper, push):
    card = get_objective(name)
    leaf = LOGPS.clone().requires_grad_()
    data = {
        "token_logps": leaf,
        "old_token_logps": LOGPS,
        "ref_token_logps": LOGPS,
        "mask": MASK,
        "lengths": LENGTHS,
        "advantages": advantages("dapo" if name == "ppo_clip" else name),
    }
    values = card.fn(**{need: data[need] for need in card.needs}, **hyper)
    mean = values.mean() if values.ndim == 2 else (values * MASK).sum() / MASK.sum()
    (grad,) = torch.autograd.grad(mean, leaf)
    expected = tensor(push, dtype=torch.float64).view(1, 4, 1) * MASK
    assert grad.flatten().tolist() == pytest.approx(
        expected.flatten().tolist(), abs=HALF_UNIT, rel=0
    )


def test_rloo_is_reinforce_against_the_others():
    inputs = {"logps": row(-2, -3, -1, -4), "advantages": advantages("rloo")}
    loss = get_objective("rloo").fn
    assert loss(**inputs)[0].tolist() == pytest.approx([4 / 3, -2, -2 / 3, 8 / 3], abs=1e-14)
    found = gradients(loss, inputs)["logps"][0].tolist()
    assert found == pytest.approx([-2 / 3, 2 / 3, 2 / 3, -2 / 3], abs=1e-15)
    assert torch.equal(loss(**inputs), get_objective("reinforce").fn(**inputs))


# --- by hand


def ratios(*numbers: float) -> dict[str, torch.Tensor]:
    """One response whose tokens have these ratios to the policy that drew it."""
    log_ratio = tensor([[numbers]], dtype=torch.float64).log()
    old = torch.full_like(log_ratio, -3.0)
    return {"token_logps": old + log_ratio, "old_token_logps": old}


MASKED = tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64)


def test_grpo():
    # Ratios 3/2 and 1/2, A = 2, clip .2: min = 2.4 (cut off) and 1. d = log 2 and -log 2, so
    # e^d - d - 1 = 1 - log 2 and log 2 - 1/2, with derivatives 1 - e^d = -1 and 1/2. The third
    # token belongs to no one. L = (-2.4 - 1 + b/2) / 2, c = (-b, -1 + b/2, 0) / 2.
    inputs = {**ratios(1.5, 0.5, 7.0), "mask": MASKED, "lengths": row(2), "advantages": row(2)}
    gap = tensor([[[LOG2, -LOG2, 3.0]]], dtype=torch.float64)
    inputs["ref_token_logps"] = inputs["token_logps"] + gap
    loss = get_objective("grpo").fn
    assert loss(**inputs, clip=0.2, beta=0.1).item() == pytest.approx(-1.675, abs=1e-14)
    found = gradients(loss, inputs, clip=0.2, beta=0.1)["token_logps"].flatten().tolist()
    assert found == pytest.approx([-0.05, -0.475, 0], abs=1e-14)


def test_dr_grpo():
    # the same ratios: L = (-2.4 - 1) / 4, c = (0, -1, 0) / 4
    inputs = {**ratios(1.5, 0.5, 7.0), "mask": MASKED, "advantages": row(2)}
    loss = get_objective("dr_grpo").fn
    hyper = {"clip": 0.2, "max_length": 4.0}
    assert loss(**inputs, **hyper).item() == pytest.approx(-0.85, abs=1e-14)
    found = gradients(loss, inputs, **hyper)["token_logps"].flatten().tolist()
    assert found == pytest.approx([0, -0.25, 0], abs=1e-14)


@pytest.mark.parametrize(
    ("advantage", "value", "grad"),
    [
        # min(r A, clip(r, .8, 1.28) A): for A = 2 only 3/2 is cut off, though 5/4 > 1.2
        (2.0, (-2.56, -2.5, -1.5, -1), (0, -2.5, -1.5, -1)),
        # for A = -2 whatever lies below .8
        (-2.0, (3, 2.5, 1.6, 1.6), (3, 2.5, 0, 0)),
    ],
)
def test_dapo(advantage, value, grad):
    inputs = {**ratios(1.5, 1.25, 0.75, 0.5), "advantages": row(advantage)}
    loss = get_objective("dapo").fn
    assert loss(**inputs).flatten().tolist() == pytest.approx(value, abs=1e-14)
    found = gradients(loss, inputs)["token_logps"].flatten().tolist()
    assert found == pytest.approx(grad, abs=1e-14)


def test_dapo_with_equal_clips_is_ppo():
    inputs = {**ratios(3, 1.21, 1.1, 0.9, 0.5), "advantages": row(-1.3)}
    ours, ppo = get_objective("dapo").fn, get_objective("ppo_clip").fn
    hyper = {"clip_low": 0.2, "clip_high": 0.2}
    assert torch.equal(ours(**inputs, **hyper), ppo(**inputs, clip=0.2))


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo(advantage):
    # weights min(r, 5) = (5, 4, 1, 1/2), held constant: no token is cut off on either side
    inputs = {**ratios(8, 4, 1, 0.5), "advantages": row(advantage)}
    loss, weight = get_objective("cispo").fn, (5, 4, 1, 0.5)
    expected = -advantage * tensor(weight, dtype=torch.float64) * inputs["token_logps"]
    torch.testing.assert_close(loss(**inputs, clip_high=4.0), expected, rtol=0, atol=1e-13)
    found = gradients(loss, inputs, clip_high=4.0)["token_logps"].flatten().tolist()
    assert found == pytest.approx([-w * advantage for w in weight], abs=1e-14)


@pytest.mark.parametrize("name", ["ppo_clip", "grpo", "dr_grpo", "dapo", "cispo"])
@pytest.mark.parametrize("nats", [1.0, 20.0, 100.0, 1e4])
def test_what_has_risen_wrongly_is_pulled_back_from_however_far(name, nats):
    card = get_objective(name)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    data = {
        "token_logps": -0.1 * one,
        "old_token_logps": (-0.1 - nats) * one,
        "ref_token_logps": -0.1 * one,
        "mask": one,
        "lengths": row(1),
        "advantages": row(-1),
    }
    (grad,) = gradients(card.fn, {need: data[need] for need in card.needs}).values()
    assert grad.item() >= 1  # a descent step lowers it, and harder than at the start
    assert math.isfinite(grad.item())
