"""The reference scored beforehand: the same losses, a file that knows whose scores it holds."""

import pytest
import torch
from conftest import ROWS, losses, tiny
from test_trainer import adapted

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Collator
from toyalign.llm.data import prepare
from toyalign.llm.reference import of_data, of_tokenizer, of_weights, scored_beforehand
from toyalign.llm.watch import Watch, score_rows

LABELLED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in ROWS
    for side in ("chosen", "rejected")
]


@pytest.mark.parametrize("objective", ["dpo", "ld_dpo", "kto", "minor_sft", "sr_dpo"])
def test_the_losses_are_those_of_a_reference_in_memory(train, tmp_path, objective):
    more = {"quality": "q q "} if objective == "sr_dpo" else {}
    if objective in ("kto", "minor_sft"):
        kind = "labelled" if objective == "kto" else "demonstrations"
        more = {"rows": LABELLED, "kind": kind}
    path = tmp_path / "scores.pt"
    for model in (tiny, adapted):
        path.unlink(missing_ok=True)
        kept = train(objective, model=model(), **more)
        for _ in range(2):  # computed, then read
            scored = train(objective, model=model(), precompute=path, **more)
            assert scored.scorer.reference is None
            assert losses(scored) == pytest.approx(losses(kept), abs=1e-6)


def test_another_reference_may_be_scored(train, tmp_path):
    kept = losses(train("ipo", reference=tiny(seed=0), max_steps=2))
    scored = train("ipo", reference=tiny(seed=0), precompute=tmp_path / "s.pt", max_steps=2)
    assert losses(scored) == pytest.approx(kept, abs=1e-4)  # values of hundreds


def test_a_stale_file_is_refused_and_says_why(train, tmp_path, tokenizer):
    path = tmp_path / "scores.pt"
    train("dpo", precompute=path, max_steps=1)
    before = path.read_bytes()
    with pytest.raises(ToyalignError, match="holds the scores of a reference with other weights:"):
        train("dpo", model=tiny(seed=1), precompute=path)
    with pytest.raises(ToyalignError, match="a reference with other data: name another file, or"):
        train("dpo", rows=ROWS[:8], precompute=path)
    with pytest.raises(ToyalignError, match="with other weights and other data:"):
        train("dpo", model=tiny(seed=1), rows=ROWS[:8], precompute=path)
    assert path.read_bytes() == before
    path.write_bytes(b"nothing")
    with pytest.raises(ToyalignError, match="holds no scores of a reference"):
        train("dpo", precompute=path)
    examples, _ = prepare(ROWS[:2], tokenizer, "pairs")
    other = type(tokenizer).from_pretrained(_saved(tokenizer, tmp_path))
    scored_beforehand(examples, tiny(), tokenizer, tmp_path / "two.pt")
    other.add_tokens(["new"])
    with pytest.raises(ToyalignError, match="a reference with other tokenizer"):
        scored_beforehand(examples, tiny(), other, tmp_path / "two.pt")


def _saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_the_hashes_are_of_what_they_say(tokenizer):
    one, same, other = tiny(), tiny(), tiny(seed=1)
    assert of_weights(one) == of_weights(same) != of_weights(other)
    with torch.no_grad():
        same.lm_head.weight[0, 0] += 1e-3
    assert of_weights(one) != of_weights(same)
    model = adapted()
    before = of_weights(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 1
    assert of_weights(model) == before  # the reference is the model without its adapter
    examples, _ = prepare(ROWS, tokenizer, "pairs")
    assert of_data(examples) == of_data(list(examples)) != of_data(examples[1:])
    assert of_tokenizer(tokenizer) == of_tokenizer(tokenizer)


def test_rows_that_were_not_scored_cannot_be_evaluated(train, tokenizer, tmp_path):
    held_out, _ = prepare(ROWS[:4], tokenizer, "pairs", max_length=32)
    trainer = train("dpo", precompute=tmp_path / "s.pt", eval_dataset=held_out, max_steps=2)
    kept = train("dpo", eval_dataset=held_out, max_steps=2)
    found = trainer.evaluate()["eval_loss"]
    assert found == pytest.approx(kept.evaluate()["eval_loss"], abs=1e-6)
    assert (tmp_path / "s-eval.pt").is_file()
    with pytest.raises(ToyalignError, match="these rows were not among those that it scored"):
        trainer.evaluate(held_out)


def test_whole_distributions_are_too_large(train, tmp_path):
    with pytest.raises(ToyalignError, match="tdpo2 needs the reference's whole distributions"):
        train("tdpo2", precompute=tmp_path / "s.pt")


def test_scores_do_not_depend_on_the_batch_they_are_in(tokenizer):
    examples, _ = prepare([*ROWS, {**ROWS[0], "chosen": " c d e f g h i j"}], tokenizer, "pairs")
    model = tiny()
    model.train()
    alone, together = (score_rows(model, examples, 2, batch=batch) for batch in (1, 7))
    assert model.training
    for one, other, example in zip(alone, together, examples, strict=True):
        for side, response in enumerate(example.responses):
            assert len(one[side]) == len(response)
            torch.testing.assert_close(one[side], other[side], atol=1e-5, rtol=0)
    # A batch lays the scores out where the tokens are.
    scored = scored_like(examples[:3], alone)
    batch = Collator(2)(scored)
    mask = batch["completion_mask"][:, 1:].bool()
    flat = torch.cat([alone[row][side] for side in range(2) for row in range(3)])
    assert torch.equal(batch["ref_logps"][mask], flat)
    assert not batch["ref_logps"][~mask].any()


def scored_like(examples, rows):
    from dataclasses import replace

    return [replace(e, scores={"": row}) for e, row in zip(examples, rows, strict=False)]


def test_a_watch_looks_at_the_start_at_the_end_and_when_asked(train, tokenizer):
    unseen, _ = prepare([{"prompt": "r", "chosen": " c d", "rejected": " c e"}], tokenizer, "pairs")
    watch = Watch({"unseen": unseen}, pad=2, steps=[2])
    trainer = train("dpo", callbacks=[watch], max_steps=4)
    found = watch.found["unseen"]
    assert list(found) == [0, 2, 4]
    torch.testing.assert_close(found[0], score_rows(tiny(), unseen, 2))
    torch.testing.assert_close(found[4], score_rows(trainer.model, unseen, 2))
    assert not torch.equal(found[2][0][0], found[0][0][0])
