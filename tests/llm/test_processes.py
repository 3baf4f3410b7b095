"""Two processes learn what one learns from the same rows: losses to a millionth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROWS, tiny

from toyalign.cli import main
from toyalign.llm.batches import Collator
from toyalign.llm.data import prepare
from toyalign.llm.loading import load
from toyalign.llm.scorer import Scorer
from toyalign.objectives import get_objective

# Several trainings in the same processes: to import torch and transformers takes seconds.
WORKER = """
import json
import torch
from toyalign.cli import main

torch.set_num_threads(1)
for words in json.load(open("trainings.json")):
    assert main(words) == 0, words
torch.distributed.destroy_process_group()
"""
# What FSDP does to the one thing that is ours: the head that is exchanged while the model runs.
SHARDED = """
import json
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from test_processes import descended
from toyalign.llm.loading import load

torch.set_num_threads(1)
distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))

def second(model, *apart):
    for part in (*model.model.layers, *apart, model):
        fully_shard(part, mesh=mesh)
    return model

def first(model):
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(model, device_id=cpu, use_orig_params=True)

wraps = {
    "DDP": torch.nn.parallel.DistributedDataParallel,
    "FSDP1": first,
    "FSDP2": second,
    "FSDP2, the head apart": lambda model: second(model, model.lm_head),
}
found = {}
for name, wrap in wraps.items():
    found[name] = descended(wrap(load("model")[0]), distributed.get_rank(), 2)
if distributed.get_rank() == 0:
    print(json.dumps(found))
distributed.destroy_process_group()
"""
REWARD = "def reward(completions): return [float(text.count('c')) for text in completions]\n"
LABELLED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in ROWS[:8]
    for side in ("chosen", "rejected")
]
CASES = {
    "dpo": ("pairs", 4, []),
    "sft": ("labelled", 4, []),
    "kto": ("labelled", 4, []),
    "bco_unpaired": ("labelled", 4, []),
    "dpo accumulated": ("pairs", 4, ["--accumulate", "2"]),
    "dpo adapter": ("pairs", 4, ["--lora", "2"]),
    "dpo beforehand": ("pairs", 4, ["--precompute", "{}.pt"]),
}


def words_of(name, processes):
    data, rows, more = CASES[name]
    batch = ["--batch", str(rows * 2 // processes)]
    folder = f"{name} {processes}"
    base = "--model model --steps 4 --lr 0.01 --max-length 32 --save-every 4".split()
    more = [word.replace("{}", folder) for word in more]
    return ["train", name.split()[0], "--data", f"{data}.jsonl", "--output", folder, *base, *batch,
            *more]  # fmt: skip


def launched(folder, script):
    """What two processes print that run this script."""
    (folder / "worker.py").write_text(script)
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    given = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    done = subprocess.run(
        [*run, "worker.py"], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, **given}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def descended(model, process, processes):
    """The losses of three steps of DPO on eight pairs, and where the model is then."""
    rows = len(ROWS) // 2 // processes
    scorer, card = Scorer(get_objective("dpo"), None, chunk=16), get_objective("dpo")
    scorer.reference, tokenizer = load("model")
    examples, _ = prepare(ROWS, tokenizer, "pairs", max_length=32)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.05), []
    for step in range(3):
        at = step % 2 * len(ROWS) // 2 + process * rows
        tensors, _ = scorer.tensors(model, Collator(pad=2)(examples[at : at + rows]))
        loss = card.fn(**tensors, beta=0.1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / processes
        if processes > 1:
            torch.distributed.all_reduce(mean)
        found.append(mean.item())
    return found


OWN = "train grpo --model model --data prompts.jsonl --output own --steps 4 --batch 2 --lr 0.01 "
OWN += "--max-length 32 --reward own.py:reward --responses 4 --max-new-tokens 6 --fresh-every 2 "
OWN += "--save-every 3"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A folder in which two processes have done every training."""
    folder = tmp_path_factory.mktemp("processes")
    tiny().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    prompts = [{"prompt": row["prompt"]} for row in ROWS]
    for name, rows in (("pairs", ROWS), ("labelled", LABELLED), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "own.py").write_text(REWARD)
    trainings = [*(words_of(name, 2) for name in CASES), OWN.split()]
    (folder / "trainings.json").write_text(json.dumps(trainings))
    (folder / "said.txt").write_text(launched(folder, WORKER))
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(place, monkeypatch, name):
    monkeypatch.chdir(place)
    assert main(words_of(name, 1)) == 0
    one, two = (pd.read_csv(place / f"{name} {number}" / "log.csv") for number in (1, 2))
    assert two["loss"].tolist() == pytest.approx(one["loss"].tolist(), abs=1e-6)
    assert one["loss"].nunique() > 1
    assert (place / f"{name} 2" / "checkpoint-4" / "whole.json").is_file()


def test_two_processes_speak_once(place):
    said = (place / "said.txt").read_text()
    assert said.count("the loss went from") == said.count("written: ") == len(CASES) + 1


def test_every_process_has_responses_of_its_own(place):
    log = pd.read_csv(place / "own" / "log.csv")
    assert len(log) == 4 and log["loss"].notna().all() and log["reward"].notna().sum() == 2
    one, two = (
        torch.load(place / "own" / "checkpoint-3" / f"responses-{process}.pt")[0]
        for process in (0, 1)
    )
    assert one["numbers"].tolist() != two["numbers"].tolist()  # other prompts
    texts = [{tuple(row) for row in batch["input_ids"].tolist()} for batch in (one, two)]
    assert texts[0] != texts[1]


def test_a_sharded_model_learns_the_same(place, monkeypatch):
    # accelerate 1.15 passes over ACCELERATE_USE_FSDP where there is only a CPU, and takes DDP: so
    # the trainer cannot be sharded here, but the model that it scores can.
    monkeypatch.chdir(place)
    found = json.loads(launched(place, SHARDED).splitlines()[-1])
    alone = descended(load("model")[0], 0, 1)
    assert len(found) == 4 and alone[2] < alone[0] - 0.01
    for losses in found.values():
        assert losses == pytest.approx(alone, abs=1e-6)
