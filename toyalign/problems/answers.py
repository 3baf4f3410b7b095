"""No, Never and Yes: one token, and three answers on one axis of a hidden state."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from toyalign.errors import ToyalignError
from toyalign.problems import problem
from toyalign.problems.world import World
from toyalign.streams import Streams


@dataclass(frozen=True)
class EmbeddedWorld(World):
    """A world of one token, whose reference is a hidden state read by fixed unembeddings.

    Args:
        unembeddings: [run, action, hidden].
        hidden: [run, hidden], the reference's hidden state.
    """

    unembeddings: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Answers:
    """No, Never and Yes in one plane: one token, whose hidden state moves along an axis.

    Unembeddings: No = a + s, Never = a + γ·s, Yes = a − s with a ⟂ s of length one, and small
    random ones for the other tokens. The pair is No over Never. With γ > 1, moving away from Never
    along s moves away from No as well, towards Yes.

    Args:
        gamma: γ, how far along the axis Never lies.
        others: number of other tokens.
        hidden: length of the hidden state, at least 2.
        noise: standard deviation of the entries of the other tokens' unembeddings.
        name: what tables and figures call it.

    Raises:
        ToyalignError: if a number makes no sense.

    Source: after the one-token examples of Razin et al. 2024, arXiv 2410.08847.
    """

    gamma: float = 2.0
    others: int = 5
    hidden: int = 16
    noise: float = 0.05
    name: str = "no_never_yes"
    pairs: tuple[tuple[int, int], ...] = field(default=((0, 1),), init=False)

    def __post_init__(self) -> None:
        for name, bound in {"others": 0, "hidden": 2, "noise": 0}.items():
            if getattr(self, name) < bound:
                raise ToyalignError(f"{name} must be at least {bound}, not {getattr(self, name)}")

    @property
    def arms(self) -> int:
        """Number of tokens: No, Never, Yes and the others."""
        return 3 + self.others

    def world(self, streams: Streams, dtype: torch.dtype = torch.float64) -> EmbeddedWorld:
        """The problem as tensors, for the runs whose random streams are given."""
        drawn = torch.from_numpy(streams.normals("reference", (self.others + 3) * self.hidden))
        drawn = drawn.view(streams.runs, -1, self.hidden)
        a, s, start, other = drawn[:, 0], drawn[:, 1], drawn[:, 2], drawn[:, 3:]
        a = a / a.norm(dim=1, keepdim=True)
        s = s - (s * a).sum(1, keepdim=True) * a
        s = s / s.norm(dim=1, keepdim=True)
        words = torch.stack([a + s, a + self.gamma * s, a - s], 1)
        unembeddings = torch.cat([words, self.noise * other], 1)
        # Mass on the three words, and Never a little above No a little above Yes.
        hidden = 1.7 * a + 0.19 * s + 0.02 * start
        logits = torch.bmm(unembeddings, hidden.unsqueeze(-1)).squeeze(-1)
        reference = torch.log_softmax(logits, -1)
        no = torch.eye(self.arms, dtype=dtype)[:1]
        return EmbeddedWorld(
            contexts=1,
            actions=self.arms,
            reference_logits=reference.to(dtype),
            rewards=no,
            target_log_probs=reference.to(dtype),
            demonstrations=no,
            pairs=torch.tensor(self.pairs).T.unsqueeze(-1).permute(2, 0, 1),
            unembeddings=unembeddings.to(dtype),
            hidden=hidden.to(dtype),
        )


@problem
def no_never_yes(**changes: Any) -> Answers:
    """One token, No preferred to Never: under DPO both fall, and the mass goes to Yes.

    Policy `embedding` trains the hidden state alone, which is where it happens.

    Args:
        **changes: fields of `Answers` to set otherwise, for example gamma.
    """
    return Answers(**{"name": "no_never_yes", **changes})
