"""Exercise 2: the protection that makes it worse.

DPOP adds a penalty to DPO so that the chosen answer does not fall below the reference. A colleague
switched from DPO to DPOP. The first step was that of DPO, to the last digit. From the second step
on every chosen answer that had slipped a little fell far faster than before, while the loss went
down smoothly. The paper promises the opposite.

To do: find the mistake, which is one character, and mend it.

    toyalign check docs/course/exercises/2_flipped_dpop.py:my_dpop --same-as dpop --contracts
"""

import torch
from torch.nn.functional import logsigmoid


def my_dpop(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.3, lam=50.0
):
    """DPO that pays whenever the chosen answer falls below the reference."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    penalty = torch.relu(ref_chosen_logps - chosen_logps)
    return -logsigmoid(beta * (margin + lam * penalty))
