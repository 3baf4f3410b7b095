"""The list of contracts: what every loss must keep, or say that it does not."""

from collections.abc import Callable
from dataclasses import dataclass

from toyalign.check import effect, form, invariance, training
from toyalign.check.subject import Broken, Finding, NotApplicable, Subject


@dataclass(frozen=True)
class Contract:
    """One contract.

    Args:
        name: what it is called on the command line and on a card.
        judge: says what was seen, or raises `Broken` or `NotApplicable`.
        why: why it matters, in one line.
    """

    name: str
    judge: Callable[[Subject], str]
    why: str

    @property
    def summary(self) -> str:
        """What it demands, in one line."""
        return str(self.judge.__doc__).strip().splitlines()[0]


_LIST = (
    Contract(
        "signature", form.signature, "the signature tells every trainer what data the loss needs"
    ),
    Contract(
        "shape",
        form.shape,
        "the caller weighs rows and tokens; a mean taken inside cannot be undone",
    ),
    Contract("finite", form.finite, "one NaN in one row destroys the weights of the whole model"),
    Contract(
        "gradient", form.gradient, "training follows the gradient, never the value that is logged"
    ),
    Contract(
        "hyperparameters",
        form.hyperparameters,
        "a sweep over a hyperparameter that does nothing measures noise",
    ),
    Contract(
        "rows",
        invariance.rows,
        "otherwise results change with the batch size and the number of devices",
    ),
    Contract(
        "mask", invariance.mask, "otherwise padding is trained on, or part of the answer is not"
    ),
    Contract(
        "purity", invariance.purity, "a hidden state or a lost digit makes runs irreproducible"
    ),
    Contract(
        "reference",
        invariance.reference,
        "what counts is how far the policy has moved, not how likely an answer is by itself",
    ),
    Contract(
        "direction", effect.direction, "a loss can fall while the answer that was chosen falls too"
    ),
    Contract(
        "trust_region",
        effect.trust_region,
        "a sample that has drifted too far must be able to come back",
    ),
    Contract(
        "learns", training.learns, "a loss that does not learn eight arms will not learn a language"
    ),
)

CONTRACTS: dict[str, Contract] = {contract.name: contract for contract in _LIST}


def judge(contract: Contract, subject: Subject) -> Finding:
    """Hold a loss to a contract, minding what its card declares."""
    declared = subject.card.exceptions.get(contract.name, "")
    try:
        status, seen = "pass", contract.judge(subject)
    except Broken as broken:
        status, seen = "fail", str(broken)
    except NotApplicable as reason:
        status, seen = "not applicable", str(reason)
    if declared and status == "fail":
        status, seen = "declared", f"{declared} (seen: {seen})"
    elif declared:
        seen = f"the card declares an exception that does not occur: {declared} (seen: {seen})"
        status = "fail"
    return Finding(contract.name, status, seen, contract.why)
