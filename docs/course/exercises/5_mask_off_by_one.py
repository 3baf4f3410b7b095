"""Exercise 5: shifted once too often.

A colleague wrote DPO on the log-probabilities of single tokens, [run, row, token], and sums them
herself by the mask. A language model's output at one position is a guess at the next token, so
somebody must shift by one. On long answers her curves look like those of DPO. On one-word answers
nothing is learnt at all, and no answer ever learns to stop.

To do: mend the sum. Here position t of `token_logps` belongs to token t of the answer, and position
t of the mask says whether there is such a token.

    toyalign check docs/course/exercises/5_mask_off_by_one.py:my_token_dpo --same-as dpo --contracts
"""

from torch.nn.functional import logsigmoid


def my_token_dpo(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """DPO that sums over the tokens itself."""
    chosen = answer_sum(chosen_token_logps - ref_chosen_token_logps, chosen_mask)
    rejected = answer_sum(rejected_token_logps - ref_rejected_token_logps, rejected_mask)
    return -logsigmoid(beta * (chosen - rejected))


def answer_sum(values, mask):
    """The sum over the tokens of each answer, [run, row]."""
    return (values[..., :-1] * mask[..., 1:]).sum(-1)
