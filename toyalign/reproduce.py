"""Papers held to their claims: a claims file, a study, and a verdict on every claim.

A paper is a folder of `paper_repro/` with `claims.toml` (see `toyalign.claims`) and `study.py`,
which defines `study = Study(...)` and `MEASURES`: functions that return an `Estimate`, or several
by the name of the setting. The parameters of a measure say which tables it reads: `table` is that
of the paper's own study, any other name is a study in `studies/`.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toyalign.claims import VERDICTS, Claim, holds, read_claims, verdict
from toyalign.errors import ToyalignError, unknown
from toyalign.files import write
from toyalign.intervals import Estimate
from toyalign.registry import load_module
from toyalign.study import CACHE, Study, draw, find_studies, read_table, regenerate, table_text

if TYPE_CHECKING:
    import pandas as pd

Verdicts = dict[str, dict[str, Any]]  # by claim: the verdict, and what was found
Measure = Callable[..., "Estimate | Mapping[str, Estimate]"]
OWN = "table"  # the parameter of a measure that stands for the paper's own table


@dataclass(frozen=True)
class Paper:
    """A paper with its claims.

    Args:
        name: of its folder.
        folder: where it is; results go to `results/` in it.
        title: of the paper.
        authors: as one cites them.
        arxiv: its number there.
        claims: in the order of the file.
        study: the paper's own experiments.
        measures: what the claims measure, by name.
    """

    name: str
    folder: Path
    title: str
    authors: str
    arxiv: str
    claims: tuple[Claim, ...]
    study: Study
    measures: Mapping[str, Measure]

    @property
    def reads(self) -> list[str]:
        """The studies whose tables its measures read, beside its own."""
        used = (self.measures[claim.measure] for claim in self.claims if claim.measure)
        names = (name for measure in used for name in inspect.signature(measure).parameters)
        return [name for name in dict.fromkeys(names) if name != OWN]

    def results(self, preset: str) -> Path:
        """Where the results of a preset go."""
        return self.folder / "results" / ("" if preset == "full" else preset)


def find_papers(folder: Path | None = None) -> dict[str, Paper]:
    """The papers of a folder by name.

    Args:
        folder: where the papers' folders are; `paper_repro/` below the working directory, or
            beside the package in a clone, if not given.

    Raises:
        ToyalignError: if there is no such folder, or a paper's files do not fit together.
    """
    places = [folder or Path("paper_repro"), Path(__file__).parent.parent / "paper_repro"]
    place = next((p for p in places[: 1 if folder else 2] if p.is_dir()), None)
    if place is None:
        raise ToyalignError(
            f"there is no folder {str(places[0])!r}; papers come with a clone of the repository"
        )
    return {path.parent.name: _paper(path.parent) for path in sorted(place.glob("*/claims.toml"))}


def _paper(folder: Path) -> Paper:
    about, claims = read_claims(folder / "claims.toml")
    module = load_module(folder / "study.py")
    own, measures = getattr(module, "study", None), getattr(module, "MEASURES", None)
    if not isinstance(own, Study) or not isinstance(measures, Mapping):
        raise ToyalignError(f"{folder / 'study.py'} defines no study = Study(...) and MEASURES")
    for claim in claims:
        if claim.measure and claim.measure not in measures:
            raise unknown(
                f"measure of claim {claim.id!r} of {folder.name}", claim.measure, measures
            )
    idle = sorted(set(measures) - {claim.measure for claim in claims})
    if idle:
        raise ToyalignError(f"{folder / 'study.py'}: no claim uses the measure {idle[0]!r}")
    study = replace(own, name=folder.name, path=folder / "study.py")
    return Paper(folder.name, folder, **about, claims=claims, study=study, measures=measures)


def reproduce_papers(
    papers: Iterable[Paper],
    preset: str = "full",
    figures: Path | None = None,
    force: bool = False,
    jobs: int = 1,
    cache: Path = CACHE,
) -> None:
    """Make the tables that papers need, judge their claims, and write results and overview.

    Args:
        papers: from `find_papers`, of one folder.
        preset: "full" or "fast"; the overview shows "full" alone and is written with it.
        figures: where the studies' outputs go, `figures/` beside the papers if not given.
        force: whether to simulate again what the cache holds.
        jobs: processes to share the parts among.
        cache: where finished parts are kept.

    Raises:
        ToyalignError: for a preset or a study that does not exist.
    """
    papers = list(papers)
    root = papers[0].folder.parent.parent
    figures = figures or root / "figures"
    studies = find_studies(root / "studies") if any(paper.reads for paper in papers) else {}
    tables: dict[str, pd.DataFrame] = {}
    for paper in papers:
        if preset not in paper.study.presets:
            raise unknown(f"preset of paper {paper.name}", preset, paper.study.presets)
        for name in paper.reads:
            if name not in studies:
                raise unknown(f"study that a measure of {paper.name} reads", name, studies)
            if name not in tables:
                regenerate(studies[name], preset, figures, force, jobs, cache)
                folder = figures / name / ("" if preset == "full" else preset)
                tables[name] = read_table(folder / "table.csv")
        _reproduce(paper, preset, tables, force, jobs, cache)
    if preset == "full":
        overview_path = papers[0].folder.parent / "README.md"
        write(overview_path, page(find_papers(papers[0].folder.parent)))
        print(f"written: {overview_path}")


def _reproduce(
    paper: Paper,
    preset: str,
    tables: Mapping[str, "pd.DataFrame"],
    force: bool,
    jobs: int,
    cache: Path,
) -> None:
    folder = paper.results(preset)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{paper.name} ({preset}): {paper.authors}, {paper.title}")
    text = table_text(paper.study, preset, cache, force, jobs)
    write(folder / "table.csv", text)
    table = read_table(folder / "table.csv")
    found = judge(paper, {**tables, OWN: table})
    for claim in paper.claims:
        print(f"  {found[claim.id]['verdict']:14s} {claim.id}: {claim.says}")
    write(folder / "claims.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    files = [
        "table.csv",
        "claims.json",
        *draw(paper.study, table, folder),
    ]
    print(f"  written: {', '.join(str(folder / name) for name in files)}")
    print(f"  table {hashlib.sha256(text.encode()).hexdigest()[:16]}, verdicts {counted(found)}")
    print(f"  again with: toyalign reproduce {paper.name} --preset {preset}")


def judge(paper: Paper, tables: Mapping[str, "pd.DataFrame"]) -> Verdicts:
    """Every claim of a paper by its id: the verdict, and the number of each setting.

    Args:
        paper: from `find_papers`.
        tables: by study, the paper's own under "table".
    """
    found: Verdicts = {}
    for claim in paper.claims:
        effects: Mapping[str, Estimate] = {}
        if claim.measure:
            measure = paper.measures[claim.measure]
            got = measure(*(tables[name] for name in inspect.signature(measure).parameters))
            effects = {"": got} if isinstance(got, Estimate) else got
        numbers = {
            name: {**asdict(effect), "holds": holds(claim, effect)}
            for name, effect in effects.items()
        }
        found[claim.id] = {"verdict": verdict(claim, effects), "found": numbers}
    return found


def counted(found: Verdicts) -> str:
    """How many claims came out which way: "5 reproduced, 2 partly"."""
    got = [entry["verdict"] for entry in found.values()]
    return ", ".join(f"{got.count(name)} {name}" for name in VERDICTS if name in got)


def overview(papers: Mapping[str, Paper]) -> str:
    """What `toyalign reproduce` prints without a paper: each with the verdicts that stand."""
    lines = []
    for paper in papers.values():
        found = _committed(paper)
        state = counted(found) if found else f"{len(paper.claims)} claims, not judged yet"
        lines.append(f"{paper.name}: {paper.authors}, {paper.title} ({state})")
    return "\n".join([*lines, "", "next: toyalign reproduce PAPER, or toyalign reproduce all"])


def _committed(paper: Paper) -> Verdicts:
    path = paper.results("full") / "claims.json"
    found: Verdicts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


HEAD = """\
# Papers held to their claims

Made by `toyalign reproduce all`; do not edit. Every row is a claim of a paper, measured here and
judged by the whole interval over runs (95 %): *reproduced* if it holds in every setting, *partly*
if in some, *not reproduced* if in none and at least one contradicts it, *cannot tell* if the
intervals leave it open or nothing of this size could tell. What a paper is held to stands beside
its statement in `claims.toml`; what we could read of each paper, and where we depart from it, in
the README of its folder. "(no)" and "(open)" mark the settings in which a claim does not hold, or
may not.
"""


def page(papers: Mapping[str, Paper]) -> str:
    """The overview of all papers as Markdown, from the results of the full preset."""
    parts = [HEAD]
    for paper in papers.values():
        found = _committed(paper)
        parts += [
            f"## [{paper.authors}]({paper.name}/README.md): {paper.title}\n",
            f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}); "
            f"`toyalign reproduce {paper.name}`; {counted(found) or 'not judged yet'}.\n",
            "| claim | the paper | held to | here | verdict |",
            "| --- | --- | --- | --- | --- |",
            *(_row(paper, claim, found.get(claim.id, {})) for claim in paper.claims),
            "",
        ]
    return "\n".join(parts)


def _row(paper: Paper, claim: Claim, entry: Mapping[str, Any]) -> str:
    numbers = entry.get("found", {})
    here = "<br>".join(_number(name, number) for name, number in numbers.items())
    if claim.relation == "none":
        here = f"`{claim.command}` would tell"
    else:
        here = f"{here} {claim.unit}".strip()
    outcome = f"**{entry.get('verdict', 'not judged yet')}**"
    if claim.figure:
        outcome += f", [figure]({_figure(paper, claim.figure)})"
    if claim.why:
        outcome += f"<br>{claim.why}"
    cells = (
        f"`{claim.id}`: {claim.says}",
        f"{claim.place}: {claim.paper}",
        claim.held_to,
        here,
        outcome,
    )
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _number(name: str, number: Mapping[str, Any]) -> str:
    mean, low, high = (number[key] for key in ("mean", "low", "high"))
    text = f"{mean:.3g}" if low == high else f"{mean:.3g} [{low:.3g}, {high:.3g}]"
    mark = "" if number["holds"] else " (no)" if number["holds"] is False else " (open)"
    return f"{name}: {text}{mark}" if name else f"{text}"


def _figure(paper: Paper, name: str) -> str:
    study, _, figure = name.rpartition("/")
    return f"../figures/{study}/{figure}.svg" if study else f"{paper.name}/results/{figure}.svg"
