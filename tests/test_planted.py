"""The set on which the check is judged: broken losses that must fail, sound ones that must pass.

`planted/README.md` says where the mistakes come from.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest

from toyalign.check import check
from toyalign.check.contracts import CONTRACTS, judge
from toyalign.check.subject import Subject
from toyalign.errors import ToyalignError
from toyalign.objectives import describe

sys.path.insert(0, str(Path(__file__).parent / "planted"))
import broken
import sound

# Broken losses that no contract notices, each with the reason.
MISSED = {
    "sft_k3_overflow": "a single token 90 nats below its reference; the textbook form of the k3 "
    "estimator overflows there just so",
}


def broken_contracts(name: str) -> set[str]:
    """The contracts that a planted loss breaks, those named for it first."""
    wanted, _ = broken.BROKEN[name]
    try:
        subject = Subject(describe(getattr(broken, name)))
    except ToyalignError:
        return {"signature"}
    order = sorted(CONTRACTS, key=lambda contract: contract not in wanted)
    for contract in order:
        if judge(CONTRACTS[contract], subject).status == "fail":
            return {contract}
    return set()


def test_the_sets_are_large():
    assert len(broken.BROKEN) >= 40 and len(sound.SOUND) >= 40
    named = Counter(contract for wanted, _ in broken.BROKEN.values() for contract in wanted)
    assert all(named[contract] >= 2 for contract in CONTRACTS)
    assert sum(bool(source) for _, source in broken.BROKEN.values()) >= 20


@pytest.mark.parametrize("name", list(broken.BROKEN))
def test_a_broken_loss_is_caught(name):
    assert bool(broken_contracts(name)) == (name not in MISSED)


@pytest.mark.parametrize("name", sound.SOUND)
def test_a_sound_loss_passes(name):
    report = check(getattr(sound, name), contracts=True)
    assert report.passed, report.headline


@pytest.mark.parametrize("name", list(sound.QUESTIONABLE))
def test_a_sensible_loss_that_breaks_a_contract_needs_a_declaration(name):
    assert not check(getattr(sound, name), contracts=True).passed


@pytest.mark.parametrize("contract", list(CONTRACTS))
def test_every_contract_is_broken_by_at_least_two_planted_bugs(contract):
    caught = 0
    for name, (wanted, _) in broken.BROKEN.items():
        if contract in wanted:
            found = check(getattr(broken, name), contracts=True, only=[contract]).findings
            caught += any(f.contract == contract and f.status == "fail" for f in found)
        if caught == 2:
            return
    raise AssertionError(f"{contract} caught {caught} of the planted bugs")
