"""The objectives: pure functions of named log-probabilities, and the cards that describe them.

A loss takes tensors named as in `toyalign.glossary` and returns one value per row (or per token);
it takes no mean, keeps no state and prints nothing. Its signature says what data it needs:
positional parameters are glossary names, keyword-only parameters are hyperparameters. Any such
function works everywhere in the package; `@objective(...)` adds the facts that a signature cannot
carry and files the function under its name. A new loss is a new function in a family file.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toyalign.errors import ToyalignError, unknown
from toyalign.glossary import check_names, kind_of
from toyalign.registry import USER_MODULE, Registry, import_submodules, load_from_file

Loss = Callable[..., Any]

SOURCES = {
    "fixed": "the problem's own pairs or demonstrations",
    "reference": "responses of the reference policy",
    "policy": "responses of the policy itself, collected anew as it learns",
}


@dataclass(frozen=True)
class Objective:
    """A loss and its card.

    Args:
        fn: the bare function.
        name: what it is called everywhere; the function's own name.
        family: the module that holds it.
        needs: glossary names of its tensors, in order.
        hyper: its hyperparameters with their defaults.
        sources: where its data may come from (keys of `SOURCES`), the usual one first.
        paper: authors, year and arXiv number; empty for a user's function.
        equation: where in the paper the formula stands.
        tie: at a kink, which one-sided derivative the gradient takes; empty for a smooth loss.
        expects: for a tensor the loss needs, where a descent step pushes it: "up", "down" or
            "either"; the tests hold the gradient to it.
        exceptions: contracts of `toyalign check` that the loss breaks by design, each with a
            sentence and a citation; a declared exception must occur.
        advantage: what a reward is to be compared with, a key of `advantages.ADVANTAGES`, where the
            data source is not told otherwise.
        view: how the log-probabilities are produced; "plain" is one forward pass.
    """

    fn: Loss
    name: str
    family: str
    needs: tuple[str, ...]
    hyper: Mapping[str, Any]
    sources: tuple[str, ...] = tuple(SOURCES)
    paper: str = ""
    equation: str = ""
    tie: str = ""
    expects: Mapping[str, str] = field(default_factory=dict)
    exceptions: Mapping[str, str] = field(default_factory=dict)
    advantage: str = "baseline"
    view: str = "plain"

    @property
    def kind(self) -> str:
        """The kind of data it needs, a key of `glossary.KINDS`."""
        return kind_of(self.needs)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.fn) or "no description").splitlines()[0]

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters for a call: the defaults, overridden by what was given.

        Raises:
            ToyalignError: for a name that is not a hyperparameter of this loss.
        """
        for key in given:
            if key not in self.hyper:
                raise unknown(f"hyperparameter of {self.name}", key, self.hyper)
        return {**self.hyper, **given}


def _discover() -> None:
    import_submodules(__name__)


OBJECTIVES: Registry[Objective] = Registry("objective", "`toyalign list` shows them all", _discover)
_FROM_FILES: dict[Loss, Objective] = {}  # a user's file may hold a `dpo` of its own


def objective(**card: Any) -> Callable[[Loss], Loss]:
    """File a loss under its name, with what its signature cannot say. Returns the bare function.

    A function in a file that is loaded by its path keeps its card without taking a name.

    Args:
        **card: fields of `Objective` from `sources` to `view`.

    Raises:
        ToyalignError: if a parameter is not in the glossary, a hyperparameter has no default, or
            `sources` or `expects` name something unknown.
    """

    def file(fn: Loss) -> Loss:
        described = describe(fn, **card)
        if fn.__module__.startswith(USER_MODULE):
            _FROM_FILES[fn] = described
        else:
            OBJECTIVES.add(fn.__name__, described)
        return fn

    return file


def describe(fn: Loss, **card: Any) -> Objective:
    """Read a loss's signature and make its card.

    Raises:
        ToyalignError: as `objective` does.
    """
    needs, hyper = [], {}
    name = getattr(fn, "__name__", "")
    if not name or isinstance(fn, type):
        raise ToyalignError(f"{fn!r} is no plain function: define the loss with def")
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
        raise ToyalignError(f"{name}() must return its values: no async, no yield")
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:
        raise ToyalignError(
            f"{name}() has no signature to read: define the loss with def"
        ) from None
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise ToyalignError(
                    f"hyperparameter {parameter.name!r} of {name}() needs a default value"
                )
            if isinstance(parameter.default, list):
                raise ToyalignError(
                    f"hyperparameter {parameter.name!r} of {name}() has a list for a default, "
                    "which stands for a sweep: use a tuple"
                )
            hyper[parameter.name] = parameter.default
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToyalignError(
                f"{name}() must take {parameter.name!r} by its name: leave the / out of its "
                "signature"
            )
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToyalignError(
                f"{name}() must name its tensors one by one, not take *{parameter.name}: the "
                "signature says what data the loss needs"
            )
        elif parameter.default is not parameter.empty:
            raise ToyalignError(
                f"{parameter.name!r} of {name}() has a default, so it is a hyperparameter: put it "
                "after a bare * to make it keyword-only"
            )
        else:
            needs.append(parameter.name)
    if not needs:
        raise ToyalignError(f"{name}() asks for no tensors; see toyalign.glossary for the names")
    check_names(needs, name)
    for source in card.get("sources", ()):
        if source not in SOURCES:
            raise unknown(f"data source on the card of {name}", source, SOURCES)
    for tensor, push in card.get("expects", {}).items():
        if tensor not in needs or push not in ("up", "down", "either"):
            raise ToyalignError(f"the card of {name} expects {tensor!r} to go {push!r}")
    return Objective(fn, name, fn.__module__.rpartition(".")[2], tuple(needs), hyper, **card)


def get_objective(which: "str | Loss | Objective") -> Objective:
    """Find an objective by what the user has: a name, a file, a function or a card.

    Args:
        which: a registered name ("dpo"), `path/to/file.py:function`, a loss function, or a card.

    Raises:
        ToyalignError: for an unknown name (with the nearest one), a file that cannot be loaded, or
            a function whose signature is not a schema.
    """
    if isinstance(which, Objective):
        return which
    if isinstance(which, str):
        if which.endswith(".py"):
            raise ToyalignError(f"which function of {which}? Write {which}:function")
        if ".py:" not in which:
            return OBJECTIVES[which]
        which = load_from_file(which)
    for card in (*_FROM_FILES.values(), *OBJECTIVES.values()):
        if card.fn is which:
            return card
    return describe(which)
