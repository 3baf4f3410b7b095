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
FROZEN = ("ref_prompted_", "prompted_", "ref_", "old_", "target_")  # nothing the gradient flows to


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
            Term(
                f"{side}rewards",
                row,
                "reward",
                f"ground-truth reward of {whose}, or a reward model's score",
            ),
        ]
    for side in SIDES[1:]:
        whose = f"the {side.rstrip('_')} response"
        prompted = f"`{side}logps` with a quality prompt put before the query; a constant"
        every = ("run", "row", "token", "action")
        terms += [
            Term(f"prompted_{side}logps", row, "nats", prompted),
            Term(f"ref_prompted_{side}logps", row, "nats", "the same under the frozen reference"),
            Term(
                f"{side}log_probs",
                every,
                "nats",
                f"log-probability of every possible token at each position of {whose}",
            ),
            Term(f"ref_{side}log_probs", every, "nats", "the same under the frozen reference"),
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
    Term("labels", ("run", "row"), "0 or 1", "1 for a desirable response, 0 for an undesirable"),
    Term(
        "kl_estimate",
        ("run", "1"),
        "nats",
        "KTO's z₀: estimate of KL(π‖π_ref) from responses to other prompts, ≥ 0; a constant",
    ),
    Term(
        "mean_log_ratio",
        ("run", "1"),
        "nats",
        "mean of log π/π_ref over all responses of the data, of both sides; a constant",
    ),
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
        "log-probability of every next action; a row is a context. Beside `logps` or `token_logps` "
        "it is [run, row, token, action]: every possible token at each position of the response",
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
    "labelled": "single responses, each labelled desirable or undesirable",
    "samples": "responses with a reward each",
    "distributions": "whole next-action distributions",
    "demonstrations": "responses to imitate",
}


def parts(name: str) -> tuple[str, str, str]:
    """`ref_chosen_token_logps` to (`ref_`, `chosen_`, `token_logps`): whose, which side, what."""
    prefix = next((known for known in FROZEN if name.startswith(known)), "")
    rest = name.removeprefix(prefix)
    side = next((known for known in SIDES[1:] if rest.startswith(known)), "")
    return prefix, side, rest.removeprefix(side)


def is_learned(name: str) -> bool:
    """Whether a name is a log-probability that the policy makes and that its gradient flows to."""
    prefix, _, quantity = parts(name)
    return not prefix and quantity in ("logps", "token_logps", "log_probs")


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
    if "labels" in asked:
        return "labelled"
    if asked & {"rewards", "advantages", "best_weights", "old_logps", "old_token_logps"}:
        return "samples"
    if asked & {"logps", "token_logps"}:
        return "demonstrations"
    if asked & {"log_probs", "ref_log_probs", "target_log_probs"}:
        return "distributions"
    return "demonstrations"
