"""Files and folders that are whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside a file or folder, which gets its name once all has been written there.

    Args:
        path: where it is to be; its folder must exist.

    Raises:
        OSError: if it cannot be written; what was there before is left as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place first, then under its name.

    Args:
        path: where; its folder must exist.
        text: what, in UTF-8.

    Raises:
        OSError: if the place cannot be written; what was there before is left as it was.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
