"""Whatever a user gets wrong is one line that names it, and nothing half-made stays behind."""

import contextlib
import json
import os
import resource
import shutil

import pytest
import torch
from conftest import ROWS, tiny

from toyalign.cli import main
from toyalign.errors import ToyalignError

PAIR = {"prompt": "a b", "chosen": " c", "rejected": " d"}
ANSWER = {"prompt": "a b", "completion": " c d"}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]
BACKWARDS = (  # the answer's beginning is written before the question
    "{% if add_generation_prompt %}answer {% endif %}"
    "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
)
REFUSES = "{{ raise_exception('roles must alternate') }}"
REWARDS = """
def good(completions): return [float(len(text)) for text in completions]
def raises(completions): raise KeyError("score")
def nan(completions): return [float("nan")] * len(completions)
def few(completions): return [1.0]
def words(completions): return ["good"] * len(completions)
def nothing(completions): return None
def column(completions, answr): return [1.0] * len(completions)
"""
LOSSES = """
import resource

def reduced(chosen_logps, rejected_logps): return (rejected_logps - chosen_logps).mean()
def nan(chosen_logps, rejected_logps): return (rejected_logps - chosen_logps) * 0 / 0
def steep(chosen_logps, rejected_logps):
    return (rejected_logps - rejected_logps.detach()).abs().sqrt() + 0 * chosen_logps
def detached(chosen_logps, rejected_logps): return (rejected_logps - chosen_logps).detach()
def raises(chosen_logps, rejected_logps): return chosen_logps + undefined
def nothing(chosen_logps, rejected_logps): return None
def asks(chosen_logps, chosen_lgps): return chosen_logps
def option(chosen_logps, rejected_logps, *, batch=1.0): return chosen_logps

calls = []
def fills(chosen_logps, rejected_logps):
    calls.append(1)
    if len(calls) == 3:  # from the third step on the disk is full
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
    return rejected_logps - chosen_logps
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A folder with a model, rows of two kinds, rewards and losses."""
    folder = tmp_path_factory.mktemp("made")
    tiny().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines(folder / "pairs.jsonl", *ROWS)
    lines(folder / "prompts.jsonl", *({"prompt": row["prompt"], "answer": "c"} for row in ROWS))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "losses.py").write_text(LOSSES)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no hub is asked
    return tmp_path / "place"


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def files(place):
    """All files with their sizes, but for what Python makes of sources."""
    return {
        str(path.relative_to(place)): path.stat().st_size
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.fixture
def complaint(place, capfd):
    """Run a command that must fail: its one line, if everything is as it was before."""

    def run(words, made=()):
        before = files(place)
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        said = capfd.readouterr().err
        *told, line = said.splitlines()  # how far it was comes first
        assert all(one.startswith("step ") for one in told) and line.startswith("toyalign: "), said
        after = files(place)
        assert {name: size for name, size in after.items() if not name.startswith(made or "-")} == (
            before
        )
        return line.removeprefix("toyalign: ")

    return run


def train(objective, data="pairs.jsonl", *words, **options):
    """The words of a training of two steps."""
    given = {"model": "model", "data": data, "batch": 4, "steps": 2, "max_length": 32, **options}
    named = [w for n, v in given.items() for w in (f"--{n.replace('_', '-')}", v)]
    return ["train", *([objective] if objective else []), *named, *words]


# --- data

PAIRS = {
    "a missing column": (
        {"prompt": "a", "chosen": " b"}, "has no 'rejected' (it has chosen, prompt)",
    ),
    "an empty completion": ({**PAIR, "chosen": " "}, "a completion is empty"),
    "an identical pair": ({**PAIR, "chosen": " d"}, "chosen and rejected are the same"),
    "identical with its end": ({**PAIR, "chosen": " d </s>"}, "chosen and rejected"),
    "a prompt that is a number": ({**PAIR, "prompt": 3}, "prompt must be text or messages, not"),
    "a prompt that is a list of texts": (
        {**PAIR, "prompt": ["a"]}, "prompt must be messages, each with a role and content",
    ),
    "messages without a role": (
        {**PAIR, "chosen": [{"content": "b"}]}, "chosen must be messages, each with a role",
    ),
    "an answer without room": (
        {**PAIR, "chosen": " b" * 40},
        "a completion has 41 tokens and no room for a prompt within max_length=32",
    ),
}  # fmt: skip
OTHERS = {
    "a label that is a word": ("kto", {**ANSWER, "label": "good"}, "be true or false, not 'good'"),
    "a label that is a list": ("kto", {**ANSWER, "label": [True]}, "label must be true or false"),
    "a reward that is nan": ("rwr", {**ANSWER, "reward": float("nan")}, "must be finite, not nan"),
    "an infinite reward": ("rwr", {**ANSWER, "reward": float("inf")}, "must be finite, not inf"),
    "a reward that is a word": ("rwr", {**ANSWER, "reward": "high"}, "be a number, not 'high'"),
    "no answer among messages": ("sft", {"messages": CHAT[:1]}, "a question and its answer"),
    "no messages": ("sft", {"messages": []}, "messages need a question and its answer"),
    "messages that are a text": ("sft", {"messages": "a"}, "messages must be messages, each with"),
    "messages that are texts": ("sft", {"messages": ["a", "b"]}, "messages must be messages, each"),
}  # fmt: skip
FILES = {
    "a row that is a list": ("x.jsonl", b'\n["a"]', "x.jsonl, line 2: a row has named columns"),
    "a row that is a text": ("x.json", b'["a"]', "x.json, row 1: a row has named columns"),
    "a broken line": ("x.jsonl", b'{"prompt": "a",', "x.jsonl, line 1: Expecting property name"),
    "a file that is no list": ("x.json", b'{"prompt": "a"}', "x.json must hold a list of rows"),
    "a broken file": ("x.json", b"[{", "cannot read x.json: Expecting property name"),
    "an empty file of lines": ("x.jsonl", b"\n", "x.jsonl has no rows"),
    "an empty list": ("x.json", b"[]", "x.json has no rows"),
    "an empty file": ("x.json", b"", "cannot read x.json: Expecting value"),
    "no parquet": ("x.parquet", b"PAR", "cannot read x.parquet: "),
    "no text": ("x.jsonl", b"\xff\xfe\x00", "cannot read x.jsonl: 'utf-8' codec can't decode"),
    "another suffix": ("x.csv", b"prompt", "unknown suffix of a data file '.csv'; Known: .json,"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(place, complaint, case):
    row, message = PAIRS[case]
    lines(place / "x.jsonl", PAIR, row)
    assert f"1 of 2 rows: row 2: {message}" in complaint(train("dpo", "x.jsonl"))


@pytest.mark.parametrize("case", OTHERS)
def test_rows_of_other_kinds(place, complaint, case):
    objective, row, message = OTHERS[case]
    lines(place / "x.jsonl", row)
    said = complaint(train(objective, "x.jsonl"))
    assert said.startswith("1 of 1 rows: row 1: ") and message in said


@pytest.mark.parametrize("case", FILES)
def test_files(place, complaint, case):
    name, content, message = FILES[case]
    (place / name).write_bytes(content)
    assert message in complaint(train("dpo", name))


def test_data_that_is_missing_or_alike_or_has_a_column_in_some_rows_only(place, complaint):
    assert "there is no data file 'no.jsonl'" in complaint(train("dpo", "no.jsonl"))
    (place / "folder").mkdir()
    assert "cannot read folder: " in complaint(train("dpo", "folder"))
    lines(place / "x.jsonl", *[{**ANSWER, "label": True}] * 3)
    assert "all rows have the same prompt" in complaint(train("kto", "x.jsonl"))
    lines(place / "x.jsonl", {**PAIR, "chosen_rewards": 1, "rejected_rewards": 0}, PAIR)
    assert "this data has none, or not in every row" in complaint(train("infonca", "x.jsonl"))


def test_a_line_separator_of_unicode_is_no_end_of_a_row(place):
    from toyalign.llm.formats import read_rows

    row = {**PAIR, "prompt": "a\u2028b"}
    (place / "x.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_rows(place / "x.jsonl") == [row]


# --- the model and its tokenizer


def with_tokenizer(place, change):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    change(tokenizer)
    tokenizer.save_pretrained(place / "model")
    if tokenizer.chat_template is None:
        (place / "model" / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has messages, but the tokenizer has no chat template"),
        (BACKWARDS, "the chat template does not write prompt and answer one after the other"),
        (REFUSES, "the chat template refuses the messages: roles must alternate"),
    ],
)
def test_templates(place, complaint, template, message):
    with_tokenizer(place, lambda tokenizer: setattr(tokenizer, "chat_template", template))
    lines(place / "x.jsonl", {"messages": CHAT})
    assert f"row 1: {message}" in complaint(train("sft", "x.jsonl"))


def test_tokenizers(place, complaint):
    with_tokenizer(place, lambda tokenizer: tokenizer.add_tokens([f"w{i}" for i in range(20)]))
    lines(place / "x.jsonl", PAIR, {**PAIR, "chosen": " w19"})
    assert "row 2 has token 55 ('w19'), and the model knows 48 tokens: take its own tokenizer" in (
        complaint(train("dpo", "x.jsonl"))
    )
    with_tokenizer(place, lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<pad>"}))
    assert "the padding token is 56, and the model knows 48 tokens" in complaint(train("dpo"))
    with_tokenizer(place, lambda tokenizer: setattr(tokenizer, "eos_token", None))
    assert "the tokenizer has no end-of-sequence token" in complaint(train("dpo"))
    (place / "model" / "tokenizer.json").write_text("{")
    assert "cannot load 'model': " in complaint(train("dpo"))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_longer_than_the_model(place, complaint, kind):
    tiny(kind).save_pretrained(place / "model")
    lines(place / "x.jsonl", PAIR, {**PAIR, "chosen": " b" * 70})
    said = complaint(train("dpo", "x.jsonl", max_length=100))
    assert "row 2 has 73 tokens, and the model has 64 positions: lower max_length" in said
    own = {"reward": "rewards.py:good", "max_new_tokens": 62}
    assert "row 1 has 3 tokens and 62 new ones, and the model has 64 positions" in (
        complaint(train("reinforce", "prompts.jsonl", **own))
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


MODELS = {
    "nothing": (lambda folder: shutil.rmtree(folder), "cannot load 'model': "),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot load 'model': "),
    "weights that are cut": (lambda f: cut(f / "model.safetensors"), "cannot load 'model': "),
    "a broken configuration": (
        lambda folder: (folder / "config.json").write_text("{"), "cannot load 'model': ",
    ),
    "no head": (
        lambda folder: tiny().model.save_pretrained(folder),
        "cannot load 'model': it has no lm_head.weight, which a LlamaForCausalLM needs",
    ),
    "another head": (
        lambda folder: classifier(folder, 1),
        "cannot load 'model': it has no lm_head.weight, which a LlamaForCausalLM needs",
    ),
    "another size": (
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"vocab_size": 48', '"vocab_size": 50')
        ),
        "cannot load 'model': its lm_head.weight is [48, 16], and by config.json [50, 16]",
    ),
}  # fmt: skip


def classifier(folder, outputs):
    from transformers import LlamaForSequenceClassification

    config = tiny().config
    config.num_labels = outputs
    LlamaForSequenceClassification(config).save_pretrained(folder)


@pytest.mark.parametrize("case", MODELS)
def test_models(place, complaint, case):
    change, message = MODELS[case]
    change(place / "model")
    said = complaint(train("dpo"))
    assert said.startswith(message) and len(said) > len("cannot load 'model': ") + 10


def test_an_adapter_on_the_head(train, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["lm_head"], r=2, task_type="CAUSAL_LM")
    with pytest.raises(ToyalignError, match="leave lm_head out of the adapter's target_modules"):
        train("dpo", model=get_peft_model(tiny(), config))
    assert not list(tmp_path.rglob("*.safetensors"))


# --- options

OPTIONS = {
    "no objective": (train(""), "one objective comes first"),
    "two objectives": (["train", "dpo", "sft"], "unrecognized options: sft"),
    "no model": (["train", "dpo", "--data", "pairs.jsonl"], "--model is missing"),
    "no data": (["train", "dpo", "--model", "model"], "--data is missing"),
    "an unknown objective": (train("dpoo"), "unknown objective 'dpoo'; did you mean 'dpo'?"),
    "a loss that is not there": (train("losses.py:nana"), "function in losses.py 'nana'; did you"),
    "an unknown hyperparameter": (
        train("dpo", betta=1), "unknown option '--betta'; did you mean '--beta'?",
    ),
    "a hyperparameter that is a word": (train("dpo", beta="high"), "'high' is not a number"),
    "a hyperparameter that is nan": (train("dpo", beta="nan"), "'nan' is not a finite number"),
    "several values": (train("dpo", "pairs.jsonl", "--beta", 1, 2), "--beta takes one value here"),
    "an infinite learning rate": (train("dpo", lr="inf"), "'inf' is not a finite number"),
    "a learning rate of 0": (train("dpo", lr=0), "--lr must be above 0, not 0.0"),
    "half a step": (train("dpo", steps=1.5), "'1.5' is not a whole number"),
    "a batch of nothing": (train("dpo", batch=0), "--batch must be at least 1"),
    "parts that do not fit": (train("dpo", accumulate=3), "--accumulate 3 does not divide the 4"),
    "an adapter of rank 0": (train("dpo", lora=0), "rank of an adapter must be at least 1, not 0"),
    "no checkpoint": (train("dpo", "pairs.jsonl", "--resume"), "there is no checkpoint in run"),
    "no evaluation data": (train("dpo", eval="no.jsonl"), "there is no data file 'no.jsonl'"),
    "an output that is a file": (
        train("dpo", output="losses.py"), "losses.py is a file and no folder: name another",
    ),
    "an output in a file": (train("dpo", output="losses.py/run"), "losses.py is a file and"),
    "an output that is not empty": (train("dpo", output="model"), "model is not empty: name"),
    "an output that cannot be": (train("dpo", output="/proc/run"), "/proc"),
    "responses without a reward": (train("dpo", responses=4), "--responses is about the policy's"),
    "quality for another loss": (train("dpo", quality="a "), "--quality is for losses that look"),
    "no quality": (train("sr_dpo"), "sr_dpo needs a quality prompt, to look at every pair"),
    "a share for another loss": (train("dpo", residual=0.1), "dpo has the plain view: leave view"),
    "an on-policy loss without a reward": (
        train("reinforce"), "reinforce learns from the policy's own responses: it needs a reward",
    ),
    "a reward for an offline loss": (
        train("ift", "prompts.jsonl", reward="rewards.py:good"),
        "ift does not learn from the policy's own responses",
    ),
    "one response to compare": (
        train("dpo", "prompts.jsonl", reward="rewards.py:good", responses=1),
        "pairs need at least 2 responses per prompt, not 1",
    ),
    "distributions of texts": (train("forward_kl"), "forward_kl learns from "),
    "whole distributions beforehand": (
        train("tdpo1", precompute="x.pt"), "tdpo1 needs the reference's whole distributions",
    ),
    "own responses beforehand": (
        train(
            "online_dpo", "prompts.jsonl", reward="rewards.py:good", precompute="x.pt",
            max_new_tokens=4,
        ),
        "the policy's own responses cannot be scored before they are written",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options(complaint, case):
    words, message = OPTIONS[case]
    assert message in complaint(words)


def test_an_output_that_is_read_only(place, complaint, monkeypatch):
    (place / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    assert complaint(train("dpo")) == "run is read-only: name another --output"
    (place / "run").rmdir()
    (place / "model").chmod(0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: path.name == "place")
    said = complaint(train("dpo", precompute="model/x.pt"))
    assert said == "model is read-only: name another --precompute"


# --- rewards and losses


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "unknown function in rewards.py 'missing'"),
        ("raises", "the reward raises raised KeyError: 'score'"),
        ("nan", "the reward nan is nan for the completion "),
        ("few", "the reward few returned 1 numbers for 32 completions"),
        ("words", "the reward words must return numbers, not ['good', 'good', "),
        ("nothing", "the reward nothing must return numbers, not None"),
        ("column", "unknown column that the reward column asks for 'answr'; did you mean 'answ"),
    ],
)
def test_rewards(complaint, name, message):
    own = {"reward": f"rewards.py:{name}", "max_new_tokens": 4}
    assert message in complaint(train("reinforce", "prompts.jsonl", **own))


def test_reward_models(place, complaint):
    words = train("reinforce", "prompts.jsonl", reward="judge")
    assert "cannot load 'judge': " in complaint(words)
    shutil.copytree(place / "model", place / "judge")
    assert "cannot load 'judge': it has no score.weight" in complaint(words)
    classifier(place / "judge", 2)
    assert "a reward model gives one number, and 'judge' gives 2" in complaint(words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reduced", "reduced returned shape [], but must return one value per row, [1, 4]"),
        ("nothing", "nothing returned None, but must return one value per row"),
        ("nan", "nan is nan at step 1, and all log-probabilities are finite: `toyalign check nan`"),
        ("steep", "the gradient of steep is nan at step 1, where its value is finite"),
        ("detached", "detached has no gradient, as if it did not depend on the policy"),
        ("raises", "raises raised NameError: name 'undefined' is not defined (line 9 of "),
        ("asks", "chosen_lgps"),
        ("option", "hyperparameter 'batch' of option has the name of an option"),
    ],
)
def test_losses(complaint, name, message):
    assert message in complaint(train(f"losses.py:{name}", save_every=1, lora=2))


def test_a_learning_rate_that_blows_the_model_up(complaint):
    said = complaint(train("dpo", lr="1e30"))
    assert "is nan at step 2, and the model's log-probabilities are not finite either" in said


# --- scores of the reference in a file


def test_a_stale_file_of_scores(place, complaint):
    words = train("dpo", precompute="x.pt")
    (place / "x.pt").write_text("nothing")
    assert "x.pt holds no scores of a reference (" in complaint(words)
    torch.save([1], place / "x.pt")
    assert "x.pt holds no scores of a reference (TypeError)" in complaint(words)
    (place / "x.pt").unlink()
    assert main([str(word) for word in words]) == 0
    shutil.rmtree(place / "run")
    lines(place / "pairs.jsonl", *ROWS[:-1])
    said = complaint(words)
    assert "x.pt holds the scores of a reference with other data: name another file, or" in said
    tiny(seed=1).save_pretrained(place / "model")
    assert "with other weights and other data" in complaint(words)
    with_tokenizer(place, lambda tokenizer: tokenizer.add_tokens(["zz"]))
    assert "with other weights and other tokenizer and other data" in complaint(words)
    cut(place / "x.pt")
    assert "x.pt holds no scores of a reference (" in complaint(words)


# --- a disk that is full


@contextlib.contextmanager
def full(limit):
    """A file beyond this size cannot be written, as on a disk that is full (Python ignores the
    signal, and the system call fails)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_full_at_the_first_checkpoint_and_at_the_end(complaint, limit):
    # The weights have 41 thousand bytes, what the optimiser keeps twice as many.
    with full(limit):
        said = complaint(train("dpo", save_every=1))
        assert said.startswith("cannot write into run: ") and "has been removed" in said
        if limit == 20_000:
            assert complaint(train("dpo")).startswith("cannot write into run: ")


def test_full_after_a_checkpoint_that_stays(place, complaint):
    words = train("losses.py:fills", save_every=2, steps=4, lr=0.01)
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        assert complaint(words, "run/checkpoint-2/").startswith("cannot write into run: ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    assert {path.name for path in (place / "run").iterdir()} == {"checkpoint-2"}
    assert main([str(word) for word in [*words, "--resume", "--output", "run"]]) == 0


def test_full_while_scores_are_written(place, complaint):
    with full(3000):
        said = complaint(train("dpo", precompute="x.pt"))
    assert said.startswith("cannot write the reference's scores to x.pt: ")
