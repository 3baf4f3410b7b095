"""Golden numbers: values and gradients that were computed apart from this package, in float64.

The fixture, two pairs of responses, is in `fixture.py`; the families have files of their own.
"""

import pytest
import torch
from fixture import CHOSEN, HALF_UNIT, PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective


def test_npo():
    # -(2/b) log s(-b r_l) on the rejected answers; c = 2 s(b r_l)
    check("npo", PAIRS, {"beta": 0.1}, (13.078939, 15.419141), rejected_logps=(0.960021, 1.074860))


def test_sft():
    # 12/8 and 14.5/6; c = -1/m
    check("sft", CHOSEN, {}, (1.5, 2.416667), logps=(-0.125, -0.166667))


def test_minor_sft():
    # the potential -(2/(b m)) log s(b r_w); c = -(2/m) s(-b r_w)
    value, c = (1.610992, 2.569857), (-0.118755, -0.179143)
    check("minor_sft", CHOSEN, {"beta": 0.1}, value, logps=c)


# Token log-probabilities (-.5, -1, -.25) and (-2, -.1) under the policy, (-1, -1.5, -.5) and
# (-1, -.2) under the reference: r = (1.25, -.9), lengths (3, 2).
TOKENS = {"logps": row(-1.75, -2.1), "ref_logps": row(-3, -1.2), "lengths": row(3, 2)}


@pytest.mark.parametrize(
    ("beta", "push", "mean", "weighted_mean"),
    [
        (0.1, (0.937581, 1.044970), 5.804460, 0.822070),
        (1.0, (0.445400, 1.421899), 0.704553, 0.876405),
    ],
)
def test_minor_sft_from_tokens(beta, push, mean, weighted_mean):
    loss = get_objective("minor_sft").fn
    (grad,) = gradients(loss, TOKENS, beta=beta).values()
    found = -grad * TOKENS["lengths"]  # C = 2 s(-b r), between 0 and 2
    assert found[0].tolist() == pytest.approx(push, abs=HALF_UNIT, rel=0)
    assert loss(**TOKENS, beta=beta).mean().item() == pytest.approx(mean, abs=HALF_UNIT, rel=0)
    # The other form of the loss, the weight C (held constant) times SFT, has another value.
    sft = get_objective("sft").fn(TOKENS["logps"], TOKENS["lengths"])
    assert (found * sft).mean().item() == pytest.approx(weighted_mean, abs=HALF_UNIT, rel=0)


def test_deviation_from_the_reference_is_the_gain_in_likelihood():
    # mean of r/m = (1.25/3 - .9/2) / 2 = -.0166667, which is SFT's loss before less that after
    sft = get_objective("sft").fn
    before, after = (sft(TOKENS[name], TOKENS["lengths"]) for name in ("ref_logps", "logps"))
    assert (before - after).mean().item() == pytest.approx(-0.0166667, abs=5.1e-8, rel=0)


# --- by hand

POLICY = tensor([0.5, 0.25, 0.25], dtype=torch.float64)
TARGET = tensor([0.25, 0.25, 0.5], dtype=torch.float64)
LOG2 = 0.6931471805599453


def on_logits(name: str, **hyper: float) -> tuple[float, list[float]]:
    """Value and gradient on the logits of a softmax policy, for one context."""
    logits = POLICY.log().requires_grad_()
    log_probs = torch.log_softmax(logits, -1)[None, None]
    value = get_objective(name).fn(log_probs, TARGET.log()[None, None], **hyper)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    return value.item(), grad.tolist()


def test_forward_kl():
    # KL(q||p) = 1/4 log(1/2) + 0 + 1/2 log 2 = 1/4 log 2; on the logits p - q
    value, grad = on_logits("forward_kl")
    assert value == pytest.approx(LOG2 / 4, abs=1e-15)
    assert grad == pytest.approx([0.25, 0, -0.25], abs=1e-15)


def test_reverse_kl():
    # KL(p||q) = 1/2 log 2 + 0 + 1/4 log(1/2) = 1/4 log 2; on the logits p (log(p/q) - KL) with
    # log(p/q) = (log 2, 0, -log 2)
    value, grad = on_logits("reverse_kl")
    assert value == pytest.approx(LOG2 / 4, abs=1e-15)
    assert grad == pytest.approx([0.375 * LOG2, -LOG2 / 16, -0.3125 * LOG2], abs=1e-15)


def test_jsd():
    # b = 1/2, M = (3/8, 1/4, 3/8): KL(q||M) = KL(p||M) = 1/4 log(2/3) + 1/2 log(4/3), which is
    # 5/4 log 2 - 3/4 log 3. By the probabilities d/dp = (1 - b) log(p/M) =: g with
    # p/M = (4/3, 1, 2/3); on the logits p (g - mean of g under p).
    value, grad = on_logits("jsd", mixture=0.5)
    log3 = 1.0986122886681098
    assert value == pytest.approx(1.25 * LOG2 - 0.75 * log3, abs=1e-15)
    g = [0.5 * (2 * LOG2 - log3), 0.0, 0.5 * (LOG2 - log3)]
    mean = 0.5 * g[0] + 0.25 * g[2]
    expected = [p * (x - mean) for p, x in zip((0.5, 0.25, 0.25), g, strict=True)]
    assert grad == pytest.approx(expected, abs=1e-15)


def test_unlikelihood():
    # Chosen: p = e^-3 over m = 2 tokens, so 3/2 nats per token and c = -1/2. Rejected: tokens with
    # p = (1/2, 1/4), and a third under the mask: -(a/2)(log(1/2) + log(3/4)); c = (a/2) p/(1 - p)
    alpha = 0.8
    inputs = {
        "chosen_logps": row(-3),
        "chosen_lengths": row(2),
        "rejected_token_logps": tensor([[[0.5, 0.25, 0.9]]], dtype=torch.float64).log(),
        "rejected_mask": tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64),
        "rejected_lengths": row(2),
    }
    loss = get_objective("unlikelihood").fn
    expected = 1.5 + alpha / 2 * (LOG2 + 0.2876820724517809)
    assert loss(**inputs, alpha=alpha).item() == pytest.approx(expected, abs=1e-14)
    grads = gradients(loss, inputs, alpha=alpha)
    assert grads["chosen_logps"].item() == -0.5
    found = grads["rejected_token_logps"].flatten().tolist()
    assert found == pytest.approx([alpha / 2 * 1, alpha / 2 / 3, 0], abs=1e-14)


def test_unlikelihood_of_a_certain_token_is_finite():
    # At p = 1 the value is -log of the float's spacing, and the gradient its inverse.
    inputs = {
        "chosen_logps": row(-1),
        "chosen_lengths": row(1),
        "rejected_token_logps": torch.zeros(1, 1, 1, dtype=torch.float64),
        "rejected_mask": torch.ones(1, 1, 1, dtype=torch.float64),
        "rejected_lengths": row(1),
    }
    loss = get_objective("unlikelihood").fn
    assert loss(**inputs).item() == pytest.approx(1 + 52 * LOG2, abs=1e-12)
    assert gradients(loss, inputs)["rejected_token_logps"].item() == pytest.approx(2.0**52)


RATIOS = (1.5, 0.5, 1.1, 1.2, 0.8)


@pytest.mark.parametrize(
    ("advantage", "value", "grad"),
    [
        # min(r A, clip(r, .8, 1.2) A) for A = 2: (2.4, 1, 2.2, 2.4, 1.6); only above 1.2 is the
        # gradient, -r A, cut off
        (2.0, (-2.4, -1, -2.2, -2.4, -1.6), (0, -1, -2.2, -2.4, -1.6)),
        # for A = -2: (-3, -1.6, -2.2, -2.4, -1.6); only below .8 is it cut off
        (-2.0, (3, 1.6, 2.2, 2.4, 1.6), (3, 0, 2.2, 2.4, 1.6)),
    ],
)
def test_ppo_clip(advantage, value, grad):
    inputs = {
        "token_logps": tensor([[RATIOS]], dtype=torch.float64).log() - 3,
        "old_token_logps": torch.full((1, 1, 5), -3.0, dtype=torch.float64),
        "advantages": row(advantage),
    }
    loss = get_objective("ppo_clip").fn
    assert loss(**inputs, clip=0.2).flatten().tolist() == pytest.approx(value, abs=1e-14)
    # The last two ratios are 1 +- clip but for rounding, so they are held apart below.
    found = gradients(loss, inputs, clip=0.2)["token_logps"].flatten().tolist()
    assert found[:3] == pytest.approx(grad[:3], abs=1e-14)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_ppo_clip_at_the_kinks(advantage):
    # Ratios of exactly 1/2, 1 and 3/2 (no rounding) with a clip of 1/2.
    ratio = tensor([[[0.5, 1.0, 1.5]]], dtype=torch.float64)
    inputs = {
        "token_logps": ratio.log(),
        "old_token_logps": torch.zeros_like(ratio),
        "advantages": row(advantage),
    }
    assert torch.equal(inputs["token_logps"].exp(), ratio)
    (found,) = gradients(get_objective("ppo_clip").fn, inputs, clip=0.5).values()
    assert found.flatten().tolist() == [-advantage * r for r in (0.5, 1.0, 1.5)]


def test_reinforce():
    # -A S; c = -A
    inputs = {"logps": row(-2, -3), "advantages": row(0.5, -1)}
    loss = get_objective("reinforce").fn
    assert loss(**inputs).tolist() == [[1.0, -3.0]]
    assert gradients(loss, inputs)["logps"].tolist() == [[-0.5, 1.0]]


def test_reinforce_kl():
    # r = (1, -2): the reward is A - b r = (.5 - .1, -1 + .2), and b r carries no gradient
    inputs = {"logps": row(-2, -3), "ref_logps": row(-3, -1), "advantages": row(0.5, -1)}
    loss = get_objective("reinforce_kl").fn
    assert loss(**inputs, beta=0.1)[0].tolist() == pytest.approx([0.8, -2.4], abs=1e-15)
    found = gradients(loss, inputs, beta=0.1)["logps"]
    assert found[0].tolist() == pytest.approx([-0.4, 0.8], abs=1e-15)


def test_rwr():
    # weights exp(R / t) = exp(0) and exp(2 log 2) = 4 for t = 1/2
    inputs = {"logps": row(-2, -3), "rewards": row(0, LOG2)}
    loss = get_objective("rwr").fn
    assert loss(**inputs, tau=0.5)[0].tolist() == pytest.approx([2, 12], abs=1e-14)
    found = gradients(loss, inputs, tau=0.5)["logps"]
    assert found[0].tolist() == pytest.approx([-1, -4], abs=1e-14)


def test_best_of_n():
    # two responses, the second is the best: weight 2 on it, over 3 tokens
    inputs = {"logps": row(-2, -3), "lengths": row(4, 3), "best_weights": row(0, 2)}
    loss = get_objective("best_of_n").fn
    assert loss(**inputs).tolist() == [[0.0, 2.0]]
    assert gradients(loss, inputs)["logps"][0].tolist() == pytest.approx([0, -2 / 3], abs=1e-15)
