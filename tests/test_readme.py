"""The README is true: its commands run, its Python runs, its numbers come out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import toyalign as ta

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
]


# What needs a language model is run by tests/llm.
PYTHON = [text for language, text in BLOCKS if language == "python" and "toyalign.llm" not in text]


@pytest.mark.parametrize("text", PYTHON)
def test_python_runs(text, capsys):
    space: dict = {}
    exec(compile(text, "README.md", "exec"), space)
    assert "traj" in space or "my_loss" in space


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("toyalign")])
def test_commands_run(command, capsys, tmp_path, monkeypatch):
    from toyalign.cli import main

    for name in ("examples", "studies", "paper_repro"):
        ignored = shutil.ignore_patterns("results", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    monkeypatch.chdir(tmp_path)
    assert main(command.split()[1:]) == 0
    assert capsys.readouterr().out
    for name in re.findall(r"\S+\.(?:svg|csv)", command):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_knows_its_targets(command):
    found = subprocess.run(
        ["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0 and ".venv/bin" in found.stdout


def test_the_numbers_of_the_five_lines():
    traj = ta.simulate(ta.dpo, ta.adjacent_arms(arms=10), policy="features", beta=0.3)
    chosen, _ = traj.pair_logps()
    assert f"{chosen[0, 0]:.1f}".replace("-", "−") in README
    assert f"from {chosen[0, 0]:.1f} nats to {chosen[-1, 0]:.1f}".replace("-", "−") in README


def test_the_number_of_runs_in_which_it_fell():
    import json

    claims = json.loads((ROOT / "figures/chosen_falls/claims.json").read_text())
    fell, turned = (claims[name]["effect"] for name in ("dpo_falls", "side_matters"))
    assert fell["mean"] == 1.0 and fell["n"] == 200
    assert "every one of 200 random starts" in README
    assert f"it still happened in {100 * turned['mean']:.0f} % of them" in README


def test_the_loss_of_the_readme_is_the_example():
    (text,) = (text for language, text in BLOCKS if "def my_loss" in text)
    assert (
        "import toyalign" not in text
        and "import toyalign" not in (ROOT / "examples/my_loss.py").read_text()
    )


def test_every_link_into_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
