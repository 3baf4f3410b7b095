"""Responses of several tokens: pairs that differ by a controlled number of edited tokens.

A prompt has one correct answer, the chosen response. A rejected one is a copy with some tokens
replaced and the continuation unchanged, so that the normalised edit distance is edits / tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.problems import problem
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.similarity import GROUPS, token_groups
from toyalign.streams import Streams

_SIDES = ("chosen_", "rejected_")
_UNITS = {
    "chosen_logps": "nats",
    "rejected_logps": "nats",
    "chosen_displacement": "nats",
    **{f"displacement_{group}": "nats" for group in GROUPS},
    "share_below_reference": "share of pairs",
    "greedy_exact": "share of chosen responses",
    "unseen_displacement": "nats",
}


@dataclass(frozen=True)
class SequenceWorld(World):
    """A world of sequences, with the texts that a network learns to write from.

    Its responses are the correct answers of the trained prompts, then those of the unseen prompts,
    then the rejected answers; the correct answer of a prompt stands once, whatever the number of
    its pairs.

    Args:
        corpus: [run, text, token], texts of careful and of sloppy writers about all prompts.
        corpus_prompts: [text], the prompt of each.
    """

    corpus: Tensor | None = None
    corpus_prompts: Tensor | None = None


@dataclass(frozen=True)
class Sequences:
    """Pairs of responses: the correct answer of a prompt, and a copy with some tokens replaced.

    The reference gives the correct token the probability p after a correct prefix and q after the
    first replaced token; the other tokens share the rest by a Dirichlet(1) draw of their own at
    every prefix. So it is with policies that are frozen logits plus a shift; a transformer learns
    its start from the corpus instead. Everything is drawn anew for each run.

    Args:
        vocabulary: V, number of tokens.
        tokens: T, length of every response.
        edits: d, tokens replaced, at random positions by random others: the normalised edit
            distance is d / T.
        count: number of pairs per run, all of equal weight; they go round the trained prompts.
        trained: prompts that have pairs; 0 for one prompt per pair.
        unseen: further prompts without pairs, whose answers are only looked at.
        right: p, the reference's probability of the correct token after a correct prefix.
        misled: q, the same after an edited one.
        careful: share of wrong tokens in the texts of careful writers, half of the corpus.
        sloppy: the same for the other half: after an error more are to be expected.
        texts: number of texts in the corpus.
        name: what tables and figures call it.

    Raises:
        ToyalignError: if a number makes no sense.

    Source: the edited pairs are those of Pal et al. 2024, arXiv 2402.13228, section 2, with d = 1.
    """

    vocabulary: int = 10
    tokens: int = 20
    edits: int = 1
    count: int = 64
    trained: int = 0
    unseen: int = 0
    right: float = 0.8
    misled: float = 0.5
    careful: float = 0.005
    sloppy: float = 0.4
    texts: int = 1024
    name: str = "edited_pairs"
    pairs: tuple[()] = field(default=(), init=False)  # of arms; its own are in `world`
    has_pairs: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        least = {"vocabulary": 3, "tokens": 1, "edits": 1, "count": 1, "trained": 0, "unseen": 0}
        for name, bound in {**least, "texts": 1}.items():
            if getattr(self, name) < bound:
                raise ToyalignError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        if self.edits > self.tokens:
            raise ToyalignError(
                f"edits={self.edits} is more than the {self.tokens} tokens of a response"
            )
        if self.trained > self.count:
            raise ToyalignError(
                f"trained={self.trained} prompts need as many pairs, but count is {self.count}"
            )
        for name in ("right", "misled"):
            if not 0 < getattr(self, name) < 1:
                raise ToyalignError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("careful", "sloppy"):
            if not 0 <= getattr(self, name) < 1:
                raise ToyalignError(f"{name} must be 0 or more, below 1, not {getattr(self, name)}")

    @property
    def units(self) -> dict[str, str]:
        """The unit of everything in `measure`."""
        return dict(_UNITS)

    @property
    def seen(self) -> int:
        """Number of prompts that have pairs."""
        return self.trained or self.count

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> SequenceWorld:
        """The problem as tensors, for the runs whose random streams are given."""
        runs, tall, wide = streams.runs, self.seen + self.unseen, self.tokens
        # What the corpus needs comes first, so that it is the same for every number of edits.
        shapes = [(tall, wide), (2, self.texts, wide), (2, self.count, wide)]
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        drawn = torch.from_numpy(streams.uniforms("states", sum(sizes)).copy()).split(sizes, 1)
        answers, writing, editing = (
            part.view(runs, *shape) for part, shape in zip(drawn, shapes, strict=True)
        )
        answer = (answers * self.vocabulary).long()
        prompt_of_pair = torch.arange(self.count) % self.seen
        wrong = editing[:, 0].argsort(-1).argsort(-1) < self.edits
        rejected = self._miswritten(answer[:, prompt_of_pair], editing[:, 1], wrong)
        tokens = torch.cat([answer, rejected], 1)
        prompts = torch.cat([torch.arange(tall), prompt_of_pair])

        about = torch.arange(self.texts) % tall
        errors = torch.full((self.texts,), self.careful, dtype=torch.float64)
        errors[(torch.arange(self.texts) // tall) % 2 == 1] = self.sloppy
        corpus = self._miswritten(answer[:, about], writing[:, 1], writing[:, 0] < errors[:, None])

        contexts = torch.arange(tokens.shape[1] * wide).view(-1, wide)
        nodes = _nodes(tokens, prompts)
        logits = self._reference(tokens, answer[:, prompts], nodes, streams).to(dtype)
        cells = contexts * self.vocabulary + tokens  # [run, response, token]
        sides = torch.stack([cells[:, prompt_of_pair], cells[:, tall:]], 1)
        shown = cells[:, None, : self.seen]
        rows, demonstrations = (
            Rows(
                weight=torch.full((1, each.shape[2]), 1 / each.shape[2], dtype=dtype),
                cells=each,
                sides=names,
                mask=torch.ones(1, *each.shape[1:], dtype=dtype),
            )
            for each, names in ((sides, _SIDES), (shown, ("",)))
        )
        answered = shown.flatten(1)
        return SequenceWorld(
            contexts=tokens.shape[1] * wide,
            actions=self.vocabulary,
            reference_logits=logits,
            rewards=torch.zeros(1, logits.shape[1], dtype=dtype),
            target_log_probs=logits,
            demonstrations=torch.zeros_like(logits).scatter(1, answered, 1 / answered.shape[1]),
            tokens=tokens,
            prompts=prompts[None],
            nodes=nodes.flatten(1),
            pair_rows=rows,
            demonstration_rows=demonstrations,
            corpus=corpus,
            corpus_prompts=about,
        )

    def measure(self, world: SequenceWorld, table: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """What happened to the pairs; `units` gives the units.

        Args:
            world: the problem as `world` made it.
            table: [run, cell], the policy's log-probabilities.
            reference: [run, cell], the reference's.

        Returns:
            [run] each: log-probabilities summed over tokens and averaged over pairs, their change
            since the reference (whole, and by the token groups of `similarity.token_groups`), the
            share of pairs whose chosen response lies below the reference, the share of trained
            prompts whose answer greedy decoding would write, and the change of the correct answers
            of unseen prompts, if there are any.
        """
        rows = world.pair_rows
        assert rows is not None and rows.cells is not None and world.tokens is not None
        runs, shape = len(table), rows.cells.shape[1:]
        flat = rows.cells.reshape(runs, -1)
        now, then = (t.gather(1, flat).view(runs, *shape) for t in (table, reference))
        moved = (now - then)[:, 0]
        token = rows.cells % self.vocabulary
        sums = now.sum(-1).mean(-1)
        found = {
            "chosen_logps": sums[:, 0],
            "rejected_logps": sums[:, 1],
            "chosen_displacement": moved.sum(-1).mean(-1),
        }
        for group, inside in zip(GROUPS, token_groups(token[:, 0], token[:, 1]), strict=True):
            found[f"displacement_{group}"] = (moved * inside).sum(-1).mean(-1)
        # A billionth of a nat is rounding, not a fall.
        found["share_below_reference"] = (moved.sum(-1) < -1e-9).to(table.dtype).mean(-1)
        best = table.view(runs, -1, self.tokens, self.vocabulary).argmax(-1)
        hits = (best == world.tokens)[:, : self.seen].all(-1)
        found["greedy_exact"] = hits.to(table.dtype).mean(-1)
        if self.unseen:
            start = self.seen * self.tokens * self.vocabulary
            size = self.unseen * self.tokens * self.vocabulary
            change = (table - reference)[:, start : start + size]
            answers = world.tokens[:, self.seen : self.seen + self.unseen].unsqueeze(-1)
            change = change.reshape(runs, self.unseen, self.tokens, self.vocabulary)
            found["unseen_displacement"] = change.gather(3, answers).squeeze(-1).sum(-1).mean(-1)
        return found

    def _miswritten(self, tokens: Tensor, uniforms: Tensor, wrong: Tensor) -> Tensor:
        """The tokens, with another one in the place of each that is wrong."""
        shift = 1 + (uniforms * (self.vocabulary - 1)).long()
        return torch.where(wrong, (tokens + shift) % self.vocabulary, tokens)

    def _reference(
        self, tokens: Tensor, correct: Tensor, nodes: Tensor, streams: Streams
    ) -> Tensor:
        """Log-probabilities at every prefix, [run, cell]; equal prefixes have equal ones."""
        runs, rest = len(tokens), self.vocabulary - 1
        uniforms = streams.uniforms("reference", tokens[0].numel() * rest)
        shares = -torch.log1p(-torch.from_numpy(uniforms.copy()))
        shares = shares.view(runs, -1, rest).gather(
            1, nodes.flatten(1).unsqueeze(-1).expand(-1, -1, rest)
        )
        shares = (shares / shares.sum(-1, keepdim=True)).view(*tokens.shape, rest)
        misled = (tokens != correct).cumsum(-1).roll(1, -1)
        misled[..., 0] = 0
        right = torch.where(misled > 0, self.misled, self.right).double().unsqueeze(-1)
        # The correct token goes in front, then round to its place.
        ordered = torch.cat([right, (1 - right) * shares], -1)
        places = (torch.arange(self.vocabulary) - correct.unsqueeze(-1)) % self.vocabulary
        return ordered.gather(-1, places).log().flatten(1)


def _nodes(tokens: Tensor, prompts: Tensor) -> Tensor:
    """Which prefix each context is, [run, response, position]: that of the first to have it.

    Args:
        tokens: [run, response, token].
        prompts: [response].
    """
    wide = tokens.shape[-1]
    nodes = torch.empty_like(tokens)
    nodes[..., 0] = 0
    same = (prompts[:, None] == prompts).expand(len(tokens), -1, -1)
    for place in range(wide):
        if place:
            before = tokens[..., place - 1]
            same = same & (before[:, :, None] == before[:, None])
        first = same.to(torch.uint8).argmax(-1)
        nodes[..., place] = first * wide + place
    return nodes


def step0_slope(
    p: float, q: float, rho: float, vocabulary: int, later: float, later_edits: float = 0.0
) -> float:
    """How fast DPO's first step moves log π(chosen) in the shared-logit pair model, on average.

    (1−p)·V/(V−1)                                           the first edited token
    + n·[(1−p)²·(1 + 2/V) − ρ·(1−p)·(1−q)·V/(V−1)]            n equal tokens after it
    + e·[(1−p)²·(1 + 2/V) + ρ·(1−p)·q·V/(V−1)]                e further edited tokens

    That is ⟨∇log π(y_w), ∇h⟩ with the margin h, nats per unit of margin gradient: below 0 the
    chosen response falls. 1 + 2/V is the Dirichlet correction: the wrong tokens' shares of the
    reference are Dirichlet(1) over V − 1 tokens, with an expected sum of squares of 2/V, where
    equal shares would have 1/(V−1) and give the text-book (1−p)·V/(V−1)·{1 − n·[ρ(1−q) − (1−p)]}.

    Args:
        p: the reference's probability of the correct token after a correct prefix.
        q: the same after an edited one.
        rho: kernel similarity ρ of the contexts at one position, 0 to 1.
        vocabulary: V, number of tokens.
        later: n, tokens after the first edit that are equal; its mean will do, for the slope is
            linear in it.
        later_edits: e, edited tokens after the first.

    Raises:
        ToyalignError: if a probability or ρ lies outside [0, 1], or there are under 2 tokens.

    Source: derived from equation 2 of Pal et al. 2024, arXiv 2402.13228; kernel and correction are
    this package's own.
    """
    for name, value in {"p": p, "q": q, "rho": rho}.items():
        if not 0 <= value <= 1:
            raise ToyalignError(f"{name} must lie between 0 and 1, not {value}")
    if vocabulary < 2:
        raise ToyalignError(f"vocabulary must be at least 2, not {vocabulary}")
    spread = vocabulary / (vocabulary - 1)
    own = (1 - p) ** 2 * (1 + 2 / vocabulary)
    pulled = rho * (1 - p) * spread
    return (1 - p) * spread + later * (own - pulled * (1 - q)) + later_edits * (own + pulled * q)


@problem
def edited_pairs(**changes: Any) -> Sequences:
    """64 pairs of 20 tokens that differ in one, each of a prompt of its own.

    With logits shared by position (policy `position`) the chosen response falls under DPO while
    edits are few; with a logit of its own for every prefix (`prefix`) it never does.

    Args:
        **changes: fields of `Sequences` to set otherwise, for example edits or misled.
    """
    return Sequences(**{"name": "edited_pairs", **changes})


@problem
def two_writers(**changes: Any) -> Sequences:
    """Eight prompts with answers of 12 tokens, pairs on four of them: the transformer's world.

    A transformer learns to write from careful and from sloppy writers, half each, so that one
    error makes it expect more. What happens to the prompts without pairs?

    Args:
        **changes: fields of `Sequences` to set otherwise, for example edits.
    """
    settings = {"tokens": 12, "count": 32, "trained": 4, "unseen": 4, "name": "two_writers"}
    return Sequences(**{**settings, "right": 0.96, "misled": 0.78, **changes})
