"""The command line, mostly in this process; a few things need a process of their own."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import toyalign as ta
from toyalign import cli, run_command
from toyalign.cli import main
from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY
from toyalign.objectives import OBJECTIVES, SOURCES
from toyalign.policies import POLICIES
from toyalign.policies.transformer import Transformer
from toyalign.problems import PROBLEMS
from toyalign.sentences import sentence

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "gymnasium")
MY_LOSS = """\
def my_loss(chosen_logps, rejected_logps, *, beta=0.1):
    return -beta * (chosen_logps - rejected_logps)
"""


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def good(say):
    """Run a command that must succeed in silence on standard error: standard output."""

    def run(*words):
        status, out, err = say(*words)
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture
def bad(say, tmp_path):
    """Run a command that must fail as everything wrong does: the one line on standard error."""

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = say(*words)
        assert (status, out) == (2, "")
        assert err.startswith("toyalign: ") and err.count("\n") == 1 and err.endswith("\n")
        assert "Traceback" not in err and "│" not in err
        assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before
        return err

    return run


def in_a_process(code, **more):
    """Run Python code in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, **more
    )


# --- help, version, imports


def test_help_names_every_command(good):
    for words in ((), ("--help",), ("-h",)):
        text = good(*words)
        assert all(f"• {name} " in text for name in cli.COMMANDS)


def test_version(good):
    assert good("--version") == f"toyalign {ta.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_has_help(name, good):
    text = good(name, "--help").partition("\n\n")[2]  # behind the line of usage
    form, _ = cli.COMMANDS[name]
    for field in form.__dataclass_fields__:
        if field not in ("name", "names"):
            after = text.split(f"--{field.replace('_', '-')}", 1)[1]
            assert len(after.split("--", 1)[0].split()) > 3


def test_what_the_commands_import():
    result = in_a_process(
        "import sys\n"
        "from toyalign.cli import main\n"
        f"loaded = lambda: print('LOADED', *[m for m in {HEAVY} if m in sys.modules])\n"
        "for words in (['--help'], ['run', '--help'], ['--version'], ['study', '--help'],\n"
        "              ['list'], ['list', '--needs'], ['explain', 'dpop'], ['doctor']):\n"
        "    assert main(words) == 0\n"
        "    loaded()\n"
    )
    assert result.stderr == ""
    lines = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("LOADED")]
    assert lines[0] == []  # toyalign --help
    assert all(set(line) <= {"torch", "numpy"} for line in lines)
    assert len(lines) == 8


# --- list and explain


def test_list_has_everything(good):
    text = good("list")
    for card in OBJECTIVES.values():
        assert f"{card.name} " in text and card.summary in text
    for name in (*PROBLEMS, *POLICIES, *SOURCES):
        assert f" {name} " in text
    assert text.splitlines()[-1].startswith("next: toyalign explain ")
    assert "[run, row]" not in text


def test_list_groups_by_family_and_data(good):
    lines = good("list").splitlines()
    family = lines.index(next(line for line in lines if line.startswith("policy_gradient:")))
    assert lines[family + 1] == "  samples, from: policy"
    assert lines[family + 2].split()[0] == "reinforce"


def test_list_needs_explains_the_tensors(good):
    text = good("list", "--needs")
    asked = {name for card in OBJECTIVES.values() for name in card.needs}
    for name in asked:
        assert f"{name} " in text and GLOSSARY[name].meaning in text


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_explain_every_objective(name, good):
    card, text = OBJECTIVES[name], good("explain", name)
    assert card.summary in text and "Gradient: " in text and re.search(r"^L\S* = ", text, re.M)
    assert card.paper in text and card.equation in text and f"Ties: {card.tie}" in text
    for tensor in card.needs:
        term = GLOSSARY[tensor]
        assert any(
            line.split()[:1] == [tensor] and term.shape in line and term.unit in line
            for line in text.splitlines()
        )
    for key, value in card.hyper.items():
        option = "--" + key.replace("_", "-")
        assert [option, str(value)] in [line.split() for line in text.splitlines()]
    for source in SOURCES:
        assert (f"  {source} " in text) == (source in card.sources)
    assert text.splitlines()[-1] == f"next: toyalign run {name} --plot {name}.svg"


def test_explain_gives_the_notation_of_the_family(good):
    assert "h = r_w − r_l is the margin." in good("explain", "dpop")


def test_explain_a_function_in_a_file(good, tmp_path):
    (tmp_path / "mine.py").write_text(MY_LOSS)
    text = good("explain", "mine.py:my_loss")
    assert text.startswith("my_loss: no description\n") and "Paper" not in text
    assert "Needs pairs" in text and "--beta  0.1" in text


@pytest.mark.parametrize("name", ["adjacent-arms", "tabular"])
def test_explain_a_problem_or_policy(name, good):
    text = good("explain", name)
    assert text.startswith(f"{name.replace('-', '_')}: ")
    assert text.splitlines()[-1].startswith("next: toyalign run dpo --p")


# --- run


def test_run_says_a_sentence_then_a_table_then_files(good, tmp_path):
    lines = good(
        "run", "dpo", "sft", "--steps", 30, "--plot", "out.svg", "--csv", "out.csv"
    ).splitlines()
    for line, name in zip(lines, ("dpo", "sft"), strict=False):
        trajectory = ta.simulate(name, "adjacent_arms", policy="features", steps=30)
        assert line == sentence(trajectory)
    assert lines[2] == "" and lines[3].startswith("objective ")
    assert [line.split()[0] for line in lines[5:7]] == ["dpo", "sft"]
    assert lines[8].startswith("problem adjacent_arms, policy features, data fixed (exact); 30 ")
    assert lines[9:] == ["written: out.csv", "written: out.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "out.svg"}
    assert (tmp_path / "out.svg").read_text().lstrip().startswith("<?xml")


def test_the_csv_holds_what_was_simulated(good, tmp_path):
    good("run", "dpo", "sft", "--steps", 20, "--csv", "out.csv", "--seeds", 2, "--spread", 0.5)
    written = pd.read_csv(tmp_path / "out.csv")
    problem = ta.adjacent_arms(spread=0.5)
    for name in ("dpo", "sft"):
        frame = ta.simulate(name, problem, policy="features", steps=20, seeds=2).to_frame()
        rows = written[written.objective == name]
        np.testing.assert_allclose(rows.value, frame.value, rtol=1e-12)
        assert list(rows.quantity) == list(frame.quantity)
        assert list(rows.seed) == list(frame.seed)


def test_every_option_reaches_the_simulator(good, monkeypatch):
    seen = {}
    module = import_module("toyalign.simulate")  # `toyalign.simulate` is the function
    original = module.simulate

    def spy(card, problem, **options):
        seen.update(options, card=card, problem=problem)
        return original(card, problem, **{**options, "progress": False})

    monkeypatch.setattr(module, "simulate", spy)
    good(
        *"run dpo --problem near --policy features --overlap 3 --source policy --steps 7".split(),
        *"--lr 0.2 0.4 --seeds 3 --optimiser adam --spread 0.25 --prompts 2 --sampled".split(),
        *"--state-size 4 --responses 5 --jobs 1 --beta 0.7".split(),
    )
    problem, source = seen["problem"], seen["source"]
    assert (problem.name, problem.spread, problem.prompts, problem.state_size) == (
        "near",
        0.25,
        2,
        4,
    )
    assert seen["policy"] == ta.Features(overlap=3.0)
    assert source == ta.Source("policy", exact=False, responses=5)
    assert (seen["steps"], seen["lr"], seen["seeds"]) == (7, [0.2, 0.4], 3)
    assert (seen["optimiser"], seen["jobs"]) == ("adam", 1)
    assert seen["card"].hyper == {"beta": 0.7}


def test_a_hyperparameter_goes_to_each_objective_that_has_it(good):
    rows = [
        line.split()[:3]
        for line in good("run", "dpo", "dpop", "sft", "--steps", 3, "--beta=0.7").splitlines()
        if "->" in line
    ]
    assert rows[0][:2] == ["dpo", "beta=0.7"]
    assert rows[1] == ["dpop", "beta=0.7", "lam=50"]
    assert rows[2][0] == "sft" and "=" not in rows[2][1]


def test_a_sweep_has_a_row_per_setting(good, tmp_path):
    text = good("run", "dpo", "--steps", 20, "--beta", 0.1, 3, "--lr", 0.1, 0.5, "--csv", "a.csv")
    rows = [line.split()[1:3] for line in text.splitlines() if "->" in line]
    assert rows == [[f"lr={lr}", f"beta={beta}"] for lr in ("0.1", "0.5") for beta in ("0.1", "3")]
    assert "of 4 runs" in text.splitlines()[0]
    traj = ta.simulate("dpo", "adjacent_arms", policy="features", steps=20, beta=[0.1, 3], lr=0.5)
    frame = pd.read_csv(tmp_path / "a.csv")
    end = frame[(frame.quantity == "margin") & (frame.step == 20) & (frame.lr == 0.5)]
    np.testing.assert_allclose(end.value, traj.measured()["margin"][-1], rtol=1e-12)


def test_a_sweep_is_drawn_setting_by_setting(good, monkeypatch):
    import toyalign.plotting as plotting

    drawn = []
    original = plotting.plot_runs
    monkeypatch.setattr(plotting, "plot_runs", lambda parts: drawn.extend(parts) or original(parts))
    good("run", "dpo", "sft", "--steps", 5, "--beta", 0.1, 3, "--plot", "a.png")
    assert [part.objective for part in drawn] == [
        "dpo lr=0.1 beta=0.1",
        "dpo lr=0.1 beta=3",
        "sft lr=0.1",
    ]


def test_a_hyperparameter_with_the_name_of_a_simulator_option(good):
    """`clip` of ppo_clip is the loss's, not the simulator's limit on the gradient."""
    assert "ppo_clip   clip=0.01" in good("run", "ppo_clip", "--clip", 0.01, "--steps", 3)


def test_run_help_shows_the_hyperparameters_of_what_was_named(good):
    text = " ".join(good("run", "dpo", "dpop", "--help").replace("│", " ").split())
    assert (
        "--beta X ... Hyperparameter of dpo, dpop. (default: 0.1 for dpo and 0.3 for dpop)" in text
    )
    assert "--lam X ... Hyperparameter of dpop. (default: 50.0)" in text
    assert "--tau" not in text


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_runs(name, good):
    assert good("run", name, "--steps", 3).startswith(f"{name}: ")


@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_every_problem_runs(problem, good, monkeypatch):
    # Learning to write first takes a while, and is not what this is about.
    monkeypatch.setattr(Transformer, "_fitted", lambda self, theta, *rest: theta)
    text = good("run", "sft", "--steps", 2, "--problem", problem.replace("_", "-"))
    assert f"problem {problem}, " in text


def test_the_mlp_runs_when_prompts_have_states(good):
    text = good("run", "dpo", "--policy", "mlp", "--state-size", 3, "--prompts", 2, "--steps", 2)
    assert "policy mlp" in text


def test_the_example_runs(good):
    text = good("run", ROOT / "examples" / "my_loss.py:my_loss", "dpo", "--steps", 20)
    assert text.startswith("my_loss: the chosen log-prob ")
    body = (ROOT / "examples" / "my_loss.py").read_text()
    assert "toyalign" not in body.split('"""')[2]  # beyond the docstring it knows nothing of us


def test_a_loss_from_a_file_may_have_a_name_that_is_taken(good, tmp_path):
    (tmp_path / "mine.py").write_text(MY_LOSS.replace("my_loss", "dpo"))
    lines = good("run", "mine.py:dpo", "dpo", "--steps", 30).splitlines()
    assert lines[0].startswith("mine.py:dpo: ") and lines[1].startswith("dpo: ")
    assert lines[0].split(": ")[1] != lines[1].split(": ")[1]


def test_hyperparameters_of_other_kinds(good, tmp_path):
    (tmp_path / "kinds.py").write_text(
        "def loss(logps, *, kind='a', on=True, power=2, scale=1.0):\n"
        "    assert kind == 'b' and on is False and power == 3 and type(power) is int\n"
        "    return -scale * logps\n"
    )
    words = "--kind b --on false --power 3 --scale 2 --steps 2".split()
    assert "kind=b on=False power=3 scale=2" in good("run", "kinds.py:loss", *words)


def test_diverged_runs_are_told_not_warned_of(good, tmp_path):
    (tmp_path / "mine.py").write_text("def boom(logps): return logps * float('nan')\n")
    text = good("run", "mine.py:boom", "sft", "--steps", 3, "--plot", "a.svg", "--csv", "a.csv")
    assert text.startswith("boom: the run diverged (non-finite numbers) by step ")
    assert "written: a.svg" in text and set(pd.read_csv(tmp_path / "a.csv").objective) >= {"sft"}


def test_there_may_be_nothing_to_draw(say, tmp_path):
    (tmp_path / "mine.py").write_text("def boom(logps): return logps * float('nan')\n")
    status, out, err = say("run", "mine.py:boom", "--steps", 3, "--plot", "a.svg")
    assert (status, err) == (2, "toyalign: nothing to draw in a.svg: every run diverged\n")
    assert out.startswith("boom: the run diverged") and not (tmp_path / "a.svg").exists()


def test_torch_gets_one_thread(good):
    torch.set_num_threads(2)
    good("run", "sft", "--steps", 2)
    assert torch.get_num_threads() == 1


# --- everything that can be wrong

WRONG = {
    "frob": ["unknown command 'frob'", "doctor, example, explain, list, reproduce", "--help"],
    "lst": ["did you mean 'list'?"],
    "--versoin": ["unknown command '--versoin'"],
    "list foo": ["unrecognized options: foo", "toyalign list --help"],
    "list --need": ["unknown option '--need'; did you mean '--needs'?"],
    "doctor --fast": ["unknown option '--fast'"],
    "explain": ["explain what?", "toyalign list"],
    "explain dpoo": ["unknown objective 'dpoo'; did you mean 'dpo'?"],
    "explain dpo ipo": ["unrecognized options: ipo"],
    "explain mine.py": ["which function of mine.py? Write mine.py:function"],
    "explain mine.py:my_los": ["'my_los'; did you mean 'my_loss'?"],
    "explain none.py:my_loss": ["there is no file 'none.py'"],
    "run": ["the objectives come first: `toyalign run dpo"],
    "run --steps 3 dpo": ["the objectives come first"],
    "run dpo --sampled sft": ["unrecognized options: sft"],
    "run dpo --steps 3 sft": ["unrecognized options: sft"],
    "run dpo dpoo": ["did you mean 'dpo'?"],
    "run dpo --steps ten": ["--steps: 'ten' is not a whole number"],
    "run dpo --steps 1.5": ["--steps: '1.5' is not a whole number"],
    "run dpo --steps": ["missing value for argument '--steps'"],
    "run dpo --steps 0": ["steps must be at least 1, not 0"],
    "run dpo --seeds 0": ["seeds must be"],
    "run dpo --jobs 0": ["must be at least 1"],
    "run dpo --lr nan": ["--lr: 'nan' is not a finite number"],
    "run dpo --lr 0.1 x": ["--lr: 'x' is not a number"],
    "run dpo --lr": ["--lr: needs at least one value"],
    "run dpo --beta inf": ["--beta: 'inf' is not a finite number"],
    "run dpo --beta": ["--beta: needs at least one value"],
    "run dpo --betta 0.3": ["unknown option '--betta'; did you mean '--beta'?"],
    "run dpo dpop --lamb 3": ["unknown option '--lamb'; did you mean '--lam'?"],
    "run dpo --problem adjacent_arns": ["unknown problem", "did you mean 'adjacent_arms'?"],
    "run dpo --problem mine.py:world": ["mine.py:world raised ValueError: no world (line 4 of "],
    "run dpo --policy featurs": ["unknown policy 'featurs'; did you mean 'features'?"],
    "run dpo --policy mlp": ["reads the context", "state_size"],
    "run dpo --policy tabular --overlap 2": ["policy tabular has no overlap"],
    "run dpo --overlap -1": ["overlap must be 0 or more"],
    "run dpo --prompts 0": ["at least one prompt"],
    "run dpo --source polcy": ["unknown data source 'polcy'; did you mean 'policy'?"],
    "run reinforce --source fixed": ["must come from policy"],
    "run dpo --optimiser adan": ["unknown optimiser 'adan'; did you mean 'adam'?"],
    "run dpo --plot out.gif": ["cannot draw out.gif", ".svg, .png, .pdf"],
    "run dpo --plot none/out.svg": ["cannot write none/out.svg: there is no folder none"],
    "run dpo --csv none/out.csv": ["cannot write none/out.csv: there is no folder none"],
    "run dpo --csv .": ["that is a folder"],
    "run ipo --tau 0": ["ipo raised ZeroDivisionError"],
    "run mine.py:raises": ["raises raised KeyError: 'left' (line 6 of "],
    "run mine.py:late --steps 9": ["late raised RuntimeError: two lines (line 9 of "],
    "run mine.py:strange": ["'chosen_lps'; did you mean 'chosen_logps'?"],
    "run mine.py:clash": ["hyperparameter 'steps' of clash", "rename it"],
    "run mine.py:part": ["is no plain function: define the loss with def"],
    "run mine.py:truth --on maybe": ["--on: 'maybe' is neither true nor false"],
    "run broken.py:f": ["broken.py cannot be imported: SyntaxError"],
    "run exits.py:f": ["exits.py cannot be imported: SystemExit: 3"],
    "study foo": ["unknown study 'foo'; did you mean 'food'?"],
    "study food --preset fats": ["unknown preset 'fats'; did you mean 'fast'?"],
    "study food --jobs 0": ["--jobs must be at least 1, not 0"],
    "study --studies none": ["there is no folder none"],
}
MINE = f"""\
{MY_LOSS}
def world(): raise ValueError("no world")

def raises(logps): return {{}}["left"]

def late(logps):
    if logps.max() > -2: raise RuntimeError("two\\nlines")
    return -5 * logps

def strange(chosen_lps): return -chosen_lps

def clash(logps, *, steps=3): return -logps

def truth(logps, *, on=True): return -logps

import functools
part = functools.partial(raises)
"""


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_line(words, bad, tmp_path, studies):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(3)\n")
    told = bad(*words.split())
    for fragment in WRONG[words]:
        assert fragment in told


def test_a_folder_that_cannot_be_written(bad, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "read-only" in bad("run", "dpo", "--csv", "out.csv")


def test_targets_are_checked_before_anything_is_simulated(bad, monkeypatch):
    monkeypatch.setattr(run_command, "_simulate", lambda *args: pytest.fail("it was simulated"))
    assert "there is no folder none" in bad("run", "dpo", "--csv", "none/out.csv")
    assert "there is no folder none" in bad("run", "dpo", "--plot", "none/out.svg")


def test_a_csv_that_fails_halfway_leaves_the_old_file(say, monkeypatch, tmp_path):
    def fail(self, text, **options):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "out.csv").write_text("old")
    monkeypatch.setattr(Path, "write_text", fail)
    status, out, err = say("run", "dpo", "--steps", 2, "--csv", "out.csv")
    assert status == 2 and err == "toyalign: [Errno 28] No space left on device\n"
    assert "written" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_an_interrupt_is_one_line(say, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "_simulate", interrupted)
    assert say("run", "dpo") == (130, "", "toyalign: interrupted\n")


def test_a_missing_package_is_one_line(bad, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr(run_command, "_simulate", lambda *args: __import__("pandas"))
    assert "`toyalign doctor` says what is missing" in bad("run", "dpo", "--csv", "out.csv")


def test_a_reader_that_leaves_early():
    code = "import sys; from toyalign.cli import main; sys.exit(main(['list']))"
    shell = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_terminal_without_greek():
    code = "import sys; from toyalign.cli import main; sys.exit(main(['explain', 'dpo']))"
    result = in_a_process(code, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "L = ?log ?(" in result.stdout


# --- study and doctor


@pytest.fixture
def studies(monkeypatch):
    """Two studies that only say that they were asked for; returns what was asked."""
    asked = []
    known = {
        name: SimpleNamespace(name=name, question=f"\nWhy {name}?\n\nMore.", presets=presets)
        for name, presets in (("food", {"fast": 0, "full": 1}), ("tiny_one", {"full": 1}))
    }

    def find_studies(folder):
        if folder is not None:
            raise ToyalignError(f"there is no folder {folder}")
        return known

    fake = ModuleType("toyalign.study")
    fake.find_studies = find_studies
    fake.regenerate = lambda *words: asked.append(words)
    monkeypatch.setitem(sys.modules, "toyalign.study", fake)
    return SimpleNamespace(asked=asked, known=known)


def test_study_lists_the_questions(good, studies):
    lines = good("study").splitlines()
    assert lines[0] == "food: Why food? (fast, full)"
    assert lines[-1].startswith("next: toyalign study NAME")
    assert not studies.asked


def test_study_regenerates_one(good, studies):
    good("study", "food", "--preset", "fast", "--force", "--jobs", 2, "--figures", "here")
    assert studies.asked == [(studies.known["food"], "fast", Path("here"), True, 2)]


def test_study_regenerates_all(good, studies):
    good("study", "all")
    assert studies.asked == [(s, "full", None, False, 1) for s in studies.known.values()]


def test_study_names_may_have_dashes(good, studies):
    good("study", "tiny-one")
    assert studies.asked[0][0] is studies.known["tiny_one"]


def test_a_preset_that_one_study_lacks_stops_all_before_they_start(bad, studies):
    bad("study", "all", "--preset", "fast")
    assert not studies.asked


def test_the_real_studies_are_found(good, monkeypatch):
    text = good("study", "--studies", ROOT / "studies")
    for path in (ROOT / "studies").glob("*.py"):
        assert f"{path.stem}: " in text


def test_doctor(good):
    text = good("doctor")
    assert text.startswith(f"toyalign {ta.__version__}, Python ") and "torch " in text


# --- a new objective is one edit


def test_a_new_objective_is_one_edit(tmp_path):
    copy = tmp_path / "toyalign"
    shutil.copytree(ROOT / "toyalign", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "objectives" / "pairwise.py").open("a") as family:
        family.write(
            '\n\n@objective(paper="Nobody 2030", equation="1")\n'
            "def brand_new(chosen_logps: Row, rejected_logps: Row, *, gamma: Hyper = 0.5) -> Row:\n"
            '    """Push the two apart by force.\n\n    L = -gamma (w - l)\n    """\n'
            "    return -gamma * (chosen_logps - rejected_logps)\n"
        )
    result = in_a_process(
        "import toyalign; from toyalign.cli import main\n"
        "print(toyalign.__file__, toyalign.brand_new.__name__)\n"
        "for words in (['list'], ['explain', 'brand_new'],\n"
        "              ['run', 'brand_new', '--steps', '5', '--gamma', '0.7']):\n"
        "    assert main(words) == 0\n",
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"{copy / '__init__.py'} brand_new"
    assert ["brand_new", "Push", "the", "two", "apart", "by", "force."] in map(str.split, lines)
    assert "brand_new: Push the two apart by force." in lines and "Paper: Nobody 2030." in lines
    assert any(line.startswith("brand_new: the chosen log-prob ") for line in lines)
    assert any(line.split()[:2] == ["brand_new", "gamma=0.7"] for line in lines)
