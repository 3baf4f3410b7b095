"""The problems: what is to be learned, from which reference, on which data.

A named problem is a function decorated with `@problem` in a module of this package; its name then
works in `simulate`, on the command line and in the tests.
"""

from collections.abc import Callable
from typing import Any

from toyalign.errors import ToyalignError
from toyalign.registry import Registry, import_submodules, load_from_file


def _discover() -> None:
    import_submodules(__name__)


PROBLEMS: Registry[Callable[..., Any]] = Registry(
    "problem", "`toyalign list` shows them all", _discover
)


def problem(make: Callable[..., Any]) -> Callable[..., Any]:
    """File a function that makes a problem under its own name. Returns the bare function."""
    PROBLEMS.add(make.__name__, make)
    return make


def get_problem(which: Any) -> Any:
    """A problem by name ("far"), from `file.py:function`, or as it is if it already is one.

    Raises:
        ToyalignError: for an unknown name, with the nearest one, or something else than a problem.
    """
    found = which
    if isinstance(which, str):
        found = load_from_file(which)() if ".py:" in which else PROBLEMS[which]()
    if not hasattr(found, "world"):
        raise ToyalignError(f"{found!r} is not a problem: it has no method world")
    return found
