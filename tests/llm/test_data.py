"""Data in every format, and bad rows by number and reason."""

import json

import pandas as pd
import pytest
import torch

from toyalign.errors import ToyalignError
from toyalign.llm.batches import Collator
from toyalign.llm.data import prepare, read_rows

GOOD = {"prompt": "a b", "chosen": " c d", "rejected": " c e"}


def one(tokenizer, row, kind="pairs", **given):
    (example,), _ = prepare([row], tokenizer, kind, **given)
    return example


def words(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_prompt_and_completion_are_tokenised_apart_and_the_end_is_learned(tokenizer):
    example = one(tokenizer, GOOD)
    assert words(tokenizer, example.prompt) == "a b"
    assert [words(tokenizer, r) for r in example.responses] == ["c d </s>", "c e </s>"]
    glued = one(tokenizer, {"prompt": "a b", "chosen": "c", "rejected": "d"})
    assert words(tokenizer, glued.prompt) == "a b"  # "bc" is nobody's word


def test_the_common_beginning_is_the_prompt(tokenizer):
    example = one(tokenizer, {"chosen": "a b c d", "rejected": "a b c e f"})
    assert words(tokenizer, example.prompt) == "a b c"
    assert [words(tokenizer, r) for r in example.responses] == ["d </s>", "e f </s>"]
    chat = [{"role": "user", "content": "a"}]
    answers = [[*chat, {"role": "assistant", "content": word}] for word in "bc"]
    example = one(tokenizer, {"chosen": answers[0], "rejected": answers[1]})
    assert words(tokenizer, example.prompt) == "user a </s> assistant"
    assert [words(tokenizer, r) for r in example.responses] == ["b </s>", "c </s>"]


def test_messages_go_through_the_template(tokenizer):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]}
    example = one(tokenizer, row, "demonstrations")
    assert words(tokenizer, example.prompt) == "user a </s> assistant"
    assert words(tokenizer, example.responses[0]) == "b c </s>"
    mixed = one(tokenizer, {"prompt": row["messages"][:1], "completion": "b c"}, "demonstrations")
    assert mixed.responses == example.responses and mixed.prompt == example.prompt


def test_plain_text_labels_rewards_and_prompts(tokenizer):
    text = one(tokenizer, {"text": "a b"}, "demonstrations")
    assert len(text.prompt) == 1 and words(tokenizer, text.responses[0]) == "a b </s>"
    labelled = {"prompt": "a", "completion": " b", "label": True}
    assert one(tokenizer, labelled, "labelled").values == {"labels": 1.0}
    rewarded = {"prompt": "a", "completion": " b", "reward": -0.5}
    assert one(tokenizer, rewarded, "samples").values == {"rewards": -0.5}
    assert one(tokenizer, {"prompt": "a"}, "prompts").responses == ()


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"prompt": "a", "chosen": " b"}, "pairs", "has no 'rejected' .it has chosen, prompt"),
        ({**GOOD, "rejected": None}, "pairs", "has no 'rejected'"),
        ({**GOOD, "chosen": "  "}, "pairs", "a completion is empty"),
        ({**GOOD, "rejected": " c d"}, "pairs", "chosen and rejected are the same"),
        ({**GOOD, "chosen": 3}, "pairs", "chosen must be text or messages, not int"),
        ({"prompt": "a", "completion": " b", "label": "good"}, "labelled", "label must be true or"),
        ({"prompt": "a", "completion": " b", "reward": float("nan")}, "samples", "must be finite"),
        ({"prompt": "a", "completion": " b", "reward": "high"}, "samples", "must be a number"),
        ({"prompt": " "}, "prompts", "the prompt is empty"),
        ({"prompt": "a", "completion": " b " * 40}, "demonstrations", "has 41 tokens and no room"),
    ],
)
def test_bad_rows_are_named_by_number_and_reason(tokenizer, row, kind, message):
    fine = {
        "pairs": GOOD,
        "labelled": {"prompt": "a", "completion": " b", "label": False},
        "samples": {"prompt": "a", "completion": " b", "reward": 1},
        "prompts": {"prompt": "a"},
        "demonstrations": {"prompt": "a", "completion": " b"},
    }[kind]
    with pytest.raises(ToyalignError, match=f"1 of 2 rows: row 2: .*({message})"):
        prepare([fine, row], tokenizer, kind, max_length=32)


def test_many_bad_rows_are_counted(tokenizer):
    with pytest.raises(ToyalignError, match=r"7 of 7 rows: row 1: .*; row 5: .*; and 2 more"):
        prepare([{"prompt": "a"}] * 7, tokenizer, "pairs")


def test_what_no_row_is_to_blame_for(tokenizer):
    with pytest.raises(ToyalignError, match="the data has no rows"):
        prepare([], tokenizer, "pairs")
    with pytest.raises(ToyalignError, match="unknown kind of data 'pair'; did you mean 'pairs'"):
        prepare([GOOD], tokenizer, "pair")


def test_messages_without_a_template_and_one_that_marks_nothing(tokenizer):
    import copy

    chat = {"prompt": [{"role": "user", "content": "a"}], "completion": "b"}
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ToyalignError, match="the tokenizer has no chat template"):
        prepare([chat], bare, "demonstrations")
    bare.chat_template = (
        "{% if add_generation_prompt %}answer {% endif %}"
        "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    )
    with pytest.raises(ToyalignError, match="does not write prompt and answer one after the other"):
        prepare([chat], bare, "demonstrations")
    bare.eos_token = None
    with pytest.raises(ToyalignError, match="no end-of-sequence token"):
        prepare([GOOD], bare, "pairs")


def test_prompts_lose_their_beginning_and_completions_only_where_allowed(tokenizer):
    row = {"prompt": "a b c d e f", "completion": " g h"}
    (example,), report = prepare([row], tokenizer, "demonstrations", max_length=6)
    assert words(tokenizer, example.prompt) == "d e f" and report.cut_prompts == [1]
    long = {"prompt": "a b", "completion": " c d e f g h"}
    (example,), report = prepare(
        [long], tokenizer, "demonstrations", max_length=4, cut_completions=True
    )
    assert words(tokenizer, example.responses[0]) == "c d e" and report.cut_completions == [1]
    alike = {"prompt": "a", "chosen": " b c d e", "rejected": " b c d f"}
    with pytest.raises(ToyalignError, match="the same once they are cut"):
        prepare([alike], tokenizer, "pairs", max_length=4, cut_completions=True)


def test_files_of_every_kind_give_the_same_rows(tokenizer, tmp_path):
    rows = [GOOD, {**GOOD, "prompt": "b"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    from datasets import Dataset

    dataset = Dataset.from_list(rows)
    dataset.save_to_disk(str(tmp_path / "folder"))
    for source in ("a.jsonl", "a.json", "a.parquet", "folder"):
        assert read_rows(tmp_path / source) == rows
    assert read_rows(dataset) == rows
    assert prepare(read_rows(dataset), tokenizer, "pairs")[1].rows == 2


def test_files_that_are_none(tmp_path):
    with pytest.raises(ToyalignError, match="there is no data file"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ToyalignError, match=r"unknown suffix of a data file '\.csv'"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ToyalignError, match=r"a\.jsonl, line 2"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ToyalignError, match="must hold a list of rows"):
        read_rows(tmp_path / "a.json")


def test_a_batch_has_the_chosen_first_and_marks_its_completions(tokenizer):
    rows = [GOOD, {"prompt": "a", "chosen": " b", "rejected": " c d e"}]
    examples, _ = prepare(rows, tokenizer, "pairs")
    batch = Collator(pad=2)(examples)
    shown = [words(tokenizer, ids) for ids in batch["input_ids"]]
    assert shown == ["a b c d </s>", "a b </s> </s> </s>", "a b c e </s>", "a c d e </s>"]
    assert batch["completion_mask"].sum(1).tolist() == [3, 2, 3, 4]
    assert batch["attention_mask"].sum(1).tolist() == [5, 3, 5, 5]
    assert batch["numbers"].tolist() == [1, 2]
    assert torch.equal(batch["sides"], torch.tensor([[0, 1], [2, 3]]))
