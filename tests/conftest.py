"""What all tests share: one thread, shapes enforced, no windows, and small property tests."""

import os
import sys

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)

# The shapes in the annotations are documentation for users and law for the tests. The hook works
# on what is imported after it, so nothing of the package may be imported in this file.
install_import_hook("toyalign", "typecheck.check")

hypothesis.settings.register_profile(
    "small", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("small")


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open, without importing matplotlib for tests that do not use it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
