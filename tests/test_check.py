"""The check as its users meet it: the command, the report, declarations, probes."""

import json
import math
import re
from html import unescape
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

import toyalign as ta
from toyalign.check.contracts import CONTRACTS
from toyalign.check.probes import PROBES, measure
from toyalign.cli import main
from toyalign.errors import ToyalignError
from toyalign.objectives import get_objective

ROOT = Path(__file__).parents[1]
FLIPPED = f"{ROOT}/examples/flipped_dpo.py:flipped_dpo"


@pytest.fixture
def write(tmp_path):
    """Put a loss into a file of its own and return what names it on the command line."""

    def to_file(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"import torch\nimport toyalign as ta\n\n\n{text}")
        return f"{path}:mine"

    return to_file


def status_of(report: ta.check, contract: str) -> str:
    return next(f.status for f in report.findings if f.contract == contract)


# --- the command


def test_the_first_line_says_that_a_flipped_dpo_pushes_chosen_down_and_where(capsys):
    assert main(["check", FLIPPED, "--contracts"]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert "pushes the chosen answer down where policy = reference" in first
    assert "on 100% of the plane of log-ratios" in first
    assert first in (ROOT / "README.md").read_text()


def test_a_sound_loss_gives_exit_status_0(capsys):
    assert main(["check", f"{ROOT}/examples/my_loss.py:my_loss", "--contracts"]) == 0
    assert capsys.readouterr().out.startswith("my_loss keeps the 10 contracts that apply to it.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "check what? The loss comes first: `toyalign check my_loss.py:my_loss`"),
        (["mine.py"], "which function of mine.py? Write mine.py:function"),
        (["simp"], "unknown objective 'simp'; did you mean 'simpo'"),
        (["nowhere.py:loss"], "there is no file 'nowhere.py'"),
        (["dpo", "--only", "finit"], "unknown contract or probe 'finit'; did you mean 'finite'"),
        (["dpo", "--contracts", "--same-as", "ipoo"], "unknown objective 'ipoo'; did you mean"),
        (["dpo", "--contracts", "--same-as", "sft"], "they cannot be compared"),
        (["dpo", "--report", "card.pdf"], "the suffix must be .html, .md, .json"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_status_2(words, message, capsys):
    assert main(["check", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_only_some_contracts_and_probes(capsys):
    assert main(["check", "dpo", "--only", "finite", "stops"]) == 0
    out = capsys.readouterr().out
    assert "finite" in out and "stops" in out and "shape" not in out and "fading" not in out


def test_the_list_names_every_contract_and_probe(capsys):
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in [*CONTRACTS, *PROBES])


def test_every_contract_is_documented():
    page = (ROOT / "docs/check.md").read_text()
    assert all(f"| {name} |" in page for name in CONTRACTS)


# --- reports in files


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The flipped DPO's report in every format, from one check each."""
    folder = tmp_path_factory.mktemp("reports")
    only = ["--only", "direction", "stops", "fading"]
    for suffix in ("html", "md", "json"):
        assert main(["check", FLIPPED, *only, "--report", str(folder / f"card.{suffix}")]) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["card.html", "card.json", "card.md"]
    return {path.suffix: path.read_text() for path in folder.iterdir()}


def test_json_is_versioned_and_complete(reports):
    found = json.loads(reports[".json"])
    assert found["version"] == 1
    assert set(found) == set(re.findall(r"`(\w+)`", FIELDS))
    assert found["loss"] == "flipped_dpo" and found["passed"] is False
    assert [f["contract"] for f in found["contracts"]] == ["direction"]
    assert set(found["contracts"][0]) == {"contract", "status", "seen", "why"}
    fading, stops = found["probes"]
    assert set(fading) == {"probe", "value", "unit", "peers", "sentence", "study"}
    assert stops["value"] == 0 and stops["peers"] == {"sft": None, "dpo": "inf"}


FIELDS = "".join(
    line.split("|")[1]
    for line in (ROOT / "docs/check.md").read_text().partition("has the fields")[2].splitlines()
    if line.startswith("| `")
)


def test_html_is_one_file_without_scripts_or_network(reports):
    page = reports[".html"]
    assert "pushes the chosen answer down" in page
    assert page.count("<figure>") == 2 and page.count("<svg") == 2
    assert "<script" not in page and "src=" not in page and "@import" not in page
    assert "Content-Security-Policy" in page and "default-src 'none'" in page


def test_html_escapes_what_the_loss_says(write):
    target = write("def mine(logps):\n    raise ValueError('<script>alert(1)</script>')\n")
    from toyalign.check.card import render

    assert "<script" not in render(ta.check(target, contracts=True), target, ".html")


def test_markdown_has_a_row_for_everything(reports):
    text = reports[".md"]
    assert "| direction | fail | " in text and "| stops | 0 | - | ∞ |" in text


def test_a_report_of_a_loss_that_nobody_can_read(write, tmp_path, capsys):
    target = write("def mine(chosen_logps, rejectd_logps):\n    return chosen_logps\n")
    page = tmp_path / "card.html"
    assert main(["check", target, "--report", str(page)]) == 1
    assert "did you mean 'rejected_logps'" in unescape(page.read_text())
    assert capsys.readouterr().out.startswith("mine breaks the contract signature: ")


# --- in Python


def test_a_function_of_a_notebook():
    def mine(chosen_logps, rejected_logps, *, beta=1.0):
        return -logsigmoid(beta * (chosen_logps - rejected_logps))

    report = ta.check(mine, contracts=True)
    assert report.passed and report.loss == "mine" and report.kind == "pairs"


def test_progress_names_what_comes_next():
    seen = []
    ta.check("dpo", only=["shape", "stops"], progress=seen.append)
    assert seen == ["shape", "stops"]


def test_the_same_seed_gives_the_same_report():
    some = [*CONTRACTS, "displacement", "precision"]
    once, again = (ta.check("ipo", seed=3, only=some).json() for _ in range(2))
    assert once == again


def test_a_loss_that_always_raises_fails_in_a_sentence(write):
    target = write("def mine(logps):\n    return logps.no_such_thing\n")
    report = ta.check(target)
    assert not report.passed and not report.readings
    assert "raises AttributeError" in report.headline


# --- declarations


SORTS = """
def mine(chosen_logps, rejected_logps, *, beta=0.1):
    margin = (chosen_logps - rejected_logps).sort(1).values
    return -torch.nn.functional.logsigmoid(beta * margin)
"""


def test_a_user_declares_an_exception_by_decorator(write):
    assert status_of(ta.check(write(SORTS), only=["rows"]), "rows") == "fail"
    declared = '@ta.objective(exceptions={"rows": "it sorts (nobody 2026)"})' + SORTS
    report = ta.check(write(declared), only=["rows"])
    assert report.passed and status_of(report, "rows") == "declared"
    assert report.headline.endswith("it breaks rows, as declared.")


def test_a_declared_exception_must_occur(write):
    text = '@ta.objective(exceptions={"mask": "why (nobody 2026)"})' + SORTS
    assert status_of(ta.check(write(text), only=["mask"]), "mask") == "fail"


def test_a_declaration_of_an_unknown_contract(write):
    text = '@ta.objective(exceptions={"row": "why (nobody 2026)"})' + SORTS
    with pytest.raises(ToyalignError, match=r"contract on the card of mine 'row'; did you mean"):
        ta.check(write(text))


# --- a kink is reported


def test_one_sided_derivatives_at_the_start_are_reported():
    (finding,) = ta.check("dpop", only=["gradient"]).findings
    assert finding.status == "pass" and "kink at policy = reference" in finding.seen
    assert "by chosen_logps the derivative is -7.65 below and -0.15 above" in finding.seen
    (smooth,) = ta.check("dpo", only=["gradient"]).findings
    assert "kink" not in smooth.seen


# --- probes, against what is known


def value(probe: str, loss: str) -> float | None:
    return measure(PROBES[probe], get_objective(loss)).value


@pytest.mark.parametrize(
    ("probe", "loss", "expected"),
    [
        ("pushes_down", "dpo", 0),
        ("fading", "dpo", 2 / (1 + math.exp(2))),  # sigma(-b 20) / sigma(0), b = .1
        ("fading", "minor_dpo", 0),
        ("fading", "ipo", -3),  # (1/(2 tau) - 20) / (1/(2 tau)): reversed beyond the target
        ("stops", "dpo", math.inf),
        ("stops", "ipo", 5.0),  # 1 / (2 tau)
        ("stops", "hinge", 20.0),  # 1 / beta
        ("stops", "cdpo", 10 * math.log(9)),
        ("flipped_labels", "dpo", 10 * math.log(4)),
        ("flipped_labels", "ipo", 5 * (1 - 2 * 0.2)),  # the mean of targets 5 and -5
        ("length", "dpo", 1),
        ("length", "sft", 0.1),
        ("length", "simpo", 0.1),
        ("cost", "dpo", 4),
        ("cost", "sr_dpo", 8),
        ("cost", "sft", 1),
        ("fading", "sft", None),
        ("stops", "npo", None),
        ("tilted_reference", "forward_kl", None),
    ],
)
def test_probes_measure_what_theory_says(probe, loss, expected):
    found = value(probe, loss)
    if expected is None or math.isinf(expected):
        assert found == expected
    else:
        assert found == pytest.approx(expected, abs=0.11 if probe != "fading" else 1e-9)


def test_ipo_pushes_down_beyond_its_target():
    # chosen is pushed down where h > 5: on the grid of half nats, a corner of the square
    line = torch.linspace(-6, 6, 25)
    share = ((line[:, None] - line[None]) > 5).double().mean().item()
    assert value("pushes_down", "ipo") == pytest.approx(share, abs=1e-12)


def test_dpo_ends_at_the_tilted_reference_and_sft_does_not():
    assert value("tilted_reference", "dpo") < 0.01 < value("tilted_reference", "sft")


def test_displacement_is_the_studys():
    assert value("displacement", "dpo") < -1 and value("displacement", "sft") > 0.5


def test_every_probe_takes_every_kind_of_loss_or_says_why():
    for loss in ("kto", "reinforce", "forward_kl"):
        probes = [name for name in PROBES if name != "relocation"]  # the slow one
        report = ta.check(loss, only=probes)
        assert len(report.readings) == len(probes)
        assert all(r.value is not None or r.sentence for r in report.readings)
        assert any(r.value is not None for r in report.readings)
