"""Golden numbers of the losses on labelled responses; and the cards of the online losses.

The rows are the pairs of the fixture taken apart: two good responses with r = (1, -1.5), then two
bad ones with r = (-.8, 1.5). Six-decimal numbers were computed apart from this package.
"""

import math

import pytest
import torch
from fixture import HALF_UNIT, PAIRS, check, row
from inputs import gradients
from torch import tensor

from toyalign.objectives import get_objective
from toyalign.objectives.pairwise import dpo, ipo


def column(number: float) -> torch.Tensor:
    """One number for the one run, [1, 1]."""
    return tensor([[number]], dtype=torch.float64)


LABELLED = {
    "logps": torch.cat([PAIRS["chosen_logps"], PAIRS["rejected_logps"]], 1),
    "ref_logps": torch.cat([PAIRS["ref_chosen_logps"], PAIRS["ref_rejected_logps"]], 1),
    "labels": row(1, 1, 0, 0),
    "kl_estimate": column(0.3),
    "mean_log_ratio": column(0.05),  # of the four rows
}


def test_kto():
    # good: s(-.1 (r - .3)) = s(-.07), s(.18); bad: s(.1 (r - .3)) = s(-.11), s(.12);
    # c = -+ b s(x) s(-x)
    value = (0.482507, 0.544879, 0.472528, 0.529964)
    check("kto", LABELLED, {"beta": 0.1}, value, logps=(-0.024969, -0.024799, 0.024925, 0.024910))


def test_kto_weighs_good_and_bad():
    loss = get_objective("kto").fn
    inputs = {need: LABELLED[need] for need in get_objective("kto").needs}
    plain, weighed = loss(**inputs), loss(**inputs, lam_d=2.0, lam_u=0.5)
    torch.testing.assert_close(weighed, plain * row(2, 2, 0.5, 0.5), rtol=1e-15, atol=0)


def test_bco():
    # d = .1 * .05 = .005: good -log s(.1 r - d), bad -log s(d - .1 r); a good and a bad row
    # together are the paired form of the loss, (1.298325, 1.541920)
    needs = get_objective("bco_unpaired").needs
    inputs = {need: LABELLED[need] for need in needs}
    value = get_objective("bco_unpaired").fn(**inputs, beta=0.1)[0]
    assert (value[:2] + value[2:]).tolist() == pytest.approx((1.298325, 1.541920), abs=HALF_UNIT)
    expected = [math.log1p(math.exp(-u)) for u in (0.095, -0.155, 0.085, -0.145)]
    assert value.tolist() == pytest.approx(expected, abs=1e-14)
    found = gradients(get_objective("bco_unpaired").fn, inputs, beta=0.1)["logps"][0].tolist()
    assert found == pytest.approx((-0.047627, -0.053867, 0.047876, 0.053619), abs=HALF_UNIT, rel=0)


def test_apo_zero():
    # good s(-.1 r), bad s(.1 r): s(-.1), s(.15), s(-.08), s(.15); a good and a bad row together are
    # the paired form of the loss, (.955031, 1.074860)
    inputs = {need: LABELLED[need] for need in get_objective("apo_zero_unpaired").needs}
    loss = get_objective("apo_zero_unpaired").fn
    value = loss(**inputs, beta=0.1)[0]
    assert (value[:2] + value[2:]).tolist() == pytest.approx((0.955031, 1.074860), abs=HALF_UNIT)
    expected = [1 / (1 + math.exp(u)) for u in (0.1, -0.15, 0.08, -0.15)]
    assert value.tolist() == pytest.approx(expected, abs=1e-14)
    found = gradients(loss, inputs, beta=0.1)["logps"][0].tolist()
    assert found == pytest.approx((-0.024938, -0.024860, 0.024960, 0.024860), abs=HALF_UNIT, rel=0)


def test_apo_zero_is_kto_without_a_reference_point():
    kto, apo = get_objective("kto").fn, get_objective("apo_zero_unpaired").fn
    inputs = {need: LABELLED[need] for need in ("logps", "ref_logps", "labels")}
    assert torch.equal(kto(**inputs, kl_estimate=column(0.0)), apo(**inputs))


@pytest.mark.parametrize("labels", [torch.int64, torch.float32])
@pytest.mark.parametrize("name", ["kto", "bco_unpaired", "apo_zero_unpaired"])
def test_labels_of_any_type(name, labels):
    card = get_objective(name)
    inputs = {need: LABELLED[need] for need in card.needs}
    value = card.fn(**{**inputs, "labels": inputs["labels"].to(labels)})
    assert torch.equal(value, card.fn(**inputs))
    assert value.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["kto", "bco_unpaired", "apo_zero_unpaired"])
def test_finite_far_from_the_reference(name, dtype):
    ratios = row(-1e4, -300, 0, 300, 1e4, -1e4, -300, 0, 300, 1e4)
    inputs = {
        "logps": ratios.clamp(max=0) - 5,
        "ref_logps": -ratios.clamp(min=0) - 5,
        "labels": row(1, 1, 1, 1, 1, 0, 0, 0, 0, 0),
        "kl_estimate": column(300.0),
        "mean_log_ratio": column(-300.0),
    }
    card = get_objective(name)
    inputs = {need: inputs[need].to(dtype) for need in card.needs}
    assert torch.isfinite(card.fn(**inputs)).all()
    assert torch.isfinite(gradients(card.fn, inputs)["logps"]).all()


# --- online


@pytest.mark.parametrize(("name", "loss"), [("online_dpo", dpo), ("online_ipo", ipo)])
def test_an_online_loss_is_the_same_function_on_other_data(name, loss):
    card, offline = get_objective(name), get_objective(loss)
    assert card.fn is loss
    assert (card.name, card.family, card.sources) == (name, "online", ("policy",))
    assert offline.name == loss.__name__  # the function itself is still found under its own name
    assert (card.needs, card.hyper, card.expects) == (
        offline.needs,
        offline.hyper,
        offline.expects,
    )
    assert card.paper != offline.paper
