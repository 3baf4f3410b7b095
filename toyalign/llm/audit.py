"""Preference data looked at before anything is trained on it: which rows will make trouble?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toyalign.errors import ToyalignError
from toyalign.llm.batches import TEXTS, Collator
from toyalign.llm.data import Example
from toyalign.llm.logprobs import head_of, score
from toyalign.similarity import ches, edit_distance

NEAR = 0.2  # normalised edit distance below which pairs are near misses


@dataclass(frozen=True)
class Audit:
    """What is known of every pair; arrays are [row].

    Args:
        numbers: of the rows in the data.
        distance: normalised edit distance of the two answers' tokens.
        lengths: tokens of chosen and rejected answer, [row, 2].
        repeated: whether another row has the same prompt and answers.
        contradicted: whether another row has the same answers the other way round.
        gap: log-probability of the chosen less the rejected answer, nats, by the model.
        similarity: length-normalised CHES of the model's hidden states; higher is more alike.
        slope: ⟨g_w, g_w − g_l⟩ / ‖g_w‖², with the gradients g of the two log-probabilities by all
            trained parameters: below 0 one step of SGD on the margin of this pair alone lowers its
            chosen answer, 1 is what the step would do if the answers shared nothing.
    """

    numbers: NDArray[np.int64]
    distance: NDArray[np.float64]
    lengths: NDArray[np.int64]
    repeated: NDArray[np.bool_]
    contradicted: NDArray[np.bool_]
    gap: NDArray[np.float64] | None = None
    similarity: NDArray[np.float64] | None = None
    slope: NDArray[np.float64] | None = None


def audit(examples: Sequence[Example], model: Any = None, pad: int = 0) -> Audit:
    """Look at pairs, and score them if there is a model.

    Args:
        examples: pairs from `llm.data.prepare`.
        model: a causal language model, or None.
        pad: the padding token.

    Raises:
        ToyalignError: if the examples are no pairs.
    """
    if not examples or any(len(example.responses) != 2 for example in examples):
        raise ToyalignError("an audit needs pairs: rows with chosen and rejected")
    keys = [(example.prompt, *example.responses) for example in examples]
    counts = Counter(keys)
    found = {
        "numbers": np.array([example.number for example in examples]),
        "distance": np.array([edit_distance(*example.responses) for example in examples]),
        "lengths": np.array([[len(r) for r in example.responses] for example in examples]),
        "repeated": np.array([counts[key] > 1 for key in keys]),
        "contradicted": np.array([counts[(key[0], key[2], key[1])] > 0 for key in keys]),
    }
    if model is None:
        return Audit(**found)
    model.eval()
    looked = [_scored(model, example, pad) for example in examples]
    gap, similarity, slope = (np.array(values) for values in zip(*looked, strict=True))
    return Audit(**found, gap=gap, similarity=similarity, slope=slope)


def _scored(model: Any, example: Example, pad: int) -> tuple[float, float, float]:
    """Gap, CHES and slope of a pair."""
    batch = {name: text.to(model.device) for name, text in Collator(pad).texts([example]).items()}
    states: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    try:
        found, _ = score(model, *(batch[name] for name in TEXTS))
    finally:
        hook.remove()
    chosen, rejected = found.logps.sum(-1)
    trained = [p for p in model.parameters() if p.requires_grad]
    up = torch.autograd.grad(chosen, trained, retain_graph=True, allow_unused=True)
    down = torch.autograd.grad(rejected, trained, allow_unused=True)
    own = sum(float(g.double().square().sum()) for g in up if g is not None)
    both = sum(
        float((g.double() * d.double()).sum())
        for g, d in zip(up, down, strict=True)
        if g is not None and d is not None
    )
    # A head's input at a position is the state that predicts the next token.
    mask = batch["completion_mask"][:, 1:].bool()
    mine, theirs = (states[0][side, :-1][mask[side]].detach().double() for side in (0, 1))
    alike = ches(mine, theirs, normalised=True).item()
    return (chosen - rejected).item(), alike, 1 - both / max(own, 1e-30)


def described(found: Audit) -> str:
    """The audit in sentences, the rows most at risk last."""
    rows = len(found.numbers)
    near = found.distance < NEAR
    chosen, rejected = found.lengths.mean(0)
    lines = [
        f"{rows} pairs; answers have {chosen:.0f} tokens if chosen and {rejected:.0f} if rejected; "
        f"the chosen one is the longer in {(found.lengths[:, 0] > found.lengths[:, 1]).mean():.0%}",
        f"edit distance: median {np.median(found.distance):.2f}; {near.sum()} pairs are near "
        f"misses (below {NEAR}), where a loss on the margin alone may lower the chosen answer",
    ]
    if found.repeated.any():
        lines.append(f"{found.repeated.sum()} rows occur more than once")
    if found.contradicted.any():
        first = ", ".join(map(str, found.numbers[found.contradicted][:5]))
        lines.append(f"{found.contradicted.sum()} rows contradict another (rows {first})")
    if found.gap is not None and found.slope is not None and found.similarity is not None:
        fall = found.slope < 0
        lines += [
            f"the model prefers the chosen answer in {(found.gap > 0).mean():.0%} "
            f"(median gap {np.median(found.gap):+.2g} nats)",
            f"one step of SGD on the margin of a pair alone would lower its chosen answer in "
            f"{fall.sum()} of {rows} pairs",
        ]
        order = np.argsort(found.slope)[:5]
        shown = ", ".join(f"{found.numbers[i]} ({found.slope[i]:+.2g})" for i in order)
        lines.append(f"most at risk: rows {shown}")
    return "\n".join(lines)
