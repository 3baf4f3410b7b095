"""Responses of the policy itself: drawn as they are scored, judged, used again, resumed."""

import math
from collections import Counter

import pytest
import torch
from conftest import ROWS, losses, tiny

from toyalign.errors import ToyalignError
from toyalign.llm.data import Example, prepare
from toyalign.llm.online import OnPolicy, collect, graded, graded_rows, judged
from toyalign.llm.rewards import load_reward
from toyalign.llm.writing import left_padded, write
from toyalign.objectives import get_objective

PROMPTS = [{"prompt": row["prompt"], "answer": row["chosen"].split()[0]} for row in ROWS]
END = 2


def first_is_low(completions):
    """Half of all tokens earn something, so that rewards differ within a group."""
    return [float(len(set(text.split()) & set("abcdefghij"))) for text in completions]


def on_policy(**given):
    settings = {"reward": first_is_low, "responses": 4, "max_new_tokens": 5, **given}
    return OnPolicy(**settings)


@pytest.fixture
def improve(train):
    """Train a tiny model on its own responses."""

    def run(objective="rloo", given=None, **more):
        own = on_policy(**(given or {}))
        return train(objective, rows=PROMPTS, kind="prompts", on_policy=own, **more)

    return run


def test_responses_are_drawn_from_the_distribution_that_scores_them():
    model = tiny()
    model.generation_config.top_p = 0.1  # settings of the model's own must not matter
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.suppress_tokens = [7, 8]
    model.generation_config.min_new_tokens = 1
    torch.manual_seed(0)
    short, long = (1, 5, 6), (7, 9, 4, 4)
    count = 20_000
    drawn = write(model, [short, long], eos=END, responses=count, max_new_tokens=1)
    for prompt, texts in zip((short, long), drawn, strict=True):
        with torch.no_grad():
            known = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        seen = Counter(text[0] for text in texts)
        shares = torch.tensor([seen[token] for token in range(48)]) / count
        # 96 comparisons: a z-score above 4.5 has a chance of 6e-4 for the whole test.
        assert ((shares - known).abs() / (known * (1 - known) / count).sqrt()).max() < 4.5


def test_padding_does_not_change_what_is_written_and_a_response_ends():
    model = tiny()
    alone = write(model, [(7,)], eos=END, temperature=0, max_new_tokens=8)
    beside = write(model, [(1, 5, 6, 9), (7,)], eos=END, temperature=0, max_new_tokens=8)
    assert beside[1] == alone[0]
    with torch.no_grad():  # an end that is nearly certain
        model.lm_head.weight.zero_()
        model.model.norm.weight.fill_(1)
    torch.manual_seed(0)
    written = write(model, [(1, 5)], eos=END, responses=200, max_new_tokens=30)[0]
    assert all(END not in text[:-1] for text in written)
    assert {text[-1] == END for text in written} == {True, False}  # some are cut off
    assert all(len(text) == 30 for text in written if text[-1] != END)
    ids, attention = left_padded([(5,), (6, 7)], END)
    assert ids.tolist() == [[END, 5], [6, 7]] and attention.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ToyalignError, match="do not fit into the model's 64 positions"):
        write(model, [(1,) * 60], eos=END, max_new_tokens=5)
    with pytest.raises(ToyalignError, match="responses=0 and max_new_tokens=64 must be"):
        write(model, [(1,)], eos=END, responses=0)
    with pytest.raises(ToyalignError, match="temperature must be 0 or more, not -1"):
        write(model, [(1,)], eos=END, temperature=-1)


def test_rewards_become_advantages_as_in_the_toy():
    rewards = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    found = {
        name: graded(rewards, get_objective(name)) for name in ("rloo", "grpo", "dr_grpo", "awr")
    }
    # R − mean of the others; with a group of two, twice what is above the mean
    assert found["rloo"]["advantages"].tolist() == [-2.0, 2.0, 0.0, 0.0]
    assert found["dr_grpo"]["advantages"].tolist() == [-1.0, 1.0, 0.0, 0.0]
    # the sample's standard deviation of 1 and 3 is √2
    share = 1 / (math.sqrt(2) + 1e-4)
    assert found["grpo"]["advantages"].tolist() == pytest.approx([-share, share, 0, 0])
    assert found["awr"]["advantages"].tolist() == [-2.0, 2.0, 0.0, 0.0]  # nobody knows E[R] here
    best = graded(rewards, get_objective("best_of_n"))
    assert best["best_weights"].tolist() == [0.0, 2.0, 1.0, 1.0] and "advantages" not in best


def test_rows_that_came_with_rewards_are_compared_within_their_prompt(tokenizer):
    rows = [
        {"prompt": prompt, "completion": f" {word}", "reward": reward}
        for prompt, word, reward in (("a", "c", 1), ("b", "c", 5), ("a", "d", 3), ("b", "d", 5))
    ]
    examples, _ = prepare(rows, tokenizer, "samples")
    found = graded_rows(examples, get_objective("best_of_n"))
    assert [e.values["best_weights"] for e in found] == [0.0, 1.0, 2.0, 1.0]
    assert [e.values["rewards"] for e in found] == [1.0, 5.0, 3.0, 5.0]


@pytest.mark.parametrize("kind", ["pairs", "labelled", "demonstrations"])
def test_responses_become_the_rows_that_a_loss_asks_for(tokenizer, kind):
    name = {"pairs": "online_dpo", "labelled": "kto", "demonstrations": "sft"}[kind]
    examples, _ = prepare(PROMPTS[:2], tokenizer, "prompts")
    rewards = iter([3.0, 1.0, 2.0, 5.0, 5.0, 4.0])
    own = on_policy(responses=3, reward=lambda completions: [next(rewards) for _ in completions])
    batch, said = collect(tiny(), examples, get_objective(name), own, tokenizer, 0)
    assert batch["input_ids"].shape[0] == 6  # every response is scored once
    # Texts 0 1 2 have rewards 3 1 2, texts 3 4 5 have 5 5 4; a tie teaches nothing.
    pairs = [(0, 1), (0, 2), (2, 1), None, (3, 5), (4, 5)]
    weights = [float(pair is not None) for pair in pairs]
    sides = batch["sides"].tolist()
    if kind == "labelled":
        halves = len(pairs)
        assert batch["data"]["labels"].tolist() == [1.0] * halves + [0.0] * halves
        assert batch["weights"].tolist() == weights * 2
        sides = [sides[0][:halves], sides[0][halves:]]
    else:
        assert batch["weights"].tolist() == weights
    expected = zip(*(pair or (3, 4) for pair in pairs), strict=True)
    for side, places in zip(sides, expected, strict=False):
        assert [p for p, w in zip(side, weights, strict=True) if w] == [
            p for p, w in zip(places, weights, strict=True) if w
        ]
    assert said["reward"] == pytest.approx(20 / 6)
    assert said["frac_reward_zero_std"] == 0


def test_a_gap_and_a_coin_decide_about_pairs(tokenizer):
    examples, _ = prepare(PROMPTS[:1], tokenizer, "prompts")

    def pairs(seed=0, **given):
        own = on_policy(responses=2, reward=lambda completions: [0.0, 1.0], **given)
        return collect(tiny(), examples, get_objective("online_dpo"), own, tokenizer, seed)[0]

    assert pairs(min_gap=2.0)["weights"].tolist() == [0.0]
    assert pairs()["sides"].tolist() == [[1], [0]]
    won = sum(pairs(s, labels="bradley_terry")["sides"][0].item() for s in range(400)) / 400
    # σ(1) = .731; four standard errors of 400 draws are .089
    assert won == pytest.approx(1 / (1 + math.exp(-1)), abs=0.089)


def test_reinforce_raises_the_reward(improve):
    trainer = improve(
        "rloo", max_steps=60, learning_rate=1e-2, given={"responses": 8},
        per_device_train_batch_size=8,
    )  # fmt: skip
    rewards = [e["reward"] for e in trainer.state.log_history if "reward" in e]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > first + 1  # of at most five


@pytest.mark.parametrize(
    "objective",
    ["reinforce", "reinforce_kl", "best_of_n", "rwr", "ppo_clip", "grpo", "dr_grpo", "dapo",
     "cispo", "online_dpo", "online_ipo", "dpop", "kto", "bco_unpaired", "sft"],
)  # fmt: skip
def test_every_loss_that_may_learn_from_the_policy_does(improve, objective):
    trainer = improve(objective, max_steps=2)
    found = [e for e in trainer.state.log_history if "loss" in e]
    assert len(found) == 2 and all(math.isfinite(e["loss"]) for e in found)
    assert any(e["grad_norm"] > 0 for e in found)
    assert {"reward", "reward_std", "completions/mean_length"} <= set(found[0])


def test_accumulation_leaves_the_policy_gradient_what_it_is(improve):
    # With a loss per token, micro-batches of unequal length must share one count of tokens.
    class Fixed:
        """The same responses however the prompts are cut into parts."""

        def __call__(self, model, prompts, card, settings, tokenizer, seed):
            rows = [
                Example(p.prompt, ((3 + p.number % 5, *(7,) * (p.number % 3), END),), number=9)
                for p in prompts
                for _ in range(2)
            ]
            from toyalign.llm.batches import Collator

            batch = Collator(END)(rows)
            batch["data"] = {"advantages": torch.tensor([1.0, -0.5] * len(prompts))}
            return batch, {"reward": 0.0, "frac_reward_zero_std": 0.0}

    import toyalign.llm.own as own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "collect", Fixed())
        whole = improve("dapo", per_device_train_batch_size=4)
        split = improve("dapo", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(split) == pytest.approx(losses(whole), abs=2e-6)


def test_responses_are_used_again_and_the_ratio_knows_who_wrote_them(improve, monkeypatch):
    import toyalign.llm.own as own

    written, real = [], own.collect
    monkeypatch.setattr(own, "collect", lambda *args: written.append(1) or real(*args))
    trainer = improve("ppo_clip", given={"fresh_every": 3}, max_steps=7, learning_rate=3e-3)
    assert len(written) == 3  # at the steps 0, 3 and 6
    found = [e for e in trainer.state.log_history if "loss" in e]
    assert ["reward" in e for e in found] == [True, False, False, True, False, False, True]
    # Where ρ = 1 the loss is the mean of −A over tokens; the same responses a step later pay less.
    assert found[1]["loss"] < found[0]["loss"]


def test_killed_between_two_uses_and_resumed_is_the_same(improve, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
    given = {"fresh_every": 3}
    whole = improve("grpo", given, output_dir=tmp_path / "whole", max_steps=6, **settings)
    improve("grpo", given, output_dir=tmp_path / "half", max_steps=6, **settings)
    checkpoint = tmp_path / "half" / "checkpoint-2"  # its responses are to be used once more
    again = improve(
        "grpo", given, output_dir=tmp_path / "half", max_steps=6, resume=checkpoint, **settings
    )
    for one, other in zip(
        whole.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    (checkpoint / "responses-0.pt").unlink()
    with pytest.raises(ToyalignError, match="has no responses of the policy to go on with"):
        improve("grpo", given, output_dir=tmp_path / "half", resume=str(checkpoint), **settings)


def test_evaluation_writes_responses_to_its_own_prompts(improve, tokenizer):
    held_out, _ = prepare([{"prompt": "r q"}, {"prompt": "p o"}], tokenizer, "prompts")
    seen = []

    def reward(prompts, completions):
        seen.append(set(prompts))
        return first_is_low(completions)

    trainer = improve("grpo", {"reward": reward}, eval_dataset=held_out, max_steps=1)
    seen.clear()
    found = trainer.evaluate()
    assert set.union(*seen) == {"r q", "p o"}
    assert 0 <= found["eval_reward"] <= 5 and math.isfinite(found["eval_loss"])


def test_prompts_are_those_of_the_row_whatever_its_number(train, tokenizer):
    sets = [prepare([{"prompt": word}], tokenizer, "prompts")[0] for word in ("a", "b", "c")]
    assert {example.number for rows in sets for example in rows} == {1}
    seen = []

    def reward(prompts, completions):
        seen.append(set(prompts))
        return first_is_low(completions)

    from toyalign.llm.trainer import AlignmentTrainer

    trainer = train("rloo", rows=PROMPTS, kind="prompts", on_policy=on_policy(reward=reward),
                    max_steps=1)  # fmt: skip
    assert isinstance(trainer, AlignmentTrainer)
    trainer.train_dataset = [*sets[0], *sets[1]]
    seen.clear()
    trainer.train()
    trainer.evaluate(sets[2])
    assert set.union(*seen) == {"a", "b", "c"} and seen[-1] == {"c"}


def test_what_others_draw_does_not_change_the_responses(tokenizer):
    examples, _ = prepare(PROMPTS[:2], tokenizer, "prompts")
    card, own, model = get_objective("rloo"), on_policy(), tiny()

    def texts(seed):
        return collect(model, examples, card, own, tokenizer, seed)[0]["input_ids"]

    first = texts(3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(texts(3), first) and torch.equal(torch.get_rng_state(), before)
    other = texts(4)
    assert other.shape != first.shape or not torch.equal(other, first)


def answered(completions, answer):
    return [float(text.startswith(known)) for text, known in zip(completions, answer, strict=True)]


def test_a_reward_gets_the_columns_that_it_names(tokenizer):
    examples, _ = prepare(PROMPTS[:2], tokenizer, "prompts")
    written = [[(5, END), (6, END)], [(5, END), (5, END)]]
    text = tokenizer.decode([5])
    answers = [dict(e.columns) for e in examples]
    found = judged(answered, examples, written, tokenizer)
    assert found.tolist() == [
        [float(tokenizer.decode([token]).startswith(row["answer"])) for token in (5, second)]
        for row, second in zip(answers, (6, 5), strict=True)
    ]
    everything = {}

    def greedy(**given):
        everything.update(given)
        return [0] * 4

    judged(greedy, examples, written, tokenizer)
    assert set(everything) == {"prompts", "completions", "answer"}
    assert everything["completions"][0] == text and len(everything["answer"]) == 4


def bad_rewards():
    def strict(completions, solution):
        return solution

    def fails(completions):
        return 1 / 0

    return {
        "the reward strict asks for 'solution'.* Known: answer, completions, prompts": strict,
        "reward fails raised ZeroDivisionError: division by zero": fails,
        "reward few returned 1 numbers for 4 completions": _named("few", [0.0]),
        "reward infinite is inf for the completion": _named("infinite", [0, 0, math.inf, 0]),
        "reward undefined is nan for the completion '.*' of the prompt 'a b 0'": _named(
            "undefined", [math.nan, 0, 0, 0]
        ),
        "reward words must return numbers, not .'good'": _named("words", ["good"] * 4),
        "reward nothing must return numbers, not None": _named("nothing", None),
    }


def _named(name, value):
    def reward(completions):
        return value

    reward.__name__ = name
    return reward


@pytest.mark.parametrize("message", bad_rewards())
def test_what_a_reward_does_wrong_is_said(tokenizer, message):
    examples, _ = prepare(PROMPTS[:2], tokenizer, "prompts")
    written = [[(5, END), (6, END)], [(5, END), (5, END)]]
    with pytest.raises(ToyalignError, match=message):
        judged(bad_rewards()[message], examples, written, tokenizer)


def test_a_reward_model_reads_prompt_and_completion(tokenizer, tmp_path):
    import transformers as t

    config = t.LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=END,
    )  # fmt: skip
    torch.manual_seed(0)
    model = t.LlamaForSequenceClassification(config).eval()
    for name, labels in (("one", 1), ("two", 2)):
        model.config.num_labels = labels
        if labels == 2:
            model.score = torch.nn.Linear(16, 2, bias=False)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    reward = load_reward(str(tmp_path / "one"))
    found = reward(prompts=["a b", "a"], completions=[" c", " d e f"])
    for text, value in zip(["a b c", "a d e f"], found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert reward.model(ids).logits.item() == pytest.approx(value, abs=1e-6)
    with pytest.raises(ToyalignError, match=r"gives one number, and .*two' gives 2"):
        load_reward(str(tmp_path / "two"))
    with pytest.raises(ToyalignError, match="cannot load '/no/such'"):
        load_reward("/no/such")


def test_what_cannot_be_is_refused(improve, train, tokenizer):
    with pytest.raises(ToyalignError, match="ift does not learn from the policy's own responses"):
        improve("ift")
    with pytest.raises(ToyalignError, match="forward_kl learns from whole next-action"):
        improve("forward_kl")
    with pytest.raises(ToyalignError, match="pairs need at least 2 responses per prompt, not 1"):
        improve("online_dpo", {"responses": 1})
    with pytest.raises(ToyalignError, match="one response has nothing to be compared with"):
        improve("reinforce", {"responses": 1})
    raw = improve("reinforce", {"responses": 1, "advantage": "raw"}, max_steps=1)
    assert raw.state.log_history[0]["grad_norm"] > 0
    with pytest.raises(ToyalignError, match="these rows have responses: prepare them with kind"):
        train("rloo", on_policy=on_policy())
    with pytest.raises(ToyalignError, match=r"xpo needs logps \(log-probability of the response"):
        improve("xpo")
    with pytest.raises(ToyalignError, match="infonca needs chosen_rewards"):
        train("infonca")
    with pytest.raises(ToyalignError, match="cannot be scored before they are written"):
        improve("grpo", precompute="scores.pt")
    with pytest.raises(ToyalignError, match="fresh_every must be at least 1, not 0"):
        on_policy(fresh_every=0)
    with pytest.raises(ToyalignError, match="unknown advantage 'rlo'; did you mean 'rloo'"):
        on_policy(advantage="rlo")
    with pytest.raises(ToyalignError, match="unknown labels 'rewards'; did you mean 'reward'"):
        on_policy(labels="rewards")
    with pytest.raises(ToyalignError, match="min_gap must be 0 or more, not -1"):
        on_policy(min_gap=-1)
