"""toyalign: a wind tunnel for alignment losses.

Write one loss function, run it on toy problems in seconds, see where the probability goes:

    import toyalign as ta

    problem = ta.adjacent_arms(arms=10)
    traj = ta.simulate(ta.dpo, problem, policy="features", beta=0.3)

Everything is imported on first use, so that `import toyalign` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "toyalign.simulate": ("simulate",),
    "toyalign.check": ("check",),
    "toyalign.plan": ("log_spaced",),
    "toyalign.records": ("DivergenceWarning",),
    "toyalign.trajectory": ("Trajectory",),
    "toyalign.problems.bandit": (
        "Bandit",
        "far",
        "near",
        "two_modes",
        "adjacent_arms",
        "graded_arms",
    ),
    "toyalign.problems.frozen_lake": ("FrozenLake", "frozen_lake"),
    "toyalign.problems.sequences": ("Sequences", "edited_pairs", "two_writers"),
    "toyalign.problems.lake_history": ("LakeHistory", "lake_history"),
    "toyalign.problems.lengths": ("Lengths", "lengths"),
    "toyalign.problems.writing": ("SequenceBandit", "sequence_bandit"),
    "toyalign.problems.answers": ("Answers", "no_never_yes"),
    "toyalign.problems.sources": ("Source",),
    "toyalign.policies.tabular": ("Tabular",),
    "toyalign.policies.features": ("Features",),
    "toyalign.policies.informed": ("Informed",),
    "toyalign.policies.mlp": ("MLP",),
    "toyalign.policies.bigram": ("Bigram",),
    "toyalign.policies.position": ("Position", "Prefix"),
    "toyalign.policies.transformer": ("Transformer",),
    "toyalign.policies.embedding": ("Embedding",),
    "toyalign.views": ("Residual",),
    "toyalign.optimisers": ("SGD", "Adam", "RMSprop"),
    "toyalign.objectives": ("objective", "Objective", "get_objective"),
    "toyalign.errors": ("ToyalignError",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names of the package, and every registered objective under its own name."""
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'toyalign' has no attribute {name!r}")
    else:
        from toyalign.objectives import OBJECTIVES

        if name not in OBJECTIVES:
            raise AttributeError(f"module 'toyalign' has no attribute {name!r}")
        value = OBJECTIVES[name].fn
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What can be had: the package's names and the objectives'."""
    from toyalign.objectives import OBJECTIVES

    return sorted({*globals(), *_HOME, *OBJECTIVES})


class _Package(ModuleType):
    """The package as a module on which `ta.simulate` stays the function.

    Importing the module toyalign.simulate would otherwise put the module under that name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
