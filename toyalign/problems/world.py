"""A world: one problem made concrete for some runs, as tensors with a leading run axis."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class World:
    """What a policy and a data source need to know of a problem.

    A cell is one action in one context: cell = context * actions + action.

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

    @property
    def cells(self) -> int:
        """Number of entries of the table of log-probabilities."""
        return self.contexts * self.actions

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.reference_logits.shape[0]
