"""A world: one problem made concrete for some runs, as tensors with a leading run axis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from toyalign.rows import Rows
from toyalign.streams import Streams

# (probabilities [run, cell], groups, responses per group, streams) -> responses and rewards
Respond = Callable[[Tensor, int, int, Streams], tuple[Rows, Tensor]]
# (policy, theta [run, parameter], groups, responses per group, streams, purpose) -> the world
Write = Callable[[Any, Tensor, int, int, Streams, str], "World"]


@dataclass(frozen=True)
class World:
    """What a policy and a data source need to know of a problem.

    A cell is one action in one context: cell = context * actions + action. In a bandit a context
    is a prompt and an action a whole response. In a world of longer responses an action is a token
    and a context what the policy sees before it: a state of a lake, or the prompt with the tokens
    so far. Such a world brings its rows ready-made, and says how it is responded to.

    Args:
        contexts: number of contexts (prompts, states); 1 for a plain bandit.
        actions: number of actions (arms) in each context.
        reference_logits: [run, cell], normalised log-probabilities of the reference.
        rewards: [1, cell].
        target_log_probs: [run or 1, cell], the distribution to be learned.
        demonstrations: [run or 1, cell], probability of each response among the demonstrations.
        pairs: [1, 2, pair], cells of the problem's own chosen and rejected responses, or None.
        states: [run, context, feature] inputs of a policy that reads the context, or None.
        unseen_states: the same for contexts that are never trained on, or None.
        tokens: [run or 1, response, token], the fixed responses of a world of sequences, whose
            contexts are their positions: context = response * tokens + position.
        prompts: [run or 1, response], the prompt of each.
        nodes: [run or 1, context], which prefix each context is: equal ones have equal numbers.
        pair_rows: pairs of longer responses, or None.
        demonstration_rows: demonstrations of several tokens, or None.
        respond: how responses of several tokens are drawn from a policy: returns rows with cells
            [run, 1, group * response, token], groups one after the other, and their rewards
            [run, group * response].
        next_context: [cell], where each action leads, if that is certain.
        write: how a policy writes responses of its own, where the world consists of what has been
            written: from the policy, its parameters, groups, responses per group, random streams
            and their purpose to the world of these responses, with `respond` for them.
        groups: prompts that a collection of longer responses visits unless the source says.
        quality: [run, cell], what a policy may know of the rewards, standardised, or None.
    """

    contexts: int
    actions: int
    reference_logits: Tensor
    rewards: Tensor
    target_log_probs: Tensor
    demonstrations: Tensor
    pairs: Tensor | None = None
    states: Tensor | None = None
    unseen_states: Tensor | None = None
    tokens: Tensor | None = None
    prompts: Tensor | None = None
    nodes: Tensor | None = None
    pair_rows: Rows | None = None
    demonstration_rows: Rows | None = None
    respond: Respond | None = None
    next_context: Tensor | None = None
    write: Write | None = None
    groups: int = 1
    quality: Tensor | None = None

    @property
    def cells(self) -> int:
        """Number of entries of the table of log-probabilities."""
        return self.contexts * self.actions

    @property
    def sequential(self) -> bool:
        """Whether responses have several tokens."""
        brought = (self.pair_rows, self.demonstration_rows, self.respond, self.write)
        return any(thing is not None for thing in brought)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.reference_logits.shape[0]
