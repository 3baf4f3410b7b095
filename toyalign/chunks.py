"""Chunks of runs: how many at a time, in how many processes, and how far the work is."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

_CHUNK_BYTES = 1 << 20
_FEW_RUNS = 64
_WIDE_BYTES = 64 << 20

Train = Callable[[Any, slice], dict[str, Any]]


def chunk_size(numbers: int, dtype: torch.dtype) -> int:
    """Runs per chunk, so that a tensor with `numbers` entries per run is about 1 MiB.

    Smaller chunks would spend their time on dispatch, so there are at least 64 runs unless they
    are very wide.
    """
    each = numbers * dtype.itemsize
    return max(1, _CHUNK_BYTES // each, min(_FEW_RUNS, _WIDE_BYTES // each))


def map_chunks(
    train: Train, plan: Any, pieces: Sequence[slice], jobs: int, progress: bool
) -> Iterator[dict[str, Any]]:
    """Train every chunk, in this process or shared among several; results come in order.

    Args:
        train: the simulator's loop.
        plan: what it is to do.
        pieces: the runs of each chunk.
        jobs: number of processes. Results do not depend on it. Where the system cannot fork
            (Windows), the work is done in this process.
        progress: whether to report on standard error.
    """
    global _train, _plan
    start = time.monotonic()
    jobs = min(jobs, len(pieces))
    if jobs > 1 and "fork" in multiprocessing.get_all_start_methods():
        # A user's loss cannot be pickled, so the children inherit it.
        _train, _plan = train, plan
        with multiprocessing.get_context("fork").Pool(jobs, quiet_worker) as pool:
            for done, records in enumerate(pool.imap(_train_inherited, pieces), 1):
                if progress:
                    _report(f"{done} of {len(pieces)} chunks of runs", start)
                yield records
        if progress:
            print(file=sys.stderr)
    else:
        # Threads split a tensor wherever they like, and the end of each part rounds differently.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for done, piece in enumerate(pieces, 1):
                _ticker.begin(f"chunk {done} of {len(pieces)}" if progress else "", start)
                yield train(plan, piece)
        finally:
            torch.set_num_threads(threads)
            _ticker.end()


def quiet_worker() -> None:
    """How a child process starts: one thread, and silent when the parent is interrupted."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tick(step: int, steps: int) -> None:
    """Say how far the present chunk is, if progress was asked for and the work is long."""
    _ticker.tick(step, steps)


class _Ticker:
    """A line on standard error that is rewritten, at most twice a second."""

    def __init__(self) -> None:
        self._what, self._start, self._last, self._shown = "", 0.0, 0.0, False

    def begin(self, what: str, start: float) -> None:
        self._what, self._start = what, start

    def tick(self, step: int, steps: int) -> None:
        now = time.monotonic()
        if self._what and now - self._start > 1 and now - self._last > 0.5:
            _report(f"{self._what}, step {step:,} of {steps:,}", self._start)
            self._last, self._shown = now, True

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)
        self._what, self._shown = "", False


_ticker = _Ticker()
_train: Train | None = None
_plan: Any = None


def _train_inherited(piece: slice) -> dict[str, Any]:
    assert _train is not None
    return _train(_plan, piece)


def _report(text: str, start: float) -> None:
    print(f"\r  {text}, {time.monotonic() - start:.0f} s ", end="", file=sys.stderr, flush=True)
