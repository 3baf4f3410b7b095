"""The command `toyalign train`: any objective on a language model, with the very same function."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from toyalign.errors import ToyalignError
from toyalign.files import write
from toyalign.options import File, MaybeNumber, MaybeWhole, Number, Whole

if TYPE_CHECKING:
    from toyalign.objectives import Objective

_AT_LEAST_ONE = ("batch", "accumulate", "max_length", "responses", "fresh_every", "max_new_tokens")
_ON_POLICY = ("responses", "fresh_every", "max_new_tokens")


@dataclass(frozen=True)
class Train:
    """Train a language model with an objective, and say what became of the chosen answers.

    The objective comes first; its hyperparameters are options too: `toyalign train dpop --help`.

    Runs under `accelerate launch` and `torchrun` as it is.
    """

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = ""
    """An objective from `toyalign list`, or path/to/file.py:function."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = ""
    """A folder or a name that `from_pretrained` takes."""
    data: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """Rows in .jsonl, .json or .parquet, or a folder of `datasets`."""
    output: Annotated[str, tyro.conf.arg(metavar="DIR")] = "run"
    """Where the model, its checkpoints and the table of what was logged go."""
    steps: Whole = 0
    """Gradient steps; 0 for one pass over the data."""
    lr: Number = 1e-6
    """Learning rate of AdamW; it falls linearly to 0, and gradients are clipped at norm 1."""
    batch: Whole = 8
    """Rows, or prompts, per step and process."""
    accumulate: Whole = 1
    """Parts in which a step's rows are run, one after the other."""
    max_length: Whole = 1024
    """Most tokens of prompt and response; prompts lose their beginning."""
    lora: MaybeWhole = None
    """Rank of a low-rank adapter; the reference is the model without it."""
    precompute: File = None
    """Score the reference once, keep its scores in this file and not the reference in memory."""
    reward: Annotated[str, tyro.conf.arg(metavar="REWARD", help_behavior_hint="")] = ""
    """Let the policy write its own responses to the data's prompts, and judge them by
    path/to/file.py:function or a reward model."""
    responses: Whole = 8
    """Responses to each prompt, with --reward."""
    fresh_every: Whole = 1
    """Steps that responses are used for, with --reward."""
    max_new_tokens: Whole = 128
    """Most tokens of a response, with --reward."""
    quality: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """A quality prompt, behind which sr_dpo and sr_ipo look at every pair a second time."""
    residual: MaybeNumber = None
    """The share λ of the policy's own tokens in what ift reads (its own default is 0.2)."""
    eval: File = None
    """Rows of the same kind that are looked at and not trained on."""
    eval_every: Whole = 0
    """Steps between two looks at them; 0 for one at the end."""
    save_every: Whole = 0
    """Steps between checkpoints; 0 for none but the last model."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder."""
    bf16: bool = False
    """Compute in bfloat16."""
    seed: Whole = 42
    """Of the order of the data, of responses and of the adapter's start."""


def train(options: Train, cards: Sequence["Objective"]) -> None:
    """`toyalign train NAME`: what will happen, progress, a sentence, a table, files."""
    folder = _checked(options, cards)
    from toyalign.llm.checkpoints import remove_halves
    from toyalign.llm.progress import told

    trainer, report = _trainer(options, cards[0])
    first = trainer.is_world_process_zero()
    told(trainer, options.batch)
    if first:
        print(_plan(trainer, options, report), flush=True)
    try:
        trainer.train(resume_from_checkpoint=options.resume)
        _save(trainer, folder)
        if options.eval and not options.eval_every:
            trainer.evaluate()
    except BaseException as error:
        if first:
            remove_halves(folder)
        if _is_of_disk(error):
            raise ToyalignError(
                f"cannot write into {folder}: {str(error).splitlines()[0]} (is the disk full? "
                "what was not written to its end has been removed)"
            ) from error
        raise
    if first:
        _finish(trainer, folder, options.name)


def _checked(options: Train, cards: Sequence["Objective"]) -> Path:
    """The output folder, if what was asked for makes sense."""
    if len(cards) != 1:
        raise ToyalignError("one objective comes first: `toyalign train dpo --model … --data …`")
    for name in ("model", "data"):
        if not getattr(options, name):
            raise ToyalignError(f"--{name} is missing: `toyalign train --help` says what it takes")
    for name in _AT_LEAST_ONE:
        if getattr(options, name) < 1:
            raise ToyalignError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("steps", "eval_every", "save_every"):
        if getattr(options, name) < 0:
            raise ToyalignError(f"--{name.replace('_', '-')} must be 0 or more")
    if options.eval_every and not options.eval:
        raise ToyalignError("--eval-every is about rows to look at: give them with --eval")
    if options.lr <= 0:
        raise ToyalignError(f"--lr must be above 0, not {options.lr}")
    if options.batch % options.accumulate:
        raise ToyalignError(
            f"--accumulate {options.accumulate} does not divide the {options.batch} rows of a step"
        )
    alone = [name for name in _ON_POLICY if getattr(options, name) != getattr(Train, name)]
    if alone and not options.reward:
        raise ToyalignError(
            f"--{alone[0].replace('_', '-')} is about the policy's own responses, which need a "
            "--reward"
        )
    if options.quality and not any("prompted_" in name for name in cards[0].needs):
        raise ToyalignError(
            f"--quality is for losses that look behind a quality prompt (sr_dpo, sr_ipo), and "
            f"{cards[0].name} does not"
        )
    folder = Path(options.output)
    _check_place(folder, "output")
    if options.precompute:
        _check_place(options.precompute.parent, "precompute")
    if folder.exists() and any(folder.iterdir()) and not options.resume:
        raise ToyalignError(f"{folder} is not empty: name another --output, or --resume")
    if options.resume:
        from toyalign.llm.checkpoints import last_whole

        last_whole(folder)
    return folder


def _check_place(folder: Path, option: str) -> None:
    """Refuse a folder into which nothing could be written, before any time is spent."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ToyalignError(f"{there} is a file and no folder: name another --{option}")
    if not os.access(there, os.W_OK):
        raise ToyalignError(f"{there} is read-only: name another --{option}")


def _trainer(options: Train, card: "Objective") -> tuple[Any, Any]:
    """The trainer, and what happened to the rows on the way."""
    from toyalign.llm.data import prepare
    from toyalign.llm.formats import read_rows
    from toyalign.llm.loading import few_threads, load
    from toyalign.llm.online import OnPolicy
    from toyalign.llm.rewards import load_reward
    from toyalign.llm.rows import check_kind, data_kind
    from toyalign.llm.trainer import AlignmentTrainer
    from toyalign.views import Residual

    own = None
    if options.reward:
        settings = {name: getattr(options, name) for name in _ON_POLICY}
        own = OnPolicy(load_reward(options.reward), **settings)
    check_kind(card, own)
    files = [options.data, *([options.eval] if options.eval else [])]
    rows = [read_rows(file) for file in files]
    model, tokenizer = load(options.model, options.lora, options.seed)
    few_threads(model)
    sets = [
        prepare(
            some, tokenizer, data_kind(card, own is not None), max_length=options.max_length,
            quality=options.quality,
        )
        for some in rows
    ]  # fmt: skip
    trainer = AlignmentTrainer(
        model,
        card,
        args=_arguments(options),
        train_dataset=sets[0][0],
        eval_dataset=sets[1][0] if options.eval else None,
        processing_class=tokenizer,
        hyper=_hyper(options, card),
        precompute=options.precompute,
        on_policy=own,
        view=None if options.residual is None else Residual(options.residual),
    )
    return trainer, sets[0][1]


def _hyper(options: Train, card: "Objective") -> dict[str, Any]:
    given = {name: getattr(options, name) for name in card.hyper if getattr(options, name)}
    several = [name for name, values in given.items() if len(values) > 1]
    if several:
        raise ToyalignError(f"--{several[0].replace('_', '-')} takes one value here")
    return {name: values[0] for name, values in given.items()}


def _arguments(options: Train) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.batch // options.accumulate,
        per_device_eval_batch_size=options.batch // options.accumulate,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.lr,
        logging_steps=1,
        eval_strategy="steps" if options.eval_every else "no",
        eval_steps=options.eval_every or None,
        save_strategy="steps" if options.save_every else "no",
        save_steps=options.save_every or 1,
        # With a CPU alone accelerate must be told, or processes know nothing of one another.
        use_cpu=not torch.accelerator.is_available(),
        bf16=options.bf16,
        seed=options.seed,
        report_to=[],
        disable_tqdm=True,
        max_steps=options.steps or -1,
        num_train_epochs=1,
    )


def _plan(trainer: Any, options: Train, report: Any) -> str:
    """What will happen, before it does."""
    card, scorer = trainer.card, trainer.scorer
    if not scorer.compares:
        reference = "no reference"
    elif scorer.beforehand:
        reference = f"the reference's scores are in {options.precompute}"
    elif scorer.reference is None:
        reference = "the reference is the model without its adapter"
    else:
        reference = "the reference is a frozen copy"
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in trainer.model.parameters())
    held = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    copies = 1 + (scorer.reference is not None)
    size = (held * copies + trained * 12) / 2**30
    hyper = " ".join(f"{name}={value}" for name, value in trainer.hyper.items())
    cut = f"; {len(report.cut_prompts)} prompts lose their beginning" if report.cut_prompts else ""
    rows = f"{report.rows} rows of {card.kind}{cut}"
    if trainer.own is not None:
        often = f" every {options.fresh_every} steps" if options.fresh_every > 1 else ""
        rows = f"{report.rows} prompts{cut}, {options.responses} responses to each{often}, judged "
        rows += f"by {options.reward}"
    return (
        f"{card.name}{' ' * bool(hyper)}{hyper}: {rows}; {reference}; "
        f"{trained:,} of {every:,} parameters are trained, about {size:.2g} GiB with gradients and "
        "optimiser, activations aside"
    )


def _save(trainer: Any, folder: Path) -> None:
    """The model and its tokenizer, whole or not at all."""
    part, whole = folder / ".model.part", folder / "model"
    if trainer.is_world_process_zero():
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    try:
        trainer.save_model(str(part))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            trainer.processing_class.save_pretrained(str(part))
            if whole.exists():
                shutil.rmtree(whole)
            part.rename(whole)
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(part, ignore_errors=True)


def _is_of_disk(error: BaseException) -> bool:
    """Whether something could not be written: every library has its own way to say so."""
    marks = ("writing file", "I/O error", "iostream error", "unexpected pos")
    written = any(mark in str(error) for mark in marks)
    return isinstance(error, OSError) or (isinstance(error, Exception) and written)


def _finish(trainer: Any, folder: Path, name: str) -> None:
    """A sentence, the table of what was logged, and its figure."""
    import pandas as pd

    from toyalign.llm.diagnosis import SETTINGS
    from toyalign.llm.story import sentence, story_figure
    from toyalign.plotting import save_figure

    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    table = pd.DataFrame(entries)
    write(folder / "log.csv", table.to_csv(index=False))
    settings = {"objective": trainer.card.name, "hyper": trainer.hyper, "start": trainer.start}
    if ".py:" in name:
        settings["file"] = str(Path(name).resolve())
    write(folder / SETTINGS, json.dumps(settings, indent=1, default=str) + "\n")
    print(sentence(trainer.card.name, entries))
    looks = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if looks:
        write(folder / "eval.csv", pd.DataFrame(looks).to_csv(index=False))
        names = ("loss", "logps/chosen", "rewards/chosen", "rewards/margins", "reward")
        last = {name: looks[-1].get(f"eval_{name}") for name in names}
        said = [f"{name} {value:.3g}" for name, value in last.items() if value is not None]
        print(f"rows that were not trained on: {', '.join(said)} ({folder / 'eval.csv'})")
    drawn = save_figure(story_figure(entries), folder / "story.svg")
    files = [folder / "model", folder / "log.csv", drawn]
    print(f"written: {', '.join(str(file) for file in files)}")
