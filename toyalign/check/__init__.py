"""Check a loss that is not ours: contracts that pass or fail, and probes that measure.

    import toyalign as ta

    ta.check("my_loss.py:my_loss")

One list of contracts serves the command line, Python and the package's own tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from toyalign.check.contracts import CONTRACTS, judge
from toyalign.check.probes import PROBES, measure
from toyalign.check.report import Report
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
        contracts: whether to leave out the probes, which take a few seconds.
        only: names of contracts and probes; all if empty.
        same_as: a built-in loss that this one is meant to equal.
        seed: of the points and problems at which the loss is looked at.
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
    subject = Subject(replace(card, name=card.name or name), seed)
    _known_exceptions(card)
    findings = []
    for contract in CONTRACTS.values():
        if contract.name in chosen:
            progress(contract.name)
            findings.append(judge(contract, subject))
    if same_as:
        progress(f"same as {same_as}")
        findings.append(compare(subject, same_as))
    readings = []
    broken = {finding.contract for finding in findings if finding.status == "fail"}
    if not contracts and not broken & {"signature", "shape"}:
        for probe in PROBES.values():
            if probe.name in chosen:
                progress(probe.name)
                readings.append(measure(probe, card, seed))
    return Report(card.name, card.kind, tuple(findings), tuple(readings), seed)


def _known_exceptions(card: Objective) -> None:
    for contract in card.exceptions:
        if contract not in CONTRACTS:
            raise unknown(f"contract on the card of {card.name}", contract, CONTRACTS)
