"""Studies: a question, the table that answers it, the figures of the table, the claims about it.

A study is a file in the folder `studies/`; being there registers it. It defines

    study = Study(question=__doc__, presets=..., parts=..., figures=..., claims=..., tolerance=...)

The table is made in parts. Each finished part is kept under a hash of its parameters, the study
file and the simulator's sources, so that a killed run continues where it was and a second run
simulates nothing. Figures and claims read the table, never the simulator.
"""

import hashlib
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import toyalign
from toyalign.errors import ToyalignError, unknown
from toyalign.files import write
from toyalign.intervals import Estimate
from toyalign.registry import load_module

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CACHE = Path(".toyalign_cache")
_FRONT = (
    "cli",
    "options",
    "catalogue",
    "doctor",
    "sentences",
    "run_command",
    "train_command",
    "llm_command",
    "rankings",
    "claims",
    "reproduce",
    "files",
    "tables",
    "study",
    "plotting",
    "page",
)
_LIBRARIES = ("numpy", "torch", "pandas", "scipy")
_MODELS = "llm"  # the part of the package that only some studies read

Part = tuple[str, Callable[..., "pd.DataFrame"], tuple[Any, ...]]


@dataclass(frozen=True)
class Verdict:
    """What the table says about a claim.

    Args:
        holds: "holds", "does not hold" or "cannot tell".
        sentence: the finding in words, with its numbers and units.
        effect: the measured number with its interval over runs.
        threshold: what it was held against.
    """

    holds: str
    sentence: str
    effect: Estimate
    threshold: float


def at_least(effect: Estimate, threshold: float, sentence: str) -> Verdict:
    """A claim that an effect lies above a threshold, judged by the whole interval."""
    holds = "holds" if effect.low > threshold else "cannot tell"
    return Verdict(
        "does not hold" if effect.high < threshold else holds, sentence, effect, threshold
    )


def at_most(effect: Estimate, threshold: float, sentence: str) -> Verdict:
    """A claim that an effect does not exceed a threshold, judged by the whole interval."""
    holds = "holds" if effect.high <= threshold else "cannot tell"
    return Verdict(
        "does not hold" if effect.low > threshold else holds, sentence, effect, threshold
    )


@dataclass(frozen=True)
class Study:
    """One question.

    Args:
        question: the file's docstring; its first line is the question.
        presets: parameters by name, at least "fast" and "full"; frozen dataclasses.
        parts: parameters to the parts of the table: (label, function, arguments) each.
        figures: by name, functions of the table.
        claims: by name, functions of the table.
        tolerance: how far a column of the table may differ on another machine, absolute and
            relative: |a − b| <= atol + rtol·|b|.
        name: the file's name, set when it is found.
        path: the file, likewise.
    """

    question: str
    presets: Mapping[str, Any]
    parts: Callable[[Any], Iterator[Part]]
    figures: Mapping[str, Callable[["pd.DataFrame"], "Figure"]]
    claims: Mapping[str, Callable[["pd.DataFrame"], Verdict]]
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"atol": 1e-6, "rtol": 1e-6})
    name: str = ""
    path: Path = Path()

    def run(self, params: Any) -> "pd.DataFrame":
        """The table, made in this process and without the cache."""
        return _joined([function(*arguments) for _, function, arguments in self.parts(params)])


def find_studies(folder: Path | None = None) -> dict[str, Study]:
    """The studies of a folder by name.

    Args:
        folder: where the study files are; `studies/` below the working directory, or beside the
            package in a clone, if not given.

    Raises:
        ToyalignError: if there is no such folder or a file in it defines no study.
    """
    places = [folder] if folder else [Path("studies"), Path(__file__).parent.parent / "studies"]
    place = next((p for p in places if p is not None and p.is_dir()), None)
    if place is None:
        raise ToyalignError(
            f"there is no folder {str(places[0])!r}; studies come with a clone of the repository"
        )
    found = {}
    for path in sorted(place.glob("*.py")):
        module = load_module(path)
        if not isinstance(getattr(module, "study", None), Study):
            raise ToyalignError(f"{path} defines no study = Study(...)")
        found[path.stem] = replace(module.study, name=path.stem, path=path)
    return found


def main(study: Study, path: str) -> None:
    """Run a study file alone: `python studies/NAME.py [preset]`."""
    preset = sys.argv[1] if len(sys.argv) > 1 else "fast"
    regenerate(replace(study, name=Path(path).stem, path=Path(path)), preset)


def regenerate(
    study: Study,
    preset: str = "full",
    figures: Path | None = None,
    force: bool = False,
    jobs: int = 1,
    cache: Path = CACHE,
) -> None:
    """Make a study's table, claims and figures, and say where they are.

    Args:
        study: from `find_studies`.
        preset: a key of its presets.
        figures: where the outputs go, in a folder of the study's name; `figures/` if not given.
            Other presets than "full" have a folder of their own below it.
        force: whether to simulate again what the cache holds.
        jobs: processes to share the parts among; the table does not depend on it.
        cache: where finished parts are kept.

    Raises:
        ToyalignError: for an unknown preset.
    """
    if preset not in study.presets:
        raise unknown(f"preset of study {study.name}", preset, study.presets)
    root = figures or Path("figures")
    folder = root / study.name if preset == "full" else root / study.name / preset
    print(f"{study.name} ({preset}): {study.question.strip().splitlines()[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    text = table_text(study, preset, cache, force, jobs)
    write(folder / "table.csv", text)
    table = read_table(folder / "table.csv")
    verdicts = {name: claim(table) for name, claim in study.claims.items()}
    for name, verdict in verdicts.items():
        print(f"  {verdict.holds:14s} {name}: {verdict.sentence}")
    claims = {name: asdict(verdict) for name, verdict in verdicts.items()}
    write(folder / "claims.json", json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    files = ["table.csv", "claims.json", *draw(study, table, folder)]
    _note(root / "MANIFEST.json", study, preset, text, files)
    print(f"  written: {', '.join(str(folder / name) for name in files)}")
    print(f"  again with: toyalign study {study.name} --preset {preset}")


def table_text(study: Study, preset: str, cache: Path, force: bool, jobs: int) -> str:
    """The table as CSV text, from the cache where it holds the parts."""
    params = study.presets[preset]
    place = cache / study.name / f"{preset}-{fingerprint(study, params)}"
    if force:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    parts = list(study.parts(params))
    todo = [i for i, (label, _, _) in enumerate(parts) if not (place / f"{i:03d}.csv").exists()]
    start = time.monotonic()
    for done, index in enumerate(_made(parts, todo, place, jobs), 1):
        spent = time.monotonic() - start
        print(f"  {done} of {len(todo)}: {parts[index][0]} ({spent:.0f} s)", flush=True)
    if not todo:
        print(f"  all {len(parts)} parts of the table are in {cache}")
    return to_csv(_joined([read_table(place / f"{i:03d}.csv") for i in range(len(parts))]))


def fingerprint(study: Study, params: Any) -> str:
    """What a cached part depends on: parameters, study file, simulator sources, libraries.

    For a study of language models these include `toyalign.llm` and `transformers`.
    """
    digest = hashlib.sha256(json.dumps(asdict(params), sort_keys=True, default=str).encode())
    package, text = Path(toyalign.__file__).parent, study.path.read_bytes()
    models = f"toyalign.{_MODELS}".encode() in text
    unread = _FRONT if models else (*_FRONT, _MODELS)
    sources = [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).with_suffix("").parts[0] not in unread
    ]
    for part in [text, *(path.read_bytes() for path in sources)]:
        digest.update(part)
    libraries = [
        *_LIBRARIES,
        *["transformers"] * (models and find_spec("transformers") is not None),
    ]
    digest.update(str([version(name) for name in libraries]).encode())
    return digest.hexdigest()[:16]


def to_csv(table: "pd.DataFrame") -> str:
    """A table as text: ten significant digits, the same text for the same numbers."""
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def read_table(path: Path) -> "pd.DataFrame":
    """A table as it was written; figures and claims only ever see tables read from a file."""
    import pandas as pd

    return pd.read_csv(path)


def differences(study: Study, table: "pd.DataFrame", committed: "pd.DataFrame") -> list[str]:
    """Where two tables differ by more than the study's tolerance; empty if nowhere."""
    if list(table.columns) != list(committed.columns) or len(table) != len(committed):
        return [f"columns or rows differ: {table.shape} against {committed.shape}"]
    found = []
    for column in table.columns:
        new, old = table[column], committed[column]
        if new.dtype.kind == "f" and old.dtype.kind in "fi":
            same = np.isclose(new, old, equal_nan=True, **study.tolerance)
        else:
            same = ((new == old) | (new.isna() & old.isna())).to_numpy()
        if not same.all():
            row = int(np.argmin(same))
            found.append(
                f"{column}: {(~same).sum()} of {len(same)} rows, the first is {row}: "
                f"{new[row]} against {old[row]}"
            )
    return found


def _made(parts: list[Part], todo: list[int], place: Path, jobs: int) -> Iterator[int]:
    """Make the missing parts, in this process or in several; yields each index when it is done."""
    global _waiting
    _waiting = (parts, place)
    if min(jobs, len(todo)) > 1 and "fork" in multiprocessing.get_all_start_methods():
        from toyalign.chunks import quiet_worker

        with multiprocessing.get_context("fork").Pool(min(jobs, len(todo)), quiet_worker) as pool:
            yield from pool.imap_unordered(_make, todo)
    else:
        yield from map(_make, todo)


_waiting: tuple[list[Part], Path] = ([], Path())


def _make(index: int) -> int:
    parts, place = _waiting
    _, function, arguments = parts[index]
    write(place / f"{index:03d}.csv", to_csv(function(*arguments)))
    return index


def _joined(tables: "list[pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def draw(study: Study, table: "pd.DataFrame", folder: Path) -> list[str]:
    """Draw a study's figures into a folder, as SVG and PNG; returns the files' names."""
    from toyalign.plotting import house_style, save_figure

    files = []
    for name, figure in study.figures.items():
        with house_style():
            drawn = figure(table)
            drawn.draw_without_rendering()  # lays the panels out, which is slow, once for all files
            drawn.set_layout_engine("none")
        for suffix in (".svg", ".png"):
            files.append(save_figure(drawn, folder / f"{name}{suffix}").name)
    return files


def _note(manifest: Path, study: Study, preset: str, text: str, files: list[str]) -> None:
    """Enter what was made, from what, into the manifest beside the figures."""
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    entries[f"{study.name}/{preset}"] = {
        "command": f"toyalign study {study.name} --preset {preset}",
        "params": asdict(study.presets[preset]),
        "table_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "rows": text.count("\n") - 1,
        "files": files,
        "versions": {
            "toyalign": toyalign.__version__,
            **{name: version(name) for name in (*_LIBRARIES, "matplotlib")},
        },
    }
    write(manifest, json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
