"""Things that have a name: how they are listed, looked up, found and loaded from a user's file."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from toyalign.errors import ToyalignError, unknown

T = TypeVar("T")

USER_MODULE = (
    "toyalign_user_"  # what the modules of users' files are called, before folder and stem
)


class Registry(Generic[T]):
    """A dictionary of named things whose lookup error names the nearest match.

    Args:
        what: the kind of thing, as errors call it ("objective").
        hint: where the names are listed ("`toyalign list` lists them").
        discover: called once before the first look, to import the modules that add entries.
    """

    def __init__(self, what: str, hint: str = "", discover: Callable[[], None] | None = None):
        self._what, self._hint, self._discover = what, hint, discover
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """File `entry` under `name`; a name that is taken is an error."""
        if name in self._entries:
            raise ToyalignError(f"{self._what} {name!r} exists already")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Take an entry out again (for tests and notebooks that try a thing twice)."""
        del self._entries[name]

    def __getitem__(self, name: str) -> T:
        self._look()
        key = _key(name)
        if key not in self._entries:
            raise unknown(self._what, name, self._entries, self._hint)
        return self._entries[key]

    def __contains__(self, name: str) -> bool:
        self._look()
        return _key(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(tuple(self._entries))

    def values(self) -> Iterator[T]:
        """All entries, in the order in which they were added."""
        self._look()
        return iter(tuple(self._entries.values()))

    def _look(self) -> None:
        if self._discover is not None:
            discover, self._discover = self._discover, None
            discover()


def _key(name: str) -> str:
    """adjacent-arms, as one writes it on the command line, is adjacent_arms."""
    return name.replace("-", "_")


def import_submodules(package: str) -> None:
    """Import every module of a package, so that what they register is known."""
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{info.name}")


def load_from_file(spec: str) -> Callable[..., Any]:
    """Load `path/to/file.py:function`, a file that need not import anything of ours.

    Raises:
        ToyalignError: if the file is missing or fails to import, or has no such function.
    """
    path_text, _, name = spec.rpartition(":")
    if not path_text or not name:
        raise ToyalignError(f"{spec!r} is not of the form path/to/file.py:function")
    module = load_module(Path(path_text))
    functions = {key: value for key, value in vars(module).items() if callable(value)}
    if name not in functions:
        own = [key for key, value in functions.items() if value.__module__ == module.__name__]
        raise unknown(f"function in {path_text}", name, own)
    return functions[name]


def load_module(path: Path) -> ModuleType:
    """Import a Python file by its path, under a name that cannot hide an installed module.

    Raises:
        ToyalignError: if the file cannot be read or raises while it is imported.
    """
    if not path.is_file():
        raise ToyalignError(f"there is no file {str(path)!r}")
    # With the folder: every paper has a study.py, and two users' files may be called loss.py.
    name = f"{USER_MODULE}{path.resolve().parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ToyalignError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ToyalignError(
            f"{path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module
