"""The trainer: TRL's numbers, accumulation, references, adapters, resuming, and what it logs."""

import math

import pytest
import torch
from conftest import ROWS, losses, tiny

from toyalign.errors import ToyalignError
from toyalign.llm.trainer import AlignmentTrainer


def adapted(seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    made = get_peft_model(
        tiny(seed=seed), LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type="CAUSAL_LM")
    )
    return made


def test_the_first_loss_is_known_and_the_loss_falls(train):
    found = losses(train("dpo"))
    assert found[0] == pytest.approx(math.log(2), abs=1e-6) and found[-1] < found[0]


@pytest.mark.parametrize("objective", ["dpo", "sft", "kto", "minor_sft", "dft", "tdpo2"])
def test_accumulation_changes_nothing_but_rounding(train, objective):
    rows, kind = ROWS, "pairs"
    if objective not in ("dpo", "tdpo2"):
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in ROWS[:8]
            for side in ("chosen", "rejected")
        ]
        kind = "labelled" if objective == "kto" else "demonstrations"
    whole, split = (
        train(
            objective, rows=rows, kind=kind,
            per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
        )
        for size in (4, 2)
    )  # fmt: skip
    if objective == "kto":  # its estimate of the KL is the batch's
        assert losses(split)[0] == pytest.approx(losses(whole)[0], abs=1e-6)
        return
    assert losses(split) == pytest.approx(losses(whole), abs=2e-6)


def test_an_adapter_is_its_own_reference(train):
    trainer = train("dpo", model=adapted())
    assert trainer.scorer.reference is None
    copied = train("dpo", model=adapted(), reference=tiny())
    assert losses(trainer) == pytest.approx(losses(copied), abs=1e-6)
    assert losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_a_reference_that_is_another_model_is_reported(train):
    with pytest.warns(UserWarning, match=r"dpo starts at .*, but is 0\.693147 where policy ="):
        train("dpo", reference=tiny(seed=5), max_steps=1)


def test_a_users_own_loss_trains_and_one_that_reduces_is_refused(train, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from torch.nn.functional import logsigmoid\n"
        "def own(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps,\n"
        "        *, beta=0.1):\n"
        "    return -logsigmoid(beta * ((chosen_logps - ref_chosen_logps)\n"
        "                               - (rejected_logps - ref_rejected_logps)))\n"
        "def reduced(chosen_logps, rejected_logps):\n"
        "    return (rejected_logps - chosen_logps).mean()\n"
    )
    assert losses(train(f"{path}:own")) == losses(train("dpo"))
    with pytest.raises(ToyalignError, match="must return one value per row"):
        train(f"{path}:reduced", max_steps=1)


def test_what_is_logged(train):
    entries = [e for e in train("dpo", hyper={"beta": 0.5}).state.log_history if "loss" in e]
    first, last = entries[0], entries[-1]
    assert first["rewards/margins"] == 0 and first["both/fell"] == 0
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5
    )
    assert last["chosen/slope"] == pytest.approx(
        last["logps/chosen"] - entries[-2]["logps/chosen"], abs=1e-4
    )
    assert 0 < last["entropy"] < math.log(48)
    assert 0 <= last["rewards/accuracies"] <= 1


def test_evaluation_is_logged_under_its_own_names(train, tokenizer):
    from toyalign.llm.data import prepare

    held_out, _ = prepare(ROWS[:4], tokenizer, "pairs")
    trainer = train("dpo", eval_dataset=held_out)
    found = trainer.evaluate()
    entry = trainer.state.log_history[-1]
    assert found["eval_loss"] == pytest.approx(entry["eval_loss"])
    assert entry["eval_rewards/accuracies"] >= 0 and "rewards/accuracies" not in entry


def test_killed_and_resumed_is_the_same(train, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
    whole = train("dpo", output_dir=tmp_path / "whole", max_steps=6, **settings)
    train("dpo", output_dir=tmp_path / "half", max_steps=6, **settings)
    again = train(
        "dpo", output_dir=tmp_path / "half", max_steps=6,
        resume=str(tmp_path / "half" / "checkpoint-2"), **settings,
    )  # fmt: skip
    for one, other in zip(
        whole.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TRL's own
@pytest.mark.parametrize("mode", ["full", "adapter"])
def test_the_losses_are_trls(train, tokenizer, tmp_path, mode, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = trl.DPOConfig(
        str(tmp_path / "trl"), per_device_train_batch_size=4, max_steps=4, learning_rate=1e-2,
        logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, lr_scheduler_type="constant",
        max_length=32,
    )  # fmt: skip
    full = mode == "full"
    theirs = trl.DPOTrainer(
        model=tiny() if full else adapted(), ref_model=tiny() if full else None, args=arguments,
        train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer,
    )  # fmt: skip
    theirs.train()
    ours = train("dpo", model=tiny() if full else adapted())
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6)


def test_what_cannot_be_trained_is_refused(train, tokenizer, tmp_path):
    from transformers import TrainingArguments

    with pytest.raises(ToyalignError, match="unknown objective 'dpoo'; did you mean 'dpo'"):
        train("dpoo")
    with pytest.raises(ToyalignError, match="unknown hyperparameter of dpo 'bata'; did you mean"):
        train("dpo", hyper={"bata": 1})
    with pytest.raises(ToyalignError, match="reinforce learns from the policy's own responses"):
        train("reinforce")
    with pytest.raises(ToyalignError, match="dpo learns from pairs, with 2 response"):
        train("dpo", rows=[{"prompt": "a", "completion": " b"}], kind="demonstrations")
    arguments = TrainingArguments(str(tmp_path), report_to=[])
    with pytest.raises(ToyalignError, match="there are no rows to train on"):
        AlignmentTrainer(
            tiny(), "dpo", args=arguments, train_dataset=[], processing_class=tokenizer
        )
    with pytest.raises(ToyalignError, match="has no language-model head"):
        train("dpo", model=tiny().model)
