"""The contracts are worth something only if a mistake breaks them: every mutant must be caught."""

import pytest
from mutants import mutants

from toyalign.check.contracts import CONTRACTS, judge
from toyalign.check.subject import Subject
from toyalign.objectives import OBJECTIVES

# Mutants that change the numbers and keep every contract, each with the reason.
SURVIVORS = {
    ("aot", "batch centred"): "its rows depend on each other by design, as its card declares",
    ("aot_unpaired", "batch centred"): "its rows depend on each other by design, as declared",
    ("dpop", "wrong tie"): "any subgradient will do; its first step is held to DPO's",
    ("gem", "dropped beta"): "a word among its hyperparameters may switch it on: not tried",
    ("ift", "dropped gamma"): "a word among its hyperparameters may switch it on: not tried",
    ("minor_sft", "dropped beta"): "a word among its hyperparameters may switch it on: not tried",
    ("minor_dpo", "wrong tie"): "any subgradient will do; its first step is held to DPO's",
    ("wpo", "dropped reference"): "its weight breaks the contract by design, as its card declares",
}

SLOW = ("finite", "hyperparameters", "learns")
QUICK_FIRST = sorted(CONTRACTS, key=lambda name: name in SLOW)


def _killed_by(card) -> str:
    subject = Subject(card)
    for name in QUICK_FIRST:
        if judge(CONTRACTS[name], subject).status == "fail":
            return name
    return ""


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_mutants_are_caught(name):
    made = dict(mutants(OBJECTIVES[name]))
    assert len(made) >= 3
    survived = {mistake for mistake, mutant in made.items() if not _killed_by(mutant)}
    assert survived == {mistake for loss, mistake in SURVIVORS if loss == name}
