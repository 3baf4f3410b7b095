"""The commands `example`, `audit` and `diagnose`: before and after a language model is trained."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from toyalign.errors import ToyalignError
from toyalign.files import write
from toyalign.options import File, Whole, check_target


@dataclass(frozen=True)
class Example:
    """Make a tiny model that does sums, with pairs, prompts and a reward, to try the others on."""

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR", help_behavior_hint="")
    ] = "demo"
    """A new folder."""
    seed: Whole = 0
    """Of the sums, and of the model."""


def example(options: Example) -> None:
    """`toyalign example DIR`."""
    from toyalign.llm.arithmetic import make_example

    folder = Path(options.name)
    if folder.exists():
        raise ToyalignError(f"{folder} is there already: name another folder")
    print(make_example(folder, options.seed, sys.stderr.isatty()))


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
