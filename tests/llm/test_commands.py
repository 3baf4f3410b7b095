"""`toyalign train`, `audit` and `diagnose`, as a user runs them."""

import json

import pandas as pd
import pytest
from conftest import ROWS, tiny

from toyalign.cli import main


@pytest.fixture
def place(tmp_path, tokenizer, monkeypatch):
    """A folder with a model, its tokenizer and a file of pairs."""
    monkeypatch.chdir(tmp_path)
    tiny().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    return tmp_path


def trained(*words, output="run"):
    base = ["--model", "model", "--data", "pairs.jsonl", "--output", output, "--lr", "0.01"]
    return main(["train", *words, *base, "--batch", "4", "--steps", "3", "--max-length", "32"])


@pytest.fixture
def failed(capsys):
    def run(*words):
        assert main([*map(str, words)]) == 2
        said = capsys.readouterr().err.splitlines()
        return said[-1]

    return run


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_train_says_what_it_will_do_and_what_came_out(place, capsys):
    assert trained("dpop", "--beta", "0.2") == 0
    said = capsys.readouterr().out
    assert "dpop beta=0.2 lam=50.0: 16 rows of pairs; the reference is a frozen copy" in said
    assert "dpop: the loss went from 0.693 to " in said
    table = pd.read_csv(place / "run" / "log.csv")
    assert len(table) == 3 and table["loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert (place / "run" / "chosen.svg").stat().st_size > 5000
    from transformers import AutoModelForCausalLM

    moved = AutoModelForCausalLM.from_pretrained(place / "run" / "model")
    assert (moved.lm_head.weight != tiny().lm_head.weight).any()


def test_train_with_a_users_loss_an_adapter_and_accumulation(place, capsys):
    (place / "own.py").write_text(
        "def own(chosen_logps, rejected_logps, *, gap=1.0):\n"
        "    return (gap - chosen_logps + rejected_logps).clamp(min=0)\n"
    )
    assert trained("own.py:own", "--gap", "50", "--lora", "2", "--accumulate", "2") == 0
    said = capsys.readouterr().out
    assert "own gap=50.0: 16 rows of pairs; no reference" in said
    assert (place / "run" / "model" / "adapter_model.safetensors").is_file()


def test_train_resumes(place, capsys):
    assert trained("dpo", "--save-every", "2") == 0
    assert trained("dpo", "--save-every", "2", "--resume") == 0
    assert (place / "run" / "checkpoint-2").is_dir()


def test_audit_counts_and_scores(place, capsys):
    rows = [
        ROWS[0],
        ROWS[0],
        {**ROWS[0], "chosen": ROWS[0]["rejected"], "rejected": ROWS[0]["chosen"]},
    ]
    (place / "few.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, ROWS[1]]))
    words = ["audit", "few.jsonl", "--tokenizer", "model", "--max-length", "32"]
    assert main([*words, "--model", "--csv", "rows.csv"]) == 0
    said = capsys.readouterr().out
    assert "4 pairs" in said and "2 rows occur more than once" in said
    assert "3 rows contradict another (rows 1, 2, 3)" in said
    table = pd.read_csv(place / "rows.csv")
    # c d 0 e f </s> against c d 3 g </s>: one replaced, one dropped and one replaced of six
    assert table["edit_distance"][0] == pytest.approx(3 / 6)
    assert table["gap"][0] == pytest.approx(-table["gap"][2], abs=1e-5)
    assert main(words) == 0
    assert "most at risk" not in capsys.readouterr().out


def test_the_predicted_sign_is_that_of_a_step(place, tokenizer):
    # Steps of SGD on a pair's own margin move its chosen answer by slope · ‖g_w‖² · step; a
    # central difference, since the norms compute in single precision whatever the model's type.
    import torch

    from toyalign.llm.audit import audit
    from toyalign.llm.batches import Collator
    from toyalign.llm.data import prepare
    from toyalign.llm.logprobs import score

    alike = {"prompt": "a", "chosen": " b c d e f g", "rejected": " h c d e f g"}
    examples, _ = prepare([alike, ROWS[0]], tokenizer, "pairs")
    for example in examples:
        model = tiny().double()
        slope = audit([example], model, pad=2).slope[0]
        batch = Collator(pad=2)([example])
        names = ("input_ids", "attention_mask", "completion_mask")
        logps = score(model, *(batch[n] for n in names))[0].logps.sum(-1)
        up = torch.autograd.grad(logps[0], model.parameters(), retain_graph=True)
        push = torch.autograd.grad(logps[0] - logps[1], model.parameters())
        ends = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                for parameter, direction in zip(model.parameters(), push, strict=True):
                    parameter += step * direction
                found = score(model, *(batch[n] for n in names))[0]
            ends.append(found.logps[0].sum().item())
        size = sum(g.square().sum() for g in up)
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx((slope * size).item(), rel=0.01)


def test_diagnose_reads_our_run_and_trls(place, capsys):
    assert trained("dpo", "--save-every", "3") == 0
    capsys.readouterr()
    assert main(["diagnose", "run", "--plot", "story.svg"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("dpo: the loss went from 0.693") and (place / "story.svg").is_file()
    (place / "run" / "log.csv").unlink()  # as a run of TRL, which leaves its state alone
    assert main(["diagnose", "run"]) == 0
    assert "the loss went from 0.693" in capsys.readouterr().out


def test_diagnose_sees_a_fall_and_a_loss_that_is_added_up(place, capsys):
    log = [
        {"step": s, "loss": 6 * 0.693147 - s, "rewards/chosen": -0.1 * s, "logps/chosen": -9 - s,
         "rewards/margins": 0.1 * s, "both/fell": 1.0}
        for s in range(3)
    ]  # fmt: skip
    (place / "theirs").mkdir()
    (place / "theirs" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert main(["diagnose", "theirs"]) == 0
    said = capsys.readouterr().out
    assert "below the reference since step 1" in said and "6 times ln 2" in said
    log[0]["rewards/margins"] = 0.5
    (place / "theirs" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert main(["diagnose", "theirs"]) == 0
    assert "the first margin is 0.5 and not 0" in capsys.readouterr().out


def test_every_mistake_is_one_line(place, failed):
    base = ["--model", "model", "--data", "pairs.jsonl"]
    assert "unknown objective 'dpoo'; did you mean 'dpo'" in failed("train", "dpoo", *base)
    assert "one objective comes first" in failed("train", *base)
    assert "cannot load 'nowhere'" in failed(
        "train", "dpo", "--model", "./nowhere", "--data", "pairs.jsonl"
    ).replace("./", "")
    assert "there is no data file 'no.jsonl'" in failed(
        "train", "dpo", "--model", "model", "--data", "no.jsonl"
    )
    assert "reinforce learns from the policy's own responses: it needs a reward" in failed("train", "reinforce", *base)
    assert "--batch must be at least 1" in failed("train", "dpo", *base, "--batch", 0)
    assert "does not divide the 8 rows" in failed("train", "dpo", *base, "--accumulate", 3)
    assert "--beta takes one value here" in failed("train", "dpo", *base, "--beta", 0.1, 0.2)
    assert "there is no checkpoint in run" in failed("train", "dpo", *base, "--resume")
    (place / "run").mkdir(exist_ok=True)
    (place / "run" / "x").write_text("x")
    assert "run is not empty: name another --output, or --resume" in failed("train", "dpo", *base)
    assert "there is no folder 'no'" in failed("diagnose", "no")
    assert "has no log.csv and no trainer_state.json" in failed("diagnose", "run")
    assert "--tokenizer is missing" in failed("audit", "pairs.jsonl")
    assert "there is no data file 'no.jsonl'" in failed("audit", "no.jsonl", "--tokenizer", "model")
    assert not (place / "run" / "model").exists()
