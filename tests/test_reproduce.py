"""Papers: found, judged from tables, written whole, and shown in one overview."""

import json

import pytest

from toyalign.cli import main
from toyalign.errors import ToyalignError
from toyalign.reproduce import find_papers, overview, page, reproduce_papers

STUDY = '''"""Is it so?"""
from dataclasses import dataclass
import pandas as pd
from toyalign.study import Study, at_least
from toyalign.intervals import Estimate, exactly

@dataclass(frozen=True)
class Params:
    size: float = {size}

def part(params):
    return pd.DataFrame({{"quantity": ["size"], "mean": [params.size]}})

def drawn(table):
    from toyalign.plotting import new_figure
    figure, axes = new_figure()
    axes[0, 0].plot(table["mean"])
    return figure

study = Study(
    question=__doc__, presets={{"full": Params(), "fast": Params(0.1)}},
    parts=lambda params: iter([("part", part, (params,))]),
    figures={{"line": drawn}}, claims={{}},
)
'''
MEASURES = """
def size(table):
    return exactly(table["mean"].iloc[0])

def both(table, other):
    return {"own": size(table), "other": exactly(other["mean"].iloc[0])}

MEASURES = {"size": size, "both": both}
"""
CLAIMS = """title = "On | size"
authors = "A et al. 2024"
arxiv = "1234.5678"

[[claim]]
id = "large"
place = "section 1"
says = "It is large."
paper = "0.9"
relation = ">="
measure = "size"
target = 0.5
unit = "m"
figure = "line"

[[claim]]
id = "both-large"
place = "section 2"
says = "Both are."
paper = "0.9"
relation = ">="
measure = "both"
target = 0.5
why = "Because."

[[claim]]
id = "huge"
place = "section 3"
says = "It is huge at scale."
paper = "10"
relation = "none"
command = "a bigger machine"
"""


@pytest.fixture
def root(tmp_path):
    for folder in ("studies", "paper_repro/small2024"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "studies/other.py").write_text(STUDY.format(size=0.2))
    (tmp_path / "paper_repro/small2024/study.py").write_text(STUDY.format(size=0.8) + MEASURES)
    (tmp_path / "paper_repro/small2024/claims.toml").write_text(CLAIMS)
    return tmp_path


def papers_of(root):
    return find_papers(root / "paper_repro")


def reproduced(root, preset="full"):
    reproduce_papers(papers_of(root).values(), preset, cache=root / "cache")
    folder = papers_of(root)["small2024"].results(preset)
    return json.loads((folder / "claims.json").read_text())


def test_claims_are_judged_from_the_papers_own_table_and_from_studies(root, capsys):
    found = reproduced(root)
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "large": "reproduced",
        "both-large": "partly",
        "huge": "cannot tell",
    }
    assert found["both-large"]["found"]["other"] == {
        "mean": 0.2, "low": 0.2, "high": 0.2, "n": 1, "holds": False,
    }  # fmt: skip
    folder = root / "paper_repro/small2024/results"
    assert sorted(p.name for p in folder.iterdir()) == [
        "claims.json", "line.png", "line.svg", "table.csv",
    ]  # fmt: skip
    assert (root / "figures/other/table.csv").is_file()  # the study that a measure reads
    said = capsys.readouterr().out
    assert (
        "1 reproduced, 1 partly, 1 cannot tell" in said and "toyalign reproduce small2024" in said
    )


def test_the_overview_has_a_row_per_claim(root):
    reproduced(root)
    text = (root / "paper_repro/README.md").read_text()
    assert text == page(papers_of(root))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert all(line.count(" | ") == 4 for line in rows)
    assert "0.8 m" in rows[0] and "**reproduced**" in rows[0] and "≥ 0.5" in rows[0]
    assert "[figure](small2024/results/line.svg)" in rows[0]
    assert "other: 0.2 (no)" in rows[1] and rows[1].endswith("<br>Because. |")
    assert "`a bigger machine` would tell" in rows[2]
    assert "1 reproduced, 1 partly, 1 cannot tell" in overview(papers_of(root))


def test_the_fast_preset_has_a_folder_of_its_own_and_leaves_the_overview(root):
    found = reproduced(root, "fast")
    assert found["large"]["verdict"] == "not reproduced"
    assert not (root / "paper_repro/README.md").exists()
    assert "3 claims, not judged yet" in overview(papers_of(root))


def test_a_second_time_gives_the_same_files(root):
    first = reproduced(root)
    before = (root / "paper_repro/small2024/results/table.csv").read_bytes()
    assert reproduced(root) == first
    assert (root / "paper_repro/small2024/results/table.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("claims.toml", '"size"', '"seize"', "measure of claim 'large' .* did you mean 'size'"),
        ("claims.toml", 'measure = "both"', 'measure = "size"', "no claim uses the measure 'both'"),
        ("study.py", "MEASURES = ", "MEASURE = ", "defines no study = Study"),
        ("study.py", "both(table, other)", "both(table, order)", "unknown study .*mean 'other'"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(root, file, old, new, message):
    path = root / "paper_repro/small2024" / file
    text = path.read_text()
    if old == "both(table, other)":
        text = text.replace("other[", "order[")
    path.write_text(text.replace(old, new))
    with pytest.raises(ToyalignError, match=message):
        reproduced(root)


def test_unknown_presets_and_folders(root, tmp_path):
    with pytest.raises(
        ToyalignError, match="preset of paper small2024 'fats'; did you mean 'fast'"
    ):
        reproduced(root, "fats")
    with pytest.raises(ToyalignError, match="there is no folder"):
        find_papers(tmp_path / "nowhere")


def test_the_command(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["reproduce"]) == 0
    assert (
        "small2024: A et al. 2024, On | size (3 claims, not judged yet)" in capsys.readouterr().out
    )
    assert main(["reproduce", "small2024", "--preset", "fast"]) == 0
    assert "not reproduced large" in capsys.readouterr().out
    assert main(["reproduce", "smal2024"]) == 2
    assert "unknown paper 'smal2024'; did you mean 'small2024'" in capsys.readouterr().err
    assert main(["reproduce", "all", "--jobs", "0"]) == 2
    assert "--jobs must be at least 1" in capsys.readouterr().err
