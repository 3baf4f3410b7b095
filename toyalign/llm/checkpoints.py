"""Checkpoints that are whole: one counts only once it says so itself, and it says so last."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from toyalign.errors import ToyalignError
from toyalign.files import write
from toyalign.llm.guards import check_weights

MARK = "whole.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class Marked(TrainerCallback):
    """Put the mark on a checkpoint when all processes have written their part of it."""

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The checkpoint is there."""
        check_weights(given["model"], state.global_step)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            write(folder / MARK, json.dumps({"step": state.global_step}) + "\n")


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step, whole or not."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def last_whole(folder: Path) -> Path:
    """The last checkpoint that was written to its end.

    Raises:
        ToyalignError: if there is none.
    """
    whole = [path for path in checkpoints(folder).values() if (path / MARK).is_file()]
    if not whole:
        raise ToyalignError(f"there is no checkpoint in {folder} to go on from")
    return whole[-1]


def forget_marks(folder: Path, step: int) -> None:
    """Take the mark off checkpoints that are about to be written again.

    Args:
        folder: with the checkpoints.
        step: from whose checkpoint the training goes on.
    """
    for number, path in checkpoints(folder).items():
        if number > step:
            (path / MARK).unlink(missing_ok=True)


def remove_halves(folder: Path) -> None:
    """Remove checkpoints that were not written to their end."""
    for path in checkpoints(folder).values():
        if not (path / MARK).is_file():
            shutil.rmtree(path)
