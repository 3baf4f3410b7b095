"""Files that are whole or not there."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place first, then under its name.

    Args:
        path: where; its folder must exist.
        text: what, in UTF-8.

    Raises:
        OSError: if the place cannot be written; what was there before is left as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
