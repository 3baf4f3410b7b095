"""Check a loss that is not ours: contracts that pass or fail, and probes that measure.

    import toyalign as ta

    ta.check("my_loss.py:my_loss")

One list of contracts serves the command line, Python and the package's own tests.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from toyalign.check.contracts import CONTRACTS, judge
from toyalign.check.probes import PROBES, measure
from toyalign.check.report import Report
from toyalign.check.same import counterpart
from toyalign.check.same import same_as as compare
from toyalign.check.subject import Finding, Subject
from toyalign.errors import ToyalignError, unknown
from toyalign.objectives import Objective, get_objective
from toyalign.registry import load_from_file


def check(
    which: str | Callable[..., Any] | Objective,
    *,
    contracts: bool = False,
    only: Sequence[str] = (),
    same_as: str = "",
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Hold a loss to the contracts, and measure it beside SFT and DPO.

    Args:
        which: a function, `path/to/file.py:function`, a registered name or a card.
        contracts: whether to leave out the probes, which take about ten seconds.
        only: names of contracts and probes; all if empty.
        same_as: a built-in loss that this one is meant to equal.
        seed: of the points at which the loss is looked at; trainings have seeds of their own.
        progress: called with the name of each contract and probe before it begins.

    Returns:
        The report; `report.passed` says whether every contract held.

    Raises:
        ToyalignError: for a name or a file that is not there. A loss that is wrong in itself is no
            error but a failed contract.
    """
    names = {name: name.replace("-", "_") for name in only}
    for given, name in names.items():
        if name not in CONTRACTS and name not in PROBES:
            raise unknown("contract or probe", given, [*CONTRACTS, *PROBES])
    chosen = set(names.values()) or {*CONTRACTS, *PROBES}
    if isinstance(which, str) and ".py:" in which:
        which = load_from_file(which)
    name = str(getattr(which, "__name__", which))
    try:
        card = get_objective(which)
    except ToyalignError as error:
        if isinstance(which, str):
            raise  # there is no such loss
        finding = Finding("signature", "fail", str(error), CONTRACTS["signature"].why)
        return Report(name, "", (finding,), (), seed)
    subject = Subject(card, seed)
    _known_exceptions(card)
    known = counterpart(subject, same_as) if same_as else None
    default_dtype = torch.get_default_dtype()
    try:
        return _examine(subject, known, chosen, contracts, progress)
    finally:  # a loss may have changed it; the contract purity says so
        torch.set_default_dtype(default_dtype)


def _examine(
    subject: Subject,
    known: Subject | None,
    chosen: set[str],
    contracts: bool,
    progress: Callable[[str], None],
) -> Report:
    """Contracts, comparison and probes, as far as the loss lets them."""
    card, findings = subject.card, []
    for contract in CONTRACTS.values():
        if contract.name in chosen:
            progress(contract.name)
            findings.append(judge(contract, subject))
            if contract.name == "signature" and findings[-1].status == "fail":
                return Report(card.name, card.kind, tuple(findings), (), subject.seed)
    if known is not None:
        progress(f"same as {known.card.name}")
        findings.append(compare(subject, known))
    readings = []
    broken = {finding.contract for finding in findings if finding.status == "fail"}
    if not contracts and not broken & {"signature", "shape"}:
        for probe in PROBES.values():
            if probe.name in chosen:
                progress(probe.name)
                readings.append(measure(probe, card, subject.seed))
    return Report(card.name, card.kind, tuple(findings), tuple(readings), subject.seed)


def _known_exceptions(card: Objective) -> None:
    for contract in card.exceptions:
        if contract not in CONTRACTS:
            raise unknown(f"contract on the card of {card.name}", contract, CONTRACTS)
