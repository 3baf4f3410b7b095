"""The study framework: parts, cache, resuming, manifest, verdicts, comparison."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

import toyalign as ta
from toyalign.intervals import Estimate
from toyalign.study import (
    Study,
    Verdict,
    at_least,
    at_most,
    differences,
    find_studies,
    fingerprint,
    regenerate,
    table_text,
)

MADE: list[str] = []


@dataclass(frozen=True)
class Params:
    rows: int = 3


def made(params: Params, label: str) -> pd.DataFrame:
    MADE.append(label)
    return pd.DataFrame(
        {"part": label, "x": range(params.rows), "y": [0.1 * i for i in range(params.rows)]}
    )


def drawn(table: pd.DataFrame):
    from toyalign.plotting import new_figure

    figure, axes = new_figure()
    axes[0, 0].plot(table.x, table.y)
    return figure


@pytest.fixture
def study(tmp_path) -> Study:
    MADE.clear()
    path = tmp_path / "tiny.py"
    path.write_text("# a study\n")
    return Study(
        question="Is it so?\n\nMore words.",
        presets={"full": Params(), "fast": Params(rows=2)},
        parts=lambda params: iter([(label, made, (params, label)) for label in "abc"]),
        figures={"line": drawn},
        claims={
            "large": lambda table: at_least(Estimate(table.y.max(), 0.1, 0.3, 3), 0.05, "it is")
        },
        name="tiny",
        path=path,
    )


def test_everything_is_written_and_nothing_else(study, tmp_path, capsys):
    regenerate(study, "full", figures=tmp_path / "figures", cache=tmp_path / "cache")
    names = sorted(p.name for p in (tmp_path / "figures" / "tiny").iterdir())
    assert names == ["claims.json", "line.png", "line.svg", "table.csv"]
    said = capsys.readouterr().out
    assert said.startswith("tiny (full): Is it so?") and "holds" in said
    claims = json.loads((tmp_path / "figures/tiny/claims.json").read_text())
    assert claims["large"]["holds"] == "holds" and claims["large"]["threshold"] == 0.05
    entry = json.loads((tmp_path / "figures/MANIFEST.json").read_text())["tiny/full"]
    assert entry["params"] == {"rows": 3} and entry["rows"] == 9 and "torch" in entry["versions"]


def test_a_second_run_simulates_nothing_and_gives_the_same_digest(study, tmp_path):
    first = table_text(study, "full", tmp_path, force=False, jobs=1)
    assert MADE == ["a", "b", "c"]
    assert table_text(study, "full", tmp_path, force=False, jobs=1) == first
    assert MADE == ["a", "b", "c"]
    table_text(study, "full", tmp_path, force=True, jobs=1)
    assert len(MADE) == 6


def test_a_killed_run_goes_on_where_it_was(study, tmp_path):
    whole = table_text(study, "full", tmp_path / "other", force=False, jobs=1)
    MADE.clear()

    def broken(params: Params, label: str) -> pd.DataFrame:
        if label == "b" and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        return made(params, label)

    halting = replace(
        study, parts=lambda params: iter([(label, broken, (params, label)) for label in "abc"])
    )
    with pytest.raises(KeyboardInterrupt):
        table_text(halting, "full", tmp_path / "cache", force=False, jobs=1)
    assert MADE == ["a"]
    assert table_text(halting, "full", tmp_path / "cache", force=False, jobs=1) == whole
    assert MADE == ["a", "b", "c"]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_processes_do_not_change_the_table(study, tmp_path):
    alone = table_text(study, "full", tmp_path / "1", force=False, jobs=1)
    assert table_text(study, "full", tmp_path / "2", force=False, jobs=2) == alone


def test_the_fingerprint_of_a_study_of_language_models_sees_their_code(study, monkeypatch):
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))

    def parts_read():
        read.clear()
        fingerprint(study, Params())
        return {path.parent.name for path in read}

    assert "llm" not in parts_read() and "problems" in parts_read()
    study.path.write_text(study.path.read_text() + "# reads toyalign.llm\n")
    assert {"llm", "problems"} <= parts_read()


def test_the_fingerprint_sees_parameters_and_the_study_file(study):
    first = fingerprint(study, Params())
    assert fingerprint(study, Params(rows=4)) != first
    study.path.write_text("# another study\n")
    assert fingerprint(study, Params()) != first


def test_verdicts_can_come_out_every_way():
    wide, high, low = (
        Estimate(m, m - w, m + w, 9) for m, w in ((0.5, 0.2), (0.9, 0.1), (0.1, 0.1))
    )
    assert [at_least(e, 0.5, "").holds for e in (wide, high, low)] == [
        "cannot tell",
        "holds",
        "does not hold",
    ]
    assert [at_most(e, 0.5, "").holds for e in (wide, high, low)] == [
        "cannot tell",
        "does not hold",
        "holds",
    ]
    nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
    assert at_least(nothing, 0.0, "").holds == "cannot tell"
    assert isinstance(at_most(nothing, 0.0, ""), Verdict)


def test_tables_are_compared_within_the_stated_tolerance(study):
    table = study.run(Params())
    near, off = table.copy(), table.copy()
    near.loc[4, "y"] += 5e-7
    off.loc[4, "y"] += 1e-3
    assert differences(study, near, table) == []
    assert differences(study, off, table)[0].startswith("y: 1 of 9 rows, the first is 4")
    assert "differ" in differences(study, table.head(3), table)[0]
    renamed = table.assign(part=["z", *table.part[1:]])
    assert differences(study, renamed, table)[0].startswith("part")


def test_an_unknown_preset_and_a_missing_folder_are_named(study, tmp_path):
    with pytest.raises(ta.ToyalignError, match="did you mean 'fast'"):
        regenerate(study, "fats", figures=tmp_path)
    with pytest.raises(ta.ToyalignError, match="clone of the repository"):
        find_studies(tmp_path / "nowhere")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "empty.py").write_text("x = 1\n")
    with pytest.raises(ta.ToyalignError, match="defines no study"):
        find_studies(tmp_path / "studies")
