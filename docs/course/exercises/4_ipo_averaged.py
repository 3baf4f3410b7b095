"""Exercise 4: the right loss on the wrong scale.

IPO brings the margin to a target, 1/(2τ), and holds it there. A colleague kept the τ of the paper
and found long answers driven far from the reference, the further the longer they are. On one-word
answers her loss and the built-in one train alike. She had read the loss off a trainer's code, not
off the paper, where log π(y|x) is the log-probability of the whole answer.

To do: make it the paper's loss. An argument may stay unused.

    toyalign check docs/course/exercises/4_ipo_averaged.py:my_ipo --same-as ipo --contracts
"""


def my_ipo(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    tau=0.1,
):
    """Bring the margin to a fixed target and hold it there."""
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen - rejected - 1 / (2 * tau)) ** 2
