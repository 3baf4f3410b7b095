"""Exercise 1: write DPO.

A colleague has the paper, the pairs and a reference model, and no loss. You write it. Four tensors
come in, all [run, row]: the log-probability of the chosen and of the rejected answer, in nats and
summed over tokens, under the policy and under the frozen reference. One value per row goes out;
whoever calls the loss takes the mean. Long trainings lead far from the reference, so the loss must
be finite at log-ratios of 10,000 nats too.

To do: replace the `raise` by the formula. One or two lines are enough.

    toyalign check docs/course/exercises/1_write_dpo.py:my_dpo --same-as dpo --contracts
"""


def my_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Make the chosen answer gain more on the reference than the rejected one does.

    L = −log σ(β·h),  h = r_w − r_l

    r_w = log π(y_w|x) − log π_ref(y_w|x), r_l the same for the rejected answer, σ the sigmoid.
    """
    raise NotImplementedError("write the formula here")
