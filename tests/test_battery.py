"""The contracts of `toyalign check`, held against every registered objective, and what cards say.

A new objective gets all of these without an edit here.
"""

import inspect
from dataclasses import replace

import pytest
import torch
from inputs import call, gradients, tensors

from toyalign.check.contracts import CONTRACTS, judge
from toyalign.check.subject import Subject
from toyalign.glossary import is_learned
from toyalign.objectives import OBJECTIVES, Objective
from toyalign.objectives.points import RUNS, at_start

SEEDS = range(20)
SIGNS = {"up": (True, False), "down": (False, True), "either": (True, True)}
FAMILIES = (
    "pairwise",
    "informed",
    "intuitive",
    "anchored",
    "links",
    "lengthwise",
    "reference_free",
    "unpaired",
    "likelihood",
    "policy_gradient",
    "divergence",
    "online",
)


@pytest.fixture(params=list(OBJECTIVES))
def card(request) -> Objective:
    return OBJECTIVES[request.param]


@pytest.mark.parametrize("contract", list(CONTRACTS))
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_keeps_every_contract(name, contract):
    finding = judge(CONTRACTS[contract], Subject(OBJECTIVES[name]))
    assert finding.status != "fail", f"{name}, {contract}: {finding.seen}"


DECLARED = [(card.name, contract) for card in OBJECTIVES.values() for contract in card.exceptions]


@pytest.mark.parametrize(("name", "contract"), DECLARED)
def test_without_its_declaration_it_fails(name, contract):
    card = OBJECTIVES[name]
    others = {key: text for key, text in card.exceptions.items() if key != contract}
    finding = judge(CONTRACTS[contract], Subject(replace(card, exceptions=others)))
    assert finding.status == "fail"
    assert card.exceptions[contract].endswith(")"), "a sentence with its citation at the end"


@pytest.mark.parametrize("contract", list(CONTRACTS))
def test_an_exception_that_does_not_occur_is_a_failure(contract):
    card = replace(OBJECTIVES["dpo"], exceptions={contract: "by design (nobody 2026)"})
    finding = judge(CONTRACTS[contract], Subject(card))
    assert finding.status == "fail" and "does not occur" in finding.seen


def test_there_are_at_least_fifty_objectives():
    assert len(list(OBJECTIVES)) >= 50


def test_gradient_signs_are_those_on_the_card(card):
    assert card.expects, "the card must say where a step pushes what the policy makes"
    assert set(card.expects) <= {name for name in card.needs if is_learned(name)}
    for name, push in card.expects.items():
        points = [tensors(card.needs, seed) for seed in SEEDS]
        points += [at_start(tensors(card.needs)), tensors(card.needs, apart=0.3)]
        seen = torch.cat(
            [gradients(card.fn, point, **card.hyper)[name].flatten() for point in points]
        )
        # A descent step moves a log-probability against its gradient.
        assert ((seen < 0).any().item(), (seen > 0).any().item()) == SIGNS[push], name


def test_a_kink_at_the_start_has_a_tie_rule(card):
    seen = judge(CONTRACTS["gradient"], Subject(card)).seen
    assert "kink" not in seen or card.tie, f"{card.name}: {seen}"


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_of_hyperparameters_keep_the_precision(card, dtype):
    inputs = tensors(card.needs, dtype=dtype)
    columns = {name: torch.full((RUNS, 1), v, dtype=dtype) for name, v in _numbers(card).items()}
    assert call(card, inputs, **columns).dtype == dtype
    for grad in gradients(card.fn, inputs, **columns).values():
        assert grad.dtype == dtype
        assert torch.isfinite(grad).all()


def test_a_column_of_hyperparameters_equals_the_numbers(card):
    inputs = tensors(card.needs)
    for name, default in _numbers(card).items():
        values = [default, 0.7 * default]
        column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        together = call(card, inputs, **{name: column})
        for run, value in enumerate(values):
            alone = call(card, inputs, **{name: value})
            torch.testing.assert_close(together[run], alone[run], rtol=1e-12, atol=1e-12)


def _numbers(card: Objective) -> dict[str, float]:
    return {name: float(v) for name, v in card.hyper.items() if not isinstance(v, str)}


def test_prints_nothing(card, capsys):
    call(card, tensors(card.needs))
    assert capsys.readouterr() == ("", "")


# --- what the card and the docstring say


def test_card_names_its_source(card):
    assert card.paper
    assert card.equation
    assert card.sources
    assert card.family in FAMILIES


def test_docstring_says_what_it_computes(card):
    text = inspect.getdoc(card.fn)
    assert text
    formulas = [line for line in text.splitlines() if line.startswith("L") and " = " in line]
    assert formulas, "the docstring has no formula 'L = ...'"
    for word in ("Shapes:", "Gradient:", "Limits:", "nats"):
        assert word in text, f"the docstring does not say {word}"
    assert card.summary.endswith((".", "?"))
