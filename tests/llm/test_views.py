"""Second looks at a row: the residual view, the quality prompt, responses to other prompts."""

import pytest
import torch
from conftest import ROWS, losses, tiny
from test_trainer import adapted

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Collator, with_others
from toyalign.llm.data import prepare
from toyalign.llm.logprobs import score
from toyalign.llm.scorer import Scorer
from toyalign.llm.views import mixed, own_tokens
from toyalign.objectives import get_objective
from toyalign.views import Residual

SHOWN = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
PLAIN = {"propagation": "none"}


def batch_of(tokenizer, rows=SHOWN, kind="demonstrations", **given):
    examples, _ = prepare(rows[:4], tokenizer, kind, **given)
    return Collator(2)(examples)


# --- the residual view


def test_the_policys_own_tokens_are_its_most_likely_ones(tokenizer):
    model, batch = tiny(), batch_of(tokenizer)
    own = own_tokens(model, batch, "greedy", chunk=3)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    inside = batch["completion_mask"].bool()
    assert torch.equal(own[:, 1:][inside[:, 1:]], logits[:, :-1].argmax(-1)[inside[:, 1:]])
    assert torch.equal(own[~inside], batch["input_ids"][~inside])
    torch.manual_seed(0)
    drawn = torch.stack([own_tokens(model, batch, "sampled", chunk=3) for _ in range(500)])
    row, place = 0, int(inside[0].nonzero()[0])
    shares = torch.bincount(drawn[:, row, place], minlength=48) / 500
    known = logits[row, place - 1].softmax(-1)
    # 48 comparisons: a z-score above 4.5 has a chance of 3e-4.
    assert ((shares - known).abs() / (known * (1 - known) / 500).sqrt()).max() < 4.5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_model_reads_the_mixture_and_only_in_the_answer(tokenizer, kind):
    model, batch = tiny(kind).eval(), batch_of(tokenizer)
    ids, attention, inside = (batch[n] for n in ("input_ids", "attention_mask", "completion_mask"))
    view = Residual(0.3)
    with mixed(model, batch, view, 0, 1024):
        found = score(model, ids, attention, inside)[0].logps
    table = model.get_input_embeddings()
    own = own_tokens(model, batch, "greedy", 1024)
    share = 0.3 * inside.unsqueeze(-1)
    inputs = (1 - share) * table(ids) + share * table(own)
    logits = model(inputs_embeds=inputs, attention_mask=attention).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected * inside[:, 1:], atol=1e-5, rtol=0)
    after = score(model, ids, attention, inside)[0].logps
    assert not torch.allclose(after, found)  # the hook is gone


def test_no_gradient_goes_into_the_choice(tokenizer):
    model, batch = tiny(), batch_of(tokenizer)
    ids, attention, inside = (batch[n] for n in ("input_ids", "attention_mask", "completion_mask"))
    with mixed(model, batch, Residual(1.0), 0, 1024):
        score(model, ids, attention, inside)[0].logps.sum().backward()
    own = own_tokens(model, batch, "greedy", 1024)
    table = model.get_input_embeddings().weight.grad
    read = set(ids[inside == 0].tolist())  # prompts, and padding beyond the last target
    for token in set(own[inside.bool()].tolist()) - read:
        assert not table[token].any()


def test_without_a_share_ift_is_sft(train):
    # λ = 0 and no propagation: the same loss as SFT, the mean over the tokens of a response.
    more = {"rows": SHOWN, "kind": "demonstrations"}
    sft = losses(train("sft", **more))
    plain = losses(train("ift", view=Residual(0.0), hyper=PLAIN, **more))
    seen = losses(train("ift", view=Residual(0.4), hyper=PLAIN, **more))
    usual = losses(train("ift", hyper=PLAIN, **more))
    assert plain == pytest.approx(sft, abs=1e-6)
    assert seen[0] != pytest.approx(sft[0], abs=1e-4)
    assert usual == losses(train("ift", view=Residual(0.2), hyper=PLAIN, **more))
    grown = losses(train("ift", view=Residual(0.4, schedule="linear"), hyper=PLAIN, **more))
    assert grown[0] == pytest.approx(sft[0], abs=1e-6) and grown[-1] != pytest.approx(sft[-1])


@pytest.mark.parametrize("view", [Residual(0.3), Residual(0.3, schedule="noisy")])
def test_accumulation_does_not_change_the_view(train, view):
    more = {"rows": SHOWN, "kind": "demonstrations", "view": view}
    whole = train("ift", per_device_train_batch_size=4, **more)
    split = train("ift", per_device_train_batch_size=2, gradient_accumulation_steps=2, **more)
    assert losses(split) == pytest.approx(losses(whole), abs=2e-6)


def test_a_view_belongs_to_an_objective(train):
    with pytest.raises(ToyalignError, match="dpo has the plain view: leave view out, or take ift"):
        train("dpo", view=Residual(0.3))


# --- the quality prompt


def test_a_quality_prompt_comes_before_the_query(tokenizer):
    def prompts(row):
        (example,), _ = prepare([row], tokenizer, "pairs", quality="q r ")
        return [
            " ".join(tokenizer.convert_ids_to_tokens(ids))
            for ids in (example.prompt, example.behind)
        ]

    assert prompts({"prompt": "a b", "chosen": " c", "rejected": " d"}) == ["a b", "q r a b"]
    assert prompts({"chosen": "a b c", "rejected": "a b d"}) == ["a b", "q r a b"]
    asked = [{"role": "user", "content": "a"}]
    sides = {
        side: [{"role": "assistant", "content": word}]
        for side, word in (("chosen", "c"), ("rejected", "d"))
    }
    assert prompts({"prompt": asked, **sides}) == [
        "user a </s> assistant", "user q r a </s> assistant"
    ]  # fmt: skip
    assert asked == [{"role": "user", "content": "a"}]  # the row is as it was


def test_pairs_are_scored_behind_it_by_policy_and_reference(tokenizer):
    card = get_objective("sr_dpo")
    batch = batch_of(tokenizer, ROWS, "pairs", quality="q r ")
    scorer, policy = Scorer(card, None, 1024), tiny()
    scorer.reference = tiny(seed=1)
    tensors, _ = scorer.tensors(policy, batch)
    asked = [{**row, "prompt": f"q r {row['prompt']}"} for row in ROWS]
    plain = batch_of(tokenizer, asked, "pairs")
    for whose, model in (("", policy), ("ref_", tiny(seed=1))):
        known = score(model, plain["input_ids"], plain["attention_mask"], plain["completion_mask"])[
            0
        ].logps.sum(-1)
        for side, part in zip(("chosen", "rejected"), known.chunk(2), strict=True):
            found = tensors[f"{whose}prompted_{side}_logps"][0]
            torch.testing.assert_close(found, part, atol=1e-5, rtol=0)
            assert not found.requires_grad


def test_without_a_weight_sr_dpo_is_dpo(train):
    plain = losses(train("dpo"))
    found = losses(train("sr_dpo", quality="q r ", hyper={"lam": 0.0}))
    assert found == pytest.approx(plain, abs=1e-6)
    asked = losses(train("sr_dpo", quality="q r ", hyper={"lam": 1.0}))
    assert asked[0] == pytest.approx(plain[0], abs=1e-6)  # Δ is 0 where policy = reference
    assert asked[-1] != pytest.approx(plain[-1], abs=1e-5)
    with pytest.raises(ToyalignError, match="sr_dpo needs a quality prompt, to look at every pair"):
        train("sr_dpo")


# --- responses to other prompts


def test_others_are_the_next_rows_of_another_prompt(tokenizer):
    rows = [
        {"prompt": prompt, "completion": f" {word}", "label": True}
        for prompt, word in (("a", "c"), ("a", "d"), ("b", "e"))
    ]
    examples, _ = prepare(rows, tokenizer, "labelled")
    found = [tokenizer.decode(example.other[:1]) for example in with_others(examples)]
    assert found == ["e", "e", "c"]
    with pytest.raises(ToyalignError, match="responses to other prompts, and all rows have"):
        with_others(examples[:2])


@pytest.mark.parametrize("model", [tiny, adapted])
def test_ktos_estimate_is_of_all_rows_of_a_step(train, model):
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in ROWS[:8]
        for side in ("chosen", "rejected")
    ]
    for objective in ("kto", "bco_unpaired"):
        whole, split = (
            train(
                objective, model=model(), rows=rows, kind="labelled", learning_rate=3e-2,
                per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
            )
            for size in (4, 1)
        )  # fmt: skip
        assert losses(split) == pytest.approx(losses(whole), abs=2e-6)


def test_ktos_estimate_is_that_of_the_paper(tokenizer):
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in ROWS[:4]
    ]
    examples = with_others(prepare(rows, tokenizer, "labelled")[0])
    batch = Collator(2)(examples)
    scorer, policy = Scorer(get_objective("kto"), None, 1024), tiny()
    scorer.reference = tiny(seed=1)
    total, count = scorer.log_ratios("kl_estimate", policy, [batch, batch])
    swapped = [
        {"prompt": row["prompt"], "completion": rows[(place + 1) % 4]["completion"], "label": True}
        for place, row in enumerate(rows)
    ]
    other = batch_of(tokenizer, swapped, "labelled")
    texts = (other["input_ids"], other["attention_mask"], other["completion_mask"])
    known = sum(
        sign * score(model, *texts)[0].logps.sum()
        for sign, model in ((1, policy), (-1, tiny(seed=1)))
    )
    assert total.item() == pytest.approx(2 * known.item(), abs=1e-4) and count == 8
