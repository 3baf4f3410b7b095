"""A trajectory: what the simulator recorded, and its tidy table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toyalign import measures
from toyalign.errors import ToyalignError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

UNITS = {
    "loss": "as the objective defines it",
    "expected_reward": "reward",
    "kl_to_reference": "nats",
    "kl_from_reference": "nats",
    "entropy": "nats",
    "mass_moved": "probability",
    "logps": "nats",
    "chosen_logps": "nats",
    "rejected_logps": "nats",
    "chosen_slope": "nats per step",
    "margin": "nats",
    "preference_accuracy": "share of pairs",
    "mass_on_neither": "probability",
    "unseen_expected_reward": "reward",
}


@dataclass(frozen=True)
class Trajectory:
    """The record of some runs of one objective on one problem.

    Args:
        objective: name of the objective.
        problem: name of the problem.
        policy: description of the policy class.
        source: description of the data source.
        runs: the settings of each run, [run] each: "seed", "lr" and every hyperparameter.
        steps: [mark], the recorded steps; step 0 is before the first update.
        log_probs: [mark, run, context, action], nats; NaN after a run has diverged. Without
            contexts where the table is too large to be kept.
        reference: [run, context, action], log-probabilities of the reference, nats.
        rewards: [action]; None where responses have several tokens.
        pairs: the problem's own (chosen, rejected) arms.
        loss: [mark, run].
        scores: weighted mean over the rows of that step, [mark, run], of every log-probability of a
            response that the loss asked for, the policy's and the reference's.
        queries: [mark], reward queries per run spent so far.
        diverged_at: [run], the recorded step by which a run had become non-finite; −1 if none.
        theta: [run, parameter], the parameters at the end.
        unseen: [mark, run, context, action], log-probabilities in contexts never trained on.
        own_measures: what the problem itself measures, [mark, run] each.
        own_units: their units.
    """

    objective: str
    problem: str
    policy: str
    source: str
    runs: Mapping[str, NDArray[Any]]
    steps: NDArray[np.int64]
    log_probs: Array
    reference: Array
    rewards: Array | None
    pairs: Sequence[tuple[int, int]]
    loss: Array
    scores: Mapping[str, Array]
    queries: NDArray[np.int64]
    diverged_at: NDArray[np.int64]
    theta: Array
    unseen: Array | None = None
    own_measures: Mapping[str, Array] = field(default_factory=dict)
    own_units: Mapping[str, str] = field(default_factory=dict)

    @property
    def final(self) -> Array:
        """Log-probabilities at the end, [run, context, action]."""
        return self.log_probs[-1]

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which runs ended in non-finite numbers, [run]."""
        return self.diverged_at >= 0

    def pair_logps(self) -> tuple[Array, Array]:
        """Log-probability of the chosen and rejected answers, mean over pairs, [mark, run], nats.

        Raises:
            ToyalignError: if the problem has no pairs of its own.
        """
        if not self.pairs:
            raise ToyalignError(f"problem {self.problem} has no pairs of its own to follow")
        chosen, rejected = np.asarray(self.pairs).T
        return (
            self.log_probs[..., chosen].mean((-1, -2)),
            self.log_probs[..., rejected].mean((-1, -2)),
        )

    def measured(self) -> dict[str, Array]:
        """The standard measures, [mark, run], averaged over contexts; `UNITS` gives the units."""
        values = {"loss": self.loss}
        if self.rewards is not None:
            values["expected_reward"] = measures.expected_reward(self.log_probs, self.rewards)
        if self.log_probs.shape[2]:
            values |= {
                "kl_to_reference": measures.kl(self.log_probs, self.reference),
                "kl_from_reference": measures.kl(self.reference, self.log_probs),
                "entropy": measures.entropy(self.log_probs),
                "mass_moved": measures.mass_moved(self.log_probs),
            }
        if self.pairs:
            chosen, rejected = self.pair_logps()
            values |= {
                "chosen_logps": chosen,
                "rejected_logps": rejected,
                "chosen_slope": measures.slope(self.steps, chosen),
                "margin": measures.margin(self.log_probs, self.reference, self.pairs),
                "preference_accuracy": measures.preference_accuracy(
                    self.log_probs, self.reference, self.pairs
                ),
                "mass_on_neither": measures.mass_on_neither(self.log_probs, self.pairs),
            }
        else:
            values |= {name: mean for name, mean in self.scores.items() if name in UNITS}
        values |= self.own_measures
        if self.unseen is not None and self.rewards is not None:
            values["unseen_expected_reward"] = measures.expected_reward(self.unseen, self.rewards)
        return {k: v.mean(-1) if v.ndim == 3 else v for k, v in values.items()}

    def to_frame(self) -> "pd.DataFrame":
        """A tidy table: one row per run, recorded step and quantity.

        Columns: objective, problem, policy, one per setting of the runs (seed, lr, ...), step,
        queries, quantity, value, unit. Rows after a run's divergence are left out.
        """
        import pandas as pd

        count = len(self.runs["seed"])
        base = {
            "objective": self.objective,
            "problem": self.problem,
            "policy": self.policy,
            **{key: np.tile(column, len(self.steps)) for key, column in self.runs.items()},
            "step": np.repeat(self.steps, count),
            "queries": np.repeat(self.queries, count),
        }
        units = {**UNITS, **self.own_units}
        frames = [
            pd.DataFrame({**base, "quantity": name, "value": value.ravel(), "unit": units[name]})
            for name, value in self.measured().items()
        ]
        frame = pd.concat(frames, ignore_index=True)
        return frame.dropna(subset="value").reset_index(drop=True)

    def arms_frame(self) -> "pd.DataFrame":
        """The probability of every arm: one row per run, recorded step, context and action."""
        import pandas as pd

        marks, runs, contexts, actions = self.log_probs.shape
        mark, run, context, action = np.indices((marks, runs, contexts, actions)).reshape(4, -1)
        frame = pd.DataFrame(
            {
                "objective": self.objective,
                **{key: column[run] for key, column in self.runs.items()},
                "step": self.steps[mark],
                "context": context,
                "action": action,
                "log_prob": self.log_probs.ravel(),
                "reference_log_prob": self.reference[run, context, action],
            }
        )
        return frame.dropna(subset="log_prob").reset_index(drop=True)
