"""The commands `example`, `audit` and `diagnose`: before and after a language model is trained."""

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
    import torch

    from toyalign.llm.arithmetic import make_example

    torch.set_num_threads(1)  # many small tensors: threads would only wait for each other
    folder = Path(options.name)
    if folder.exists():
        raise ToyalignError(f"{folder} is there already: name another folder")
    print(make_example(folder, options.seed))


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
    from toyalign.llm.audit import described, troubles
    from toyalign.llm.batches import pad_of
    from toyalign.llm.data import sift
    from toyalign.llm.formats import read_rows
    from toyalign.llm.loading import few_threads, load, load_tokenizer

    rows = read_rows(options.name)
    model, tokenizer = None, load_tokenizer(options.tokenizer)
    if options.model:
        model, tokenizer = load(options.tokenizer)
        few_threads(model)
    examples, report = sift(
        rows, tokenizer, "pairs", max_length=options.max_length, boundaries=True
    )
    print(troubles(report, options.max_length))
    if not examples:
        raise ToyalignError(f"none of the {report.rows} rows can be used")
    found = look(examples, model, pad_of(tokenizer))
    print(described(found))
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
    objective: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ""
    """What was trained with, where the folder does not say: a name or path/to/file.py:function."""
    plot: File = None
    """Draw the rewards and log-probabilities into this .svg, .png or .pdf file."""


def diagnose(options: Diagnose) -> None:
    """`toyalign diagnose RUN`."""
    check_target(options.plot, (".svg", ".png", ".pdf"))
    from toyalign.llm.diagnosis import diagnosis, in_the_toy, read_log
    from toyalign.llm.story import story_figure
    from toyalign.plotting import save_figure

    settings, entries = read_log(Path(options.name))
    if options.objective:
        settings["objective"] = options.objective
    print(diagnosis(settings, entries))
    asked = options.objective or settings.get("file", settings.get("objective"))
    if asked:
        print(in_the_toy(asked, settings.get("hyper")))
    if options.plot:
        save_figure(story_figure(entries), options.plot)
        print(f"written: {options.plot}")
