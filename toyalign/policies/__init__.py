"""The policies: how parameters become log-probabilities, for all runs at once.

A policy has two methods, and every parameter tensor has a leading run axis:

    start(world, streams) -> theta [run, ...]                the parameters at which pi = pi_ref
    log_probs(theta, world, unseen=False) -> [run, cell]     log pi of every action in every context

The class is not a detail: with independent logits (`tabular`) and one pair, the chosen
log-probability cannot fall under DPO; with shared parameters it can.
"""

from typing import Any

from toyalign.errors import ToyalignError
from toyalign.registry import Registry, import_submodules


def _discover() -> None:
    import_submodules(__name__)


POLICIES: Registry[type] = Registry("policy", "`toyalign list` shows them all", _discover)


def policy(cls: type) -> type:
    """File a policy class under its name in lower case."""
    POLICIES.add(cls.__name__.lower(), cls)
    return cls


def get_policy(which: Any) -> Any:
    """A policy by name ("features"), or as it is if it already is one.

    Raises:
        ToyalignError: for an unknown name, with the nearest one.
    """
    if isinstance(which, str):
        return POLICIES[which]()
    if not hasattr(which, "log_probs"):
        raise ToyalignError(f"{which!r} is not a policy: it has no method log_probs")
    return which
