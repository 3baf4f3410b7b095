"""Other people's losses, compiled one function at a time out of the wheels they ship in.

The packages are never installed: their dependencies are heavy, contradict each other and have
nothing to do with a formula. The source of one function, class or passage is cut out of the wheel's
text and compiled by itself, with the names that it uses. What is not where it should be is an
error, so a test cannot pass because its judge has left.

Nothing of the text is changed but two things: decorators that register it elsewhere go, and single
precision becomes double, for a comparison to 1e-12 can only be made there.
"""

import __future__

import ast
import functools
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FOLDER = Path(os.environ.get("TOYALIGN_ORACLE", ""))  # where `make oracle` puts the wheels
ALWAYS = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "math": math}

KEPT = ("torch.no_grad()", "staticmethod", "property")  # decorators that are part of the meaning

Stub = SimpleNamespace  # a `self` with just the attributes that a method reads


def function(package: str, path: str, name: str, **names: Any) -> Any:
    """A function, a method (its `self` stays the first argument) or a whole class.

    Args:
        package: distribution and version, "trl 1.16.0".
        path: the file in the wheel.
        name: "function", "Class" or "Class.method".
        **names: what its text refers to beyond torch, nn, F and math.

    Raises:
        LookupError: if the wheel, the file or the name is not there.
    """
    found = _definition(package, path, name)
    return _run([found], f"{package}/{path}", names)[found.name]


def passage(
    package: str, path: str, name: str, first: str, last: str, **names: Any
) -> Callable[..., SimpleNamespace]:
    """The statements of a long method from the one that starts with `first` to `last`, both in.

    Returns a function of the variables that the passage reads; it returns all variables as they
    are afterwards.

    Raises:
        LookupError: as `function` does, and if there is not exactly one such passage.
    """
    inside = _definition(package, path, name)
    found = []
    for block in _blocks(inside):
        texts = [ast.unparse(statement) for statement in block]
        starts = [i for i, text in enumerate(texts) if text.startswith(first)]
        ends = [i for i, text in enumerate(texts) if text.startswith(last)]
        found += [block[i : j + 1] for i in starts for j in [k for k in ends if k >= i][:1]]
    if len(found) != 1:
        raise LookupError(
            f"{name} in {path} of {package} has {len(found)} passages from {first!r} to {last!r}"
        )
    origin = f"{package}/{path}"
    return lambda **variables: Stub(**_run(found[0], origin, {**names, **variables}))


def _definition(package: str, path: str, name: str) -> Any:
    inside: Any = _source(package, path)
    for part in name.split("."):
        here = [node for node in inside.body if getattr(node, "name", None) == part]
        if len(here) != 1:
            raise LookupError(f"{path} of {package} holds {part!r} of {name!r} {len(here)} times")
        inside = here[0]
    return inside


@functools.cache
def _source(package: str, path: str) -> ast.Module:
    distribution, version = package.split()
    wheels = list(FOLDER.glob(f"{distribution.replace('-', '_')}-{version}-*.whl"))
    if len(wheels) != 1:
        raise LookupError(f"{len(wheels)} wheels of {package} in {FOLDER}: run `make oracle`")
    with zipfile.ZipFile(wheels[0]) as wheel:
        # Some wheels keep their Python files under NAME.data/purelib.
        names = [n for n in wheel.namelist() if n == path or n.endswith(f"/purelib/{path}")]
        if len(names) != 1:
            raise LookupError(f"{wheels[0].name} holds {path} {len(names)} times")
        text = wheel.read(names[0]).decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about their docstrings
        return _InDouble().visit(ast.parse(text))


class _InDouble(ast.NodeTransformer):
    """Most decorators go; float32 becomes float64, `.float()` becomes `.double()`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) in KEPT]
        self.generic_visit(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        node.attr = {"float32": "float64", "float": "double"}.get(node.attr, node.attr)
        return node


def _blocks(inside: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(inside):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                yield block


def _run(statements: list[ast.stmt], origin: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run them with annotations left unread, which name types of packages that are not here."""
    code = compile(
        ast.fix_missing_locations(ast.Module(statements, [])),
        origin,
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    space = {**ALWAYS, **names}
    exec(code, space)
    space.pop("__builtins__")
    return space
