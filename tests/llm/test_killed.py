"""Killed in the middle and resumed: the same weights, bit for bit, as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from conftest import ROWS, tiny

from toyalign.cli import main
from toyalign.llm.checkpoints import last_whole

# DPO, and a reward, that end their own process at a given call, if the environment says so.
OWN = """
import os, signal
from torch.nn.functional import logsigmoid

calls = []

def count():
    calls.append(1)
    if len(calls) == int(os.environ.get("KILLED_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)

def own(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    count()
    ratios = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -logsigmoid(beta * ratios)

def reward(completions):
    count()
    return [text.count("c") - 0.1 * len(text) for text in completions]
"""


@dataclass(frozen=True)
class Case:
    """A training, the call at which it is killed, the checkpoint that it goes on from, the last.

    The loss is called once more than there are steps: at the first it also says where it starts.
    """

    words: str
    killed_at: int
    whole: int
    last: int = 6


CASES = {
    "full": Case("own.py:own --data pairs.jsonl --steps 6 --save-every 2", 6, 4),
    "adapter": Case("own.py:own --data pairs.jsonl --steps 6 --save-every 2 --lora 2", 6, 4),
    "beforehand": Case(
        "own.py:own --data pairs.jsonl --steps 6 --save-every 2 --precompute {}.pt", 6, 4
    ),
    # A collection for steps 1 and 2, 3 and 4, 5 and 6: checkpoint 3 lies within the second's use,
    # and the process dies as the third is judged.
    "own responses": Case(
        "grpo --data prompts.jsonl --steps 6 --save-every 3 --reward own.py:reward "
        "--fresh-every 2 --max-new-tokens 6 --responses 4",
        3,
        3,
    ),
}


def words_of(name, case):
    shared = "--model model --batch 4 --max-length 32 --lr 0.01 --output".split()
    return ["train", *case.words.replace("{}", name).split(), *shared, name]


def start(words, folder, stdout=subprocess.PIPE, **environment):
    """A training as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "toyalign.cli", *words], cwd=folder, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=stdout, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A folder in which all trainings but dpo's own have been killed, two at a time."""
    folder = tmp_path_factory.mktemp("killed")
    tiny().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "own.py").write_text(OWN)
    prompts = [{"prompt": row["prompt"]} for row in ROWS]
    for name, rows in (("pairs", ROWS), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    every = list(CASES.items())
    for some in (every[:2], every[2:]):
        started = [
            start(words_of(name, case), folder, KILLED_AT=str(case.killed_at))
            for name, case in some
        ]
        for process in started:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == -signal.SIGKILL, said
    return folder


def weights(folder):
    from safetensors.torch import load_file

    return load_file(next((folder / "model").glob("*model.safetensors")))


def same(one, other):
    """Whether two trainings have the same weights and losses, to the bit."""
    first, second = weights(one), weights(other)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [pd.read_csv(folder / "log.csv") for folder in (one, other)]
    assert logs[0]["loss"].tolist() == logs[1]["loss"].tolist()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_killed_at_a_step(place, monkeypatch, capsys, name):
    monkeypatch.chdir(place)
    case, words = CASES[name], words_of(name, CASES[name])
    assert last_whole(place / name).name == f"checkpoint-{case.whole}"
    assert not (place / name / "model").exists()
    # As if it had been killed while it wrote the next one.
    half = place / name / f"checkpoint-{case.last}"
    shutil.copytree(place / name / f"checkpoint-{case.whole}", half)
    (half / "whole.json").unlink()
    (half / "optimizer.pt").write_bytes(b"")
    assert main([*words, "--resume"]) == 0
    assert f"step {case.whole + 1}/{case.last}" in capsys.readouterr().err.splitlines()[0]
    assert (half / "whole.json").exists()
    assert main([*words[:-1], f"{name} whole"]) == 0
    same(place / name, place / f"{name} whole")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_killed_from_outside(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    case = Case("dpo --data pairs.jsonl --steps 60 --save-every 10", 0, 10, 60)
    words = words_of("outside", case)
    process = start(words, place, subprocess.DEVNULL)
    mark = place / "outside" / "checkpoint-10" / "whole.json"
    while not mark.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert main([*words, "--resume"]) == 0
    assert "step 1/60" not in capsys.readouterr().err
    assert main([*words[:-1], "outside whole"]) == 0
    same(place / "outside", place / "outside whole")
