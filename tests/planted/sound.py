"""Sound losses as people write them: `toyalign check` must pass each one in SOUND, undeclared.

QUESTIONABLE holds sensible losses that a contract, taken by its words, would fail, with the reason.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# ----------------------------------------------------------------------------------------------
# helpers that several losses share
# ----------------------------------------------------------------------------------------------


def masked_mean(x, mask):
    """Mean over the tokens of each response."""
    return (x * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def masked_sum(x, mask):
    return torch.where(mask.bool(), x, torch.zeros_like(x)).sum(dim=-1)


def safe_exp(x, limit=20.0):
    """exp(x) up to the limit, a straight line with the same slope after it."""
    inner = x.clamp(max=limit)
    return inner.exp() * (1.0 + (x - inner))


def log1mexp(x):
    """log(1 - exp(x)) for x < 0, both ends stable."""
    x = x.clamp(max=-1e-6)
    return torch.where(x > -math.log(2.0), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


class NegLogSigmoid(torch.autograd.Function):
    """-log sigmoid(z) with a hand-written backward pass."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return F.softplus(-z)

    @staticmethod
    def backward(ctx, grad_output):
        (z,) = ctx.saved_tensors
        return -grad_output * torch.sigmoid(-z)


class TamedExp(torch.autograd.Function):
    """exp that goes on as a straight line; backward by hand, the limit is not a tensor."""

    @staticmethod
    def forward(ctx, x, limit):
        top = torch.exp(x.clamp(max=limit))
        ctx.save_for_backward(top)
        return torch.where(x > limit, top * (1 + x - limit), top)

    @staticmethod
    def backward(ctx, grad_output):
        (top,) = ctx.saved_tensors
        return grad_output * top, None


def traced(fn):
    """A do-nothing decorator of the kind that logs calls."""

    @functools.wraps(fn)
    def inner(*args, **kwargs):
        return fn(*args, **kwargs)

    return inner


# ----------------------------------------------------------------------------------------------
# pairs, summed log-probabilities, with a reference: DPO in many hands
# ----------------------------------------------------------------------------------------------


def dpo_softplus(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO written as softplus of the negative margin."""
    pi_logratios = chosen_logps - rejected_logps
    ref_logratios = ref_chosen_logps - ref_rejected_logps
    logits = pi_logratios - ref_logratios
    return F.softplus(-beta * logits)


def dpo_logaddexp(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """DPO as log(e^w + e^l) - w with logaddexp."""
    w = beta * (chosen_logps - ref_chosen_logps)
    l = beta * (rejected_logps - ref_rejected_logps)  # noqa: E741
    return torch.logaddexp(w, l) - w


def dpo_bce(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    label_smoothing=0.0,
):
    """DPO as a binary classifier of the margin, labels smoothed if asked."""
    z = beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    target = torch.full_like(z, 1.0 - label_smoothing)
    return F.binary_cross_entropy_with_logits(z, target, reduction="none")


def dpo_stacked_softmax(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, temperature=10
):
    """DPO as a softmax over the two answers of a pair; the temperature is an int."""
    scores = torch.stack(
        [chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps], dim=-1
    )
    return -(scores / temperature).log_softmax(dim=-1)[..., 0]


def dpo_cross_entropy(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.2, smooth=0.05
):
    """Conservative DPO through F.cross_entropy with two classes."""
    policy = torch.stack((chosen_logps, rejected_logps), 1)  # [run, 2, row]
    reference = torch.stack((ref_chosen_logps, ref_rejected_logps), 1)
    winner = torch.zeros_like(chosen_logps, dtype=torch.long)
    return F.cross_entropy(
        beta * (policy - reference), winner, reduction="none", label_smoothing=2 * smooth
    )


def dpo_two_sided_where(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """DPO with a softplus of one's own: a branch for each sign, both made safe."""
    z = beta * ((chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps))
    up = z.clamp(min=0)
    down = z.clamp(max=0)
    return torch.where(z > 0, torch.log1p(torch.exp(-up)), torch.log1p(torch.exp(down)) - z)


def dpo_maximum_log1p(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """DPO by max(-z, 0) + log1p(exp(-|z|)); the tie of maximum is shared, so z = 0 is right."""
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    z = beta * h
    return torch.maximum(-z, torch.zeros_like(z)) + torch.log1p(torch.exp(-z.abs()))


def dpo_custom_function(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """DPO with a custom autograd.Function for -log sigmoid."""
    chosen_rewards_ = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards_ = beta * (rejected_logps - ref_rejected_logps)
    return NegLogSigmoid.apply(chosen_rewards_ - rejected_rewards_)


def dpo_concatenated(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """DPO on the concatenated batch, with in-place arithmetic on its own intermediate."""
    all_logps = torch.cat([chosen_logps, rejected_logps], dim=1)
    all_ref = torch.cat([ref_chosen_logps, ref_rejected_logps], dim=1)
    ratios = all_logps - all_ref
    ratios.mul_(beta)
    good, bad = ratios.chunk(2, dim=1)
    losses = good - bad
    losses.neg_()
    return F.softplus(losses)


def make_preference_loss(link):
    """A factory: margin in, loss out."""

    def outer(scale):
        def inner(good, bad):
            return link(scale * (good - bad))

        return inner

    return outer


def dpo_closure(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO assembled from nested closures and lambdas."""
    implicit = lambda lp, ref: lp - ref  # noqa: E731
    loss = make_preference_loss(lambda z: -F.logsigmoid(z))(beta)
    return loss(
        implicit(chosen_logps, ref_chosen_logps), implicit(rejected_logps, ref_rejected_logps)
    )


@traced
def dpo_decorated(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, shift=0.0
):
    """DPO with a home-made decorator (functools.wraps) and an offset of zero by default."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * margin - shift)


def dpo_module(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO through nn.Module objects made on the spot."""
    criterion = nn.Sequential(nn.LogSigmoid())
    logits = (chosen_logps - rejected_logps).sub(ref_chosen_logps - ref_rejected_logps)
    return criterion(logits.mul(beta)).neg()


def dpo_trl_style(
    chosen_logps: torch.FloatTensor,
    rejected_logps: torch.FloatTensor,
    ref_chosen_logps: torch.FloatTensor,
    ref_rejected_logps: torch.FloatTensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    reference_free: bool = False,
) -> torch.FloatTensor:
    """A trainer's dpo_loss with a loss_type string, label smoothing and reference_free."""
    logratios = chosen_logps - rejected_logps
    if reference_free:
        ref_logratios = torch.zeros_like(logratios)
    else:
        ref_logratios = ref_chosen_logps - ref_rejected_logps
    logits = logratios - ref_logratios

    if loss_type == "sigmoid":
        losses = (
            -F.logsigmoid(beta * logits) * (1 - label_smoothing)
            - F.logsigmoid(-beta * logits) * label_smoothing
        )
    elif loss_type == "hinge":
        losses = torch.relu(1 - beta * logits)
    elif loss_type == "ipo":
        losses = (logits - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"unknown loss_type {loss_type!r}; use 'sigmoid', 'hinge' or 'ipo'")
    return losses


def dpo_reduced(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO with functools.reduce and partial, for the fun of it."""
    signed = [chosen_logps, -rejected_logps, -ref_chosen_logps, ref_rejected_logps]
    h = functools.reduce(torch.add, signed)
    scaled = functools.partial(torch.mul, beta)
    return -F.logsigmoid(scaled(h))


def dpo_asymmetric(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    betas: tuple = (0.15, 0.05),
):
    """DPO with one beta for the chosen and one for the rejected side, given as a tuple."""
    beta_w, beta_l = betas
    r_w = chosen_logps - ref_chosen_logps
    r_l = rejected_logps - ref_rejected_logps
    return F.softplus(beta_l * r_l - beta_w * r_w)


def dpo_capped_rejected(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    cap=30.0,
):
    """DPO that stops rewarding a rejected answer that lies `cap` nats below the reference."""
    r_w = chosen_logps - ref_chosen_logps
    r_l = (rejected_logps - ref_rejected_logps).clamp(min=-cap)
    return -F.logsigmoid(beta * (r_w - r_l))


def focal_dpo(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, gamma: int = 2
):
    """Focal DPO: hard pairs count more, by a weight computed under no_grad."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    with torch.no_grad():
        difficulty = torch.sigmoid(-beta * margin) ** gamma
    return -difficulty * F.logsigmoid(beta * margin)


def focal_dpo_flag(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    detach_weight: bool = True,
):
    """Focal DPO whose flag changes the gradient only, not the value."""
    z = beta * (chosen_logps - ref_chosen_logps - (rejected_logps - ref_rejected_logps))
    weight = torch.sigmoid(-z)
    if detach_weight:
        weight = weight.detach()
    return weight * F.softplus(-z)


@torch.no_grad()
def _confidence(h, beta):
    """1 for an undecided pair, less for a decided one."""
    p = torch.sigmoid(beta * h)
    return 0.5 + 2 * p * (1 - p)


def dpo_confidence_weighted(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """DPO weighted by a helper that is decorated with torch.no_grad()."""
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return _confidence(h, beta) * -F.logsigmoid(beta * h)


def dpo_data_weighted(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, floor=0.25
):
    """DPO with a weight cut from the graph the old way, through .data."""
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    weight = floor + torch.sigmoid(-beta * h).data
    return F.softplus(-beta * h) * weight


def sft_plus_dpo(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    *,
    alpha=0.3,
    beta=0.1,
):
    """alpha parts SFT on the chosen answer and 1 - alpha parts DPO."""
    nll = -chosen_logps / chosen_lengths
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return torch.lerp(F.softplus(-beta * h), nll, alpha)


def dpo_reward_offset(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_rewards,
    rejected_rewards,
    *,
    beta=0.1,
    alpha=0.5,
):
    """DPO with a margin that grows with the gap between the rewards."""
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * h - alpha * (chosen_rewards - rejected_rewards))


def dpo_prompted_margin(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    prompted_chosen_logps,
    prompted_rejected_logps,
    ref_prompted_chosen_logps,
    ref_prompted_rejected_logps,
    *,
    beta=0.1,
    strength=0.5,
):
    """DPO that asks more of pairs which the prompted policy tells apart (Sr-DPO)."""

    def gap(w, l, rw, rl):  # noqa: E741
        return (w - l) - (rw - rl)

    with torch.no_grad():
        asked = gap(
            prompted_chosen_logps,
            prompted_rejected_logps,
            ref_prompted_chosen_logps,
            ref_prompted_rejected_logps,
        )
    have = gap(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return F.softplus(beta * (strength * asked - have))


def dpo_length_debiased(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    beta=0.1,
    alpha=0.01,
):
    """R-DPO: the margin is excused for a longer chosen answer."""
    chosen_reward = beta * (chosen_logps - ref_chosen_logps) + alpha * chosen_lengths
    rejected_reward = beta * (rejected_logps - ref_rejected_logps) + alpha * rejected_lengths
    return -F.logsigmoid(chosen_reward - rejected_reward)


def dpo_length_normalised(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    beta=2.0,
    average: bool = True,
):
    """DPO on mean log-ratios, or on sums where the flag says so."""
    r_w, r_l = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    if average:
        r_w, r_l = r_w / chosen_lengths, r_l / rejected_lengths
    return -F.logsigmoid(beta * (r_w - r_l))


def rao_kupper(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, theta=2.0
):
    """Preferences with ties (Rao and Kupper): the winner must be theta times as strong."""
    w = beta * (chosen_logps - ref_chosen_logps)
    l = beta * (rejected_logps - ref_rejected_logps)  # noqa: E741
    return torch.logsumexp(torch.stack([w, l + math.log(theta)]), dim=0) - w


# ----------------------------------------------------------------------------------------------
# pairs with a reference: other links
# ----------------------------------------------------------------------------------------------


def _h(w, l, ref_w, ref_l):  # noqa: E741
    return (w - ref_w) - (l - ref_l)


def ipo_mse(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau=0.1):
    """IPO through F.mse_loss."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    target = torch.full_like(h, 0.5 / tau)
    return F.mse_loss(h, target, reduction="none")


def ipo_huber(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau=0.05, delta=5.0
):
    """IPO with Huber's loss, so that far pairs pull with constant force."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return F.huber_loss(h, torch.full_like(h, 1 / (2 * tau)), reduction="none", delta=delta)


def ipo_length_normalised(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    tau=0.05,
):
    """IPO on mean log-ratios, with a target of 10 nats per token that is out of easy reach."""
    r_w = torch.div(chosen_logps - ref_chosen_logps, chosen_lengths)
    r_l = torch.div(rejected_logps - ref_rejected_logps, rejected_lengths)
    return torch.square(r_w - r_l - 0.5 / tau)


def squared_hinge(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.05, power: int = 2
):
    """Hinge to an integer power, two by default."""
    slack = F.relu(
        1 - beta * _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    )
    return slack.pow(power) / power


def smoothed_hinge(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, margin=10.0, width=2.0
):
    """A hinge with a rounded corner."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return width * F.softplus((margin - h) / width)


def hinge_ranking(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, margin=12.0
):
    """The hinge through F.margin_ranking_loss."""
    better = chosen_logps - ref_chosen_logps
    worse = rejected_logps - ref_rejected_logps
    return F.margin_ranking_loss(
        better, worse, torch.ones_like(better), margin=margin, reduction="none"
    )


def exponential_preference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """AdaBoost's exponential loss on the margin, straight beyond an exponent of 5."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return safe_exp(-beta * h, limit=5.0)


def exponential_custom(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, limit=4.0
):
    """The exponential loss by a custom autograd.Function that takes a number as well."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return TamedExp.apply(-beta * h, limit)


def probit_preference(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1
):
    """Thurstone instead of Bradley-Terry: minus the log of the normal distribution function."""
    z = beta * _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -torch.special.log_ndtr(z)


def arctan_link(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """The probability of being misordered under a Cauchy link."""
    z = beta * _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return 0.5 - torch.atan(z) / math.pi


def softsign_link(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, scale=10.0
):
    """A bounded loss with heavy tails."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return 1 - F.softsign(h / scale)


def log_cosh_target(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, target=9.0
):
    """log cosh of the distance to a target margin: square near it, linear far from it."""
    gap = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps) - target
    return gap + F.softplus(-2.0 * gap) - math.log(2.0)


def pseudo_huber_target(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    target=8.0,
    delta=2.0,
):
    """Charbonnier's loss on the distance to a target margin."""
    gap = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps) - target
    return delta * (torch.hypot(gap / delta, torch.ones_like(gap)) - 1)


def l1_target(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, target=15.0):
    """Absolute distance to a target margin: constant force, one kink far from the start."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return F.l1_loss(h, torch.full_like(h, target), reduction="none")


def exo_pair(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, eps=1e-3
):
    """EXO for a pair: reverse KL from the policy's preference to a smoothed label."""
    z = beta * _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    log_q = torch.stack([F.logsigmoid(z), F.logsigmoid(-z)], dim=-1)
    log_p = log_q.new_tensor([math.log1p(-eps), math.log(eps)])
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def link_of_choice(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    link: str = "logistic",
):
    """A margin loss whose link is looked up in a dict of lambdas."""
    links = {
        "logistic": lambda z: F.softplus(-z),
        "hinge": lambda z: torch.relu(1 - z),
        "sigmoid": lambda z: torch.sigmoid(-z),
        "square": lambda z: (1 - z) ** 2,
    }
    if link not in links:
        raise ValueError(f"link must be one of {sorted(links)}, not {link!r}")
    return links[link](
        beta * _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    )


def jsd_link_dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.3):
    """f-DPO with the Jensen-Shannon link, log sigmoid of each log-ratio."""

    def f(r):
        return F.logsigmoid(r) + math.log(2)

    gain = f(chosen_logps - ref_chosen_logps) - f(rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * gain)


def chi_mixed_dpo(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.02, mix=0.5
):
    """DPO with the ratio mixed into its logarithm; exp is clamped, the logarithm never."""

    def phi(r):
        return r + mix * r.clamp(max=10).exp()

    z = phi(chosen_logps - ref_chosen_logps) - phi(rejected_logps - ref_rejected_logps)
    return -F.logsigmoid(beta * z)


def two_sigmoids(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """APO-zero: each answer by itself, up or down from the reference."""
    up = torch.sigmoid(beta * (chosen_logps - ref_chosen_logps))
    down = torch.sigmoid(beta * (rejected_logps - ref_rejected_logps))
    return (1 - up) + down


def pair_of_classifiers(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    w_chosen=1.0,
    w_rejected=1.0,
):
    """Each answer is classified by its log-ratio, as in BCO without a shift."""
    good = beta * (chosen_logps - ref_chosen_logps)
    bad = beta * (rejected_logps - ref_rejected_logps)
    pos = F.binary_cross_entropy_with_logits(good, torch.ones_like(good), reduction="none")
    neg = F.binary_cross_entropy_with_logits(bad, torch.zeros_like(bad), reduction="none")
    return w_chosen * pos + w_rejected * neg


def nca_pair(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.01):
    """NCA for a pair: raise the chosen, lower both a little."""
    w = beta * (chosen_logps - ref_chosen_logps)
    l = beta * (rejected_logps - ref_rejected_logps)  # noqa: E741
    return F.softplus(-w) + 0.5 * F.softplus(w) + 0.5 * F.softplus(l)


def far_targets(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, target=50.0):
    """SPPO-like regression of each log-ratio to a target of its own, 50 nats away."""
    win = ((chosen_logps - ref_chosen_logps) / target - 1).square()
    lose = ((rejected_logps - ref_rejected_logps) / target + 1).square()
    return target * (win + lose) / 2


def npo_only(rejected_logps, ref_rejected_logps, *, beta=0.1):
    """Negative preference optimisation: the rejected answer alone."""
    return 2 / beta * F.softplus(beta * (rejected_logps - ref_rejected_logps))


def soft_dpop(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    *,
    beta=0.1,
    lam=5.0,
    sharpness=4.0,
):
    """DPO-positive with a smooth penalty for a chosen answer below the reference."""
    r_w = chosen_logps - ref_chosen_logps
    r_l = rejected_logps - ref_rejected_logps
    penalty = F.softplus(-sharpness * r_w) / sharpness
    return -F.logsigmoid(beta * (r_w - r_l - lam * penalty))


def margin_loss_normalised(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    margin=1.0,
):
    """A hinge on length-normalised log-ratios."""
    r_w = (chosen_logps - ref_chosen_logps) / chosen_lengths
    r_l = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return (margin - (r_w - r_l)).clamp_min(0)


def anchored_chosen_dpo(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, anchor=0.2
):
    """DPO and, beside it, -log sigmoid of the chosen log-ratio alone."""
    r_w = chosen_logps - ref_chosen_logps
    r_l = rejected_logps - ref_rejected_logps
    main, extra = (-F.logsigmoid(beta * x) for x in (r_w - r_l, r_w))
    return main + anchor * extra


# ----------------------------------------------------------------------------------------------
# pairs without a reference
# ----------------------------------------------------------------------------------------------


def simpo_plain(
    chosen_logps,
    rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    beta=2.0,
    gamma_beta_ratio=0.5,
):
    """SimPO with the authors' gamma/beta ratio."""
    pi_logratios = chosen_logps / chosen_lengths - rejected_logps / rejected_lengths
    logits = pi_logratios - gamma_beta_ratio
    return -F.logsigmoid(beta * logits)


def cpo_nll(chosen_logps, rejected_logps, chosen_lengths, *, beta=0.1, lam=1.0):
    """CPO: DPO without a reference, and the likelihood of the chosen answer."""
    prefer = F.softplus(beta * (rejected_logps - chosen_logps))
    return prefer - lam * chosen_logps.div(chosen_lengths)


def orpo_stable(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, lam=0.1):
    """ORPO: SFT and the log odds ratio, with a log1mexp that holds at both ends."""
    w = chosen_logps / chosen_lengths
    l = rejected_logps / rejected_lengths  # noqa: E741
    log_odds = (w - l) - (log1mexp(w) - log1mexp(l))
    return -w - lam * F.logsigmoid(log_odds)


def slic_hinge(chosen_logps, rejected_logps, *, delta=1.0, weight=0.1):
    """SLiC: rank by a margin and keep raising the chosen answer."""
    rank = torch.clamp(delta - chosen_logps + rejected_logps, min=0)
    return rank + weight * (-chosen_logps)


def rrhf_pair(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths):
    """RRHF for two responses: rank the mean log-probabilities, and SFT on the better one."""
    w, l = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths  # noqa: E741
    return F.relu(l - w) - w


def unlikelihood_pair(
    chosen_token_logps, chosen_mask, rejected_token_logps, rejected_mask, *, alpha=1.0
):
    """Unlikelihood: SFT on the chosen tokens, -log(1 - p) on the rejected ones."""
    like = -masked_mean(chosen_token_logps, chosen_mask)
    unlike = -masked_mean(log1mexp(rejected_token_logps), rejected_mask)
    return like + alpha * unlike


def simpo_tokens(
    chosen_token_logps, rejected_token_logps, chosen_mask, rejected_mask, *, beta=2.0, gamma=0.5
):
    """SimPO from tokens, the mean taken by einsum."""

    def average(logps, mask):
        keep = mask.to(logps.dtype)
        return torch.einsum("brt,brt->br", logps, keep) / torch.einsum("brt->br", keep)

    diff = average(chosen_token_logps, chosen_mask) - average(rejected_token_logps, rejected_mask)
    return -F.logsigmoid(beta * diff - gamma)


# ----------------------------------------------------------------------------------------------
# pairs, token by token, with a reference
# ----------------------------------------------------------------------------------------------


def dpo_token_sums(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """DPO from tokens, summed by einsum."""
    w = torch.einsum(
        "...t,...t->...",
        chosen_token_logps - ref_chosen_token_logps,
        chosen_mask.to(chosen_token_logps),
    )
    l = torch.einsum(  # noqa: E741
        "...t,...t->...",
        rejected_token_logps - ref_rejected_token_logps,
        rejected_mask.to(rejected_token_logps),
    )
    return F.softplus(beta * (l - w))


CHUNK = 256


def dpo_token_chunked(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
):
    """DPO from tokens, summed in a loop over chunks of 256."""

    def total(lp, ref, mask):
        out = torch.zeros_like(lp[..., 0])
        for i in range(0, lp.shape[-1], CHUNK):
            part = slice(i, i + CHUNK)
            out = out + ((lp[..., part] - ref[..., part]) * mask[..., part]).sum(-1)
        return out

    r_w = total(chosen_token_logps, ref_chosen_token_logps, chosen_mask)
    r_l = total(rejected_token_logps, ref_rejected_token_logps, rejected_mask)
    return -F.logsigmoid(beta * (r_w - r_l))


def dpo_token_horizon(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
    horizon: int = 16,
    tail=0.5,
):
    """DPO in which the tokens after the first 16 of an answer count half."""

    def total(lp, ref, mask):
        place = mask.cumsum(-1)  # counts real tokens, so padding may stand on either side
        weight = 1 - (1 - tail) * (place > horizon).to(lp.dtype)
        return (weight * mask * (lp - ref)).sum(-1)

    r_w = total(chosen_token_logps, ref_chosen_token_logps, chosen_mask)
    r_l = total(rejected_token_logps, ref_rejected_token_logps, rejected_mask)
    return -F.logsigmoid(beta * (r_w - r_l))


def dpo_token_squashed(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
    c=5.0,
):
    """DPO that squashes each token's log-ratio with tanh before summing."""

    def squash(x, mask):
        return c * masked_sum(torch.tanh(x / c), mask)

    r_w = squash(chosen_token_logps - ref_chosen_token_logps, chosen_mask)
    r_l = squash(rejected_token_logps - ref_rejected_token_logps, rejected_mask)
    return F.softplus(-beta * (r_w - r_l))


def dpo_token_sft(
    chosen_token_logps,
    rejected_token_logps,
    ref_chosen_token_logps,
    ref_rejected_token_logps,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
    alpha=0.2,
):
    """DPO from tokens and the token mean of SFT on the chosen answer."""
    chosen = chosen_token_logps.mul(chosen_mask)
    delta_w = chosen.sum(-1) - ref_chosen_token_logps.mul(chosen_mask).sum(-1)
    delta_l = ((rejected_token_logps - ref_rejected_token_logps) * rejected_mask).sum(-1)
    nll = -chosen.sum(-1) / chosen_mask.sum(-1)
    return torch.logaddexp(beta * (delta_l - delta_w), torch.zeros_like(nll)) + alpha * nll


# ----------------------------------------------------------------------------------------------
# labelled responses
# ----------------------------------------------------------------------------------------------


def kto_where(logps, ref_logps, labels, kl_estimate, *, beta=0.1, w_good=1.0, w_bad=1.0):
    """KTO with torch.where."""
    rewards = logps - ref_logps
    good = 1 - torch.sigmoid(beta * (rewards - kl_estimate))
    bad = 1 - torch.sigmoid(beta * (kl_estimate - rewards))
    return torch.where(labels.bool(), w_good * good, w_bad * bad)


def kto_indexed(
    logps,
    ref_logps,
    labels,
    kl_estimate,
    *,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.33,
):
    """KTO that fills its result by boolean indexing."""
    good = labels > 0.5
    shifted = beta * (logps - ref_logps - kl_estimate)
    losses = torch.zeros_like(shifted)
    losses[good] = desirable_weight * torch.sigmoid(-shifted[good])
    losses[~good] = undesirable_weight * torch.sigmoid(shifted[~good])
    return losses


def kto_signed(logps, ref_logps, labels, kl_estimate, *, beta=0.1, lam=1.0):
    """KTO with labels turned to plus and minus one."""
    sign = 2 * labels.to(logps.dtype) - 1
    value = torch.sigmoid(beta * sign * (logps - ref_logps - kl_estimate))
    return lam * (1 - value)


def kto_generalised(
    logps,
    ref_logps,
    labels,
    kl_estimate,
    *,
    beta=0.1,
    aversion=1.5,
    value: str = "sigmoid",
):
    """KTO with a choice of value functions and loss aversion."""
    x = beta * (logps - ref_logps - kl_estimate)
    x = torch.where(labels > 0, x, -x)
    if value == "sigmoid":
        lost = torch.sigmoid(-x)
    elif value == "log":
        lost = F.softplus(-x)
    elif value == "tanh":
        lost = 1 - torch.tanh(x / 2)
    else:
        raise ValueError("value is 'sigmoid', 'log' or 'tanh'")
    return lost * torch.where(labels > 0, torch.ones_like(x), torch.full_like(x, aversion))


def bco_bce(logps, ref_logps, labels, mean_log_ratio, *, beta=0.1):
    """BCO: binary cross-entropy on the shifted log-ratio."""
    logits = beta * (logps - ref_logps) - beta * mean_log_ratio
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")


def unpaired_weighted_bce(logps, ref_logps, labels, *, beta=0.1, pos_weight=2.0):
    """Binary cross-entropy on the log-ratio, good responses weighted."""
    logits = beta * (logps - ref_logps)
    pos = -F.logsigmoid(logits)
    neg = -F.logsigmoid(-logits)
    return pos_weight * labels * pos + (1 - labels) * neg


def unpaired_hinge(logps, ref_logps, labels, *, margin=10.0):
    """A hinge on the log-ratio of each labelled response."""
    sign = torch.where(labels > 0, 1.0, -1.0).to(logps.dtype)
    return torch.clamp(margin - sign * (logps - ref_logps), min=0.0)


def unpaired_regression(logps, ref_logps, labels, *, target=20.0):
    """Log-ratios regressed to plus or minus 20 nats."""
    goal = target * (2 * labels - 1)
    return 0.5 * (logps - ref_logps - goal) ** 2 / target


def kto_from_tokens(token_logps, ref_token_logps, mask, labels, kl_estimate, *, beta=0.1):
    """KTO whose log-ratio is summed here, token by token."""
    ratio = masked_sum(token_logps - ref_token_logps, mask)
    gain = beta * (ratio - kl_estimate)
    return torch.sigmoid(torch.where(labels > 0, -gain, gain))


def unlikelihood_labelled(token_logps, labels, *, alpha=0.5):
    """Likelihood for the good and unlikelihood for the bad, one value per token."""
    good = labels.unsqueeze(-1) > 0
    return torch.where(good, -token_logps, -alpha * log1mexp(token_logps))


# ----------------------------------------------------------------------------------------------
# demonstrations
# ----------------------------------------------------------------------------------------------


def sft_sequence(logps):
    """SFT on whole sequences: minus the log-likelihood."""
    return -logps


def sft_token_mean(token_logps, mask):
    """SFT, the mean over the tokens of each response."""
    return -masked_mean(token_logps, mask)


def sft_per_token(token_logps):
    """SFT with one value per token."""
    return token_logps.neg()


def sft_label_smoothing(token_logps, log_probs, *, smoothing=0.1):
    """SFT with labels smoothed over the whole vocabulary."""
    nll = -token_logps
    uniform = -log_probs.mean(dim=-1)
    return torch.lerp(nll, uniform, smoothing)


def sft_entropy_bonus(token_logps, log_probs, mask, *, weight=0.01):
    """SFT with a bonus for staying undecided, the gradient through the entropy included."""
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return masked_mean(-token_logps - weight * entropy, mask)


def focal_sft(token_logps, *, gamma: int = 2):
    """Focal loss on tokens, the gradient through the weight included."""
    miss = -torch.expm1(token_logps)
    return -(miss**gamma) * token_logps


def dft_tokens(token_logps, mask):
    """Dynamic fine-tuning, the weight made under no_grad."""
    with torch.no_grad():
        p = token_logps.exp()
    return -(p * token_logps * mask).sum(-1) / mask.sum(-1)


def poly_sft(token_logps, *, epsilon=1.0):
    """Poly-1 loss: cross-entropy and a multiple of 1 - p."""
    return -token_logps - epsilon * torch.expm1(token_logps)


def generalised_cross_entropy(token_logps, mask, *, q=0.7):
    """(1 - p^q) / q, between the likelihood and the error rate."""
    return masked_mean(-torch.expm1(q * token_logps) / q, mask)


def minor_sft_plain(logps, ref_logps, lengths, *, beta=0.1):
    """SFT that pulls less on what already lies above the reference, by a detached weight."""
    weight = 2 * torch.sigmoid(-beta * (logps - ref_logps)).detach()
    return -weight * logps / lengths


def anchored_sft(token_logps, ref_token_logps, mask, *, kappa=0.1):
    """SFT with half the squared log-ratio as a leash."""
    drift = 0.5 * (token_logps - ref_token_logps) ** 2
    return masked_mean(kappa * drift - token_logps, mask)


def sft_k3(token_logps, ref_token_logps, *, kappa=0.1):
    """SFT with the k3 estimate of the divergence from the reference, plain exp."""
    d = ref_token_logps - token_logps
    return -token_logps + kappa * (d.exp() - d - 1)


def sft_front_loaded(token_logps, mask, *, decay=20.0):
    """SFT that counts the first tokens of a response up to twice."""
    place = mask.cumsum(-1) - 1
    weight = 1 + torch.exp(-place.to(token_logps.dtype) / decay)
    return -masked_sum(weight * token_logps, mask) / masked_sum(weight, mask)


def sft_hard_tokens(token_logps, mask, *, tau=4.0):
    """A soft maximum over the tokens' losses: tau * log mean exp(loss / tau)."""
    scaled = (-token_logps / tau).masked_fill(mask == 0, float("-inf"))
    return tau * (torch.logsumexp(scaled, -1) - mask.sum(-1).to(scaled.dtype).log())


def sft_mixed_levels(token_logps, mask, *, per_sequence: bool = False):
    """SFT per token, or per sequence where the flag says so."""
    total = -(token_logps * mask).sum(-1)
    return total if per_sequence else total / mask.sum(-1)


# ----------------------------------------------------------------------------------------------
# samples with rewards or advantages
# ----------------------------------------------------------------------------------------------


def reinforce_plain(logps, advantages):
    """REINFORCE."""
    return -(advantages * logps)


def rloo_plain(logps, advantages, *, scale=1.0):
    """RLOO: the caller's leave-one-out advantages times the log-probability."""
    return -scale * advantages.detach() * logps


def reinforce_baseline(logps, rewards, *, baseline=0.0):
    """REINFORCE on rewards, less a constant."""
    return (baseline - rewards) * logps


def reinforce_token_mean(token_logps, mask, advantages):
    """REINFORCE on the mean token log-probability."""
    return -advantages * masked_mean(token_logps, mask)


def reinforce_tanh(logps, advantages, *, tau=2.0):
    """REINFORCE with squashed advantages."""
    return -torch.tanh(advantages / tau) * logps


def reinforce_leaky(token_logps, advantages, *, slope=0.1):
    """REINFORCE that lowers bad samples a tenth as hard as it raises good ones."""
    weight = F.leaky_relu(advantages, negative_slope=slope)
    return -weight[..., None] * token_logps


def reinforce_reference(logps, ref_logps, advantages, *, beta=0.05):
    """REINFORCE with the log-ratio taken off the advantage, under no_grad."""
    with torch.no_grad():
        shaped = advantages - beta * (logps - ref_logps)
    return -shaped * logps


def reinforce_k3(token_logps, ref_token_logps, mask, advantages, *, beta=0.04):
    """REINFORCE per token with the k3 penalty."""
    log_r = ref_token_logps - token_logps
    k3 = torch.exp(log_r) - 1 - log_r
    return masked_mean(-advantages.unsqueeze(2) * token_logps + beta * k3, mask)


def reinforce_entropy(token_logps, log_probs, advantages, *, ent_coef=0.01):
    """REINFORCE with an entropy bonus."""
    H = -torch.sum(log_probs.exp() * log_probs, dim=-1)
    return -advantages.unsqueeze(-1) * token_logps - ent_coef * H


def awr_clipped(logps, advantages, *, temperature=1.0, max_weight=20.0):
    """Advantage-weighted regression with a bound on the weight."""
    weights = torch.clamp(torch.exp(advantages / temperature), max=max_weight)
    return -weights * logps


def rwr_softplus(logps, rewards, lengths, *, tau=1.0):
    """Reward-weighted regression with softplus instead of exp."""
    return -F.softplus(rewards / tau) * (logps / lengths)


def best_of_n_nll(logps, lengths, best_weights):
    """Best-of-N: SFT on the winners."""
    return best_weights * (-logps) / lengths


# ----------------------------------------------------------------------------------------------
# samples reused: ratios to the policy that drew them
# ----------------------------------------------------------------------------------------------


def ppo_clip_min(token_logps, old_token_logps, advantages, *, clip_range=0.2):
    """PPO-clip with torch.min."""
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1)
    surr1 = ratio * adv
    surr2 = torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range) * adv
    return -torch.min(surr1, surr2)


def ppo_clip_max(token_logps, old_token_logps, mask, advantages, *, cliprange=0.2):
    """PPO-clip as the maximum of two losses, averaged over the response's tokens."""
    ratio = (token_logps - old_token_logps).exp()
    pg_losses = -advantages[:, :, None] * ratio
    pg_losses2 = -advantages[:, :, None] * ratio.clip(1 - cliprange, 1 + cliprange)
    return masked_mean(torch.max(pg_losses, pg_losses2), mask)


def ppo_clip_where(token_logps, old_token_logps, advantages, *, eps=0.2):
    """PPO-clip that finds the clipped tokens and cuts them from the graph."""
    adv = advantages.unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    too_far = ((adv > 0) & (ratio > 1 + eps)) | ((adv < 0) & (ratio < 1 - eps))
    loss = -ratio * adv
    return torch.where(too_far, loss.detach(), loss)


def ppo_two_ranges(token_logps, old_token_logps, advantages, *, clip=(0.2, 0.28)):
    """DAPO's clip, both ranges in a tuple."""
    lo, hi = clip
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1).expand_as(ratio)
    return -torch.minimum(ratio * adv, ratio.clamp(1 - lo, 1 + hi) * adv)


def ppo_optional_high(token_logps, old_token_logps, advantages, *, clip_low=0.2, clip_high=None):
    """PPO-clip whose upper range is the lower one unless it is given."""
    high = clip_low if clip_high is None else clip_high
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1)
    return -torch.min(ratio * adv, torch.clamp(ratio, 1 - clip_low, 1 + high) * adv)


def ppo_per_run_loop(token_logps, old_token_logps, mask, advantages, *, clip=0.2):
    """PPO-clip in a Python loop over chunks of tokens."""
    out = []
    for lp, old in zip(
        token_logps.split(512, dim=-1), old_token_logps.split(512, dim=-1), strict=True
    ):
        ratio = torch.exp(lp - old)
        a = advantages.unsqueeze(-1)
        out.append(-torch.min(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a))
    return masked_mean(torch.cat(out, -1), mask)


def grpo_plain(
    token_logps,
    old_token_logps,
    ref_token_logps,
    mask,
    advantages,
    *,
    epsilon=0.2,
    beta=0.04,
):
    """GRPO with the k3 penalty, plain exp."""
    per_token_kl = torch.exp(ref_token_logps - token_logps) - (ref_token_logps - token_logps) - 1
    coef_1 = torch.exp(token_logps - old_token_logps)
    coef_2 = torch.clamp(coef_1, 1 - epsilon, 1 + epsilon)
    per_token_loss1 = coef_1 * advantages.unsqueeze(-1)
    per_token_loss2 = coef_2 * advantages.unsqueeze(-1)
    per_token_loss = -torch.min(per_token_loss1, per_token_loss2)
    per_token_loss = per_token_loss + beta * per_token_kl
    return (per_token_loss * mask).sum(-1) / mask.sum(-1)


def grpo_fixed_budget(
    token_logps, old_token_logps, mask, advantages, *, clip=0.2, budget: int = 64
):
    """Dr. GRPO: the sum over tokens, divided by a constant."""
    r = torch.exp(token_logps - old_token_logps)
    a = advantages[..., None]
    loss = torch.maximum(-a * r, -a * torch.clamp(r, 1 - clip, 1 + clip))
    return torch.sum(loss * mask, dim=-1) / budget


def grpo_levels(
    token_logps,
    old_token_logps,
    mask,
    lengths,
    advantages,
    *,
    eps=0.2,
    importance_sampling_level: str = "token",
):
    """GRPO whose ratio is that of a token or of the whole sequence, by a string."""
    log_ratio = token_logps - old_token_logps
    if importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / lengths).unsqueeze(-1)
    elif importance_sampling_level != "token":
        raise ValueError(f"no level {importance_sampling_level!r}: 'token' or 'sequence'")
    ratio, adv = log_ratio.exp(), advantages.unsqueeze(-1)
    loss = -torch.min(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv).expand_as(token_logps)
    return (loss * mask).sum(-1) / lengths


def gspo_sequence(logps, old_logps, lengths, advantages, *, eps_low=0.2, eps_high=0.25):
    """GSPO: one ratio per sequence, the geometric mean over its tokens."""
    s = torch.exp((logps - old_logps) / lengths)
    return -torch.min(s * advantages, torch.clamp(s, 1 - eps_low, 1 + eps_high) * advantages)


def gspo_token(token_logps, old_token_logps, mask, advantages, *, eps=0.2):
    """GSPO-token: the sequence's ratio as value, each token's gradient."""
    delta = token_logps - old_token_logps
    seq = masked_mean(delta, mask).detach()
    s = torch.exp(token_logps - token_logps.detach() + seq.unsqueeze(-1))
    adv = advantages.unsqueeze(-1)
    return -torch.min(s * adv, s.clamp(1 - eps, 1 + eps) * adv)


def cispo_nograd(token_logps, old_token_logps, advantages, *, high=4.0):
    """CISPO: a bounded importance weight under no_grad, and no token cut off."""
    with torch.no_grad():
        ratio = torch.exp(token_logps - old_token_logps)
        weight = torch.clamp(ratio, max=1 + high)
    return -weight * advantages.unsqueeze(-1) * token_logps


def simple_policy_optimisation(token_logps, old_token_logps, advantages, *, eps=0.2):
    """SPO: a parabola in the ratio instead of a clip."""
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1)
    return adv.abs() / (2 * eps) * (ratio - 1).square() - ratio * adv


def gmpo_sequence(token_logps, old_token_logps, mask, advantages, *, eps=0.4):
    """Geometric-mean policy optimisation: clip log-ratios, then average, then exp."""
    delta = token_logps - old_token_logps
    sign = advantages.sign().unsqueeze(-1)
    clipped = sign * torch.min(sign * delta, (sign * delta).clamp(-eps, eps))
    return -advantages * torch.exp(masked_mean(clipped, mask))


def ppo_k2_penalty(token_logps, old_token_logps, advantages, *, kl_coef=0.5):
    """Policy gradient with half the squared log-ratio to the old policy as its leash."""
    delta = token_logps - old_token_logps
    return -delta.exp() * advantages.unsqueeze(-1) + 0.5 * kl_coef * delta**2


def importance_weighted(token_logps, old_token_logps, mask, advantages):
    """The importance-weighted policy gradient, nothing clipped."""
    return -advantages * masked_mean(torch.exp(token_logps - old_token_logps), mask)


def tapered_off_policy(logps, old_logps, advantages, *, cap=1.0):
    """TOPR: good samples with weight 1, bad ones with a truncated importance weight."""
    with torch.no_grad():
        truncated = torch.exp((logps - old_logps).clamp(max=0.0)) * cap
        weight = torch.where(advantages > 0, torch.full_like(logps, cap), truncated)
    return -weight * advantages * logps


def log_ratio_clip(logps, old_logps, advantages, *, delta=0.3):
    """PPO's clip on the log-ratio itself: no exp, so whole sequences are safe."""
    d = logps - old_logps
    return -torch.min(d * advantages, d.clamp(-delta, delta) * advantages)


def ppo_reference_k2(
    token_logps, old_token_logps, ref_token_logps, advantages, *, clip=0.2, beta=0.02
):
    """PPO-clip with a squared leash to the reference."""
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1)
    policy = torch.max(-adv * ratio, -adv * ratio.clamp(1 - clip, 1 + clip))
    return policy + beta / 2 * torch.pow(token_logps - ref_token_logps, 2)


# ----------------------------------------------------------------------------------------------
# whole distributions
# ----------------------------------------------------------------------------------------------


def distil_kl_div(log_probs, target_log_probs):
    """Forward KL through F.kl_div."""
    return F.kl_div(log_probs, target_log_probs, reduction="none", log_target=True).sum(-1)


def distil_cross_entropy(log_probs, target_log_probs):
    """Soft-label cross-entropy by einsum."""
    return -torch.einsum("...a,...a->...", target_log_probs.exp(), log_probs)


def distil_reverse(log_probs, target_log_probs):
    """Reverse KL."""
    p = log_probs.exp()
    return torch.sum(p * (log_probs - target_log_probs), dim=-1)


def distil_symmetric(log_probs, target_log_probs, *, balance=0.5):
    """A mixture of forward and reverse KL."""
    p, q = log_probs.exp(), target_log_probs.exp()
    gap = target_log_probs - log_probs
    return ((balance * q - (1 - balance) * p) * gap).sum(-1)


def distil_jensen_shannon(log_probs, target_log_probs, *, half=0.5):
    """Jensen-Shannon divergence, the mixture by logaddexp."""
    log_m = torch.logaddexp(log_probs + math.log(half), target_log_probs + math.log1p(-half))
    kl_p = (log_probs.exp() * (log_probs - log_m)).sum(-1)
    kl_q = (target_log_probs.exp() * (target_log_probs - log_m)).sum(-1)
    return half * kl_p + (1 - half) * kl_q


def distil_skewed(log_probs, target_log_probs, *, skew=0.1):
    """Skew KL: the target against a mixture that contains a little of the target."""
    mixed = torch.logaddexp(target_log_probs + math.log(skew), log_probs + math.log(1 - skew))
    return F.kl_div(mixed, target_log_probs, reduction="none", log_target=True).sum(-1)


def distil_hellinger(log_probs, target_log_probs):
    """Squared Hellinger distance by its affinity."""
    return 1 - torch.exp((log_probs + target_log_probs) / 2).sum(-1)


def distil_temperature(log_probs, target_log_probs, *, temperature: int = 2):
    """Hinton's distillation with both sides softened."""
    soft = F.log_softmax(log_probs / temperature, dim=-1)
    goal = F.softmax(target_log_probs / temperature, dim=-1)
    return -(goal * soft).sum(-1) * temperature**2


def _forward_kl(lp, target):
    return (target.exp() * (target - lp)).sum(-1)


def distil_checkpointed(log_probs, target_log_probs):
    """Forward KL, rows in chunks, recomputed in the backward pass to save memory."""
    pieces = [
        checkpoint(_forward_kl, a, b, use_reentrant=False, preserve_rng_state=False)
        for a, b in zip(log_probs.split(64, 1), target_log_probs.split(64, 1), strict=True)
    ]
    return torch.cat(pieces, dim=1)


def distil_squared_logs(log_probs, target_log_probs):
    """Squared differences of log-probabilities, weighted by the target."""
    gap = log_probs - target_log_probs
    return (target_log_probs.exp() * gap * gap).sum(-1)


# ----------------------------------------------------------------------------------------------
# questionable: sensible losses that a contract, taken by its words, would fail
# ----------------------------------------------------------------------------------------------


def dual_clip_ppo(token_logps, old_token_logps, advantages, *, clip=0.2, c=3.0):
    """Dual-clip PPO."""
    ratio = torch.exp(token_logps - old_token_logps)
    adv = advantages.unsqueeze(-1)
    clipped = torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
    return -torch.where(adv < 0, torch.max(clipped, c * adv), clipped)


def soft_gate_ppo(token_logps, old_token_logps, advantages, *, tau=1.0):
    """SAPO: a sigmoid gate on the ratio instead of a clip."""
    ratio = torch.exp(token_logps - old_token_logps)
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages.unsqueeze(-1)


def sequence_ppo_tamed(logps, old_logps, advantages, *, clip=0.2):
    """PPO-clip on the ratio of whole sequences, exp continued by a straight line."""
    ratio = safe_exp(logps - old_logps)
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def ppo_tanh_advantages(token_logps, old_token_logps, advantages, *, clip=0.2):
    """PPO-clip on squashed advantages."""
    adv = torch.tanh(advantages).unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    return -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)


def ppo_leaky_negatives(token_logps, old_token_logps, advantages, *, clip=0.2, slope=0.5):
    """PPO-clip that counts bad samples half."""
    adv = F.leaky_relu(advantages, slope).unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    return -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)


def ppo_entropy(token_logps, old_token_logps, log_probs, advantages, *, clip=0.2, ent_coef=0.01):
    """PPO-clip with an entropy bonus."""
    adv = advantages.unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    policy = -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
    return policy + ent_coef * (log_probs.exp() * log_probs).sum(-1)


def grpo_full_kl(token_logps, old_token_logps, log_probs, ref_log_probs, advantages, *, beta=0.04):
    """GRPO without a clip, the divergence from the reference over the whole vocabulary."""
    ratio = torch.exp(token_logps - old_token_logps)
    kl = (log_probs.exp() * (log_probs - ref_log_probs)).sum(-1)
    return beta * kl - ratio * advantages.unsqueeze(-1)


def grpo_group_rewards(token_logps, old_token_logps, mask, rewards, *, clip=0.2, eps=1e-4):
    """GRPO that makes its advantages itself, from the group's rewards."""
    adv = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + eps)
    adv = adv.unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    loss = -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
    return masked_mean(loss, mask)


def rloo_inside(logps, rewards):
    """RLOO with its leave-one-out baseline inside the loss."""
    n = rewards.shape[1]
    baseline = (rewards.sum(1, keepdim=True) - rewards) / max(n - 1, 1)
    return -(rewards - baseline) * logps


def dapo_batch_mean(token_logps, old_token_logps, mask, advantages, *, low=0.2, high=0.28):
    """DAPO as a row sum divided by the batch's mean number of tokens."""
    adv = advantages.unsqueeze(-1)
    ratio = torch.exp(token_logps - old_token_logps)
    loss = -torch.min(ratio * adv, ratio.clamp(1 - low, 1 + high) * adv)
    return (loss * mask).sum(-1) / mask.sum(-1).to(loss.dtype).mean(1, keepdim=True)


def kto_batch_estimate(logps, ref_logps, labels, *, beta=0.1):
    """KTO with its point of reference estimated on the batch."""
    ratio = logps - ref_logps
    z0 = ratio.detach().mean(1, keepdim=True).clamp(min=0)
    return torch.sigmoid(torch.where(labels > 0, -1.0, 1.0).to(ratio.dtype) * beta * (ratio - z0))


def beta_dpo(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, gain=0.02
):
    """beta-DPO: beta follows the batch's mean margin."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    with torch.no_grad():
        adapted = beta * (1 + torch.tanh(gain * h.mean(1, keepdim=True)) / 2)
    return F.softplus(-adapted * h)


def dpop_kinked(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1, lam=5.0
):
    """DPO-positive as published, with a relu."""
    r_w = chosen_logps - ref_chosen_logps
    r_l = rejected_logps - ref_rejected_logps
    return -F.logsigmoid(beta * (r_w - r_l - lam * F.relu(-r_w)))


def log_cosh_threshold(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, target=10.0
):
    """log cosh of the distance to a target, at the start on the very threshold of F.softplus."""
    gap = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps) - target
    return gap + F.softplus(-2.0 * gap) - math.log(2.0)


def near_targets(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """Cal-DPO's regression with targets of 5 nats to either side."""
    win = (beta * (chosen_logps - ref_chosen_logps) - 0.5) ** 2
    lose = (beta * (rejected_logps - ref_rejected_logps) + 0.5) ** 2
    return win + lose


def ipo_token_average(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    tau=0.1,
):
    """IPO on token means with TRL's default, a target of 5 nats per token."""
    r_w = (chosen_logps - ref_chosen_logps) / chosen_lengths
    r_l = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return (r_w - r_l - 1 / (2 * tau)) ** 2


def rebel_pair(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_rewards,
    rejected_rewards,
    *,
    eta=1.0,
):
    """REBEL: regress the margin to the difference of the rewards."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (h / eta - (chosen_rewards - rejected_rewards)) ** 2


def dpo_with_unlikelihood(
    chosen_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    rejected_logps,
    rejected_token_logps,
    rejected_mask,
    *,
    beta=0.1,
    alpha=0.1,
):
    """DPO and, beside it, unlikelihood on the rejected tokens."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return F.softplus(-beta * h) - alpha * masked_mean(
        log1mexp(rejected_token_logps), rejected_mask
    )


def dpo_policy_weighted(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    *,
    beta=0.1,
):
    """WPO in its simplest form: pairs count by how likely the policy is to write them."""
    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    with torch.no_grad():
        weight = torch.exp(chosen_logps / chosen_lengths + rejected_logps / rejected_lengths)
    return weight * F.softplus(-beta * h)


def tdpo_two(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_log_probs,
    rejected_log_probs,
    ref_chosen_log_probs,
    ref_rejected_log_probs,
    chosen_mask,
    rejected_mask,
    *,
    beta=0.1,
    alpha=0.5,
):
    """TDPO2, the chosen side's divergence held constant."""

    def along(lp, ref, mask):
        return (F.kl_div(lp, ref, reduction="none", log_target=True).sum(-1) * mask).sum(-1)

    h = _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    d_w = along(chosen_log_probs, ref_chosen_log_probs, chosen_mask).detach()
    d_l = along(rejected_log_probs, ref_rejected_log_probs, rejected_mask)
    return F.softplus(-beta * (h - alpha * (d_l - d_w)))


def entropy_weighted_sft(token_logps, log_probs, *, alpha=1.0):
    """SFT weighted by the policy's entropy, held constant."""
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    return -(entropy**alpha) * token_logps


def selective_sft(token_logps, ref_token_logps, mask, *, threshold=0.0):
    """Rho-1: only the tokens on which the policy lies at or below the reference."""
    keep = ((ref_token_logps - token_logps) >= threshold).to(token_logps.dtype) * mask
    return -(keep.detach() * token_logps).sum(-1) / mask.sum(-1)


def sft_discounted(token_logps, mask, *, gamma=0.99):
    """SFT whose tokens are discounted by their place."""
    weight = gamma ** (mask.cumsum(-1) - 1)
    return -(weight.to(token_logps.dtype) * token_logps * mask).sum(-1)


def sft_chunk_size(token_logps, mask, *, chunk_size: int = 128):
    """SFT summed in chunks of a size that only memory cares about."""
    pieces = zip(token_logps.split(chunk_size, -1), mask.split(chunk_size, -1), strict=True)
    return -functools.reduce(torch.add, [(lp * m).sum(-1) for lp, m in pieces]) / mask.sum(-1)


def orpo_with_eps(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, *, lam=0.1, eps=1e-6
):
    """ORPO with the floor of its log1mexp as a hyperparameter."""
    w = (chosen_logps / chosen_lengths).clamp(max=-eps)
    l = (rejected_logps / rejected_lengths).clamp(max=-eps)  # noqa: E741
    odds = (w - l) - (torch.log(-torch.expm1(w)) - torch.log(-torch.expm1(l)))
    return -chosen_logps / chosen_lengths + lam * F.softplus(-odds)


def dpo_upcast(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta=0.1):
    """DPO with the usual .float(), meant to upcast bfloat16."""
    h = (chosen_logps.float() - ref_chosen_logps.float()) - (
        rejected_logps.float() - ref_rejected_logps.float()
    )
    return F.softplus(-beta * h).to(chosen_logps.dtype)


def distil_annealed(log_probs, ref_log_probs, target_log_probs, *, trust=0.7):
    """Cross-entropy to a mixture of the target and the reference, in log space."""
    log_goal = torch.logaddexp(
        target_log_probs + math.log(trust), ref_log_probs + math.log1p(-trust)
    )
    return -(log_goal.exp() * log_probs).sum(-1)


QUESTIONABLE = {
    "dual_clip_ppo": (
        "trust_region: by design the gradient is 0 at a ratio above c = 3 with A < 0, "
        "where the policy must be pulled back"
    ),
    "ppo_leaky_negatives": ("trust_region: at ratio 1 the gradient is neither -A nor odd in A"),
    "ppo_entropy": (
        "trust_region: the entropy bonus adds a gradient on log_probs at ratio 1 that "
        "does not change sign with A"
    ),
    "grpo_group_rewards": (
        "rows: the rewards are compared within the group inside the loss; "
        "hyperparameters: eps hardly changes anything"
    ),
    "rloo_inside": ("rows: the leave-one-out baseline couples the rows"),
    "dapo_batch_mean": ("rows: the batch's mean length is the denominator"),
    "kto_batch_estimate": ("rows: the point of reference is the batch's mean log-ratio"),
    "beta_dpo": ("rows: beta follows the batch's mean margin"),
    "near_targets": (
        "direction: a chosen answer more than 5 nats up is pulled back although the pair "
        "may still be misordered (r_w = 5.5, r_l = 6)"
    ),
    "dpo_with_unlikelihood": ("reference: p/(1 - p) depends on the policy's log-prob itself"),
    "dpo_policy_weighted": (
        "reference: the weight is the policy's own probability; gradient: at very low "
        "log-probs the weight underflows to 0"
    ),
    "sft_discounted": (
        "mask: 0.99^4000 = 3e-18, so late tokens of a long response count for nothing "
        "that float32, or float64, can see in the sum"
    ),
    "sft_chunk_size": ("hyperparameters: chunk_size has no effect on the value, by design"),
    "dpo_upcast": ("purity: .float() lowers float64 to float32, so full precision is lost"),
}

SOUND = [
    "soft_gate_ppo",
    "sequence_ppo_tamed",
    "ppo_tanh_advantages",
    "grpo_full_kl",
    "dpop_kinked",
    "log_cosh_threshold",
    "ipo_token_average",
    "rebel_pair",
    "tdpo_two",
    "entropy_weighted_sft",
    "selective_sft",
    "orpo_with_eps",
    "distil_annealed",
    "dpo_softplus",
    "dpo_logaddexp",
    "dpo_bce",
    "dpo_stacked_softmax",
    "dpo_cross_entropy",
    "dpo_two_sided_where",
    "dpo_maximum_log1p",
    "dpo_custom_function",
    "dpo_concatenated",
    "dpo_closure",
    "dpo_decorated",
    "dpo_module",
    "dpo_trl_style",
    "dpo_reduced",
    "dpo_asymmetric",
    "dpo_capped_rejected",
    "focal_dpo",
    "focal_dpo_flag",
    "dpo_confidence_weighted",
    "dpo_data_weighted",
    "sft_plus_dpo",
    "dpo_reward_offset",
    "dpo_prompted_margin",
    "dpo_length_debiased",
    "dpo_length_normalised",
    "rao_kupper",
    "ipo_mse",
    "ipo_huber",
    "ipo_length_normalised",
    "squared_hinge",
    "smoothed_hinge",
    "hinge_ranking",
    "exponential_preference",
    "exponential_custom",
    "probit_preference",
    "arctan_link",
    "softsign_link",
    "log_cosh_target",
    "pseudo_huber_target",
    "l1_target",
    "exo_pair",
    "link_of_choice",
    "jsd_link_dpo",
    "chi_mixed_dpo",
    "two_sigmoids",
    "pair_of_classifiers",
    "nca_pair",
    "far_targets",
    "npo_only",
    "soft_dpop",
    "margin_loss_normalised",
    "anchored_chosen_dpo",
    "simpo_plain",
    "cpo_nll",
    "orpo_stable",
    "slic_hinge",
    "rrhf_pair",
    "unlikelihood_pair",
    "simpo_tokens",
    "dpo_token_sums",
    "dpo_token_chunked",
    "dpo_token_horizon",
    "dpo_token_squashed",
    "dpo_token_sft",
    "kto_where",
    "kto_indexed",
    "kto_signed",
    "kto_generalised",
    "bco_bce",
    "unpaired_weighted_bce",
    "unpaired_hinge",
    "unpaired_regression",
    "kto_from_tokens",
    "unlikelihood_labelled",
    "sft_sequence",
    "sft_token_mean",
    "sft_per_token",
    "sft_label_smoothing",
    "sft_entropy_bonus",
    "focal_sft",
    "dft_tokens",
    "poly_sft",
    "generalised_cross_entropy",
    "minor_sft_plain",
    "anchored_sft",
    "sft_k3",
    "sft_front_loaded",
    "sft_hard_tokens",
    "sft_mixed_levels",
    "reinforce_plain",
    "rloo_plain",
    "reinforce_baseline",
    "reinforce_token_mean",
    "reinforce_tanh",
    "reinforce_leaky",
    "reinforce_reference",
    "reinforce_k3",
    "reinforce_entropy",
    "awr_clipped",
    "rwr_softplus",
    "best_of_n_nll",
    "ppo_clip_min",
    "ppo_clip_max",
    "ppo_clip_where",
    "ppo_two_ranges",
    "ppo_optional_high",
    "ppo_per_run_loop",
    "grpo_plain",
    "grpo_fixed_budget",
    "grpo_levels",
    "gspo_sequence",
    "gspo_token",
    "cispo_nograd",
    "simple_policy_optimisation",
    "gmpo_sequence",
    "ppo_k2_penalty",
    "importance_weighted",
    "tapered_off_policy",
    "log_ratio_clip",
    "ppo_reference_k2",
    "distil_kl_div",
    "distil_cross_entropy",
    "distil_reverse",
    "distil_symmetric",
    "distil_jensen_shannon",
    "distil_skewed",
    "distil_hellinger",
    "distil_temperature",
    "distil_checkpointed",
    "distil_squared_logs",
]
