"""Golden numbers of the losses on single responses; everything but the first by hand.

The last test holds this family, the policy gradients and the divergences to finite numbers.
"""

import math

import pytest
import torch
from fixture import CHOSEN, check, row
from inputs import gradients
from torch import tensor

from toyalign.errors import ToyalignError
from toyalign.objectives import OBJECTIVES, get_objective

LOG2 = math.log(2)
HALVES = tensor([0.5, 0.25, 0.25], dtype=torch.float64)  # a policy of three tokens
OTHER = tensor([0.25, 0.25, 0.5], dtype=torch.float64)


def token(*numbers: float) -> torch.Tensor:
    """One response of some tokens, [1, 1, token]."""
    return tensor([[numbers]], dtype=torch.float64)


def near(*numbers: float) -> object:
    """Equal but for rounding."""
    return pytest.approx(numbers, abs=1e-14, rel=0)


def on_logits(name: str, spoken: int, **hyper: object) -> tuple[float, list[float]]:
    """Value and gradient on the logits, for one token spoken by the policy `HALVES`."""
    logits = HALVES.log().requires_grad_()
    log_probs = torch.log_softmax(logits, -1)
    data = {
        "token_logps": log_probs[spoken].view(1, 1, 1),
        "log_probs": log_probs.view(1, 1, 1, 3),
        "ref_log_probs": OTHER.log().view(1, 1, 1, 3),
    }
    card = get_objective(name)
    value = card.fn(**{need: data[need] for need in card.needs}, **hyper)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    return value.item(), grad.tolist()


def test_minor_sft_of_torchrl():
    # r/m = .125 and -.25: -log s(.0125) and -log s(-.025); c = -(b/m) s(-b r/m)
    hyper = {"beta": 0.1, "norm": "torchrl"}
    check("minor_sft", CHOSEN, hyper, (0.686917, 0.705725), logps=(-0.006211, -0.008437))


def test_minor_sft_of_torchrl_is_sft_at_a_twentieth_of_the_learning_rate():
    # ... while the response moves by less than a nat per token
    loss = get_objective("minor_sft").fn
    for drift in (-0.8, 0.0, 0.8):
        inputs = {**CHOSEN, "logps": CHOSEN["ref_logps"] + drift * CHOSEN["lengths"]}
        (ours,) = gradients(loss, inputs, beta=0.1, norm="torchrl").values()
        (sft,) = gradients(
            get_objective("sft").fn, {n: inputs[n] for n in ("logps", "lengths")}
        ).values()
        torch.testing.assert_close(ours, 0.05 * sft, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        (
            "minor_sft",
            {"norm": "torch_rl"},
            r"norm of minor_sft 'torch_rl'; did you mean 'torchrl'",
        ),
        ("gem", {"h": "lin"}, r"h of gem 'lin'; did you mean 'linear'\? Known: linear, logsigmoid"),
    ],
)
def test_unknown_options_are_refused(name, option, message):
    data = {
        **CHOSEN,
        "token_logps": token(-1.0),
        "log_probs": HALVES.log().view(1, 1, 1, 3),
    }
    card = get_objective(name)
    with pytest.raises(ToyalignError, match=message):
        card.fn(**{need: data[need] for need in card.needs}, **option)


def test_awr():
    # weights exp(0), exp(log 2 / (1/2)) = 4, and exp(2e4) held to 20
    inputs = {"logps": row(-2, -3, -1), "advantages": row(0, LOG2, 1e4)}
    loss = get_objective("awr").fn
    assert loss(**inputs, tau=0.5)[0].tolist() == near(2, 12, 20)
    assert gradients(loss, inputs, tau=0.5)["logps"][0].tolist() == near(-1, -4, -20)


def test_dft():
    # p = (1/2, 1/4): -p log p is half of log 2 twice; the gradient -p is that of -p itself
    inputs = {"token_logps": token(-LOG2, -2 * LOG2)}
    loss = get_objective("dft").fn
    assert loss(**inputs).flatten().tolist() == near(LOG2 / 2, LOG2 / 2)
    assert gradients(loss, inputs)["token_logps"].flatten().tolist() == near(-0.5, -0.25)


def test_eaft():
    # p = (1/2, 1/4, 1/8, 1/8): H = (1/2 + 2/4 + 3/8 + 3/8) log 2 = 7/4 log 2; a token of p = 1/4
    distribution = tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    inputs = {"token_logps": token(-2 * LOG2), "log_probs": distribution.log().view(1, 1, 1, 4)}
    weight = (1.75 * LOG2 / 3) ** 2
    loss = get_objective("eaft").fn
    assert loss(**inputs, alpha=2.0).item() == pytest.approx(weight * 2 * LOG2, abs=1e-14)
    grads = gradients(loss, inputs, alpha=2.0)
    assert grads["token_logps"].item() == pytest.approx(-weight, abs=1e-14)
    assert grads["log_probs"].abs().max() == 0


def test_eaft_looks_at_twenty_tokens():
    # 20 tokens of one probability and 5 of a tenth of it: the five do not count, H = log 20
    logits = tensor([0.0] * 20 + [-math.log(10)] * 5, dtype=torch.float64)
    log_probs = torch.log_softmax(logits, -1).view(1, 1, 1, 25)
    value = get_objective("eaft").fn(token(-1.0), log_probs).item()
    assert value == pytest.approx(math.log(20) / 3, abs=1e-14)
    # where the policy is sure there is nothing to learn
    sure = torch.log_softmax(tensor([0.0, -1e4, -1e4], dtype=torch.float64), -1)
    assert get_objective("eaft").fn(token(-1e4), sure.view(1, 1, 1, 3)).item() == 0


def test_gem_linear():
    # b = 1/2: q is proportional to p^2, (4, 1, 1)/6; the token has p = 1/4, so only its lead over
    # the first, log(1/4) - log(1/2), is not 0. On the logits q - onehot.
    value, grad = on_logits("gem", 1, beta=0.5, h="linear")
    assert value == pytest.approx(2 / 3 * LOG2, abs=1e-14)
    assert grad == near(2 / 3, -5 / 6, 1 / 6)
    # b = 1: the gradient of SFT, p - onehot
    assert on_logits("gem", 1, beta=1.0, h="linear")[1] == near(0.5, -0.75, 0.25)


def test_gem_logsigmoid():
    # weights w = s(.01 log 2) on the first and 1/2 on the others; on the logits q w - onehot Σ q w
    weight = 1 / (1 + 2**-0.01)
    value, grad = on_logits("gem", 1, beta=0.5)
    assert value == pytest.approx(2 / 3 * weight * LOG2, abs=1e-14)
    first, others = 2 / 3 * weight, 1 / 12
    assert grad == near(first, -first - others, others)


@pytest.mark.parametrize("beta", [0.3, 0.7])
def test_gem_is_sft_at_another_temperature(beta):
    logits = tensor([0.3, -1.2, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    sft = -beta * torch.log_softmax(logits / beta, -1)[2]
    (expected,) = torch.autograd.grad(sft, logits)
    log_probs = torch.log_softmax(logits, -1)
    value = get_objective("gem").fn(
        log_probs[2].view(1, 1, 1), log_probs.view(1, 1, 1, 4), beta=beta, h="linear"
    )
    (found,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_asft():
    # token of p = 1/4: 1/4 · 2 log 2, and KL(ref||p) = 1/4 log(1/2) + 1/2 log 2 = 1/4 log 2; on the
    # logits p_t (p - onehot) + a (p - ref)
    value, grad = on_logits("asft", 1, alpha=0.5)
    assert value == pytest.approx((1 / 2 + 1 / 8) * LOG2, abs=1e-14)
    assert grad == near(0.125 + 0.125, -0.1875, 0.0625 - 0.125)
    dft = on_logits("dft", 1)
    assert on_logits("asft", 1, alpha=0.0) == (pytest.approx(dft[0]), pytest.approx(dft[1]))


def test_sft_kl():
    # d = (log 2, -log 2): e^d - d - 1 = (1 - log 2, log 2 - 1/2); c = -1 - k (e^d - 1)
    inputs = {"token_logps": token(-1, -1), "ref_token_logps": token(LOG2 - 1, -LOG2 - 1)}
    loss = get_objective("sft_kl").fn
    found = loss(**inputs, kappa=0.5).flatten().tolist()
    assert found == near(1 + 0.5 * (1 - LOG2), 1 + 0.5 * (LOG2 - 0.5))
    assert gradients(loss, inputs, kappa=0.5)["token_logps"].flatten().tolist() == near(-1.5, -0.75)


# --- finite numbers

SINGLES = [
    card.name
    for card in OBJECTIVES.values()
    if card.family in ("likelihood", "policy_gradient", "divergence")
]


def far(gap: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Responses of one token that the policy has raised, or lowered, by `gap` nats.

    Four rows: raised and lowered, with an advantage of 1 and of -1.
    """
    raised = torch.log_softmax(tensor([0.0, -gap], dtype=torch.float64), -1)
    lowered = raised.flip(0)
    policy = torch.stack([raised, lowered, raised, lowered])[None].to(dtype)
    frozen = policy.flip(-1)
    logps, others = policy[..., 0], frozen[..., 0]
    ones = torch.ones_like(logps)
    signs = torch.tensor([[1, 1, -1, -1]], dtype=dtype)
    data = {"rejected_logps": logps, "ref_rejected_logps": others, "lengths": ones}
    data |= {"logps": logps, "ref_logps": others, "mask": ones[..., None]}
    data |= {"token_logps": logps[..., None], "log_probs": policy}
    data |= {f"{who}_token_logps": others[..., None] for who in ("ref", "old")}
    data |= {f"{who}_log_probs": frozen for who in ("ref", "target")}
    return data | {"advantages": signs, "rewards": signs, "best_weights": signs + 1}


@pytest.mark.parametrize("gap", [20.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SINGLES)
def test_finite_however_far_the_policy_has_gone(name, dtype, gap):
    card = get_objective(name)
    inputs = {need: value for need, value in far(gap, dtype).items() if need in card.needs}
    if "token_logps" in inputs and "log_probs" in inputs:  # one distribution for each token
        whole = [need for need in inputs if need.endswith("log_probs")]
        inputs |= {need: inputs[need].unsqueeze(2) for need in whole}
    for option in [{}, {"norm": "torchrl"}] if "norm" in card.hyper else [{}]:
        value = card.fn(**inputs, **option)
        assert value.dtype == dtype
        assert torch.isfinite(value).all()
        for tensor_name, grad in gradients(card.fn, inputs, **option).items():
            assert torch.isfinite(grad).all(), tensor_name
