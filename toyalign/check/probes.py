"""The list of probes: what a loss does, as a number beside those of SFT and DPO.

A probe measures and never judges. Each has a unit, a sentence, and the study that asks the question
at length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from toyalign.check import dynamics, landscape
from toyalign.check.subject import Broken, NotApplicable, Subject
from toyalign.objectives import OBJECTIVES, Objective

PEERS = ("sft", "dpo")


@dataclass(frozen=True)
class Probe:
    """One probe.

    Args:
        name: what it is called on the command line.
        take: returns a number and a sentence, or raises `NotApplicable`.
        unit: of the number.
        study: the study that asks the same question.
    """

    name: str
    take: Callable[[Subject], tuple[float, str]]
    unit: str
    study: str

    @property
    def summary(self) -> str:
        """What it measures, in one line."""
        return str(self.take.__doc__).strip().splitlines()[0]


@dataclass(frozen=True)
class Reading:
    """What a probe found.

    Args:
        probe: its name.
        value: the number; None where the probe does not apply.
        unit: of the number.
        peers: the same number for SFT and DPO.
        sentence: the number in words, or why there is none.
        study: the study that asks the same question.
    """

    probe: str
    value: float | None
    unit: str
    peers: dict[str, float | None]
    sentence: str
    study: str


_LIST = (
    Probe("pushes_down", landscape.pushes_down, "share of the plane", "chosen_falls"),
    Probe("fading", landscape.fading, "of the first push", "family_portrait"),
    Probe("displacement", dynamics.displacement, "nats", "chosen_falls"),
    Probe("relocation", dynamics.relocation, "times the steps", "mass_relocation"),
    Probe("stops", landscape.stops, "nats of margin", "family_portrait"),
    Probe("flipped_labels", landscape.flipped_labels, "nats of margin", "family_portrait"),
    Probe("tilted_reference", dynamics.tilted_reference, "total variation", "mass_relocation"),
    Probe("drift", dynamics.drift, "nats of KL", "family_portrait"),
    Probe("length", landscape.length, "of the push per token", "family_portrait"),
    Probe("data_source", dynamics.data_source, "reward", "on_policy_or_negative_gradient"),
    Probe("stable_steps", dynamics.stable_steps, "nats per step", "family_portrait"),
    Probe("precision", landscape.precision, "relative error", "family_portrait"),
    Probe("cost", landscape.cost, "forward passes", "family_portrait"),
)

PROBES: dict[str, Probe] = {probe.name: probe for probe in _LIST}


def measure(probe: Probe, card: Objective, seed: int = 0) -> Reading:
    """Take a probe of a loss, and of SFT and DPO."""
    value, sentence = _take(probe, card, seed)
    peers = {name: _peer(probe.name, name, seed) for name in PEERS}
    return Reading(probe.name, value, probe.unit, peers, sentence, probe.study)


def _take(probe: Probe, card: Objective, seed: int) -> tuple[float | None, str]:
    try:
        return probe.take(Subject(card, seed))
    except NotApplicable as reason:
        return None, str(reason)
    except Broken as broken:
        return None, f"not measured: {broken}"


@cache
def _peer(probe: str, name: str, seed: int) -> float | None:
    return _take(PROBES[probe], OBJECTIVES[name], seed)[0]
