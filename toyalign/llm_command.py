"""The commands `train`, `audit` and `diagnose`: the same losses on language models."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from toyalign.errors import ToyalignError
from toyalign.files import write
from toyalign.options import File, MaybeWhole, Number, Whole, check_target

if TYPE_CHECKING:
    from toyalign.objectives import Objective


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
    """Learning rate."""
    batch: Whole = 8
    """Rows per step and process."""
    accumulate: Whole = 1
    """Parts in which a step's rows are run, one after the other."""
    max_length: Whole = 1024
    """Most tokens of prompt and response; prompts lose their beginning."""
    lora: MaybeWhole = None
    """Rank of a low-rank adapter; the reference is the model without it."""
    save_every: Whole = 0
    """Steps between checkpoints; 0 for none but the last model."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder."""
    bf16: bool = False
    """Compute in bfloat16."""
    seed: Whole = 42
    """Of the order of the data and the adapter's start."""


def train(options: Train, cards: Sequence["Objective"]) -> None:
    """`toyalign train NAME`: what will happen, progress, a sentence, a table, files."""
    if len(cards) != 1:
        raise ToyalignError("one objective comes first: `toyalign train dpo --model … --data …`")
    for name in ("model", "data"):
        if not getattr(options, name):
            raise ToyalignError(f"--{name} is missing: `toyalign train --help` says what it takes")
    for name in ("batch", "accumulate", "max_length"):
        if getattr(options, name) < 1:
            raise ToyalignError(f"--{name.replace('_', '-')} must be at least 1")
    if options.batch % options.accumulate:
        raise ToyalignError(
            f"--accumulate {options.accumulate} does not divide the {options.batch} rows of a step"
        )
    (card,) = cards
    folder = Path(options.output)
    if folder.exists() and any(folder.iterdir()) and not options.resume:
        raise ToyalignError(f"{folder} is not empty: name another --output, or --resume")
    from toyalign.llm.data import prepare, read_rows
    from toyalign.llm.loading import load
    from toyalign.llm.trainer import OFFLINE, AlignmentTrainer

    if card.kind not in OFFLINE:
        raise ToyalignError(
            f"{card.name} learns from {card.kind}; this command trains from {', '.join(OFFLINE)}"
        )
    rows = read_rows(options.data)
    model, tokenizer = load(options.model, options.lora, options.seed)
    examples, report = prepare(rows, tokenizer, card.kind, max_length=options.max_length)
    hyper = {name: getattr(options, name) for name in card.hyper if getattr(options, name)}
    several = [name for name, values in hyper.items() if len(values) > 1]
    if several:
        raise ToyalignError(f"--{several[0].replace('_', '-')} takes one value here")
    trainer = AlignmentTrainer(
        model,
        card,
        args=_arguments(options),
        train_dataset=examples,
        processing_class=tokenizer,
        hyper={name: values[0] for name, values in hyper.items()},
    )
    if trainer.is_world_process_zero():
        print(_plan(trainer, options, report), flush=True)
    last = _last_checkpoint(folder) if options.resume else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(str(folder / "model"))
        _finish(trainer, folder)


def _arguments(options: Train) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.batch // options.accumulate,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.lr,
        logging_steps=1,
        save_strategy="steps" if options.save_every else "no",
        save_steps=options.save_every or 1,
        bf16=options.bf16,
        seed=options.seed,
        report_to=[],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        max_steps=options.steps or -1,
        num_train_epochs=1,
    )


def _plan(trainer: Any, options: Train, report: Any) -> str:
    """What will happen, before it does."""
    card = trainer.card
    if not trainer.needs_reference:
        reference = "no reference"
    elif trainer.reference is None:
        reference = "the reference is the model without its adapter"
    else:
        reference = "the reference is a frozen copy"
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in trainer.model.parameters())
    copies = 1 + (trainer.reference is not None)
    size = (every * copies * (2 if options.bf16 else 4) + trained * 12) / 2**30
    hyper = " ".join(f"{name}={value}" for name, value in trainer.hyper.items())
    cut = f"; {len(report.cut_prompts)} prompts lose their beginning" if report.cut_prompts else ""
    return (
        f"{card.name} {hyper}: {report.rows} rows of {card.kind}{cut}; {reference}; "
        f"{trained:,} of {every:,} parameters are trained, about {size:.2g} GiB with gradients and "
        "optimiser, activations aside"
    )


def _last_checkpoint(folder: Path) -> str:
    from transformers.trainer_utils import get_last_checkpoint

    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        raise ToyalignError(f"there is no checkpoint in {folder} to go on from")
    return str(found)


def _finish(trainer: Any, folder: Path) -> None:
    """A sentence, the table of what was logged, and its figure."""
    import pandas as pd

    from toyalign.llm.story import sentence, story_figure
    from toyalign.plotting import save_figure

    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    table = pd.DataFrame(entries)
    write(folder / "log.csv", table.to_csv(index=False))
    settings = {"objective": trainer.card.name, "hyper": dict(trainer.hyper)}
    settings["start"] = trainer.start
    write(folder / "toyalign.json", json.dumps(settings, indent=1, default=str) + "\n")
    print(sentence(trainer.card.name, entries))
    files = [folder / "model", folder / "log.csv"]
    if "logps/chosen" in table:
        files.append(save_figure(story_figure(entries), folder / "chosen.svg"))
    print(f"written: {', '.join(str(file) for file in files)}")


@dataclass(frozen=True)
class Audit:
    """Look at preference pairs before anything is trained on them."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Rows in .jsonl, .json or .parquet, or a folder of `datasets`."""
    tokenizer: Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = ""
    """A folder or a name that `from_pretrained` takes, for its tokenizer."""
    model: bool = False
    """Also score every pair with that model: gaps, similarity, and who is at risk."""
    max_length: Whole = 1024
    """Most tokens of prompt and response."""
    csv: File = None
    """Write what is known of every row into this file."""


def audit(options: Audit) -> None:
    """`toyalign audit DATA --tokenizer MODEL`."""
    check_target(options.csv)
    if not options.tokenizer:
        raise ToyalignError("--tokenizer is missing: a model's folder or name, for its tokens")
    import pandas as pd

    from toyalign.llm.audit import audit as look
    from toyalign.llm.audit import described
    from toyalign.llm.data import prepare, read_rows
    from toyalign.llm.loading import load, load_tokenizer

    rows = read_rows(options.name)
    model, tokenizer = None, load_tokenizer(options.tokenizer)
    if options.model:
        model, tokenizer = load(options.tokenizer)
    examples, report = prepare(rows, tokenizer, "pairs", max_length=options.max_length)
    found = look(examples, model, tokenizer.pad_token_id or tokenizer.eos_token_id)
    print(described(found))
    if report.cut_prompts:
        print(f"{len(report.cut_prompts)} prompts lose their beginning at {options.max_length}")
    if options.csv:
        columns = {
            "row": found.numbers,
            "edit_distance": found.distance,
            "chosen_tokens": found.lengths[:, 0],
            "rejected_tokens": found.lengths[:, 1],
            "repeated": found.repeated,
            "contradicted": found.contradicted,
        }
        scored = {"gap": found.gap, "ches": found.similarity, "slope": found.slope}
        columns |= {name: values for name, values in scored.items() if values is not None}
        write(options.csv, pd.DataFrame(columns).to_csv(index=False))
        print(f"written: {options.csv}")


@dataclass(frozen=True)
class Diagnose:
    """Read the log of a training, ours or TRL's, and say what became of the chosen answers."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A folder with log.csv or trainer_state.json, or with checkpoints."""
    plot: File = None
    """Draw the rewards and log-probabilities into this .svg, .png or .pdf file."""


def diagnose(options: Diagnose) -> None:
    """`toyalign diagnose RUN`."""
    check_target(options.plot, (".svg", ".png", ".pdf"))
    from toyalign.llm.story import diagnosis, read_log, story_figure
    from toyalign.plotting import save_figure

    name, entries = read_log(Path(options.name))
    print(diagnosis(name, entries))
    if options.plot:
        save_figure(story_figure(entries), options.plot)
        print(f"written: {options.plot}")
