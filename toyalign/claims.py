"""Claims of a paper: what it says and where, what is measured, and what the measurement decides.

A claims file is TOML: `title`, `authors` and `arxiv`, then a `[[claim]]` for each claim, whose keys
are the fields of `Claim`. The threshold stands there, beside the paper's statement, and nowhere
else. A claim is judged by whole intervals over runs, never by a mean alone.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from toyalign.errors import ToyalignError, unknown
from toyalign.intervals import Estimate

RELATIONS = (">=", "<=", "within", "none")
VERDICTS = ("reproduced", "partly", "not reproduced", "cannot tell")


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and what it is held to.

    Args:
        id: a short name, unique within the paper.
        place: where it stands in the paper: section, figure, table, equation.
        says: the statement, in our words.
        paper: the paper's own number, or what it shows instead of one.
        relation: ">=", "<=", "within" (target ± tolerance), or "none" where nothing of this size
            can tell.
        measure: the function of the paper's `MEASURES` that measures it; not with "none".
        target: what the measured number is compared with, in its unit; not with "none".
        tolerance: the half-width of "within"; for ">=" and "<=" by how much the target may be
            missed.
        unit: of the measured number.
        figure: the figure that shows it: NAME of the paper's own, or STUDY/NAME.
        why: what explains the verdict, or what a reader should beware of.
        command: with "none", what would tell.
    """

    id: str
    place: str
    says: str
    paper: str
    relation: str
    measure: str = ""
    target: float | None = None
    tolerance: float = 0.0
    unit: str = ""
    figure: str = ""
    why: str = ""
    command: str = ""

    @property
    def held_to(self) -> str:
        """The comparison in symbols: "≥ 0.05", "0 ± 0.02"."""
        if self.relation == "none":
            return ""
        tail = f" ± {self.tolerance:g}" if self.tolerance else ""
        sign = {">=": "≥ ", "<=": "≤ ", "within": ""}[self.relation]
        return f"{sign}{self.target:g}{tail}"


def read_claims(path: Path) -> tuple[dict[str, str], tuple[Claim, ...]]:
    """Read a claims file.

    Returns:
        What the file says about the paper (title, authors, arxiv), and its claims in order.

    Raises:
        ToyalignError: naming file and claim, for a key or relation that is not known, a key that
            is missing, or a claim that could not be judged.
    """
    if not path.is_file():
        raise ToyalignError(f"there is no claims file {str(path)!r}")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ToyalignError(f"{path}: {error}") from error
    about = {name: entries.pop(name, None) for name in ("title", "authors", "arxiv")}
    rows = entries.pop("claim", [])
    for name in entries:
        raise unknown(f"key in {path}", name, [*about, "claim"])
    for name, value in about.items():
        if not isinstance(value, str):
            raise ToyalignError(f"{path} has no {name}")
    claims = tuple(_claim(row, f"{path}, claim {row.get('id', place)!r}")
                   for place, row in enumerate(rows, 1))  # fmt: skip
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise ToyalignError(f"{path}: two claims are called {claim.id!r}")
        seen.add(claim.id)
    return {name: str(value) for name, value in about.items()}, claims


def _claim(row: Mapping[str, Any], where: str) -> Claim:
    known = {field.name: field for field in fields(Claim)}
    for name in row:
        if name not in known:
            raise unknown(f"key in {where}", name, known)
    for name, field in known.items():
        if name not in row and field.default is MISSING:
            raise ToyalignError(f"{where}: {name} is missing")
    claim = Claim(**row)
    if claim.relation not in RELATIONS:
        raise unknown(f"relation in {where}", claim.relation, RELATIONS)
    judged = claim.relation != "none"
    if judged != bool(claim.measure) or judged != (claim.target is not None):
        raise ToyalignError(
            f"{where}: relation {claim.relation!r} {'needs' if judged else 'takes no'} measure and "
            "target"
        )
    if claim.relation == "within" and not claim.tolerance > 0:
        raise ToyalignError(f"{where}: relation 'within' needs a tolerance above 0")
    if not judged and not claim.command:
        raise ToyalignError(f"{where}: relation 'none' needs the command that would tell")
    return claim


def holds(claim: Claim, effect: Estimate) -> bool | None:
    """Whether one measured number agrees with a claim: yes, no, or None if its interval is cut.

    A number that could not be measured (NaN) decides nothing.
    """
    if claim.target is None or effect.mean != effect.mean:
        return None
    low, high = claim.target - claim.tolerance, claim.target + claim.tolerance
    if claim.relation == ">=":
        return _side(effect.low >= low, effect.high < low)
    if claim.relation == "<=":
        return _side(effect.high <= high, effect.low > high)
    inside = low <= effect.low and effect.high <= high
    return _side(inside, effect.high < low or effect.low > high)


def _side(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


def verdict(claim: Claim, effects: Mapping[str, Estimate]) -> str:
    """One of `VERDICTS`, from a claim's measured numbers in all its settings.

    Reproduced if it holds in every setting, partly if in some, not reproduced if in none and at
    least one contradicts it; otherwise nobody can tell.
    """
    found = [holds(claim, effect) for effect in effects.values()]
    if found and all(found):
        return "reproduced"
    if any(found):
        return "partly"
    return "not reproduced" if False in found else "cannot tell"
