"""A loss of your own: `toyalign run examples/my_loss.py:my_loss dpo --plot my_loss.svg`."""

from torch.nn.functional import softplus


def my_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO with an offset: it wants a margin of 2 nats before it relaxes."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return softplus(beta * (2 - margin))
