"""The exercises of the course: each fails as shipped, for the right reason, and can be solved.

And what `--same-as` makes of losses that ask for other tensors than the built-in one.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.nn.functional import logsigmoid

from toyalign.check import check
from toyalign.check.report import Report
from toyalign.cli import main
from toyalign.objectives import OBJECTIVES

FOLDER = Path(__file__).parents[1] / "docs/course/exercises"


class Exercise(NamedTuple):
    """A file, how it is marked, what the marker says, and what to replace to solve it."""

    file: str
    function: str
    known: str
    says: str
    solution: dict[str, str]


EXERCISES = (
    Exercise(
        "1_write_dpo.py",
        "my_dpo",
        "dpo",
        r"raises NotImplementedError: write the formula here",
        {
            "raise NotImplementedError": "from torch.nn.functional import logsigmoid  #",
            '"write the formula here")': """
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -logsigmoid(beta * h)""",
        },
    ),
    Exercise(
        "2_flipped_dpop.py",
        "my_dpop",
        "dpop",
        r"on chosen_logps differ close to .* instead of -1.*\(chosen log-ratio -.* agree where pol",
        {"margin + lam": "margin - lam"},
    ),
    Exercise(
        "3_minor_sft_without_detach.py",
        "my_minor_sft",
        "minor_sft",
        r"on logps differ where policy = reference: -1\.1\d* instead of -1 \(",
        {"(-beta * ratio)": "(-beta * ratio).detach()"},
    ),
    Exercise(
        "4_ipo_averaged.py",
        "my_ipo",
        "ipo",
        r"on chosen_logps differ where policy = reference: -2\.5 instead of -10 .*length 4",
        {" / chosen_lengths": "", " / rejected_lengths": ""},
    ),
    Exercise(
        "5_mask_off_by_one.py",
        "my_token_dpo",
        "dpo",
        r"chosen_token_logps \(token 1 of 1\) differ .*: 0 instead of -0\.05",
        {"values[..., :-1] * mask[..., 1:]": "values * mask"},
    ),
    Exercise(
        "6_a_tie.py",
        "my_minor_dpo",
        "minor_dpo",
        r"on rejected_logps differ where policy = reference: 0 instead of 0\.05 .*; they agree "
        r"close to the reference, at a random point",
        {"torch.relu(": "(", "- ref_rejected_logps)": "- ref_rejected_logps).clamp(min=0)"},
    ),
)
every = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.file)


def mark(path: Path, exercise: Exercise, *contracts: str) -> Report:
    target = f"{path}:{exercise.function}"
    return check(target, contracts=True, only=contracts, same_as=exercise.known)


def solved(exercise: Exercise, folder: Path) -> Path:
    text = (FOLDER / exercise.file).read_text()
    for wrong, right in exercise.solution.items():
        assert text.count(wrong) == 1
        text = text.replace(wrong, right)
    path = folder / exercise.file
    path.write_text(text)
    return path


@every
def test_as_shipped_it_fails_and_the_sentence_names_the_place(exercise):
    report = mark(FOLDER / exercise.file, exercise, "signature", "mask")
    assert not report.passed
    compared = report.findings[-1]
    assert compared.contract == f"same as {exercise.known}" and compared.status == "fail"
    assert re.search(exercise.says, compared.seen), compared.seen
    if exercise.file.startswith("5"):
        assert "token 4 of 4 in chosen_token_logps changes nothing" in report.headline


@every
def test_solved_it_keeps_every_contract_and_is_the_same(exercise, tmp_path):
    report = mark(solved(exercise, tmp_path), exercise)
    assert report.passed, str(report)
    if exercise.known == "minor_sft":
        seen = report.findings[-1].seen
        assert "the same gradient" in seen
        assert re.search(r"the value differs \(.* instead of .*\), which training does not", seen)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("torch.where(x >= 0, x, 0 * x)", "value to"),
        ("torch.maximum(x, 0 * x.detach())", "0.025 instead of 0.05"),
    ],
)
def test_other_ways_to_write_the_tie(code, says, tmp_path):
    other = EXERCISES[5]._replace(solution={"torch.relu": f"(lambda x: {code})"})
    assert says in mark(solved(other, tmp_path), other, "signature").findings[-1].seen


@every
def test_the_command_is_in_the_file_and_in_the_table(exercise):
    start = f"toyalign check docs/course/exercises/{exercise.file}:{exercise.function}"
    command = f"{start} --same-as {exercise.known} --contracts"
    assert command in (FOLDER / "README.md").read_text()
    assert command in re.sub(r"\\\n\s+", "", (FOLDER / exercise.file).read_text())


def test_the_exit_status_of_an_unsolved_one(capsys):
    target = f"{FOLDER / EXERCISES[5].file}:{EXERCISES[5].function}"
    assert main(["check", target, "--same-as", "minor_dpo", "--contracts", "--only", "shape"]) == 1
    assert capsys.readouterr().out.startswith("my_minor_dpo breaks the contract same as minor_dpo")


# --- what can be compared with what


@pytest.mark.parametrize("name", ["gem", "forward_kl"])
def test_a_loss_is_the_same_as_itself(name):
    report = check(OBJECTIVES[name], contracts=True, only=["signature"], same_as=name)
    assert "value to 0e+00, gradient to 0e+00" in report.findings[-1].seen


def test_one_value_per_row_can_equal_one_value_per_token():
    def my_dft(token_logps, mask):
        return -(mask * token_logps.exp().detach() * token_logps).sum(-1)

    report = check(my_dft, contracts=True, only=["signature"], same_as="dft")
    assert report.passed, str(report)


def test_a_constant_does_not_matter():
    def my_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.5):
        h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
        return 1 - logsigmoid(beta * h)

    report = check(my_dpo, contracts=True, only=["signature"], same_as="dpo")
    assert report.passed and "which training does not see" in report.findings[-1].seen


def test_a_side_that_is_not_asked_for_has_no_gradient():
    def half(chosen_logps, ref_chosen_logps, *, beta=0.1):
        return -logsigmoid(beta * (chosen_logps - ref_chosen_logps))

    report = check(half, contracts=True, only=["signature"], same_as="dpo")
    seen = report.failures[0].seen
    assert "on rejected_logps differ where policy = reference: 0 instead of 0.05" in seen


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda x: x.detach(), "has no gradient"),
        (lambda x: x.sum(), "returns shape"),
        (lambda x: x.numpy(), "raises RuntimeError"),
    ],
)
def test_a_loss_that_cannot_be_compared_says_why(loss, says):
    def mine(logps, lengths):
        return loss(-logps / lengths)

    report = check(mine, contracts=True, only=["signature"], same_as="sft")
    assert says in report.failures[0].seen


def test_padding_that_counts_is_called_padding():
    def mine(token_logps, mask):
        return -token_logps.sum(-1) / mask.sum(-1)

    report = check(mine, contracts=True, only=["signature"], same_as="sft")
    assert "on token_logps (padding) differ" in report.failures[0].seen
