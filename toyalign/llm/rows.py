"""Whether examples have what an objective asks for, and what they can have from each other."""

from collections.abc import Sequence

from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY, KINDS, parts
from toyalign.llm.batches import with_others
from toyalign.llm.data import Example
from toyalign.llm.online import OnPolicy, graded_rows
from toyalign.objectives import Objective

SIDES = {"pairs": ("chosen_", "rejected_")}  # of other kinds one response, ""
_OF_TEXTS = ("logps", "token_logps", "mask", "lengths", "log_probs")
MEANS = ("kl_estimate", "mean_log_ratio")  # over all rows of a step, wherever they are
_OF_GROUPS = ("rewards", "advantages", "best_weights")
_OF_JUDGES = ("labels", "chosen_rewards", "rejected_rewards")


def sides_of(card: Objective) -> tuple[str, ...]:
    """The sides of a row of the objective's kind."""
    return SIDES.get(card.kind, ("",))


def data_kind(card: Objective, on_policy: bool) -> str:
    """The kind of data, a key of `llm.data.COLUMNS`, to train an objective from."""
    return "prompts" if on_policy else card.kind


def compares(card: Objective) -> bool:
    """Whether an objective compares with a frozen reference."""
    return any(name.startswith("ref_") or name in MEANS for name in card.needs)


def rows_for(
    card: Objective, examples: Sequence[Example], on_policy: OnPolicy | None
) -> list[Example]:
    """The examples, with what the objective asks for that can be had from other rows.

    Args:
        card: the objective.
        examples: from `llm.data.prepare`, of the kind that `data_kind` says.
        on_policy: how the policy's own responses are collected, if it writes them.

    Raises:
        ToyalignError: if the objective cannot learn from such data; it says what is missing.
    """
    if not examples:
        raise ToyalignError("there are no rows to train on")
    check_kind(card, on_policy)
    have, sides = len(examples[0].responses), len(sides_of(card))
    if on_policy is not None and have:
        raise ToyalignError(
            "on_policy wants prompts, to which the policy responds itself, and these rows have "
            "responses: prepare them with kind 'prompts'"
        )
    if on_policy is None and have != sides:
        raise ToyalignError(
            f"{card.name} learns from {card.kind}, with {sides} response(s) per row, and the data "
            f"has {have}"
        )
    for name in card.needs:
        _check_name(name, card, examples[0], on_policy)
    if on_policy is None and card.kind == "samples":
        return graded_rows(examples, card)
    if on_policy is None and "kl_estimate" in card.needs:
        return with_others(examples)
    return list(examples)


def check_kind(card: Objective, on_policy: OnPolicy | None) -> None:
    """Refuse an objective that no data of texts, or of their own, can teach.

    Raises:
        ToyalignError: with what it needs instead.
    """
    if card.kind == "distributions":
        raise ToyalignError(
            f"{card.name} learns from {KINDS['distributions']}, and texts have none"
        )
    if on_policy is None and set(card.sources) == {"policy"}:
        raise ToyalignError(
            f"{card.name} learns from the policy's own responses: it needs a reward "
            "(on_policy=OnPolicy(reward), or --reward)"
        )
    if on_policy is not None and "policy" not in card.sources:
        raise ToyalignError(
            f"{card.name} does not learn from the policy's own responses: its data must come from "
            f"{' or '.join(card.sources)}"
        )
    if on_policy is None or on_policy.responses > 1:
        return
    if card.kind != "samples":
        raise ToyalignError("pairs need at least 2 responses per prompt, not 1")
    if "advantages" in card.needs and (on_policy.advantage or card.advantage) != "raw":
        raise ToyalignError(
            f"{card.name} compares a response with the others to its prompt: one response has "
            "nothing to be compared with, and would teach nothing"
        )


def _check_name(name: str, card: Objective, first: Example, on_policy: OnPolicy | None) -> None:
    prefix, side, quantity = parts(name)
    known = name in MEANS or name in first.values
    if prefix.endswith("prompted_"):
        if not first.behind:
            raise ToyalignError(
                f"{card.name} needs a quality prompt, to look at every pair behind it: "
                "prepare(…, quality=…), or --quality"
            )
        known = True
    elif prefix == "old_":
        known = on_policy is not None and card.kind == "samples"
    elif quantity in _OF_TEXTS and prefix in ("", "ref_"):
        known = side in sides_of(card)
    elif name in _OF_GROUPS:
        known = card.kind == "samples" and (on_policy is not None or "rewards" in first.values)
    elif name in _OF_JUDGES and on_policy is not None:
        known = True
    if not known:
        raise ToyalignError(
            f"{card.name} needs {name} ({GLOSSARY[name].meaning}), and this data has none, or "
            "not in every row"
        )
