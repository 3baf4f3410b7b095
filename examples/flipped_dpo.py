"""DPO with the wrong sign: it trains without an error, and makes the chosen answer unlikely."""

from torch.nn.functional import logsigmoid


def flipped_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    margin = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -logsigmoid(-beta * margin)
