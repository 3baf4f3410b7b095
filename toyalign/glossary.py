"""The words of the package: every name that a loss may ask for, with its shape and unit.

A loss is a plain function whose positional parameters are names from this table, so the table is
what makes a signature a schema. Names follow TRL's public interface where it has one. `scoring.py`
provides each of them; a name enters here only together with its provider there.

Axes: `run` is one seed with one setting (the language-model trainer has a run axis of length 1),
`row` is one response or one pair of responses, `token` a position of a response, `action` an entry
of the vocabulary (an arm of a bandit).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toyalign.errors import unknown

SIDES = ("", "chosen_", "rejected_")


@dataclass(frozen=True)
class Term:
    """One name of the glossary: what it is, its axes and its unit."""

    name: str
    axes: tuple[str, ...]
    unit: str
    meaning: str

    @property
    def shape(self) -> str:
        """The axes as they are written in docstrings, for example `[run, row]`."""
        return f"[{', '.join(self.axes)}]"


def _per_side() -> list[Term]:
    """The terms that exist for a single response and for either side of a pair."""
    row, token = ("run", "row"), ("run", "row", "token")
    terms = []
    for side in SIDES:
        whose = {"": "the response", "chosen_": "the chosen response"}.get(
            side, "the rejected response"
        )
        terms += [
            Term(f"{side}logps", row, "nats", f"log-probability of {whose}, summed over tokens"),
            Term(f"ref_{side}logps", row, "nats", "the same under the frozen reference"),
            Term(f"{side}token_logps", token, "nats", f"log-probability of each token of {whose}"),
            Term(f"ref_{side}token_logps", token, "nats", "the same under the frozen reference"),
            Term(f"{side}mask", token, "0 or 1", f"1 on the tokens that belong to {whose}"),
            Term(f"{side}lengths", row, "tokens", f"number of unmasked tokens of {whose}"),
        ]
    return terms


_TABLE = [
    *_per_side(),
    Term("old_logps", ("run", "row"), "nats", "`logps` under the policy that drew the sample"),
    Term(
        "old_token_logps",
        ("run", "row", "token"),
        "nats",
        "`token_logps` under the policy that drew the sample",
    ),
    Term("rewards", ("run", "row"), "reward", "ground-truth reward, or a reward model's score"),
    Term(
        "advantages",
        ("run", "row"),
        "reward",
        "reward compared with what was to be expected (advantages.py); a constant",
    ),
    Term(
        "best_weights",
        ("run", "row"),
        "weight",
        "N on the best of a prompt's N responses and 0 on the others (ties share), mean 1",
    ),
    Term(
        "log_probs",
        ("run", "row", "action"),
        "nats",
        "log-probability of every next action; a row is a context",
    ),
    Term("ref_log_probs", ("run", "row", "action"), "nats", "the same under the reference"),
    Term(
        "target_log_probs",
        ("run", "row", "action"),
        "nats",
        "the same under the distribution to be learned",
    ),
]

GLOSSARY: dict[str, Term] = {term.name: term for term in _TABLE}

KINDS = {
    "pairs": "a chosen and a rejected response to the same prompt",
    "samples": "responses with a reward each",
    "distributions": "whole next-action distributions",
    "demonstrations": "responses to imitate",
}


def check_names(names: Sequence[str], owner: str) -> None:
    """Refuse names that are not in the glossary.

    Raises:
        ToyalignError: for the first unknown name, with the nearest known one.
    """
    for name in names:
        if name not in GLOSSARY:
            raise unknown(f"tensor name in the signature of {owner}()", name, GLOSSARY)


def kind_of(names: Iterable[str]) -> str:
    """The kind of data (a key of `KINDS`) that a signature with these names asks for."""
    asked = set(names)
    if any("chosen_" in name or "rejected_" in name for name in asked):
        return "pairs"
    if asked & {"rewards", "advantages", "best_weights", "old_logps", "old_token_logps"}:
        return "samples"
    if asked & {"log_probs", "ref_log_probs", "target_log_probs"}:
        return "distributions"
    return "demonstrations"
