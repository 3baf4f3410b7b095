"""The report of a check: a sentence first, then tables; as text, Markdown, JSON or one HTML page.

The JSON has these fields, which `version` numbers: `version` (1), `loss`, `kind`, `headline`,
`passed`, `seed`, `toyalign` and `torch` (versions), `contracts` (a list of `contract`, `status`,
`seen`, `why`) and `probes` (a list of `probe`, `value`, `unit`, `peers`, `sentence`, `study`).
A status is "pass", "fail", "declared" or "not applicable"; a value is null where a probe does not
apply, and the string "inf" or "-inf" where it has no end.
"""

import json
import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import torch

import toyalign
from toyalign.check.contracts import CONTRACTS
from toyalign.check.probes import PROBES, Reading
from toyalign.check.subject import Finding

VERSION = 1
MARKS = {"pass": "ok", "fail": "FAIL", "declared": "declared", "not applicable": "-"}
# What the headline speaks of first: the cause before its consequences.
_FIRST = ("signature", "shape", "finite", "gradient", "direction", "learns")
_VERBS = ("pushes ", "does not push ")
_WIDTH = 100


@dataclass(frozen=True)
class Report:
    """What a check found.

    Args:
        loss: name of the loss.
        kind: the data it needs; empty if its signature could not be read.
        findings: one for each contract.
        readings: one for each probe.
        seed: of the points.
    """

    loss: str
    kind: str
    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...]
    seed: int

    @property
    def passed(self) -> bool:
        """Whether no contract is broken."""
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        """The broken contracts, the most telling first."""
        broken = [finding for finding in self.findings if finding.status == "fail"]
        place = {name: i for i, name in enumerate(_FIRST)}
        return sorted(broken, key=lambda finding: place.get(finding.contract, len(place)))

    @property
    def headline(self) -> str:
        """The outcome in a sentence."""
        broken = self.failures
        if broken:
            first = broken[0]
            verb = f"breaks the contract {first.contract}: "
            if first.seen.startswith(_VERBS):
                verb = ""
            others = ", ".join(finding.contract for finding in broken[1:])
            more = f" Also broken: {others}." if others else ""
            return f"{self.loss} {verb}{first.seen}.{more}"
        if not self.findings:
            return f"{self.loss}: {'measured, ' if self.readings else ''}not judged."
        kept = sum(finding.status == "pass" for finding in self.findings)
        declared = ", ".join(f.contract for f in self.findings if f.status == "declared")
        but = f"; it breaks {declared}, as declared" if declared else ""
        which = (
            "the contract that was looked at and applies"
            if kept == 1
            else (f"the {kept} contracts that apply to it")
        )
        return f"{self.loss} keeps {which}{but}."

    def __str__(self) -> str:
        lines = [self.headline, ""]
        width = max((len(f.contract) for f in self.findings), default=0)
        for finding in self.findings:
            head = f"{MARKS[finding.status]:<9}{finding.contract:<{width}}  "
            lines += _hanging(head, finding.seen)
            if finding.status == "fail":
                lines += _hanging(" " * len(head), f"Why it matters: {finding.why}.")
        if self.readings:
            lines += ["", *self._probe_table()]
        return "\n".join(lines)

    def _probe_table(self) -> list[str]:
        name = self.loss if len(self.loss) <= 12 else "this loss"
        head = ["probe", name, *self.readings[0].peers, "unit"]
        body = [
            [r.probe, shown(r.value), *(shown(v) for v in r.peers.values()), r.unit]
            for r in self.readings
        ]
        sizes = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        lines = []
        for row in (head, ["-" * size for size in sizes], *body):
            lines.append("  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)))
        lines += [
            "",
            *(line for r in self.readings for line in _hanging(f"{r.probe}: ", r.sentence)),
        ]
        return [line.rstrip() for line in lines]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; the module's docstring says what is in it."""
        return {
            "version": VERSION,
            "loss": self.loss,
            "kind": self.kind,
            "headline": self.headline,
            "passed": self.passed,
            "seed": self.seed,
            "toyalign": toyalign.__version__,
            "torch": torch.__version__,
            "contracts": [asdict(finding) for finding in self.findings],
            "probes": [
                {
                    **asdict(r),
                    "value": _plain(r.value),
                    "peers": {name: _plain(value) for name, value in r.peers.items()},
                }
                for r in self.readings
            ],
        }

    def json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """The report as Markdown."""
        lines = [f"# toyalign check: {self.loss}", "", self.headline, ""]
        lines += ["| contract | outcome | seen | why it matters |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {f.contract} | {f.status} | {_cell(f.seen)} | {f.why} |" for f in self.findings
        ]
        if self.readings:
            peers = list(self.readings[0].peers)
            lines += [
                "",
                f"| probe | {self.loss} | {' | '.join(peers)} | unit | in words | study |",
            ]
            lines.append("| --- " * (5 + len(peers)) + "|")
            for r in self.readings:
                numbers = " | ".join(shown(v) for v in (r.value, *r.peers.values()))
                lines.append(
                    f"| {r.probe} | {numbers} | {r.unit} | {_cell(r.sentence)} | {r.study} |"
                )
        versions = f"toyalign {toyalign.__version__}, torch {torch.__version__}, seed {self.seed}"
        return "\n".join([*lines, "", versions, ""])


def described() -> str:
    """What every contract and every probe is, for `toyalign check --list`."""
    lines = ["CONTRACTS, which pass or fail", ""]
    for contract in CONTRACTS.values():
        lines += _hanging(f"  {contract.name:<17}", contract.summary)
        lines += _hanging(" " * 19, f"Why it matters: {contract.why}.")
    lines += ["", "PROBES, which measure", ""]
    for probe in PROBES.values():
        lines += _hanging(f"  {probe.name:<17}", f"{probe.summary} Unit: {probe.unit}.")
    return "\n".join(lines)


def _hanging(head: str, text: str) -> list[str]:
    """A paragraph whose further lines are indented as far as the first one's text."""
    indent = " " * len(head)
    return textwrap.wrap(head + text, _WIDTH, subsequent_indent=indent) or [head.rstrip()]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def shown(value: float | None) -> str:
    """A probe's number in three digits."""
    if value is None:
        return "-"
    return f"{value:.3g}".replace("inf", "∞").replace("-∞", "−∞")


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
