"""Losses for pairs that the policy writes itself, anew as it learns, and a judge puts in order.

An online method is a source of data rather than a formula: the same function is filed a second
time, with a card that lets its data come from the policy only.
"""

from dataclasses import replace

from toyalign.objectives import OBJECTIVES, Objective, describe
from toyalign.objectives.pairwise import dpo, ipo


def _online(card: Objective) -> None:
    name = f"online_{card.name}"
    OBJECTIVES.add(name, replace(card, name=name, family="online"))


_online(
    describe(
        dpo,
        sources=("policy",),
        paper="Guo et al. 2024 (direct alignment from online AI feedback), arXiv 2402.04792; the "
        "loss is that of Rafailov et al. 2023, arXiv 2305.18290",
        equation="the online algorithm, with the loss of DPO: two responses of the policy, "
        "the better one chosen",
        expects={"chosen_logps": "up", "rejected_logps": "down"},
    )
)

_online(
    describe(
        ipo,
        sources=("policy",),
        paper="Calandriello et al. 2024 (online IPO), arXiv 2403.08635; the loss is that of "
        "Azar et al. 2023, arXiv 2310.12036",
        equation="online IPO: both responses from the policy, the better one chosen",
        expects={"chosen_logps": "either", "rejected_logps": "either"},
    )
)
