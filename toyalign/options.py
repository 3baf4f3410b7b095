"""Options: how the words after a command become its dataclass, and what is said when they cannot.

tyro does the parsing and writes the help. It explains errors in boxes of several lines; here every
error becomes one line, with the nearest known name.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from toyalign.errors import ToyalignError, unknown

if TYPE_CHECKING:
    from toyalign.objectives import Objective

Form = TypeVar("Form")


def parse(form: type[Form], command: str, words: Sequence[str]) -> Form:
    """Fill in the dataclass of a command from the words that follow the command.

    Raises:
        ToyalignError: for an unknown option or a value that cannot be read.
        SystemExit: after `--help` has been printed.
    """
    fields = [field.name for field in dataclasses.fields(form)]  # type: ignore[arg-type]
    named = [field for field in fields if field not in ("name", "names")]
    options = ["--help", *("--" + field.replace("_", "-") for field in named)]
    see = f"`toyalign {command} --help` explains the options"
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in options:
            raise unknown("option", option, options, see)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                form, prog=f"toyalign {command}", args=words, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ToyalignError(f"{_first_lines(complaint.getvalue())} ({see})") from None


def with_hyperparameters(form: type[Form], cards: Sequence["Objective"]) -> type[Form]:
    """The dataclass of a command, with a field for every hyperparameter of some objectives.

    A hyperparameter takes several values, which are crossed with everything else; the empty tuple
    stands for each objective's own default.

    Raises:
        ToyalignError: if a hyperparameter has the name of an option of the command.
    """
    taken = {field.name for field in dataclasses.fields(form)}  # type: ignore[arg-type]
    fields: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys(name for card in cards for name in card.hyper):
        owners = [card for card in cards if name in card.hyper]
        if name in taken:
            raise ToyalignError(
                f"hyperparameter {name!r} of {owners[0].name} has the name of an option of this "
                "command: rename it in the loss"
            )
        defaults = " and ".join(f"{card.hyper[name]} for {card.name}" for card in owners)
        defaults = defaults if len(owners) > 1 else str(owners[0].hyper[name])
        described = tyro.conf.arg(
            help=f"Hyperparameter of {', '.join(card.name for card in owners)}.",
            help_behavior_hint=f"(default: {defaults})",
        )
        read = reader("X ...", _like(owners[0].hyper[name]), several=True)
        annotation = Annotated[tuple[Any, ...], read, described]
        fields.append((name, annotation, dataclasses.field(default=())))
    namespace = {"__doc__": form.__doc__}
    return dataclasses.make_dataclass(
        form.__name__, fields, bases=(form,), frozen=True, namespace=namespace
    )


def reader(metavar: str, read: Callable[[str], Any], several: bool = False) -> Any:
    """How tyro is to read the value of an option, or its several values.

    Args:
        metavar: what the help calls a value.
        read: turns a word into a value, or raises ValueError with a reason.
        several: whether the option takes a list.
    """

    def from_words(words: list[str]) -> Any:
        if not words:
            raise ValueError("needs at least one value")
        return tuple(map(read, words)) if several else read(words[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=metavar,
        instance_from_str=from_words,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(one) for one in (value if several else [value])],
    )


def check_target(path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written, before any time is spent.

    Raises:
        ToyalignError: if the suffix is not known or the folder is missing or read-only.
    """
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise ToyalignError(f"cannot draw {path}: the suffix must be {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ToyalignError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ToyalignError(f"cannot write {path}: that is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ToyalignError(f"cannot write {path}: the folder {path.parent} is read-only")


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _like(default: Any) -> Callable[[str], Any]:
    """How to read a hyperparameter with this default: a word, true or false, or a number."""
    if isinstance(default, str):
        return str
    if isinstance(default, bool):
        return _truth
    if isinstance(default, int):
        return lambda text: int(text) if text.lstrip("-").isdigit() else number(text)
    return number


def _first_lines(box: str) -> str:
    """What tyro says at the top of the box that it draws round an error, as one line."""
    plain = re.sub(r"\033\[[\d;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]  # without the title
    body = itertools.dropwhile(_is_rule, lines)
    text = " ".join(itertools.takewhile(lambda line: not _is_rule(line), body))
    text = text.removeprefix("Error parsing ").rstrip(".")
    return text[:1].lower() + text[1:]


def _is_rule(line: str) -> bool:
    return not line.strip("─-╰╯")


# The kinds of options. A silent hint leaves "(default: None)" out of the help.
Whole = Annotated[int, reader("N", whole)]
Number = Annotated[float, reader("X", number)]
Numbers = Annotated[tuple[float, ...], reader("X ...", number, several=True)]
MaybeWhole = Annotated[int | None, reader("N", whole), tyro.conf.arg(help_behavior_hint="")]
MaybeNumber = Annotated[float | None, reader("X", number), tyro.conf.arg(help_behavior_hint="")]
Word = Annotated[str, tyro.conf.arg(metavar="NAME")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
