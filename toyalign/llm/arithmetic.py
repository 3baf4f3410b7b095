"""Chains of sums: a small world in which language models are made, taught and spoilt in seconds.

A prompt is a chain of one-digit sums, `3+5-9*4:`, and the right answer does them one after the
other, modulo ten: `3+5=8;8-9=9;9*4=6`. A near miss has a few of its digits replaced and goes on as
if nothing had happened, as the corrupted answers of Pal et al. 2024 do (arXiv 2402.13228). A model
is pretrained on what careful and sloppy writers wrote, so that an error makes it expect more.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toyalign.errors import ToyalignError
from toyalign.files import whole

SIGNS = "+-*"
LETTERS = "0123456789+-*=;:"
SUMS = 3  # sums in a chain
ERRORS = (0.005, 0.4)  # how often careful and sloppy writers put down another digit

_EXAMPLE, _TAUGHT, _ASKED, _PASSES = 2, 6000, 1536, 4  # of `make_example`
_REWARD = """def right(completions, answer):
    return [float(said == known) for said, known in zip(completions, answer)]
"""

Row = dict[str, str]


def chains(count: int, sums: int = SUMS, seed: int = 0) -> list[tuple[str, str]]:
    """Different prompts with their right answers, in random order.

    Args:
        count: how many.
        sums: sums in each chain.
        seed: of the numbers and signs.

    Raises:
        ToyalignError: if there are fewer such chains than that, or a number is below 1.
    """
    every = 10 * (len(SIGNS) * 10) ** sums if sums > 0 else 0
    if not 1 <= count <= every:
        raise ToyalignError(f"there are {every} chains of {sums} sums, not {count}")
    rng = np.random.default_rng(seed)
    made = []
    for code in rng.choice(every, count, replace=False):
        code, value = divmod(int(code), 10)
        prompt, steps = str(value), []
        for _ in range(sums):
            code, digit = divmod(code, 10)
            code, which = divmod(code, len(SIGNS))
            sign = SIGNS[which]
            prompt += f"{sign}{digit}"
            reached = {"+": value + digit, "-": value - digit, "*": value * digit}[sign] % 10
            steps.append(f"{value}{sign}{digit}={reached}")
            value = reached
        made.append((f"{prompt}:", ";".join(steps)))
    return made


def near_miss(answer: str, edits: int, rng: np.random.Generator) -> str:
    """An answer with some digits replaced by others; all else stays.

    Args:
        answer: a right answer.
        edits: how many digits.
        rng: which ones, and by what.

    Raises:
        ToyalignError: if the answer has fewer digits, or no edit is asked for.
    """
    places = [place for place, letter in enumerate(answer) if letter.isdigit()]
    if not 1 <= edits <= len(places):
        raise ToyalignError(f"edits must be from 1 to the answer's {len(places)} digits: {edits}")
    letters = list(answer)
    for place in rng.choice(places, edits, replace=False):
        letters[place] = str((int(letters[place]) + rng.integers(1, 10)) % 10)
    return "".join(letters)


def pairs(of: Sequence[tuple[str, str]], edits: int = 1, seed: int = 0) -> list[Row]:
    """Preference pairs: the right answer to each prompt, and a near miss of it."""
    rng = np.random.default_rng(seed)
    return [
        {"prompt": prompt, "chosen": answer, "rejected": near_miss(answer, edits, rng)}
        for prompt, answer in of
    ]


def written(
    of: Sequence[tuple[str, str]], seed: int = 0, errors: tuple[float, float] = ERRORS
) -> list[Row]:
    """Demonstrations by writers of whom half are careful and half are sloppy.

    Args:
        of: prompts with their right answers.
        seed: of who writes what, and where they slip.
        errors: how often a careful and a sloppy writer puts down another digit.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for prompt, answer in of:
        slips = rng.random(len(answer)) < errors[rng.integers(2)]
        letters = [
            str((int(letter) + rng.integers(1, 10)) % 10) if letter.isdigit() and slip else letter
            for letter, slip in zip(answer, slips, strict=True)
        ]
        rows.append({"prompt": prompt, "completion": "".join(letters)})
    return rows


def tokenizer() -> Any:
    """A tokenizer for which every letter is a token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = {word: number for number, word in enumerate([*special, *LETTERS])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def untrained(seed: int = 0, layers: int = 2, width: int = 64) -> Any:
    """A Llama of about 0.1 million parameters that knows nothing yet.

    Args:
        seed: of its weights.
        layers: number of them.
        width: of the hidden states, a multiple of 32.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    heads = max(2, width // 32)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(LETTERS) + 4, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
            max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def pretrained(
    rows: Sequence[Row], folder: Path, model: Any = None, *, passes: int = 4, lr: float = 3e-3,
    batch: int = 64, seed: int = 0, progress: bool = False, **arguments: Any,
) -> Any:  # fmt: skip
    """Teach a model to write as the rows are written, with the trainer and the loss `sft`.

    Args:
        rows: demonstrations.
        folder: where the trainer may leave its files.
        model: to be taught; `untrained(seed)` if not given.
        passes: over the rows.
        lr: largest learning rate of Adam; it falls to 0.
        batch: rows per step.
        seed: of the order of the rows, and of the model.
        progress: whether to say how far it is.
        **arguments: further ones of `transformers.TrainingArguments`, for example bf16.
    """
    from transformers import TrainingArguments

    from toyalign.llm.data import prepare
    from toyalign.llm.progress import quiet, told
    from toyalign.llm.trainer import AlignmentTrainer

    reader = tokenizer()
    examples, _ = prepare(rows, reader, "demonstrations")
    settings = TrainingArguments(
        str(folder), num_train_epochs=passes, learning_rate=lr, per_device_train_batch_size=batch,
        warmup_steps=20, lr_scheduler_type="cosine", seed=seed, report_to=[], save_strategy="no",
        logging_steps=50, disable_tqdm=True, **arguments,
    )  # fmt: skip
    trainer = AlignmentTrainer(
        untrained(seed) if model is None else model, "sft", args=settings,
        train_dataset=examples, processing_class=reader,
    )  # fmt: skip
    quiet(trainer)
    if progress:
        told(trainer, batch)
    trainer.train()
    return trainer.model


def make_example(folder: Path, seed: int = 0) -> str:
    """A folder with all that the commands take: a model, pairs, prompts and a reward.

    Args:
        folder: a new one; it is there whole or not at all.
        seed: of the sums, and of the model.

    Returns:
        What was made, in a sentence.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as part:
        part.mkdir()
        of = chains(_TAUGHT + _ASKED, _EXAMPLE, seed)
        # By careful writers: the model knows the answers, and DPO finds it so, as after SFT.
        taught, asked = written(of[_ASKED:], seed, (ERRORS[0],) * 2), of[:_ASKED]
        model = pretrained(taught, part, passes=_PASSES, lr=5e-3, seed=seed, progress=True)
        model.save_pretrained(part / "model")
        tokenizer().save_pretrained(part / "model")
        prompts = [{"prompt": prompt, "answer": answer} for prompt, answer in asked]
        for name, rows in (("pairs", pairs(asked, 1, seed)), ("prompts", prompts)):
            lines = (json.dumps(row) + "\n" for row in rows)
            (part / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        (part / "reward.py").write_text(_REWARD, encoding="utf-8")
    return (
        f"written: {folder}/model, a Llama of {sum(p.numel() for p in model.parameters()):,} "
        f"parameters that was taught {_TAUGHT:,} chains of sums; {folder}/pairs.jsonl, right "
        f"answers against near misses; {folder}/prompts.jsonl with {folder}/reward.py, for "
        "policies that respond themselves"
    )
