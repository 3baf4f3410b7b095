"""The contracts of a loss, held against every registered objective.

A new objective gets all of these without an edit here.
"""

import inspect
import random

import numpy as np
import pytest
import torch
from inputs import (
    ROWS,
    RUNS,
    TOKENS,
    at_start,
    call,
    gradients,
    learned,
    numerical_gradients,
    parts,
    tensors,
)

from toyalign.glossary import GLOSSARY
from toyalign.objectives import OBJECTIVES, Objective

SEEDS = range(20)
SIGNS = {"up": (True, False), "down": (False, True), "either": (True, True)}


@pytest.fixture(params=list(OBJECTIVES))
def card(request) -> Objective:
    return OBJECTIVES[request.param]


def _takes_tokens(card: Objective) -> bool:
    return any(GLOSSARY[name].axes[-1] == "token" for name in card.needs)


@pytest.fixture(params=[card.name for card in OBJECTIVES.values() if _takes_tokens(card)])
def token_card(request) -> Objective:
    return OBJECTIVES[request.param]


@pytest.fixture(params=[card.name for card in OBJECTIVES.values() if card.hyper])
def tuned_card(request) -> Objective:
    return OBJECTIVES[request.param]


# --- values and gradients


def test_finite_at_the_start(card):
    inputs = at_start(tensors(card.needs))
    assert torch.isfinite(call(card, inputs)).all()
    for grad in gradients(card.fn, inputs).values():
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_finite_at_random_points(card, seed):
    inputs = tensors(card.needs, seed)
    assert torch.isfinite(call(card, inputs)).all()
    for grad in gradients(card.fn, inputs).values():
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("seed", range(2))
def test_gradient_is_the_derivative_of_the_value(card, seed):
    # Random points are almost surely no kinks; the kink at the start has tests of its own.
    inputs = tensors(card.needs, seed)
    exact, numerical = gradients(card.fn, inputs), numerical_gradients(card.fn, inputs)
    assert any(grad.abs().max() > 0 for grad in exact.values())
    for name in exact:
        torch.testing.assert_close(exact[name], numerical[name], rtol=1e-6, atol=1e-7)


def test_gradient_signs_are_those_on_the_card(card):
    assert card.expects, "the card must say where a step pushes what the policy makes"
    for name, push in card.expects.items():
        grads = [gradients(card.fn, tensors(card.needs, seed))[name] for seed in SEEDS]
        grads.append(gradients(card.fn, at_start(tensors(card.needs)))[name])
        seen = torch.cat([grad.flatten() for grad in grads])
        # A descent step moves a log-probability against its gradient.
        assert ((seen < 0).any().item(), (seen > 0).any().item()) == SIGNS[push], name


def test_what_the_card_expects_is_learned(card):
    assert set(card.expects) <= set(learned(card.needs))


def test_a_kink_at_the_start_has_a_tie_rule(card):
    inputs, step = at_start(tensors(card.needs)), 1e-6
    here = call(card, inputs)
    for name in learned(card.needs):
        ahead = (call(card, {**inputs, name: inputs[name] + step}) - here) / step
        behind = (here - call(card, {**inputs, name: inputs[name] - step})) / step
        kinked = (ahead - behind).abs().max() > 1e-3
        assert not kinked or card.tie, f"{card.name} has a kink in {name} where training starts"


@pytest.mark.parametrize("name", ["dpop", "minor_dpo"])
def test_the_first_step_of_the_gated_losses_is_that_of_dpo(name):
    gated = OBJECTIVES[name]
    assert gated.tie
    inputs = at_start(tensors(gated.needs))
    ours = gradients(gated.fn, inputs, beta=0.1)
    dpo = gradients(OBJECTIVES["dpo"].fn, inputs, beta=0.1)
    for side in dpo:
        assert dpo[side].abs().min() > 0.04
        assert torch.equal(ours[side], dpo[side])


# --- shapes and independence


def test_one_value_per_row_or_token(card):
    shape = tuple(call(card, tensors(card.needs)).shape)
    assert shape in ((RUNS, ROWS), (RUNS, ROWS, TOKENS))


@pytest.mark.parametrize("axis", [0, 1], ids=["runs", "rows"])
def test_runs_and_rows_are_independent(card, axis):
    inputs = tensors(card.needs)
    leaves = {name: inputs[name].clone().requires_grad_() for name in learned(card.needs)}
    values = call(card, {**inputs, **leaves}).select(axis, 1).sum()
    grads = torch.autograd.grad(values, list(leaves.values()), allow_unused=True)
    reached = [grad for grad in grads if grad is not None]
    assert reached
    for grad in reached:
        others = [i for i in range(grad.shape[axis]) if i != 1]
        assert grad.index_select(axis, torch.tensor(others)).abs().max() == 0


@pytest.mark.parametrize("axis", [0, 1], ids=["runs", "rows"])
def test_order_of_runs_and_rows_does_not_matter(card, axis):
    inputs = tensors(card.needs)
    order = torch.arange((RUNS, ROWS)[axis]).roll(1)
    moved = {name: value.index_select(axis, order) for name, value in inputs.items()}
    expected = call(card, inputs).index_select(axis, order)
    torch.testing.assert_close(call(card, moved), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("filling", [0.0, -7.0])
def test_what_lies_under_the_mask_changes_nothing(token_card, filling):
    inputs = tensors(token_card.needs)
    changed, kept = dict(inputs), torch.ones(RUNS, ROWS, TOKENS, dtype=torch.bool)
    for name in token_card.needs:
        _, side, quantity = parts(name)
        if quantity == "token_logps":
            inside = tensors([f"{side}mask"])[f"{side}mask"] > 0
            changed[name] = torch.where(inside, inputs[name], filling)
            kept &= inside
    assert not kept.all()
    before, after = call(token_card, inputs), call(token_card, changed)
    if before.ndim == 3:  # the caller masks it
        assert torch.equal(before[kept], after[kept])
        return
    assert torch.equal(before, after)
    for name, grad in gradients(token_card.fn, changed).items():
        if grad.ndim == 3:
            assert grad[~kept].abs().max() == 0, name


def test_longer_padding_changes_nothing(token_card):
    inputs = tensors(token_card.needs)
    padded = {
        name: torch.nn.functional.pad(value, (0, 3)) if value.ndim == 3 else value
        for name, value in inputs.items()
    }
    before, after = call(token_card, inputs), call(token_card, padded)
    after = after[..., :TOKENS] if before.ndim == 3 else after
    torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-13)


# --- manners


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(card, dtype):
    inputs = tensors(card.needs, dtype=dtype)
    columns = {
        name: torch.full((RUNS, 1), float(value), dtype=dtype) for name, value in card.hyper.items()
    }
    for hyper in ({}, columns):
        assert call(card, inputs, **hyper).dtype == dtype
        for grad in gradients(card.fn, inputs, **hyper).values():
            assert grad.dtype == dtype
            assert torch.isfinite(grad).all()


def test_inputs_are_not_modified(card):
    inputs = tensors(card.needs)
    copies = {name: value.clone() for name, value in inputs.items()}
    call(card, inputs)
    gradients(card.fn, inputs)
    for name in inputs:
        assert torch.equal(inputs[name], copies[name]), name


def _numpy_state() -> tuple:
    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return (name, tuple(key), *rest)


def test_deterministic_and_draws_nothing(card):
    inputs = tensors(card.needs)
    before = (torch.get_rng_state(), random.getstate(), _numpy_state())
    first, second = call(card, inputs), call(card, inputs)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert _numpy_state() == before[2]


def test_prints_nothing(card, capsys):
    call(card, tensors(card.needs))
    assert capsys.readouterr() == ("", "")


def test_a_column_of_hyperparameters_equals_the_numbers(tuned_card):
    inputs = tensors(tuned_card.needs)
    for name, default in tuned_card.hyper.items():
        values = [float(default), 0.7 * float(default)]
        column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        together = call(tuned_card, inputs, **{name: column})
        alone = [call(tuned_card, inputs, **{name: value}) for value in values]
        for run in range(RUNS):
            torch.testing.assert_close(together[run], alone[run][run], rtol=1e-13, atol=1e-13)
        assert not torch.equal(*alone), f"{name} has no effect"


# --- what the card and the docstring say


def test_card_names_its_source(card):
    assert card.paper
    assert card.equation
    assert card.sources
    assert card.family in (
        "likelihood",
        "pairwise",
        "reference_free",
        "unpaired",
        "policy_gradient",
        "divergence",
        "intuitive",
    )


def test_docstring_says_what_it_computes(card):
    text = inspect.getdoc(card.fn)
    assert text
    formulas = [line for line in text.splitlines() if line.startswith("L") and " = " in line]
    assert formulas, "the docstring has no formula 'L = ...'"
    for word in ("Shapes:", "Gradient:", "Limits:", "nats"):
        assert word in text, f"the docstring does not say {word}"
    assert card.summary.endswith((".", "?"))
