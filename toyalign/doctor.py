"""What is installed, what is missing, and for what: `toyalign doctor`.

Only torch is imported, because only torch can say what it was built for; every other version is
read from the installed packages' own records, so the doctor works where an import would fail.
"""

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata

from toyalign import __version__

EXTRAS = {
    "llm": "training language models with the same losses",
    "trl": "the same losses inside TRL's trainers",
    "docs": "building the documentation",
    "test": "running the tests",
    "dev": "style, types and import contracts",
}
CPU_BUILD = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)\s*(?P<limits>[^;]*)(;.*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"])?"
)


def report() -> str:
    """The whole report, one line per finding."""
    lines = [
        f"toyalign {__version__}, Python {platform.python_version()} on {platform.system()}",
        "",
        "needed",
        f"  {torch_line()}",
    ]
    try:
        declared = metadata.requires("toyalign") or []
    except metadata.PackageNotFoundError:
        lines.append("  toyalign runs from a folder; to see what it needs: pip install -e .")
        return "\n".join(lines)
    needs: dict[str, list[tuple[str, str]]] = {}
    for match in filter(None, map(_REQUIREMENT.match, declared)):
        requirement = (match["name"], match["limits"].strip(" ()"))
        needs.setdefault(match["extra"] or "", []).append(requirement)
    lines += [
        f"  {needed_line(*package)}" for package in needs.pop("", []) if "torch" not in package
    ]
    lines += ["", "optional extras", *(f"  {extra_line(*extra)}" for extra in needs.items())]
    return "\n".join(lines)


def torch_line() -> str:
    """Torch: its build, whether that build is of use here, and its threads."""
    try:
        import torch
    except Exception as error:  # a broken binary raises what it likes
        return f"torch: cannot be imported ({type(error).__name__}: {error}); {CPU_BUILD}"
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    cuda, hip = torch.version.cuda, torch.version.hip
    if not cuda and not hip:
        return (
            f"torch {torch.__version__}: CPU build, which is all the toy problems need; {threads}"
        )
    build = f"CUDA {cuda} build" if cuda else f"ROCm {hip} build"
    if torch.cuda.is_available():
        return (
            f"torch {torch.__version__}: {build}, using {torch.cuda.get_device_name()}; {threads}"
        )
    return (
        f"torch {torch.__version__}: {build}, unused because no GPU is visible; {threads}. "
        f"A CPU build downloads 0.2 GB instead of 3: {CPU_BUILD}"
    )


def needed_line(name: str, limits: str) -> str:
    """A package that toyalign cannot do without."""
    lacking = lack(name, limits)
    if lacking:
        return f"lacks {lacking}: pip install '{name}{limits}'"
    return f"{name} {metadata.version(name)}"


def extra_line(extra: str, packages: Sequence[tuple[str, str]]) -> str:
    """An optional extra: complete, or what is missing and how to get it."""
    purpose = f"{extra}, for {EXTRAS[extra]}" if extra in EXTRAS else extra
    lacking = [text for name, limits in packages if (text := lack(name, limits))]
    if lacking:
        return f"{purpose}: lacks {', '.join(lacking)}: pip install 'toyalign[{extra}]'"
    return f"{purpose}: complete"


def lack(name: str, limits: str) -> str:
    """The requirement, if the installed packages do not meet it, or "" if they do.

    Args:
        name: of the package.
        limits: its version limits, for example ">=2.0"; only lower limits are looked at.
    """
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name}{limits}"
    least = re.search(r">=\s*([\d.]+)", limits)
    if least and release(version) < release(least[1]):
        return f"{name}{limits} ({version} is installed)"
    return ""


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: "2.13.0+cpu" is (2, 13)."""
    leading = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (leading[0] if leading else "").split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
