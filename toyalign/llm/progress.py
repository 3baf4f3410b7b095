"""How far a training is, on one line: step, loss, what became of the chosen answers, pace."""

import sys
import time
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.utils import logging

_OFTEN = 0.5  # seconds between two lines on a terminal
_SELDOM = 10.0  # and in a file
_SHOWN = {
    "loss": "loss", "logps/chosen": "chosen", "rewards/margins": "margin", "reward": "reward",
}  # fmt: skip


def told(trainer: Trainer, rows: int) -> None:
    """Let a trainer report in lines of ours, and nothing else.

    Args:
        trainer: whose own printing is switched off.
        rows: rows of a step on each process.
    """
    quiet(trainer)
    trainer.add_callback(Progress(rows * trainer.args.world_size))


def quiet(trainer: Trainer) -> None:
    """Switch a trainer's own printing off, and the bars of loading and saving."""
    logging.disable_progress_bar()
    trainer.remove_callback(PrinterCallback)


class Progress(TrainerCallback):
    """One line on standard error, renewed on a terminal.

    Args:
        rows: rows of a step, over all processes.
    """

    def __init__(self, rows: int):
        self.rows, self.terminal = rows, sys.stderr.isatty()
        self.began, self.first, self.shown = time.monotonic(), 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remember when, and at which step."""
        self.began, self.first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Say how far it is, but not at every step."""
        now = time.monotonic()
        wait = _OFTEN if self.terminal else _SELDOM
        done = state.global_step - self.first
        if not state.is_world_process_zero or "loss" not in logs or done < 1:
            return
        if now - self.shown < wait and state.global_step < state.max_steps:
            return
        self.shown = now
        each = (now - self.began) / done
        said = [f"step {state.global_step}/{state.max_steps}"]
        said += [f"{word} {logs[name]:.3g}" for name, word in _SHOWN.items() if name in logs]
        said.append(f"{self.rows / each:.3g} rows/s")
        said.append(f"{each * (state.max_steps - state.global_step):.0f} s left")
        start, end = ("\r\033[K", "") if self.terminal else ("", "\n")
        print(f"{start}{'  '.join(said)}", end=end, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Leave the line."""
        if self.terminal and state.is_world_process_zero:
            print(file=sys.stderr)
