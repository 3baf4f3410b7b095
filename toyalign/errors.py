"""Errors that teach: what was given, what is known, the nearest name, where to look."""

from collections.abc import Iterable
from difflib import get_close_matches


class ToyalignError(ValueError):
    """A mistake of the caller's that one line can explain.

    The command line prints the message and exits with status 2; in Python it is a `ValueError`.
    """


def unknown(what: str, given: str, known: Iterable[str], hint: str = "") -> ToyalignError:
    """The error for a name that is not in a list of names.

    Args:
        what: the kind of thing that was named, for example "objective".
        given: the name as the user wrote it.
        known: all names that would have been accepted.
        hint: where the names are explained, for example "`toyalign list` lists them".
    """
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    tail = f" ({hint})" if hint else ""
    return ToyalignError(f"unknown {what} {given!r}{guess} Known: {', '.join(names)}{tail}")
