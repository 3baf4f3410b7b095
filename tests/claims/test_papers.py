"""Every paper at its fast preset, and the committed verdicts against the committed tables."""

import json
from pathlib import Path

import pytest

from toyalign.reproduce import OWN, find_papers, judge, page, reproduce_papers
from toyalign.study import differences, read_table

ROOT = Path(__file__).parents[2]
PAPERS = find_papers(ROOT / "paper_repro")

ALWAYS = {  # claims of the fast preset that no sample size can weaken
    "hua2024_ift": {
        "one-formula": "partly",
        "only-up": "partly",
        "greedy-is-sft": "reproduced",
        "equation-18": "not reproduced",
    },
    "pal2024_dpop": {
        "equation-2": "reproduced",
        "later-tokens-fall": "partly",
        "leaderboard": "cannot tell",
    },
    "tajwar2024": {
        "plateau": "reproduced",
        "lemma-6.1": "reproduced",
        "lemma-6.2": "reproduced",
        "theorem-6.5-plain": "partly",
        "theorem-6.5-exact": "reproduced",
        "four-categories": "not reproduced",
        "four-categories-exchanged": "reproduced",
    },
    "xie2024_minorsft": {
        "gradient": "reproduced",
        "npo-mirror": "reproduced",
        "metric-is-the-loss": "reproduced",
        "less-deviation-equal-loss": "not reproduced",
        "one-beta": "not reproduced",
    },
    "yu2024_self_refine": {
        "limits": "reproduced",
        "naive": "reproduced",
        "proposition-as-printed": "partly",
        "proposition-divided": "reproduced",
        "all-six-tasks": "partly",
    },
}


def test_the_five_papers_are_there_with_enough_claims():
    assert set(PAPERS) == set(ALWAYS)
    assert all(len(PAPERS[name].claims) >= 8 for name in ALWAYS)


@pytest.fixture(scope="module", params=sorted(PAPERS))
def made(request, tmp_path_factory):
    """A paper's folder with its fast preset made anew, beside the repository's studies."""
    paper, root = PAPERS[request.param], tmp_path_factory.mktemp(request.param)
    (root / "studies").symlink_to(ROOT / "studies")
    place = root / "paper_repro" / paper.name
    place.mkdir(parents=True)
    for name in ("claims.toml", "study.py"):
        (place / name).write_text((paper.folder / name).read_text())
    (again,) = find_papers(root / "paper_repro").values()
    # What several papers read is simulated once.
    reproduce_papers([again], "fast", cache=tmp_path_factory.getbasetemp() / "parts")
    return paper, again.results("fast")


def test_the_table_is_the_committed_one(made):
    paper, folder = made
    committed = read_table(paper.results("fast") / "table.csv")
    assert differences(paper.study, read_table(folder / "table.csv"), committed) == []


def test_the_certain_verdicts_come_out(made):
    paper, folder = made
    found = json.loads((folder / "claims.json").read_text())
    assert list(found) == [claim.id for claim in paper.claims]
    for name, verdict in ALWAYS[paper.name].items():
        assert found[name]["verdict"] == verdict, found[name]


def test_every_figure_is_drawn(made):
    paper, folder = made
    for name in paper.study.figures:
        assert (folder / f"{name}.svg").stat().st_size > 5000


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_the_committed_verdicts_follow_from_the_committed_tables(name):
    paper = PAPERS[name]
    tables = {study: read_table(ROOT / "figures" / study / "table.csv") for study in paper.reads}
    tables[OWN] = read_table(paper.results("full") / "table.csv")
    again = json.loads(json.dumps(judge(paper, tables)))
    committed = json.loads((paper.results("full") / "claims.json").read_text())
    assert again == committed


def test_the_committed_overview_is_the_generated_one():
    assert (ROOT / "paper_repro" / "README.md").read_text() == page(PAPERS)


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_figure_that_a_claim_names_exists(name):
    paper = PAPERS[name]
    for claim in paper.claims:
        study, _, figure = claim.figure.rpartition("/")
        folder = ROOT / "figures" / study if study else paper.results("full")
        assert not figure or (folder / f"{figure}.svg").is_file(), claim.id


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_no_threshold_stands_in_the_code(name):
    # A measure that compared with a claim's target itself could not be held to another one.
    from toyalign import claims

    text = (PAPERS[name].folder / "study.py").read_text()
    for word in ("at_least(", "at_most(", claims.__name__):
        assert word not in text
