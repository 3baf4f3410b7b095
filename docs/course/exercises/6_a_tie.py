"""Exercise 6: equal everywhere but at one point.

MinorDPO is DPO that stops pressing the rejected answer once it lies below the reference. A
colleague wrote it with relu, and a test on thousands of random inputs found no difference to the
built-in loss, neither in the value nor in the gradient. Her trainings differ from the first step
on: it raises the chosen answer and leaves the rejected one alone, where the built-in's first step
is that of DPO. The kink of max(0, x) has no derivative of its own; every library chooses one.

To do: find the point where all trainings begin, and write the maximum so that it keeps its
gradient there. Other ways than the built-in's exist, but not every way to write it has the same.

    toyalign check docs/course/exercises/6_a_tie.py:my_minor_dpo --same-as minor_dpo --contracts
"""

import torch
from torch.nn.functional import logsigmoid


def my_minor_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO that stops pressing the rejected answer once it lies below the reference."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = torch.relu(rejected_logps - ref_rejected_logps)
    return -logsigmoid(beta * (chosen - rejected))
