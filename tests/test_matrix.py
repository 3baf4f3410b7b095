"""Every objective on every problem: it runs, or says in one sentence why it cannot."""

from pathlib import Path

import pytest

from toyalign.matrix import matrix, page
from toyalign.objectives import OBJECTIVES, SOURCES
from toyalign.problems import PROBLEMS

PAGE = Path(__file__).parent.parent / "docs" / "matrix.md"


@pytest.fixture(scope="module")
def found():
    return matrix()


def test_every_objective_meets_every_problem(found):
    assert set(found) == {(name, problem) for name in OBJECTIVES for problem in PROBLEMS}


def test_an_entry_is_a_source_or_a_sentence(found):
    for where, entry in found.items():
        if entry not in SOURCES:
            assert 20 < len(entry) < 250 and "\n" not in entry and "Error" not in entry, where


def test_every_objective_runs_somewhere_and_most_run_everywhere(found):
    runs = {where for where, entry in found.items() if entry in SOURCES}
    assert {name for name, _ in runs} == set(OBJECTIVES)
    assert len(runs) > 0.8 * len(found)


def test_the_page_of_the_docs_is_what_was_found(found):
    assert PAGE.read_text() == page(found)
