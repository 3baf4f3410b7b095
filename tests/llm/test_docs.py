"""What README.md and docs/llm.md say of language models is true: their lines run, in order."""

import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from toyalign.cli import main

ROOT = Path(__file__).parents[2]
README, GUIDE = ((ROOT / name).read_text() for name in ("README.md", "docs/llm.md"))
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the README's lines have run."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, line in enumerate(LINES):
            with (folder / f"said-{number}").open("w") as said, redirect_stdout(said):
                assert main(line.split()[1:]) == 0, line
        yield folder


def test_the_lines_of_the_readme_leave_models_and_figures(place):
    assert len(LINES) == 5 and all(line.startswith("toyalign ") for line in LINES)
    for run in ("dpop", "mine", "rloo"):
        assert (place / "demo" / run / "model" / "model.safetensors").is_file()
        assert (place / "demo" / run / "story.svg").stat().st_size > 5000


def test_a_training_ends_with_a_sentence_on_the_chosen_answers(place, capsys):
    for number, name in ((2, "dpop"), (3, "my_loss")):
        said = (place / f"said-{number}").read_text()
        assert f"{name}: the loss went from" in said and "below the reference" in said
    assert main(["diagnose", "demo/mine"]) == 0
    assert "features, my_loss moves the chosen answer by -" in capsys.readouterr().out


def test_the_python_of_the_guide_runs(place, capsys):
    train, reward = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    space = {}
    exec(compile(train, "docs/llm.md", "exec"), space)
    assert space["trainer"].state.global_step > 0
    assert reward == (place / "demo" / "reward.py").read_text()


def test_the_guide_names_what_is_logged(place):
    import pandas as pd

    columns = set()
    for run in ("dpop", "rloo"):
        columns |= set(pd.read_csv(place / "demo" / run / "log.csv").columns)
    table = GUIDE.split("## What is logged")[1].split("##")[0]
    named = {name for name in re.findall(r"`([a-z_/]+)`", table) if name != "π"}
    assert {"mass_to_neither", "chosen/fell", "reward_std"} <= named <= columns


def test_the_readme_says_what_the_study_found():
    claims = json.loads((ROOT / "figures/toy_predicts_transformer/claims.json").read_text())
    for name in (
        "bandit_foretells_displacement", "position_foretells_displacement",
        "network_foretells_displacement", "bandit_foretells_drift", "network_foretells_drift",
    ):  # fmt: skip
        tau = f"{claims[name]['effect']['mean']:.2f}".replace("-", "−")
        assert tau in README.split("predict flight?")[1].split("\n\n")[0], name
    own = claims["bandit_foretells_displacement"]["sentence"].rpartition("with itself: ")[2]
    assert f"seeds, at {float(own):.2f}" in " ".join(README.split())


def test_every_link_of_the_guide_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target
