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


def test_numbers_are_means_over_rows_however_they_are_cut(train, tokenizer):
    from toyalign.llm.data import prepare

    whole, split = (
        train("dpo", per_device_train_batch_size=4 // parts, gradient_accumulation_steps=parts)
        for parts in (1, 2)
    )
    for one, other in zip(whole.state.log_history[:4], split.state.log_history[:4], strict=True):
        for name in (n for n in one if "/" in n or n == "entropy"):
            assert other[name] == pytest.approx(one[name], abs=2e-5), name
    held_out, _ = prepare(ROWS[:5], tokenizer, "pairs", max_length=32)
    found = []
    for size in (4, 5):  # 4 and 1 rows, or all five
        whole.args.per_device_eval_batch_size = size
        found.append(whole.evaluate(held_out, metric_key_prefix="test"))
    names = [name for name in found[0] if "/" in name]
    assert {"test_rewards/margins", "test_chosen/fell"} <= set(names)
    for name in ["test_loss", *names]:
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-5), name


def test_what_a_loss_asks_for_and_where_the_mass_goes(train):
    from toyalign.llm.batches import Collator
    from toyalign.llm.logged import Notes, measures
    from toyalign.llm.logprobs import score

    first = train("dpo", hyper={"beta": 0.3}).state.log_history[0]
    # At the start β·σ(0) per nat, up for the chosen and down for the rejected answer.
    assert first["coefficients/chosen"] == pytest.approx(0.15, abs=1e-6)
    assert first["coefficients/rejected"] == pytest.approx(-0.15, abs=1e-6)
    assert first["coefficients/largest"] == pytest.approx(0.15, abs=1e-6)
    trainer = train("dpo", max_steps=1)
    batch = Collator(2)([trainer.train_dataset[row] for row in range(4)])
    texts = (batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    entropy = score(trainer.model, *texts)[0].entropy
    found = trainer.evaluate(trainer.train_dataset[:4])
    assert found["eval_entropy"] == pytest.approx(
        float(entropy.sum() / texts[2][:, 1:].sum()), abs=1e-5
    )
    logs = {
        "chosen_logps": [0.2, 0.1], "ref_chosen_logps": [0.4, 0.9],
        "rejected_logps": [0.3, 0.1], "ref_rejected_logps": [0.2, 0.05],
    }  # fmt: skip
    tensors = {name: torch.tensor([values]).log() for name, values in logs.items()}
    said = measures(tensors, 1.0, torch.tensor([1.0, 0.0]))  # the second row does not count
    assert said["mass_to_neither"] == pytest.approx(0.4 + 0.2 - 0.2 - 0.3)
    assert said["rewards/chosen"] == pytest.approx(math.log(0.5)) and said["both/fell"] == 0
    notes = Notes()
    notes.add({"a": 1.0, "b/largest": 5.0}, 1.0)
    notes.add({"a": 4.0, "b/largest": 2.0}, 2.0)
    device = torch.device("cpu")
    assert notes.take("", lambda t: t, device) == {"a": 3.0, "b/largest": 5.0}
    assert notes.take("", lambda t: t, device) == {}


@pytest.mark.parametrize("kind", ["modules", "numbers"])
def test_dropout_is_off_wherever_a_model_keeps_it(train, kind):
    import transformers as t

    if kind == "modules":
        model = tiny("gpt2")  # dropout of .1 in three kinds of modules
    else:
        model = t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=48, hidden_size=16, ffn_dim=32, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=64, word_embed_proj_dim=16,
                dropout=0.3, attention_dropout=0.3, layerdrop=0.3, pad_token_id=2,
            )
        )  # fmt: skip
    trainer = train("dpo", model=model, max_steps=1)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7) and first["chosen/fell"] == 0


def test_an_adapter_that_trains_the_model_itself_is_no_reference(train):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], r=2, bias="all", task_type="CAUSAL_LM")
    biased = tiny("qwen2")  # its projections have biases
    with pytest.raises(ToyalignError, match="is trained and belongs to no adapter"):
        train("dpo", model=get_peft_model(biased, config))


def test_a_second_adapter_goes_on_from_the_first(train, tokenizer, tmp_path):
    from toyalign.llm.loading import load

    tiny().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model, _ = load(str(tmp_path / "base"), rank=2)
    trained = train("dpo", model=model, learning_rate=0.1)
    trained.save_model(str(tmp_path / "first"))
    tokenizer.save_pretrained(tmp_path / "first")
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        known = trained.model(input_ids=ids).logits
        plain = tiny()(input_ids=ids).logits
        for rank in (None, 2):
            again, _ = load(str(tmp_path / "first"), rank=rank)
            torch.testing.assert_close(again(input_ids=ids).logits, known, atol=1e-5, rtol=0)
            assert any(parameter.requires_grad for parameter in again.parameters())
    assert not torch.allclose(known, plain, atol=1e-3)


def test_weights_are_trained_in_single_precision(tokenizer, tmp_path):
    from toyalign.llm.loading import load

    tiny(dtype=torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert next(load(str(tmp_path))[0].parameters()).dtype == torch.float32
    kept = {p.dtype for p in load(str(tmp_path), rank=2)[0].parameters() if not p.requires_grad}
    assert kept == {torch.bfloat16}


def test_rows_to_train_on_are_not_those_to_look_at(train, tokenizer, tmp_path):
    from transformers import TrainingArguments

    from toyalign.llm.data import prepare

    held_out, _ = prepare(ROWS[:4], tokenizer, "pairs")
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(ToyalignError, match="there are no rows to train on"):
        AlignmentTrainer(
            tiny(), "dpo", args=arguments, train_dataset=[], eval_dataset=held_out,
            processing_class=tokenizer,
        )  # fmt: skip
    trainer = train("dpo", max_steps=1, eval_dataset={"one": held_out, "two": held_out[:2]})
    assert {"eval_one_loss", "eval_two_loss"} <= set(trainer.evaluate())
    with pytest.raises(ToyalignError, match="simpo compares with no reference: there is none to"):
        train("simpo", precompute=tmp_path / "scores.pt")


def test_weights_that_are_no_numbers_are_no_checkpoint(train, tmp_path):
    def steep(chosen_logps, rejected_logps):
        return ((rejected_logps - chosen_logps) * 0).sqrt()  # 0 with a gradient of 0/0

    for settings in ({"save_strategy": "steps", "save_steps": 1}, {}):
        folder = tmp_path / str(len(settings))
        with pytest.raises(ToyalignError, match="is not finite after step 1"):
            train(steep, max_steps=1, logging_steps=10, output_dir=folder, **settings)
        assert not list(folder.rglob("whole.json"))


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
@pytest.mark.parametrize("model", [tiny, adapted])
@pytest.mark.parametrize("mode", ["plain", "precomputed", "accumulated"])
def test_the_losses_are_trls(train, tokenizer, tmp_path, model, mode, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = 2 if mode == "accumulated" else 1
    size = {"per_device_train_batch_size": 4 // parts, "gradient_accumulation_steps": parts}
    arguments = trl.DPOConfig(
        str(tmp_path / "trl"), max_steps=4, learning_rate=1e-2, logging_steps=1, report_to=[],
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, lr_scheduler_type="constant", max_length=32,
        precompute_ref_log_probs=mode == "precomputed", **size,
    )  # fmt: skip
    theirs = trl.DPOTrainer(
        model=model(), ref_model=tiny() if model is tiny else None, args=arguments,
        train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer,
    )  # fmt: skip
    theirs.train()
    own = {"precompute": tmp_path / "scores.pt"} if mode == "precomputed" else {}
    ours = train("dpo", model=model(), **own, **size)
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6) and len(losses(ours)) == 4


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
