"""The catalogue: what there is, in words from cards and docstrings, and finding it by its name."""

import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY, KINDS
from toyalign.objectives import OBJECTIVES, SOURCES, Objective, get_objective
from toyalign.policies import POLICIES
from toyalign.problems import PROBLEMS
from toyalign.relatives import relatives
from toyalign.words import gradient_in_words

PACKAGE = "toyalign.objectives"
NEXT = (
    "next: toyalign explain dpo, toyalign run dpo dpop sft, or toyalign run your_file.py:your_loss"
)


def listing(needs: bool = False) -> str:
    """All objectives by family and by the data they learn from; then problems and policies.

    Args:
        needs: whether to show the tensors that each objective asks for.
    """
    families: dict[str, list[Objective]] = {}
    for card in OBJECTIVES.values():
        families.setdefault(card.family, []).append(card)
    width = max(len(name) for name in [*OBJECTIVES, *PROBLEMS, *POLICIES])
    lines = ["OBJECTIVES, by family and by the data they learn from", ""]
    for family, cards in families.items():
        own = sys.modules[cards[0].fn.__module__]  # of a notebook's or a test's objective
        lines.append(f"{family}: {_first_line(sys.modules.get(f'{PACKAGE}.{family}', own))}")
        for data in dict.fromkeys(map(_data, cards)):
            lines.append(f"  {data}")
            for card in cards:
                if _data(card) == data:
                    lines.append(f"    {card.name:{width}}  {card.summary}")
                    lines += _tensors(card.needs, "      ") if needs else []
        lines.append("")
    lines += ["kinds of data", *_columns(list(KINDS.items()), "    ")]
    lines += ["where data comes from", *_columns(list(SOURCES.items()), "    ")]
    for title, registry in (("PROBLEMS", PROBLEMS), ("POLICIES", POLICIES)):
        lines += ["", title, ""]
        lines += [f"    {name:{width}}  {_first_line(registry[name])}" for name in registry]
    return "\n".join([*lines, "", NEXT])


def explanation(name: str) -> str:
    """Everything that is known of an objective; of a problem or a policy, its docstring.

    Args:
        name: a registered name, or path/to/file.py:function.

    Raises:
        ToyalignError: for an unknown name, or a file or function that cannot be used.
    """
    key = name.replace("-", "_")
    for option, registry in (("problem", PROBLEMS), ("policy", POLICIES)):
        if key in registry:
            told = inspect.getdoc(registry[key])
            return f"{key}: {told}\n\nnext: toyalign run dpo --{option} {key}"
    (card,) = load_cards([name])
    lines = [f"{card.name}: {inspect.getdoc(card.fn) or card.summary}", "", *_notation(card)]
    lines += [f"Needs {card.kind}: {KINDS[card.kind]}.", *_tensors(card.needs, "  ")]
    sources = [(source, SOURCES[source]) for source in card.sources]
    lines += ["Its data may come from:", *_columns(sources, "  ")]
    if card.hyper:
        defaults = [(f"--{key.replace('_', '-')}", str(value)) for key, value in card.hyper.items()]
        lines += ["Hyperparameters and their defaults:", *_columns(defaults, "  ")]
    if card.expects:
        pushes = [
            f"{tensor} {push.replace('either', 'up or down')}"
            for tensor, push in card.expects.items()
        ]
        lines.append(f"A descent step pushes: {', '.join(pushes)}.")
    with blame(name):
        measured = {
            "Its gradient, measured at the defaults:": gradient_in_words(card),
            "Its relatives:": relatives(card),
        }
    for title, sentences in measured.items():
        lines += [title] if sentences else []
        for sentence in sentences:
            lines += wrap(sentence, 100, initial_indent="  ", subsequent_indent="    ")
    for contract, reason in card.exceptions.items():
        lines += wrap(f"Breaks the contract {contract} by design: {reason}.", 100)
    if card.paper:
        lines.append(f"Ties: {card.tie or 'none; the loss has no kinks'}.")
        lines += [f"Paper: {card.paper}.", f"Equation: {card.equation}."]
    return "\n".join([*lines, "", f"next: toyalign run {name} --plot {card.name}.svg"])


def load_cards(names: Iterable[str]) -> list[Objective]:
    """The objectives of these names; one from a file whose name is taken is called by its file.

    Raises:
        ToyalignError: for an unknown name, or a file or function that cannot be used.
    """
    cards: dict[str, Objective] = {}
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        with blame(name):
            card = get_objective(name)
        if card.name != name and card.name in {*wanted, *cards}:
            card = replace(card, name=name)
        cards[card.name] = card
    return list(cards.values())


@contextmanager
def blame(name: str) -> Iterator[None]:
    """Whatever a user's own code raises becomes one line that says whose code, what and where."""
    try:
        yield
    except (ToyalignError, OSError):
        raise
    except (Exception, SystemExit) as error:
        ours = str(Path(__file__).parent)
        theirs = [
            f" (line {frame.lineno} of {frame.filename})"
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(ours) and "site-packages" not in frame.filename
        ]
        raise ToyalignError(
            f"{name} raised {type(error).__name__}: {error}{''.join(theirs[-1:])}"
        ) from error


def _data(card: Objective) -> str:
    """What an objective learns from, for example "samples, from: reference, policy"."""
    return f"{card.kind}, from: {', '.join(card.sources)}"


def _tensors(names: Iterable[str], indent: str) -> list[str]:
    """Rows of the glossary: name, shape, unit and meaning."""
    terms = [GLOSSARY[name] for name in names]
    return _columns([(term.name, term.shape, term.unit, term.meaning) for term in terms], indent)


def _notation(card: Objective) -> list[str]:
    """The paragraph of the family's docstring that explains the symbols of the formulas."""
    paragraphs = (inspect.getdoc(sys.modules[card.fn.__module__]) or "").split("\n\n")
    return [f"{text}\n" for text in paragraphs if text.startswith("Notation:")]


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "no description").splitlines()[0]


def _columns(rows: Sequence[Sequence[str]], indent: str) -> list[str]:
    """Rows as lines of aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
