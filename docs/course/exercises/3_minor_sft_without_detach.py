"""Exercise 3: a weight that should only weigh.

MinorSFT is SFT with a weight of 2·σ(−β·r) on every demonstration: 1 at the start, less for what has
already risen above the reference. The weight says how much to learn from it, and nothing else. A
colleague's weights are right to the last digit. Yet her first step is larger than that of SFT, and
the less likely a demonstration is, the larger.

To do: add what is missing. It is one call. (The built-in loss has another value and the same
gradient. Training follows the gradient, so that counts as the same; the report says so.)

    toyalign check docs/course/exercises/3_minor_sft_without_detach.py:my_minor_sft \
        --same-as minor_sft --contracts
"""

import torch


def my_minor_sft(logps, ref_logps, lengths, *, beta=0.1):
    """SFT that pulls less on what it has already raised above the reference."""
    ratio = logps - ref_logps
    weight = 2 * torch.sigmoid(-beta * ratio)
    return -weight * logps / lengths
