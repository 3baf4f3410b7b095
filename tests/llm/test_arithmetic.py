"""Chains of sums: right answers, near misses, writers who slip, and the folder of an example."""

import json

import numpy as np
import pytest

from toyalign.cli import main
from toyalign.errors import ToyalignError
from toyalign.llm import arithmetic
from toyalign.llm.arithmetic import chains, near_miss, pairs, tokenizer, untrained, written
from toyalign.similarity import edit_distance


def test_answers_are_right_and_prompts_differ():
    made = chains(500, sums=3, seed=1)
    assert len({prompt for prompt, _ in made}) == 500
    for prompt, answer in made:
        value, steps = int(prompt[0]), answer.split(";")
        assert prompt.endswith(":") and len(steps) == 3
        for place, step in enumerate(steps):
            sign, digit = prompt[1 + 2 * place], int(prompt[2 + 2 * place])
            after = {"+": value + digit, "-": value - digit, "*": value * digit}[sign] % 10
            assert step == f"{value}{sign}{digit}={after}"
            value = after
    assert chains(5, seed=1) == chains(5, seed=1) != chains(5, seed=2)
    assert len({prompt for prompt, _ in chains(300, sums=1)}) == 300  # all there are
    with pytest.raises(ToyalignError, match="there are 300 chains of 1 sums, not 301"):
        chains(301, sums=1)


def test_a_near_miss_has_as_many_other_digits_as_were_asked_for():
    answer = "3+5=8;8-9=9"
    for edits in (1, 3, 6):
        missed = near_miss(answer, edits, np.random.default_rng(edits))
        differing = [(a, b) for a, b in zip(answer, missed, strict=True) if a != b]
        assert len(differing) == edits and all(b.isdigit() for _, b in differing)
    row = pairs([("3+5-9:", answer)], edits=2)[0]
    assert edit_distance(tuple(row["chosen"]), tuple(row["rejected"])) == pytest.approx(2 / 11)
    with pytest.raises(ToyalignError, match="edits must be from 1 to the answer's 6 digits: 7"):
        near_miss(answer, 7, np.random.default_rng(0))


def test_half_of_the_writers_are_sloppy():
    made = chains(4000, sums=2)
    shares = [
        sum(a != b for a, b in zip(answer, row["completion"], strict=True) if a.isdigit()) / 6
        for (_, answer), row in zip(made, written(made), strict=True)
    ]
    # Six digits each: half slip in 40 % of them, half in .5 %; four standard errors are .015.
    assert np.mean(shares) == pytest.approx((0.4 + 0.005) / 2, abs=0.015)
    assert np.mean(np.array(shares) == 0) == pytest.approx((0.6**6 + 0.995**6) / 2, abs=0.035)


def test_every_letter_is_a_token_and_comes_back():
    reader, text = tokenizer(), "3+5=8;8-9=9"
    ids = reader(text)["input_ids"]
    assert len(ids) == len(text) and reader.decode(ids) == text
    assert untrained(width=32).config.vocab_size == len(reader)


def test_an_example_has_all_that_the_commands_take(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arithmetic, "_TAUGHT", 320)
    monkeypatch.setattr(arithmetic, "_ASKED", 16)
    monkeypatch.setattr(arithmetic, "_PASSES", 1)
    assert main(["example", "demo"]) == 0
    assert "written: demo/model, a Llama of 133,952 parameters" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "model", "pairs.jsonl", "prompts.jsonl", "reward.py"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    rows = [json.loads(line) for line in (tmp_path / "demo/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and all(row["chosen"] != row["rejected"] for row in rows)
    assert main(["audit", "demo/pairs.jsonl", "--tokenizer", "demo/model", "--model"]) == 0
    assert "16 pairs are near misses" in capsys.readouterr().out
    base = ["--model", "demo/model", "--lr", "0.001", "--batch", "8"]
    own = ["--reward", "demo/reward.py:right", "--responses", "3", "--max-new-tokens", "12"]
    words = ["train", "rloo", *base, "--data", "demo/prompts.jsonl", *own, "--output", "own"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "16 prompts, 3 responses to each, judged by demo/reward.py:right" in said
    assert "the mean reward went from" in said
    assert (tmp_path / "own" / "story.svg").is_file()
    assert main(["example", "demo"]) == 2
    assert "demo is there already: name another folder" in capsys.readouterr().err


def test_a_model_learns_the_sums(tmp_path):
    made = chains(300, sums=1)
    model = arithmetic.pretrained(
        [{"prompt": p, "completion": a} for p, a in made], tmp_path, passes=60, lr=5e-3
    )
    from toyalign.llm.writing import write

    reader = tokenizer()
    prompts = [tuple(reader(prompt)["input_ids"]) for prompt, _ in made]
    said = write(model, prompts, eos=reader.eos_token_id, temperature=0, max_new_tokens=8)
    texts = reader.batch_decode([list(t[0]) for t in said], skip_special_tokens=True)
    right = np.mean([text == answer for text, (_, answer) in zip(texts, made, strict=True)])
    assert right > 0.9  # it has seen each of them sixty times
