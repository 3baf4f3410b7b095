"""Losses that are broken on purpose, each in one way that people do break losses.

They stand for users' files: no part of `toyalign` is used, and the bodies carry no hints. The first
line of each docstring says what is wrong. `BROKEN`, at the end, says for each of them which
contracts of `toyalign check` it violates (at least one of those named must fail) and where the same
mistake was made in public, if anywhere. `BEYOND` are wrong losses that break none of the contracts.
"""
# ruff: noqa: NPY002

import math

import numpy as np
import torch
import torch.nn.functional as F


def safe_exp(x):
    near = x.clamp(max=30.0)
    return near.exp() * (1 + (x - near))


def log_odds(log_prob):
    below = log_prob.clamp(max=0) - torch.finfo(log_prob.dtype).eps
    return log_prob - torch.log(-torch.expm1(below))


# --- signature ---


def dpo_misspelt_argument(
    choosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """An argument is misspelt: choosen_logps."""
    h = (choosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_names_of_another_library(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    *,
    beta=0.1,
):
    """The arguments have the names that another library gives them."""
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    return -F.logsigmoid(beta * (pi_logratios - ref_logratios))


def dpo_star_args(*logps, beta=0.1):
    """The tensors come as *args, so nobody can tell which is which."""
    chosen, rejected, ref_chosen, ref_rejected = logps
    return -F.logsigmoid(beta * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def dpo_star_kwargs(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, **kwargs
):
    """**kwargs swallows every misspelt hyperparameter."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_positional_beta(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1
):
    """The hyperparameter is positional."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_beta_without_default(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta
):
    """The hyperparameter has no default."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_optional_reference(
    chosen_logps, rejected_logps, ref_chosen_logps=None, ref_rejected_logps=None, *, beta=0.1
):
    """Tensor arguments have defaults, so a forgotten reference goes unnoticed."""
    h = chosen_logps - rejected_logps
    if ref_chosen_logps is not None and ref_rejected_logps is not None:
        h = h - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_reference_as_keywords(
    chosen_logps, rejected_logps, *, ref_chosen_logps, ref_rejected_logps, beta=0.1
):
    """Tensors are asked for as keywords, where hyperparameters belong."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def sft_from_a_batch(batch):
    """The argument is a whole batch, a dictionary, and not a tensor with a name."""
    return -batch["logps"] / batch["lengths"]


# --- shape ---


def dpo_returns_a_tuple(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns the loss and the rewards, a tuple."""
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return loss, chosen_rewards.detach(), rejected_rewards.detach()


def dpo_returns_a_dict(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns a dictionary."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return {"loss": -F.logsigmoid(beta * h)}


def dpo_returns_a_float(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns a Python number."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).mean().item()


def dpo_returns_a_list(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns a list of tensors, one for each run."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return [-F.logsigmoid(beta * run) for run in h]


def dpo_returns_nothing(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The return statement was forgotten for the default setting."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    loss = -F.logsigmoid(beta * h)
    if beta > 1:
        return loss


def dpo_batch_mean(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Returns the mean over the batch."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).mean()


def reinforce_batch_sum(logps, advantages):
    """Returns the sum over the batch."""
    return -(advantages * logps).sum()


def dpo_mean_per_run(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns the mean over the rows, one value for each run."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).mean(dim=-1)


def dpo_mean_spread_over_rows(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Has the right shape, but every row holds the batch mean."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    loss = -F.logsigmoid(beta * h)
    return loss.mean().expand_as(loss)


def sft_keepdim(token_logps, mask, lengths):
    """Sums with keepdim=True, so a third axis of length one is left."""
    total = (token_logps * mask).sum(-1, keepdim=True)
    return -total / lengths.unsqueeze(-1)


def dpo_every_row_with_every_row(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Broadcasts [row, 1] against [row] to [row, row]."""
    chosen = (chosen_logps - ref_chosen_logps).unsqueeze(-1)
    rejected = (rejected_logps - ref_rejected_logps).unsqueeze(-2)
    return -F.logsigmoid(beta * (chosen - rejected))


def reinforce_advantage_along_tokens(token_logps, advantages):
    """Puts the new axis of the advantages before the rows: it fits only if rows equal tokens."""
    return -advantages.unsqueeze(1) * token_logps


def sft_token_mean_over_batch(token_logps, mask):
    """Returns one number, the mean over all tokens of the batch."""
    return -(token_logps * mask).sum() / mask.sum()


def sft_sum_over_the_wrong_axis(token_logps, mask):
    """Sums over axis 1, which is the rows here, not the tokens."""
    return -(token_logps * mask).sum(1)


def sft_unmasked_tokens_in_one_line(token_logps, mask):
    """Indexes with the mask, which flattens runs, rows and tokens."""
    return -token_logps[mask.bool()]


def dpo_squeezed(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Ends with squeeze(), which drops an axis when there is one run or one row."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).squeeze()


def dpo_concatenated_halves(logps, ref_logps, rewards, *, beta=0.1):
    """Takes the first half of the rows for the better answers and returns half as many rows."""
    better, worse = (logps - ref_logps).chunk(2, dim=-1)
    high, low = rewards.chunk(2, dim=-1)
    return -F.logsigmoid(beta * torch.sign(high - low) * (better - worse))


# --- finite ---


def dpo_log_of_sigmoid(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """log(sigmoid(x)) is log(0) for a badly misordered pair."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -torch.log(torch.sigmoid(beta * h))


def dpo_log_of_a_quotient(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """log(exp(a) / (exp(a) + exp(b))) overflows or divides 0 by 0."""
    chosen = torch.exp(beta * (chosen_logps - ref_chosen_logps))
    rejected = torch.exp(beta * (rejected_logps - ref_rejected_logps))
    return -torch.log(chosen / (chosen + rejected))


def dpo_softplus_by_hand(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """log(1 + exp(-x)) overflows for a badly misordered pair."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return torch.log1p(torch.exp(-beta * h))


def dpo_softplus_in_two_branches(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The value is finite, but the branch that where() drops makes the gradient NaN."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    x = beta * h
    return torch.where(x > 0, torch.log1p(torch.exp(-x)), torch.log1p(torch.exp(x)) - x)


def exponential_one_over_exp(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """1 / exp(x) is 1 / 0 for a badly misordered pair."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return 1 / torch.exp(beta * h)


def exponential_capped_for_doubles(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The exponent is capped at 500, which only float64 can hold."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return torch.exp((-beta * h).clamp(max=500.0))


def forward_kl_preference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Takes exp of whole log-ratios and subtracts infinity from infinity."""
    chosen = -torch.exp(ref_chosen_logps - chosen_logps)
    rejected = -torch.exp(ref_rejected_logps - rejected_logps)
    return -F.logsigmoid(beta * (chosen - rejected))


def unlikelihood_log_one_minus_p(
    chosen_logps,
    chosen_lengths,
    rejected_token_logps,
    rejected_mask,
    rejected_lengths,
    *,
    alpha=1.0,
):
    """log(1 - p) is log(0) where p is one, as it often is under the mask."""
    push = -torch.log(1 - rejected_token_logps.exp())
    pull = -chosen_logps / chosen_lengths
    return pull + alpha * (push * rejected_mask).sum(-1) / rejected_lengths


def unlikelihood_clamped_for_doubles(
    chosen_logps,
    chosen_lengths,
    rejected_token_logps,
    rejected_mask,
    rejected_lengths,
    *,
    alpha=1.0,
):
    """p is kept below 1 - 1e-10, which is 1 in float32."""
    push = -torch.log(1 - rejected_token_logps.exp().clamp(max=1 - 1e-10))
    pull = -chosen_logps / chosen_lengths
    return pull + alpha * (push * rejected_mask).sum(-1) / rejected_lengths


def orpo_log1p_of_minus_exp(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, lam=0.1
):
    """The odds are infinite where an answer has probability one."""
    chosen = chosen_logps / chosen_lengths
    rejected = rejected_logps / rejected_lengths
    odds = (chosen - rejected) - (
        torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected))
    )
    return -chosen - lam * F.logsigmoid(odds)


def ipo_mean_over_changed_tokens(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    tau=0.1,
):
    """Divides by the number of tokens whose log-ratio is not 0: 0/0 at policy = reference."""
    chosen = (chosen_token_logps - ref_chosen_token_logps) * chosen_mask
    rejected = (rejected_token_logps - ref_rejected_token_logps) * rejected_mask
    chosen = chosen.sum(-1) / (chosen != 0).sum(-1)
    rejected = rejected.sum(-1) / (rejected != 0).sum(-1)
    return (chosen - rejected - 1 / (2 * tau)) ** 2


def dpo_root_of_a_square(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, lam=0.01
):
    """sqrt(x**2) has the gradient NaN at x = 0, where training starts."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    distance = torch.sqrt(chosen**2 + rejected**2)
    return -F.logsigmoid(beta * (chosen - rejected)) + lam * distance


def dpo_margin_over_its_size(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=1.0
):
    """Takes the sign as x / |x|, 0/0 where training starts."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    squashed = h / h.abs() * torch.log1p(h.abs())
    return -F.logsigmoid(beta * squashed)


def dpo_unit_norm(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=1.0):
    """Divides both log-ratios by their norm, which is 0 where training starts."""
    ratios = torch.stack(
        [chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps], dim=-1
    )
    ratios = ratios / ratios.norm(dim=-1, keepdim=True)
    return -F.logsigmoid(beta * (ratios[..., 0] - ratios[..., 1]))


def ppo_ratio_of_whole_responses(logps, old_logps, advantages, *, clip=0.2):
    """exp of a log-ratio that is summed over all tokens overflows."""
    ratio = torch.exp(logps - old_logps)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def sft_k3_overflow(token_logps, ref_token_logps, *, kappa=0.1):
    """exp in the KL estimator overflows where the policy has lost a token."""
    gap = ref_token_logps - token_logps
    return -token_logps + kappa * (torch.exp(gap) - gap - 1)


def sft_log_of_product(token_logps, mask):
    """Multiplies the probabilities of the tokens, which underflows, before the logarithm."""
    probs = torch.where(mask > 0, token_logps.exp(), torch.ones_like(token_logps))
    return -probs.prod(-1).log()


def reinforce_root_of_advantage(logps, advantages, *, power=0.5):
    """A fractional power of the advantage is NaN for every negative one."""
    return -(advantages**power) * logps


def sft_one_token_too_few(logps, lengths):
    """Divides by the length without the end token, 0 for a response of one token."""
    return -logps / (lengths - 1)


# --- gradient ---


def dpo_rejected_detached(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The rejected side is detached."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = (rejected_logps - ref_rejected_logps).detach()
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_chosen_detached(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The chosen side is detached."""
    chosen = (chosen_logps - ref_chosen_logps).detach()
    rejected = rejected_logps - ref_rejected_logps
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_all_detached(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The loss itself is detached."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).detach()


def dpo_without_grad(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """no_grad, meant for the reference, covers the policy as well."""
    with torch.no_grad():
        policy = chosen_logps - rejected_logps
        reference = ref_chosen_logps - ref_rejected_logps
    return -F.logsigmoid(beta * (policy - reference))


def dpo_item_by_item(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Loops over .item(), which leaves the graph."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    losses = torch.zeros_like(h)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            x = beta * h[i, j].item()
            losses[i, j] = max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
    return losses


def dpo_through_numpy(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Goes through NumPy, which leaves the graph."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    x = beta * h.detach().cpu().numpy()
    return torch.from_numpy(np.logaddexp(np.zeros_like(x), -x)).to(h)


def dpo_by_data(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """.data leaves the graph on the rejected side."""
    h = (chosen_logps - rejected_logps.data) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


class _LogSigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, beta):
        ctx.save_for_backward(h)
        ctx.beta = beta
        return -F.logsigmoid(beta * h)

    @staticmethod
    def backward(ctx, grad_output):
        (h,) = ctx.saved_tensors
        return grad_output * ctx.beta * torch.sigmoid(-ctx.beta * h), None


class _LogSigmoidLossNoBeta(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, beta):
        ctx.save_for_backward(beta * h)
        return -F.logsigmoid(beta * h)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return -grad_output * torch.sigmoid(-x), None


class _LogSigmoidLossFixedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, beta):
        ctx.save_for_backward(-beta * torch.sigmoid(-beta * h))
        return -F.logsigmoid(beta * h)

    @staticmethod
    def backward(ctx, grad_output):
        (grad,) = ctx.saved_tensors
        return grad, None


def dpo_backward_with_wrong_sign(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A backward written by hand lacks its minus sign."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return _LogSigmoidLoss.apply(h, beta)


def dpo_backward_without_beta(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A backward written by hand forgets the factor beta."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return _LogSigmoidLossNoBeta.apply(h, beta)


def dpo_backward_ignores_grad_output(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A backward written by hand ignores grad_output: right for a sum, wrong for a mean."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return _LogSigmoidLossFixedScale.apply(h, beta)


def preference_accuracy(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    """Counts misordered pairs, which has no gradient."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return (h <= 0).to(h.dtype)


def dpo_weighted_by_distance(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Weighted by the distance to the reference, so it never starts."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    distance = (chosen.detach().abs() + rejected.detach().abs()) / 2
    return -distance * F.logsigmoid(beta * (chosen - rejected))


def dpo_clamped_margin(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, floor=1.0
):
    """The margin is clamped from below above 0, so every pair starts in the flat part."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h.clamp(min=floor))


def hinge_without_a_margin(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The hinge bends at 0, where training starts, and its gradient there is 0."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return torch.relu(-beta * h)


def ipo_without_target(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau=0.1
):
    """Squares the margin itself: already at its minimum where training starts."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return 2 * tau * h**2


def dpo_policy_as_reference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The policy is its own reference, so the margin is always 0."""
    policy = chosen_logps - rejected_logps
    ref_chosen_logps, ref_rejected_logps = chosen_logps, rejected_logps
    return -F.logsigmoid(beta * (policy - (ref_chosen_logps - ref_rejected_logps)))


def dpo_rejected_cancels(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The reference margin uses the policy's rejected side, which cancels."""
    policy = chosen_logps - rejected_logps
    reference = ref_chosen_logps - rejected_logps
    return -F.logsigmoid(beta * (policy - reference))


def dpo_overwritten(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A line left over from debugging overwrites the loss by the likelihood."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    loss = -F.logsigmoid(beta * h)
    loss = -chosen_logps
    return loss


# --- hyperparameters ---


def dpo_beta_unused(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """beta is accepted and applied nowhere."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(h)


def dpo_beta_cancels(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """beta is multiplied in and divided out again."""
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid((chosen_rewards - rejected_rewards) / beta)


def dpo_beta_overwritten(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """beta is set to a number inside."""
    beta = 0.1
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def cdpo_smoothing_without_effect(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    label_smoothing=0.1,
):
    """Both terms of the smoothing are the same, so it has no effect."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    right = -F.logsigmoid(beta * h)
    wrong = -F.logsigmoid(beta * h)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def simpo_gamma_cancels(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, beta=2.0, gamma=1.0
):
    """gamma is taken off both sides and cancels."""
    chosen = beta * chosen_logps / chosen_lengths - gamma
    rejected = beta * rejected_logps / rejected_lengths - gamma
    return -F.logsigmoid(chosen - rejected)


def ppo_clip_hard_coded(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The clip is written as 0.2 and the parameter ignored."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)


def ppo_ratio_always_one(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The ratio is taken to the detached policy itself, so nothing is ever clipped."""
    ratio = torch.exp(token_logps - token_logps.detach())
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def sft_power_of_the_mask(token_logps, mask, lengths, *, alpha=0.5):
    """A power is taken of the mask, and 0 and 1 stay what they are."""
    weights = mask.to(token_logps.dtype) ** alpha
    return -(token_logps * weights).sum(-1) / lengths


# --- rows ---


def dpo_centred_margins(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Takes the mean margin of the batch off every margin."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (h - h.mean(dim=-1, keepdim=True).detach()))


def dpo_softmax_over_rows(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, alpha=1.0
):
    """Weighs the pairs by a softmax over the batch."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    weights = torch.softmax(-alpha * beta * h.detach(), dim=-1)
    return -weights * F.logsigmoid(beta * h)


def reinforce_returns_along_rows(logps, advantages):
    """Adds up returns along axis 1, which is the rows here, not time."""
    returns = advantages.cumsum(dim=1)
    return -returns * logps


def dpo_hardest_first(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Sorts the margins, so that values no longer stand with their rows."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h.sort(dim=-1).values)


def awr_best_of_batch(logps, advantages, *, temperature=1.0):
    """Takes the largest advantage of the batch off before exp, and never puts it back."""
    best = advantages.max(dim=-1, keepdim=True).values
    return -torch.exp((advantages - best) / temperature) * logps


def dpo_divided_by_batch_size(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Divides by the number of rows, which the caller does again."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h) / h.shape[1]


def dpo_divided_by_runs(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Divides by len(), the number of runs: right for one run only."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h) / len(h)


def dpo_reference_of_the_first_run(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Takes the reference of the first run for all runs: right for one run only."""
    reference = (ref_chosen_logps - ref_rejected_logps)[:1]
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps - reference))


def dpo_smoothed_over_runs(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Adds the mean over axis 0, meant for the rows: it mixes the runs."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (h + h.mean(dim=0, keepdim=True)) / 2)


def reinforce_whitened(logps, advantages):
    """Whitens the advantages over the batch, inside the loss."""
    mean = advantages.mean(dim=-1, keepdim=True)
    std = advantages.std(dim=-1, keepdim=True, unbiased=False)
    return -(advantages - mean) / (std + 1e-4) * logps


def sft_tokens_of_the_batch(token_logps, mask):
    """Divides each row by the number of tokens of the whole batch."""
    return -(token_logps * mask).sum(-1) / mask.sum()


def sft_mean_length(logps, lengths):
    """Divides by the mean length of the batch, not by the row's own."""
    return -logps / lengths.to(logps.dtype).mean(dim=-1, keepdim=True)


def dpo_later_rows_count_less(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Weighs the pairs by their position in the batch."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    weights = torch.linspace(1.0, 0.5, h.shape[1], dtype=h.dtype, device=h.device)
    return -weights * F.logsigmoid(beta * h)


def kto_baseline_of_the_batch(logps, ref_logps, labels, *, beta=0.1):
    """Takes the point of reference from the same batch."""
    ratio = logps - ref_logps
    baseline = ratio.detach().mean().clamp(min=0)
    gain = beta * (ratio - baseline)
    return torch.where(labels > 0, torch.sigmoid(-gain), torch.sigmoid(gain))


def dpo_rejected_of_the_next_row(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Compares each chosen answer with the rejected answer of another row."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = (rejected_logps - ref_rejected_logps).roll(1, dims=-1)
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_beta_from_the_batch(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, alpha=0.5
):
    """Sets beta by the mean margin of the batch."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    level = h.detach().mean(dim=-1, keepdim=True)
    return -F.logsigmoid(beta * (1 + alpha * torch.tanh(level)) * h)


def gspo_centred_over_rows(token_logps, old_token_logps, mask, lengths, advantages):
    """Centres the log-ratios of each token position over the batch."""
    gap = token_logps - old_token_logps
    gap = gap - gap.mean(dim=1, keepdim=True)
    ratio = safe_exp((gap * mask).sum(-1) / lengths)
    return -ratio * advantages


def ppo_mean_advantage(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The unclipped term has the mean advantage of the batch."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    mean = gain.mean(dim=1, keepdim=True)
    return -torch.minimum(ratio * mean, ratio.clamp(1 - clip, 1 + clip) * gain)


# --- mask ---


def sft_mask_rolled(token_logps, mask, lengths):
    """The mask is rolled by one token."""
    return -(token_logps * mask.roll(1, dims=-1)).sum(-1) / lengths


def sft_first_column_dropped(token_logps, mask, lengths):
    """Shifts log-probabilities that were shifted already: the first column is lost."""
    return -(token_logps[..., 1:] * mask[..., 1:]).sum(-1) / lengths


def sft_mask_one_ahead(token_logps, mask, lengths):
    """Mask and log-probabilities are sliced at different ends."""
    return -(token_logps[..., :-1] * mask[..., 1:]).sum(-1) / lengths


def sft_last_column_dropped(token_logps, mask, lengths):
    """Drops the last column, which is the end token of the longest response only."""
    return -(token_logps[..., :-1] * mask[..., :-1]).sum(-1) / lengths


def sft_mask_only_counted(token_logps, mask):
    """The mask is used for the length and not for the sum."""
    return -token_logps.sum(-1) / mask.sum(-1)


def sft_mask_inverted(token_logps, mask, lengths):
    """Takes 1 in the mask for padding."""
    return -token_logps.masked_fill(mask.bool(), 0.0).sum(-1) / lengths


def sft_mean_over_padding(token_logps, mask):
    """Averages over the padded length."""
    return -(token_logps * mask).mean(-1)


def grpo_length_weight_without_mask(token_logps, old_token_logps, mask, advantages, *, clip=0.2):
    """Uses the mask as a weight per response and leaves the padding in the mean."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    values = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    return (values * mask.sum(-1, keepdim=True)).mean(-1)


def sft_worst_token_with_padding(token_logps, mask):
    """A soft maximum over tokens counts every padded token as a loss of 0."""
    return torch.logsumexp(-token_logps * mask, dim=-1)


def sft_focus_over_padding(token_logps, mask):
    """A softmax over tokens gives weight to the padding."""
    weights = torch.softmax(-token_logps.detach(), dim=-1)
    return -(weights * token_logps * mask).sum(-1)


def sft_decay_by_column(token_logps, mask, lengths, *, decay=0.95):
    """Discounts by the column, so padding on the left changes the loss."""
    steps = torch.arange(token_logps.shape[-1], dtype=token_logps.dtype, device=token_logps.device)
    return -(token_logps * mask * decay**steps).sum(-1) / lengths


def sft_right_padding_assumed(token_logps, mask):
    """Rebuilds the mask from the length, as if all padding were on the right."""
    lengths = mask.sum(-1, keepdim=True)
    steps = torch.arange(token_logps.shape[-1], device=token_logps.device)
    return -torch.where(steps < lengths, token_logps, 0.0).sum(-1) / lengths.squeeze(-1)


def sft_in_two_halves(token_logps, mask, lengths):
    """Splits the tokens into two halves and loses the last one if their number is odd."""
    half = token_logps.shape[-1] // 2
    losses = -token_logps * mask
    return (losses[..., :half].sum(-1) + losses[..., half : 2 * half].sum(-1)) / lengths


def sft_truncated(token_logps, mask, lengths):
    """Cuts responses off after 2048 tokens without a word."""
    return -(token_logps[..., :2048] * mask[..., :2048]).sum(-1) / lengths


def sft_mask_of_the_first_row(token_logps, mask, lengths):
    """Uses the mask of the first row for all rows."""
    return -(token_logps * mask[:, :1]).sum(-1) / lengths


def dpo_one_mask_for_both_sides(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """The rejected tokens are masked by the chosen mask."""
    chosen = ((chosen_token_logps - ref_chosen_token_logps) * chosen_mask).sum(-1)
    rejected = ((rejected_token_logps - ref_rejected_token_logps) * chosen_mask).sum(-1)
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_mask_on_one_side(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """The rejected tokens are not masked at all."""
    chosen = ((chosen_token_logps - ref_chosen_token_logps) * chosen_mask).sum(-1)
    rejected = (rejected_token_logps - ref_rejected_token_logps).sum(-1)
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_reference_not_masked(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """The policy is masked, its reference is not."""
    policy = (chosen_token_logps * chosen_mask).sum(-1) - (
        rejected_token_logps * rejected_mask
    ).sum(-1)
    reference = ref_chosen_token_logps.sum(-1) - ref_rejected_token_logps.sum(-1)
    return -F.logsigmoid(beta * (policy - reference))


# --- purity ---

_MEAN = {"margin": 0.0}
_CALLS = {"count": 0}
_REFERENCE = {}


def dpo_subtracts_in_place(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """-= changes the caller's reference."""
    ref_chosen_logps -= ref_rejected_logps
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps - ref_chosen_logps))


def dpo_metrics_in_place(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A metric is computed in place on a detached tensor, which is still the caller's."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    loss = -F.logsigmoid(beta * h)
    rewards = chosen_logps.detach()
    rewards -= ref_chosen_logps
    return loss


def grpo_fills_the_padding(token_logps, ref_token_logps, mask, lengths, advantages, *, beta=0.04):
    """masked_fill_ changes the caller's tensor, under the mask only."""
    ref_token_logps.masked_fill_(mask == 0, 0.0)
    gap = (ref_token_logps - token_logps) * mask
    values = -advantages.unsqueeze(-1) * token_logps + beta * (safe_exp(gap) - gap - 1)
    return (values * mask).sum(-1) / lengths


def reinforce_centres_in_place(logps, rewards, *, baseline=0.5):
    """sub_ changes the caller's rewards, once more at every call."""
    return -rewards.sub_(baseline) * logps


def dpo_running_mean(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Keeps a running mean of the margin in the module."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    loss = -F.logsigmoid(beta * (h - _MEAN["margin"]))
    _MEAN["margin"] = 0.9 * _MEAN["margin"] + 0.1 * h.mean().item()
    return loss


def dpo_warm_up(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Counts its calls and raises beta with them."""
    _CALLS["count"] += 1
    beta = beta * min(1.0, _CALLS["count"] / 10000)
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_cached_reference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Keeps the reference of the first batch of each shape."""
    key = tuple(ref_chosen_logps.shape), ref_chosen_logps.dtype
    if key not in _REFERENCE:
        _REFERENCE[key] = (ref_chosen_logps - ref_rejected_logps).detach().clone()
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps - _REFERENCE[key]))


def sft_dropout(token_logps):
    """Dropout is left on."""
    return -F.dropout(token_logps, p=0.1)


def dpo_noise(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Adds noise from torch's global generator."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (h + 0.01 * torch.randn_like(h)))


def dpo_numpy_noise(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Draws the label noise from NumPy's global generator."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    noise = torch.as_tensor(np.random.normal(0.0, 0.01, tuple(h.shape)), dtype=h.dtype)
    return -F.logsigmoid(beta * (h + noise.to(h.device)))


def dpo_breaks_ties(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Adds a tiny random number against ties."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h + 1e-5 * torch.rand_like(h))


def dpo_seeds_torch(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Sets the global seed, so that the rest of the program repeats itself."""
    torch.manual_seed(0)
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_seeds_numpy(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Sets NumPy's global seed."""
    np.random.seed(0)
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h)


def dpo_shuffles_for_a_look(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Shuffles the rows and puts them back: the same result, but the generator has moved on."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    order = torch.randperm(h.shape[1], device=h.device)
    losses = -F.logsigmoid(beta * h[:, order])
    return losses[:, order.argsort()]


def dpo_float32_result(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns float32 whatever it is given."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h).float()


def dpo_float64_result(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Returns float64 whatever it is given."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h.double())


def dpo_float32_inside(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Computes in float32 and casts back, which loses half the digits of float64."""
    policy = chosen_logps.float() - rejected_logps.float()
    reference = ref_chosen_logps.float() - ref_rejected_logps.float()
    return -F.logsigmoid(beta * (policy - reference)).to(chosen_logps.dtype)


def dpo_half(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Rounds the log-probabilities to float16 before they are subtracted."""
    policy = chosen_logps.half() - rejected_logps.half()
    reference = ref_chosen_logps.half() - ref_rejected_logps.half()
    return -F.logsigmoid(beta * (policy - reference).to(chosen_logps.dtype))


def dpo_bfloat16(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Computes in bfloat16, as a model under autocast does."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h.bfloat16()).to(h.dtype)


# --- reference ---


def dpo_without_reference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The reference is asked for and not used."""
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps))


def dpo_reference_twice(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The reference is taken off twice, once from each answer and once from the margin."""
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    margin = (chosen - rejected) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * margin)


def dpo_reference_on_one_side(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Only the chosen side has its reference taken off."""
    return -F.logsigmoid(beta * ((chosen_logps - ref_chosen_logps) - rejected_logps))


def dpo_references_swapped(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Each answer has the reference of the other one taken off."""
    chosen = chosen_logps - ref_rejected_logps
    rejected = rejected_logps - ref_chosen_logps
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_beta_inside_the_bracket(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """A bracket is misplaced, so beta multiplies the reference twice."""
    policy = chosen_logps - rejected_logps
    reference = beta * (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (policy - reference))


def dpo_mean_policy_sum_reference(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    beta=0.1,
):
    """The policy is averaged over tokens and the reference summed."""
    chosen = chosen_logps / chosen_lengths - ref_chosen_logps
    rejected = rejected_logps / rejected_lengths - ref_rejected_logps
    return -F.logsigmoid(beta * (chosen - rejected))


def kto_reference_for_the_good_only(
    logps, ref_logps, labels, kl_estimate, *, beta=0.1, lam_d=1.0, lam_u=1.0
):
    """The reference is left out for undesirable responses."""
    good = beta * (logps - ref_logps - kl_estimate)
    bad = beta * (logps - kl_estimate)
    return torch.where(labels > 0, lam_d * torch.sigmoid(-good), lam_u * torch.sigmoid(bad))


def kto_reference_added(logps, ref_logps, labels, kl_estimate, *, beta=0.1, lam_d=1.0, lam_u=1.0):
    """The reference is added instead of taken off."""
    gain = beta * (logps + ref_logps - kl_estimate)
    return torch.where(labels > 0, lam_d * torch.sigmoid(-gain), lam_u * torch.sigmoid(gain))


def dpop_penalty_without_reference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, lam=5.0
):
    """The penalty looks at the log-probability and not at its ratio to the reference."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (h - lam * torch.relu(-chosen_logps)))


def reinforce_kl_attached(logps, ref_logps, advantages, *, beta=0.1):
    """The KL term of the reward is not detached."""
    reward = advantages - beta * (logps - ref_logps)
    return -reward * logps


def minor_sft_attached(logps, ref_logps, lengths, *, beta=0.04):
    """The weight is not detached."""
    weight = 2 * torch.sigmoid(-beta * (logps - ref_logps))
    return -weight * logps / lengths


# --- direction ---


def dpo_sign_flipped(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The minus sign before log sigmoid is missing."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return F.logsigmoid(beta * h)


def dpo_sides_swapped(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The margin is rejected less chosen."""
    chosen = beta * (chosen_logps - ref_chosen_logps)
    rejected = beta * (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(rejected - chosen)


def simpo_sign_flipped(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, beta=2.0, gamma=1.0
):
    """The sign inside the sigmoid is flipped."""
    margin = beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths)
    return -F.logsigmoid(gamma - margin)


def ipo_target_on_the_wrong_side(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau=0.1
):
    """The target is added, so the margin is driven below zero."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return (h + 1 / (2 * tau)) ** 2


def hinge_sign_flipped(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.05
):
    """The hinge is relu(1 + x) and falls with the margin it should raise."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return torch.relu(1 + beta * h)


def cdpo_mostly_flipped(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    label_smoothing=0.1,
):
    """Label smoothing weighs the wrong label by 0.9 and the right one by 0.1."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    right, wrong = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    return label_smoothing * right + (1 - label_smoothing) * wrong


def dpop_bonus_for_falling(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, lam=5.0
):
    """The penalty for a falling chosen answer has the wrong sign."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (h + lam * torch.relu(ref_chosen_logps - chosen_logps)))


def dpop_bonus_outside(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, lam=5.0
):
    """The penalty, outside the sigmoid, is taken off the loss instead of added."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h) - lam * torch.relu(ref_chosen_logps - chosen_logps)


def rpo_likelihood_sign(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, alpha=1.0
):
    """The likelihood term is added with a plus and lowers the chosen answer."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h) + alpha * chosen_logps


def orpo_odds_swapped(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, lam=0.1):
    """The odds are rejected to chosen."""
    chosen = chosen_logps / chosen_lengths
    rejected = rejected_logps / rejected_lengths
    return -chosen - lam * F.logsigmoid(log_odds(rejected) - log_odds(chosen))


def dpo_absolute_margin(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The margin's absolute value is taken: misordered pairs are driven further apart."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h.abs())


def dpo_taylor_wrong_sign(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The second-order term has the wrong sign, which turns badly misordered pairs round."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    x = beta * h
    return math.log(2) - x / 2 - x**2 / 8


def unlikelihood_sign_flipped(
    chosen_logps,
    chosen_lengths,
    rejected_token_logps,
    rejected_mask,
    rejected_lengths,
    *,
    alpha=1.0,
):
    """log(1 - p) lacks its minus sign and raises the rejected tokens."""
    eps = torch.finfo(rejected_token_logps.dtype).eps
    log_rest = torch.log(-torch.expm1(rejected_token_logps.clamp(max=0) - eps))
    pull = -chosen_logps / chosen_lengths
    return pull + alpha * (log_rest * rejected_mask).sum(-1) / rejected_lengths


def sft_sign_flipped(logps, lengths):
    """Minimises the log-likelihood."""
    return logps / lengths


def dft_attached(token_logps):
    """The weight p is not detached, so tokens below 1/e are pushed down."""
    return -token_logps.exp() * token_logps


def forward_kl_sign_flipped(log_probs, target_log_probs):
    """The cross-entropy lacks its minus sign."""
    return (target_log_probs.exp() * log_probs).sum(-1)


def kto_labels_flipped(logps, ref_logps, labels, kl_estimate, *, beta=0.1, lam_d=1.0, lam_u=1.0):
    """Takes 1 for undesirable."""
    gain = beta * (logps - ref_logps - kl_estimate)
    return torch.where(labels > 0, lam_u * torch.sigmoid(gain), lam_d * torch.sigmoid(-gain))


def apo_labels_is_true(logps, ref_logps, labels, *, beta=0.1):
    """Asks whether the tensor `is True`: it never is, and every response counts as undesirable."""
    reward = beta * (logps - ref_logps)
    desirable = labels is True
    return torch.sigmoid(-reward if desirable else reward)


def bco_labels_one_and_two(logps, ref_logps, labels, mean_log_ratio, *, beta=0.1):
    """Expects the labels 1 and 2, so that every response counts as undesirable."""
    reward = beta * (logps - ref_logps - mean_log_ratio)
    return -F.logsigmoid(torch.where(labels > 1, reward, -reward))


def reinforce_sign_flipped(logps, advantages):
    """Ascends where it should descend."""
    return advantages * logps


def reinforce_absolute_advantage(logps, advantages):
    """The advantage's absolute value is taken: bad samples are raised like good ones."""
    return -advantages.abs() * logps


def reinforce_rewards_as_costs(logps, rewards):
    """Takes rewards for costs."""
    return rewards * logps


def reinforce_advantage_unused(logps, advantages):
    """Raises every sample alike: the advantages are not used."""
    return -logps


# --- trust region ---


def ppo_max_for_min(token_logps, old_token_logps, advantages, *, clip=0.2):
    """max where min belongs: nothing is held back, and what must come back is cut off."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    return -torch.maximum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def ppo_only_the_clipped_term(token_logps, old_token_logps, advantages, *, clip=0.2):
    """Only the clipped term: outside the clip the gradient is 0 on both sides."""
    ratio = safe_exp(token_logps - old_token_logps).clamp(1 - clip, 1 + clip)
    return -ratio * advantages.unsqueeze(-1)


def ppo_clipped_twice(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The ratio is overwritten by its clip, so min compares two equal terms."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    ratio = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * gain, ratio * gain)


def ppo_far_tokens_masked(token_logps, old_token_logps, advantages, *, clip=0.2):
    """Drops every token outside the clip, whatever the sign of its advantage."""
    ratio = safe_exp(token_logps - old_token_logps)
    near = ((ratio - 1).abs() <= clip).to(ratio.dtype)
    return -near * ratio * advantages.unsqueeze(-1)


def cispo_weight_clamped(token_logps, old_token_logps, advantages, *, clip_high=4.0):
    """Clamps the ratio itself and not a weight on the log-probability: silent beyond the clip."""
    ratio = safe_exp(token_logps - old_token_logps)
    return -ratio.clamp(max=1 + clip_high) * advantages.unsqueeze(-1)


def cispo_attached(token_logps, old_token_logps, advantages, *, clip_high=4.0):
    """The weight is not detached and adds a gradient of its own."""
    weight = safe_exp(token_logps - old_token_logps).clamp(max=1 + clip_high)
    return -weight * advantages.unsqueeze(-1) * token_logps


def ppo_ratio_inverted(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The ratio is old to new."""
    ratio = safe_exp(old_token_logps - token_logps)
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def ppo_sign_flipped(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The objective is returned, not the loss."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    return torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def ppo_absolute_advantage(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The advantage's absolute value is taken against exploding negative terms."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.abs().unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def ppo_min_before_the_advantage(token_logps, old_token_logps, advantages, *, clip=0.2):
    """min is taken of the ratios, before the advantage: wrong for negative advantages."""
    ratio = safe_exp(token_logps - old_token_logps)
    return -torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * advantages.unsqueeze(-1)


def ppo_clip_bounds_swapped(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The bounds of the clip are swapped, so the clipped ratio is a constant."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 + clip, 1 - clip) * gain)


def ppo_difference_for_quotient(token_logps, old_token_logps, advantages, *, clip=0.2):
    """The ratio is a difference of probabilities."""
    ratio = 1 + safe_exp(token_logps) - safe_exp(old_token_logps)
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def ppo_ratio_twice(token_logps, old_token_logps, advantages, *, clip=0.2):
    """A second correction for the same staleness multiplies the ratio by itself."""
    ratio = safe_exp(token_logps - old_token_logps)
    correction = safe_exp(token_logps - old_token_logps).clamp(max=2.0)
    gain = advantages.unsqueeze(-1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain) * correction


def grpo_k1_in_the_loss(
    token_logps,
    old_token_logps,
    ref_token_logps,
    mask,
    lengths,
    advantages,
    *,
    clip=0.2,
    beta=0.04,
):
    """The KL term is log p - log p_ref, whose gradient is the same wherever the reference is."""
    ratio = safe_exp(token_logps - old_token_logps)
    gain = advantages.unsqueeze(-1)
    values = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    values = values + beta * (token_logps - ref_token_logps)
    return (values * mask).sum(-1) / lengths


# --- beyond the contracts ---


def simpo_length_of_the_other_side(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, beta=2.0, gamma=1.0
):
    """Each answer is divided by the length of the other."""
    margin = chosen_logps / rejected_lengths - rejected_logps / chosen_lengths
    return -F.logsigmoid(beta * margin - gamma)


def simpo_gamma_outside(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, beta=2.0, gamma=1.0
):
    """gamma stands outside the sigmoid: it changes the value and no gradient."""
    margin = chosen_logps / chosen_lengths - rejected_logps / rejected_lengths
    return -F.logsigmoid(beta * margin) - gamma


def dpo_beta_twice(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """beta is applied twice."""
    chosen = beta * (chosen_logps - ref_chosen_logps)
    rejected = beta * (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_epsilon_in_the_log(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """log(sigmoid(x) + 1e-8): badly misordered pairs are given up."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -torch.log(torch.sigmoid(beta * h) + 1e-8)


def dpo_clamped_for_stability(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """The argument of the sigmoid is clamped: badly misordered pairs are given up."""
    h = (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)
    return -F.logsigmoid((beta * h).clamp(-10, 10))


def orpo_sums_for_means(chosen_logps, rejected_logps, *, lam=0.1):
    """The odds are those of whole responses, not of their average token."""
    odds = log_odds(chosen_logps) - log_odds(rejected_logps)
    return -chosen_logps - lam * F.logsigmoid(odds)


_GITHUB = "https://github.com/"

BROKEN = {
    "dpo_misspelt_argument": ({"signature"}, ""),
    "dpo_names_of_another_library": ({"signature"}, ""),
    "dpo_star_args": ({"signature"}, ""),
    "dpo_star_kwargs": ({"signature"}, ""),
    "dpo_positional_beta": ({"signature"}, ""),
    "dpo_beta_without_default": ({"signature"}, ""),
    "dpo_optional_reference": ({"signature"}, ""),
    "dpo_reference_as_keywords": ({"signature"}, ""),
    "sft_from_a_batch": ({"signature"}, ""),
    "dpo_returns_a_tuple": ({"shape"}, ""),
    "dpo_returns_a_dict": ({"shape"}, ""),
    "dpo_returns_a_float": ({"shape"}, ""),
    "dpo_returns_a_list": ({"shape"}, ""),
    "dpo_returns_nothing": ({"shape"}, ""),
    "dpo_batch_mean": ({"shape"}, ""),
    "reinforce_batch_sum": ({"shape"}, ""),
    "dpo_mean_per_run": ({"shape"}, ""),
    "dpo_mean_spread_over_rows": ({"shape", "rows"}, ""),
    "sft_keepdim": ({"shape"}, ""),
    "dpo_every_row_with_every_row": ({"shape"}, _GITHUB + "RLinf/RLinf/issues/1568"),
    "reinforce_advantage_along_tokens": ({"shape", "rows"}, ""),
    "sft_token_mean_over_batch": ({"shape"}, _GITHUB + "hiyouga/EasyR1/issues/212"),
    "sft_sum_over_the_wrong_axis": ({"shape"}, ""),
    "sft_unmasked_tokens_in_one_line": ({"shape"}, ""),
    "dpo_squeezed": ({"shape"}, ""),
    "dpo_concatenated_halves": ({"shape"}, ""),
    "dpo_log_of_sigmoid": (
        {"finite"},
        _GITHUB + "thinking-machines-lab/tinker-cookbook/pull/188",
    ),
    "dpo_log_of_a_quotient": ({"finite"}, ""),
    "dpo_softplus_by_hand": ({"finite"}, _GITHUB + "pytorch/pytorch/pull/2211"),
    "dpo_softplus_in_two_branches": ({"finite", "gradient"}, ""),
    "exponential_one_over_exp": ({"finite"}, ""),
    "exponential_capped_for_doubles": ({"finite"}, ""),
    "forward_kl_preference": ({"finite"}, ""),
    "unlikelihood_log_one_minus_p": ({"finite", "mask"}, ""),
    "unlikelihood_clamped_for_doubles": ({"finite", "mask"}, ""),
    "orpo_log1p_of_minus_exp": ({"finite"}, _GITHUB + "huggingface/trl/issues/2564"),
    "ipo_mean_over_changed_tokens": ({"finite", "gradient"}, ""),
    "dpo_root_of_a_square": ({"finite", "gradient"}, ""),
    "dpo_margin_over_its_size": ({"finite", "gradient"}, ""),
    "dpo_unit_norm": ({"finite", "gradient"}, ""),
    "ppo_ratio_of_whole_responses": ({"finite"}, _GITHUB + "OpenRLHF/OpenRLHF/pull/1293"),
    "sft_k3_overflow": ({"finite"}, _GITHUB + "THUDM/slime/pull/2198"),
    "sft_log_of_product": ({"finite"}, ""),
    "reinforce_root_of_advantage": ({"finite"}, ""),
    "sft_one_token_too_few": ({"finite"}, ""),
    "dpo_rejected_detached": ({"gradient"}, ""),
    "dpo_chosen_detached": ({"gradient"}, ""),
    "dpo_all_detached": ({"gradient"}, ""),
    "dpo_without_grad": ({"gradient"}, ""),
    "dpo_item_by_item": ({"gradient"}, ""),
    "dpo_through_numpy": ({"gradient"}, ""),
    "dpo_by_data": ({"gradient"}, ""),
    "dpo_backward_with_wrong_sign": ({"gradient", "direction"}, ""),
    "dpo_backward_without_beta": ({"gradient"}, ""),
    "dpo_backward_ignores_grad_output": (
        {"gradient", "rows"},
        _GITHUB + "pytorch/torchtitan/pull/3250",
    ),
    "preference_accuracy": ({"gradient"}, ""),
    "dpo_weighted_by_distance": ({"gradient"}, ""),
    "dpo_clamped_margin": ({"gradient"}, ""),
    "hinge_without_a_margin": ({"gradient"}, ""),
    "ipo_without_target": ({"gradient", "direction", "learns"}, ""),
    "dpo_policy_as_reference": ({"gradient"}, _GITHUB + "huggingface/trl/pull/6443"),
    "dpo_rejected_cancels": ({"gradient"}, ""),
    "dpo_overwritten": (
        {"gradient", "hyperparameters"},
        _GITHUB + "locuslab/open-unlearning/issues/30",
    ),
    "dpo_beta_unused": ({"hyperparameters"}, ""),
    "dpo_beta_cancels": ({"hyperparameters"}, ""),
    "dpo_beta_overwritten": ({"hyperparameters"}, ""),
    "cdpo_smoothing_without_effect": ({"hyperparameters"}, ""),
    "simpo_gamma_cancels": ({"hyperparameters"}, ""),
    "ppo_clip_hard_coded": ({"hyperparameters"}, ""),
    "ppo_ratio_always_one": (
        {"hyperparameters", "gradient"},
        _GITHUB + "meta-pytorch/torchforge/pull/571",
    ),
    "sft_power_of_the_mask": ({"hyperparameters"}, ""),
    "dpo_centred_margins": ({"rows"}, ""),
    "dpo_softmax_over_rows": ({"rows"}, ""),
    "reinforce_returns_along_rows": ({"rows"}, ""),
    "dpo_hardest_first": ({"rows"}, ""),
    "awr_best_of_batch": ({"rows"}, ""),
    "dpo_divided_by_batch_size": ({"rows"}, _GITHUB + "unslothai/unsloth/pull/8261"),
    "dpo_divided_by_runs": ({"rows"}, ""),
    "dpo_reference_of_the_first_run": ({"rows"}, ""),
    "dpo_smoothed_over_runs": ({"rows"}, ""),
    "reinforce_whitened": ({"rows"}, ""),
    "sft_tokens_of_the_batch": ({"rows"}, _GITHUB + "modelscope/ms-swift/pull/9925"),
    "sft_mean_length": ({"rows"}, ""),
    "dpo_later_rows_count_less": ({"rows"}, ""),
    "kto_baseline_of_the_batch": ({"rows"}, ""),
    "dpo_rejected_of_the_next_row": ({"rows"}, ""),
    "dpo_beta_from_the_batch": ({"rows"}, ""),
    "gspo_centred_over_rows": ({"rows", "mask"}, _GITHUB + "MakazhanAlpamys/Soup/issues/723"),
    "ppo_mean_advantage": (
        {"rows", "trust_region"},
        _GITHUB + "Omegastick/pytorch-cpp-rl/issues/14",
    ),
    "sft_mask_rolled": ({"mask"}, ""),
    "sft_first_column_dropped": ({"mask"}, _GITHUB + "verl-project/verl/pull/3287"),
    "sft_mask_one_ahead": ({"mask"}, _GITHUB + "OpenRLHF/OpenRLHF/issues/973"),
    "sft_last_column_dropped": ({"mask"}, ""),
    "sft_mask_only_counted": ({"mask"}, ""),
    "sft_mask_inverted": ({"mask"}, ""),
    "sft_mean_over_padding": ({"mask"}, _GITHUB + "d2l-ai/d2l-en/pull/2707"),
    "grpo_length_weight_without_mask": ({"mask"}, _GITHUB + "huggingface/trl/pull/6654"),
    "sft_worst_token_with_padding": ({"mask"}, ""),
    "sft_focus_over_padding": ({"mask"}, ""),
    "sft_decay_by_column": ({"mask"}, ""),
    "sft_right_padding_assumed": ({"mask"}, ""),
    "sft_in_two_halves": ({"mask"}, ""),
    "sft_truncated": ({"mask"}, ""),
    "sft_mask_of_the_first_row": ({"mask", "rows"}, ""),
    "dpo_one_mask_for_both_sides": ({"mask"}, ""),
    "dpo_mask_on_one_side": ({"mask"}, ""),
    "dpo_reference_not_masked": ({"mask"}, ""),
    "dpo_subtracts_in_place": ({"purity"}, ""),
    "dpo_metrics_in_place": ({"purity"}, ""),
    "grpo_fills_the_padding": ({"purity"}, ""),
    "reinforce_centres_in_place": ({"purity"}, ""),
    "dpo_running_mean": ({"purity"}, ""),
    "dpo_warm_up": ({"purity"}, ""),
    "dpo_cached_reference": ({"purity", "rows", "reference"}, ""),
    "sft_dropout": ({"purity"}, ""),
    "dpo_noise": ({"purity"}, ""),
    "dpo_numpy_noise": ({"purity"}, ""),
    "dpo_breaks_ties": ({"purity"}, ""),
    "dpo_seeds_torch": ({"purity"}, ""),
    "dpo_seeds_numpy": ({"purity"}, ""),
    "dpo_shuffles_for_a_look": ({"purity"}, ""),
    "dpo_float32_result": ({"purity"}, ""),
    "dpo_float64_result": ({"purity"}, ""),
    "dpo_float32_inside": ({"purity", "gradient"}, ""),
    "dpo_half": ({"purity", "gradient"}, ""),
    "dpo_bfloat16": ({"purity", "gradient"}, ""),
    "dpo_without_reference": ({"reference"}, _GITHUB + "linkedin/Liger-Kernel/pull/387"),
    "dpo_reference_twice": ({"reference"}, ""),
    "dpo_reference_on_one_side": ({"reference"}, ""),
    "dpo_references_swapped": ({"reference"}, ""),
    "dpo_beta_inside_the_bracket": ({"reference"}, ""),
    "dpo_mean_policy_sum_reference": ({"reference"}, ""),
    "kto_reference_for_the_good_only": ({"reference"}, ""),
    "kto_reference_added": ({"reference"}, ""),
    "dpop_penalty_without_reference": ({"reference"}, ""),
    "reinforce_kl_attached": ({"reference"}, _GITHUB + "batra-mlp-lab/visdial-rl/issues/13"),
    "minor_sft_attached": ({"reference"}, ""),
    "dpo_sign_flipped": ({"direction", "learns"}, ""),
    "dpo_sides_swapped": ({"direction", "learns"}, ""),
    "simpo_sign_flipped": ({"direction", "learns"}, ""),
    "ipo_target_on_the_wrong_side": ({"direction", "learns"}, ""),
    "hinge_sign_flipped": ({"direction", "learns"}, ""),
    "cdpo_mostly_flipped": ({"direction", "learns"}, ""),
    "dpop_bonus_for_falling": ({"direction"}, _GITHUB + "hiyouga/LlamaFactory/issues/2587"),
    "dpop_bonus_outside": ({"direction"}, _GITHUB + "hiyouga/LlamaFactory/issues/2587"),
    "rpo_likelihood_sign": ({"direction", "learns"}, ""),
    "orpo_odds_swapped": ({"direction"}, ""),
    "dpo_absolute_margin": ({"direction", "gradient"}, ""),
    "dpo_taylor_wrong_sign": ({"direction"}, ""),
    "unlikelihood_sign_flipped": ({"direction"}, ""),
    "sft_sign_flipped": ({"direction", "learns"}, ""),
    "dft_attached": ({"direction", "learns"}, _GITHUB + "modelscope/twinkle/pull/291"),
    "forward_kl_sign_flipped": ({"direction", "learns"}, ""),
    "kto_labels_flipped": ({"direction", "learns"}, ""),
    "apo_labels_is_true": ({"direction", "learns"}, ""),
    "bco_labels_one_and_two": ({"direction", "learns"}, ""),
    "reinforce_sign_flipped": ({"direction", "learns"}, ""),
    "reinforce_absolute_advantage": ({"direction", "learns"}, ""),
    "reinforce_rewards_as_costs": ({"direction", "learns"}, ""),
    "reinforce_advantage_unused": ({"direction", "learns"}, ""),
    "ppo_max_for_min": ({"trust_region"}, ""),
    "ppo_only_the_clipped_term": (
        {"trust_region"},
        _GITHUB + "tensorforce/tensorforce/issues/106",
    ),
    "ppo_clipped_twice": ({"trust_region"}, ""),
    "ppo_far_tokens_masked": ({"trust_region"}, ""),
    "cispo_weight_clamped": ({"trust_region"}, _GITHUB + "allenai/open-instruct/pull/1269"),
    "cispo_attached": ({"trust_region"}, ""),
    "ppo_ratio_inverted": ({"trust_region", "direction"}, ""),
    "ppo_sign_flipped": ({"trust_region", "direction"}, ""),
    "ppo_absolute_advantage": ({"trust_region", "direction"}, ""),
    "ppo_min_before_the_advantage": ({"trust_region"}, _GITHUB + "takuseno/ppo/issues/3"),
    "ppo_clip_bounds_swapped": ({"trust_region"}, ""),
    "ppo_difference_for_quotient": ({"trust_region"}, ""),
    "ppo_ratio_twice": ({"trust_region"}, ""),
    "grpo_k1_in_the_loss": ({"trust_region"}, _GITHUB + "allenai/open-instruct/pull/535"),
}

BEYOND = {
    "simpo_length_of_the_other_side": (
        "its gradients have the right signs, and nothing compares lengths with sides",
        "",
    ),
    "simpo_gamma_outside": ("gamma has an effect, on the value", ""),
    "dpo_beta_twice": (
        "it is DPO with beta squared",
        _GITHUB + "AI-Hypercomputer/maxtext/issues/1530",
    ),
    "dpo_epsilon_in_the_log": ("a pair that is given up is neither lowered nor raised", ""),
    "dpo_clamped_for_stability": ("a pair that is given up is neither lowered nor raised", ""),
    "orpo_sums_for_means": (
        "it is a loss of its own, with another weight for long responses",
        _GITHUB + "natolambert/rlhf-book/pull/243",
    ),
}
