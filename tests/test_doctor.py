"""The doctor, on machines that are not this one."""

import sys
from importlib import metadata

import pytest
import torch

from toyalign import __version__, doctor


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages, and no others, are installed."""
    packages: dict[str, str] = {}

    def version(name):
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(metadata, "version", version)
    return packages


@pytest.fixture
def declared(monkeypatch):
    """Pretend that toyalign declares these requirements."""
    lines: list[str] = []
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    return lines


def test_what_is_installed_here():
    text = doctor.report()
    assert text.splitlines()[0].startswith(
        f"toyalign {__version__}, Python {sys.version.split()[0]}"
    )
    for name in ("numpy", "scipy", "pandas", "matplotlib", "seaborn", "gymnasium", "tyro"):
        assert f"  {name} {metadata.version(name)}" in text.splitlines()
    assert f"torch {torch.__version__}" in text
    for extra in ("llm", "docs", "test", "dev"):
        assert f"  {extra}, for {doctor.EXTRAS[extra]}: " in text


def test_a_complete_and_an_incomplete_extra(installed, declared):
    installed |= {"numpy": "2.4.6", "tool": "3.0", "old": "1.9.0"}
    declared += [
        "numpy>=2.0",
        "torch>=2.4",
        "tool>=3 ; extra == 'dev'",
        "old>=2.0 ; extra == 'llm'",
        "none>=0.1 ; extra == 'llm'",
    ]
    lines = doctor.report().splitlines()
    assert "  numpy 2.4.6" in lines
    assert "  dev, for style, types and import contracts: complete" in lines
    assert (
        "  llm, for training language models with the same losses: lacks old>=2.0 (1.9.0 is "
        "installed), none>=0.1: pip install 'toyalign[llm]'"
    ) in lines
    assert sum("torch" in line for line in lines) == 1  # its own line, not one of the list


def test_a_needed_package_is_missing(installed, declared):
    declared.append("pandas>=2.2")
    assert "  lacks pandas>=2.2: pip install 'pandas>=2.2'" in doctor.report().splitlines()


def test_an_extra_without_a_purpose_on_record(installed, declared):
    declared.append('thing>=1; extra == "browser"')
    assert "  browser: lacks thing>=1: pip install 'toyalign[browser]'" in doctor.report()


def test_toyalign_itself_is_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert doctor.report().endswith("runs from a folder; to see what it needs: pip install -e .")


@pytest.mark.parametrize(
    ("cuda", "hip", "visible", "told"),
    [
        (None, None, False, "CPU build, which is all the toy problems need; "),
        ("12.8", None, False, "CUDA 12.8 build, unused because no GPU is visible; "),
        ("12.8", None, True, "CUDA 12.8 build, using Testcard 9; "),
        (None, "6.2", False, "ROCm 6.2 build, unused because no GPU is visible; "),
    ],
)
def test_torch_builds(monkeypatch, cuda, hip, visible, told):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Testcard 9")
    line = doctor.torch_line()
    assert told in line
    assert f"{torch.get_num_threads()} threads on" in line
    assert ("pip install torch --index-url" in line) == ("unused" in line)


def test_torch_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.torch_line().startswith("torch: cannot be imported (ModuleNotFoundError")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13)), ("3.0", (3,)), ("0.10.1rc1", (0, 10, 1)), ("dev", ())],
)
def test_release(version, numbers):
    assert doctor.release(version) == numbers
