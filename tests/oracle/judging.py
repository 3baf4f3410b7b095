"""The table of judges, and the comparison of a loss of ours with one of theirs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from draws import Draw
from torch import Tensor

from toyalign.objectives import OBJECTIVES

SEEDS = range(4)
EMPTY: Mapping[str, Any] = {}
Hyper = Mapping[str, Any]


@dataclass
class Judge:
    """Somebody else's implementation of an objective of ours.

    Args:
        loss: our name of it.
        package: distribution and version that it is read from.
        theirs: a function of a draw and of our hyperparameters; returns one value per row or one
            value in all.
        hyper: settings to compare at, in our names.
        reduction: what is done to our values before they are compared, a case of `reduced`.
        level: what the gradient is taken by, "tokens" or "logits" (see draws.py).
        spreads: sizes of the log-ratio per token to compare at, nats.
        given: a function of the draw: tensors for our loss that take the place of the draw's.
        values: False where only the gradient is the same by design; `note` says why.
        rtol: relative to the largest entry, or to 0.01 where all are smaller.
        note: what a reader of the table should know.
    """

    loss: str
    package: str
    theirs: Callable[..., Tensor]
    hyper: tuple[Hyper, ...]
    reduction: str = ""
    level: str = "tokens"
    spreads: tuple[float, ...] = (0.3, 3.0, 30.0)
    given: Callable[[Draw], Mapping[str, Tensor]] = lambda draw: EMPTY
    values: bool = True
    rtol: float = 1e-12
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.loss} {self.package} {self.theirs.__name__}"


@dataclass
class Score:
    """What the comparisons with one judge came to."""

    values: int = 0
    gradients: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    moved: set[str] = field(default_factory=set)  # leaves that ever had a gradient


JUDGES: list[Judge] = []
SCORES: dict[str, Score] = {}


def judge(
    loss: str, package: str, hyper: Iterable[Hyper] = ({},), **options: Any
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """File a function as a judge of `loss`; it may be filed for several."""

    def file(theirs: Callable[..., Tensor]) -> Callable[..., Tensor]:
        JUDGES.append(Judge(loss, package, theirs, tuple(hyper), **options))
        return theirs

    return file


def ours(name: str, draw: Draw, *, given: Mapping[str, Tensor] = EMPTY, **hyper: Any) -> Tensor:
    """A registered objective on a draw, [row] or [row, token].

    Args:
        given: tensors that take the place of the draw's.
    """
    card = OBJECTIVES[name]
    tensors = {}
    for need in card.needs:
        value = given[need] if need in given else draw[need]
        tensors[need] = value.reshape(1, 1) if value.ndim == 0 else value.unsqueeze(0)
    return card.fn(**tensors, **card.settings(hyper)).squeeze(0)


def reduced(values: Tensor, draw: Draw, reduction: str, one: bool) -> Tensor:
    """Our values in the reduction of the judge."""
    mask, lengths, good = draw["mask"], draw["lengths"], draw["labels"] > 0
    match reduction:
        case "":  # one value per row; their mean, where the judge returns one in all
            return values.mean() if one else values
        case "by label":  # the desirable rows first
            return torch.cat([values[good], values[~good]])
        case "token mean":  # over all tokens of the batch
            return (values * mask).sum() / mask.sum()
        case "token sum":
            return (values * mask).sum()
        case "sequence mean":  # over the tokens of each response
            return (values * mask).sum(-1) / lengths
        case "sequence means":  # that, and the mean over responses
            return ((values * mask).sum(-1) / lengths).mean()
    raise ValueError(reduction)


def compare(judged: Judge, score: Score, shifted: Mapping[str, float] = EMPTY) -> None:
    """Hold values and gradients together at every setting, spread and seed.

    Args:
        judged: the judge.
        score: what is added to.
        shifted: factors on hyperparameters of ours, to see that the comparison notices.

    Raises:
        AssertionError: at the first that differ.
    """
    for hyper in judged.hyper:
        used = {**hyper, **{name: hyper[name] * factor for name, factor in shifted.items()}}
        for spread in judged.spreads:
            for seed in SEEDS:
                draw = Draw(seed, spread, judged.level)
                theirs = judged.theirs(draw, **hyper)
                mine = ours(judged.loss, draw, given=judged.given(draw), **used)
                mine = reduced(mine, draw, judged.reduction, one=theirs.ndim == 0)
                where = f"{judged.name} at {dict(hyper)}, spread {spread}, seed {seed}"
                assert mine.shape == theirs.shape, f"{where}: {mine.shape} and {theirs.shape}"
                if judged.values:
                    score.values += mine.numel()
                    _hold(mine, theirs, judged.rtol, score, f"{where}: values")
                # Rows are weighed at random, so that no error of one row hides in another's.
                weight = torch.rand(mine.shape, generator=draw.random, dtype=torch.float64) + 0.5
                pairs = zip(_slopes(mine, weight, draw), _slopes(theirs, weight, draw), strict=True)
                for leaf, (slope, slope_of_theirs) in zip(draw.leaves, pairs, strict=True):
                    moving = int(((slope != 0) | (slope_of_theirs != 0)).sum())  # no padding
                    if moving:
                        score.moved.add(leaf)
                        score.gradients += moving
                        note = f"{where}: gradient by {leaf}"
                        _hold(slope, slope_of_theirs, judged.rtol, score, note)


def _slopes(values: Tensor, weight: Tensor, draw: Draw) -> list[Tensor]:
    leaves = list(draw.leaves.values())
    slopes = torch.autograd.grad(
        (values * weight).sum(), leaves, retain_graph=True, allow_unused=True
    )
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]


def _hold(mine: Tensor, theirs: Tensor, rtol: float, score: Score, where: str) -> None:
    assert mine.isfinite().all() and theirs.isfinite().all(), f"{where} are not finite"
    assert mine.dtype == theirs.dtype == torch.float64, f"{where}: {mine.dtype}, {theirs.dtype}"
    apart = (mine - theirs).abs().max().item()
    size = max(theirs.abs().max().item(), 0.01)
    score.absolute = max(score.absolute, apart)
    score.relative = max(score.relative, apart / size)
    assert apart <= rtol * size, f"{where} differ by {apart:.3g}, {apart / size:.3g} of the largest"
