"""What an import costs: asked in fresh processes, by the modules that are loaded afterwards."""

import json
import subprocess
import sys

import pytest


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after some code."""
    ask = f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(json.loads(found.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def torch_alone() -> set[str]:
    return loaded_by("import torch")


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import toyalign")
    assert "toyalign" in loaded
    for heavy in ("torch", "numpy", "matplotlib", "pandas", "scipy", "gymnasium", "seaborn"):
        assert heavy not in loaded


COMPILER = (
    "torch._dynamo",
    "torch._inductor",
    "torch.compiler._cache",
    "triton",
    "functorch.compile",
)


@pytest.mark.parametrize(
    "code",
    [
        "import toyalign; toyalign.simulate",
        "import toyalign as ta; ta.MLP; ta.simulate('dpo', policy='features', steps=2)",
    ],
)
def test_the_simulator_loads_no_optimiser_and_no_compiler_of_its_own(code, torch_alone):
    # `import torch` may bring torch.optim by itself; what counts is what comes on top of it.
    more = loaded_by(code) - torch_alone
    assert {"toyalign.objectives", "toyalign.optimisers", "toyalign.simulate"} <= more
    for name in more:
        assert not name.startswith(("torch.optim", *COMPILER)), name
        assert name.partition(".")[0] not in ("matplotlib", "pandas", "scipy", "gymnasium"), name


def test_the_function_and_the_module_of_the_same_name():
    # Importing the module toyalign.simulate must not put it in the place of the function.
    code = "import toyalign as ta; ta.log_spaced(3, 2); from toyalign.simulate import simulate; "
    assert "toyalign.simulate" in loaded_by(code + "assert ta.simulate is simulate")


def test_names_of_the_package():
    import toyalign

    assert {"simulate", "Bandit", "dpo", "Source", "Trajectory"} <= set(dir(toyalign))
    for name in toyalign.__all__:
        assert getattr(toyalign, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'dpoo'"):
        _ = toyalign.dpoo
    with pytest.raises(AttributeError, match="has no attribute '_private'"):
        _ = toyalign._private
