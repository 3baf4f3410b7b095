"""Losses on single responses: raise the good ones, perhaps with a weight, or lower the bad ones.

Notation: p_t is the policy's probability of token t of the response, l_t its logarithm; [·] marks
what is held constant when the gradient is taken.
"""

import torch
from torch.nn.functional import logsigmoid

from toyalign.errors import unknown
from toyalign.objectives import objective
from toyalign.objectives.divergence import forward_kl
from toyalign.shapes import Count, Distribution, Hyper, Row, Token, over, tame_exp

_TOP = 20  # the tokens whose entropy `eaft` looks at
_FULL = 3.0  # the entropy that gets weight 1 there, nats: about log 20
_SLOPE = 0.01  # of `gem`'s logistic link, per nat


@objective(
    paper="Ouyang et al. 2022, arXiv 2203.02155",
    equation="the supervised step of section 3.1",
    expects={"logps": "up"},
)
def sft(logps: Row, lengths: Count) -> Row:
    """Raise the demonstrations: maximum likelihood, averaged over the tokens of each response.

    L = −log π(y|x) / m, with m the number of tokens of y.

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; value in nats per token.
    Gradient: a constant pull up, −1/m on every demonstration; it never looks at where the policy
    already is, and it only ever pushes up.
    Limits: 0 at probability one. Smooth everywhere.
    Departure 1: the mean is taken per response, then over responses; language-model trainers often
    average over all tokens of the batch, which favours long responses.
    """
    return -logps / lengths


@objective(
    paper="Nakano et al. 2021, arXiv 2112.09332; as a training loss Dong et al. 2023 (RAFT), "
    "arXiv 2304.06767; the bandit form is that of Tajwar et al. 2024, arXiv 2404.14367",
    equation="Tajwar et al., section 3 (offline and online Best-of-N)",
    sources=("reference", "policy"),
    expects={"logps": "up"},
)
def best_of_n(logps: Row, lengths: Count, best_weights: Row) -> Row:
    """Raise only the best of each prompt's N responses.

    L = −ω(y) · log π(y|x) / m, with ω = N on the best response and 0 on the others, so that the
    mean over the N responses is the likelihood loss of the winner.

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: up on winners, nothing on losers; there is no negative gradient.
    Limits: on fixed data it levels off at the distribution of the best of N draws. Responses that
    share the best reward share the weight. Smooth in the policy.
    """
    return -best_weights * logps / lengths


@objective(
    paper="Peters and Schaal 2007 (reward-weighted regression); as in Tajwar et al. 2024, "
    "arXiv 2404.14367",
    equation="Tajwar et al., section 3 (RWR)",
    sources=("reference", "policy"),
    expects={"logps": "up"},
)
def rwr(logps: Row, rewards: Row, *, tau: Hyper = 1.0) -> Row:
    """Raise every response, the more the higher its reward.

    L = −exp(R / τ) · log π(y|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; τ in units of reward.
    Gradient: up, with weight exp(R/τ) > 0; a bad response is raised less, never lowered.
    Limits: on data of the reference its optimum is proportional to π_ref · exp(R/τ). The weight
    overflows where R/τ > 700 (float64) or 88 (float32): choose τ on the scale of the rewards.
    """
    return -(rewards / tau).exp() * logps


@objective(
    paper="Peng et al. 2019 (advantage-weighted regression), arXiv 1910.00177",
    equation="the policy update of the paper's algorithm, with its clipped weight",
    sources=("reference", "policy"),
    expects={"logps": "up"},
)
def awr(logps: Row, advantages: Row, *, tau: Hyper = 1.0, w_max: Hyper = 20.0) -> Row:
    """Raise every response, the more the better it was than expected, up to a limit.

    L = −min(exp(A / τ), w_max) · log π(y|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; A and τ in units of
    reward, w_max a pure number.
    Gradient: up, with weight exp(A/τ), at most w_max; a bad response is raised less, never lowered.
    Limits: with w_max → ∞ it is `rwr` on advantages instead of rewards; a baseline that is the same
    for all responses to a prompt leaves the optimum where it was. Finite for every advantage.
    Departure 1: τ = 1 and w_max = 20 are those of the authors' code, which first brings the
    advantages of a batch to mean 0 and standard deviation 1; here they are taken as they come.
    """
    return -(advantages / tau).exp().clamp(max=w_max) * logps


@objective(
    paper="Xie et al. 2024 (MinorSFT), arXiv 2408.10642",
    equation="the gradient of the paper; the value is its antiderivative",
    expects={"logps": "up"},
)
def minor_sft(
    logps: Row, ref_logps: Row, lengths: Count, *, beta: Hyper = 0.1, norm: str = "paper"
) -> Row:
    """SFT that pulls less on what it has already raised above the reference.

    L = −2 / (β·m) · log σ(β·r),  r = log π(y|x) − log π_ref(y|x), with norm "paper"
    L = −log σ(β·r / m), with norm "torchrl"

    Shapes: all [run, row]; log-probabilities summed over tokens (inside σ too), in nats.
    Gradient: up, −(2/m)·σ(−β·r): exactly SFT's at the start, less where r > 0, up to twice SFT's
    where r < 0. It never pushes down.
    Limits: β → 0 gives SFT. Long responses freeze first, since r grows with m. Smooth everywhere.
    Departure 1: the paper prints a gradient; a detached weight on the SFT loss has the same
    gradient and a different value. Departure 2: its β was not found; 0.1 is DPO's. Departure 3:
    TorchRL's loss of this name is norm "torchrl", with the length inside σ and no factor 2/β. Its
    pull is (β/m)·σ(−β·r/m), about 0.05/m for any usual drift at β = 0.1: that is SFT at a twentieth
    of the learning rate, and larger β pulls more, not less.
    """
    ratio = logps - ref_logps
    if norm == "torchrl":
        return -logsigmoid(beta * ratio / lengths)
    if norm != "paper":
        raise unknown("norm of minor_sft", norm, ("paper", "torchrl"))
    return -2 / (beta * lengths) * logsigmoid(beta * ratio)


@objective(
    paper="Zhang et al. 2024 (negative preference optimization), arXiv 2404.05868",
    equation="3",
    expects={"rejected_logps": "down"},
)
def npo(rejected_logps: Row, ref_rejected_logps: Row, *, beta: Hyper = 0.1) -> Row:
    """Lower the rejected answer only, and let go once it lies well below the reference.

    L = −(2/β) · log σ(−β·r),  r = log π(y_l|x) − log π_ref(y_l|x)

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: down, 2·σ(β·r): 1 at the start, fading as the answer falls.
    Limits: β → 0 gives plain gradient ascent on the bad answer. The mirror image of `minor_sft`.
    """
    return -2 / beta * logsigmoid(-beta * (rejected_logps - ref_rejected_logps))


@objective(
    paper="Wu et al. 2025 (dynamic fine-tuning), arXiv 2508.05629",
    equation="the loss of the paper's method, token by token",
    expects={"token_logps": "up"},
)
def dft(token_logps: Token) -> Token:
    """SFT that learns from a token in proportion to how likely it already is.

    L = −[p_t] · l_t

    Shapes: [run, row, token], in nats; one value per token, so the caller takes the token mean.
    Gradient: up, −p_t by the log-probability: −1 on a certain token, next to nothing on one that
    the policy finds improbable. It is the gradient of −p_t.
    Limits: what the policy would never say it never learns; `minor_sft` does the opposite and pulls
    harder where the policy lies below its reference. The value is not monotone in p; its gradient
    is.
    """
    return -token_logps.exp().detach() * token_logps


@objective(
    paper="Diao et al. 2026 (entropy-adaptive fine-tuning), arXiv 2601.02151",
    equation="the loss of the paper's method, in the form of LLaMA-Factory's use_eaft_loss",
    expects={"token_logps": "up"},
)
def eaft(token_logps: Token, log_probs: Distribution, *, alpha: Hyper = 1.0) -> Token:
    """SFT that learns from a token only as far as the policy was undecided there.

    L = −[(H_t / 3)^α] · l_t,  H_t the entropy of the 20 likeliest tokens, made to sum to one

    Shapes: tokens [run, row, token], distributions [run, row, token, action], in nats; one value
    per token, so the caller takes the token mean.
    Gradient: up, −(H_t/3)^α by the log-probability of the token; nothing where the policy is sure
    of what comes next, whether it agrees with the demonstration or not. The weight gets none.
    Limits: α = 0 is SFT. A confident mistake is never unlearned. With fewer than 20 actions all of
    them count.
    Departure 1: the divisor 3 stands for log 20 = 2.996, the largest entropy there can be; with
    few actions the weight stays below 1. Axolotl divides by the logarithm itself.
    """
    likeliest = log_probs.detach().topk(min(_TOP, log_probs.shape[-1]), -1).values
    entropy = torch.special.entr(likeliest.softmax(-1)).sum(-1)
    return -((entropy / _FULL) ** over(alpha, entropy)) * token_logps


@objective(
    paper="Li et al. 2024 (GEM), arXiv 2408.16673",
    equation="the loss of the paper's algorithm, in the form of the authors' code",
    expects={"token_logps": "up", "log_probs": "down"},
)
def gem(
    token_logps: Token, log_probs: Distribution, *, beta: Hyper = 0.7, h: str = "logsigmoid"
) -> Token:
    """SFT that takes probability from the token's strongest rivals and leaves the others alone.

    L = −Σ_v [q_v · w_v] · (l_t − log π(v)),  q = softmax(log π / β),
    w_v = σ(0.01·(log π(v) − l_t)) with h "logsigmoid", w_v = 1 with h "linear"

    Shapes: tokens [run, row, token], distributions [run, row, token, action], in nats; one value
    per token, so the caller takes the token mean.
    Gradient: up on the token, down on every rival in proportion to q, which is sharper than π for
    β < 1. For "linear" it is q − onehot on the logits, that of β times SFT on logits divided by β.
    Limits: β = 1 with "linear" has SFT's gradient. At the optimum q, not π, is the distribution of
    the data, so for β < 1 the policy stays more spread out than the data. The weights w are all but
    constant, near 1/2. The value is no likelihood: 0 where π is uniform; only its gradient counts.
    """
    if h not in ("linear", "logsigmoid"):
        raise unknown("h of gem", h, ("linear", "logsigmoid"))
    lead = token_logps.unsqueeze(-1) - log_probs
    weight = (log_probs / over(beta, log_probs)).softmax(-1)
    if h == "logsigmoid":
        weight = weight * torch.sigmoid(-_SLOPE * lead)
    return -(weight.detach() * lead).sum(-1)


@objective(
    paper="Zhu et al. 2025 (anchored supervised fine-tuning), arXiv 2509.23753",
    equation="the loss of the paper's method, in the form of the authors' code",
    expects={"token_logps": "up", "log_probs": "up"},
)
def asft(
    token_logps: Token,
    log_probs: Distribution,
    ref_log_probs: Distribution,
    *,
    alpha: Hyper = 0.1,
) -> Token:
    """DFT, held to the reference by a divergence at every token.

    L = −[p_t] · l_t + α · KL(π_ref‖π) at the token's position

    Shapes: tokens [run, row, token], distributions [run, row, token, action], in nats; one value
    per token, so the caller takes the token mean.
    Gradient: DFT's on the token, and α·(π − π_ref) on the logits, back to the reference; all
    log-probabilities are pulled up, α·π_ref each, and the sum to one decides who falls.
    Limits: α = 0 is `dft`. Finite while the policy gives no token a probability of exactly 0.
    Departure 1: α = 0.1 is the default of the authors' code and of LLaMA-Factory, which take this
    direction of the divergence over the whole vocabulary.
    """
    drift = forward_kl(log_probs, ref_log_probs)
    return dft(token_logps) + over(alpha, drift) * drift


@objective(
    paper="Schulman 2020 (approximating KL divergence, the k3 estimator); as the KL term of "
    "TorchRL's SFTLoss",
    equation="the estimator named k3, added to the likelihood loss",
    expects={"token_logps": "up"},
)
def sft_kl(token_logps: Token, ref_token_logps: Token, *, kappa: Hyper = 0.1) -> Token:
    """SFT with a penalty for leaving the reference, estimated on the demonstrations themselves.

    L = −l_t + κ · (exp(d) − d − 1),  d = log π_ref(token) − log π(token)

    Shapes: [run, row, token], in nats; one value per token, so the caller takes the token mean.
    Gradient: up, −(1 − κ) − κ·exp(d): for κ < 1 always up. Above the reference the penalty takes at
    most κ off SFT's pull; below it the pull grows without bound.
    Limits: κ = 0 is SFT, token by token. exp(d) is continued by its tangent beyond d = 30.
    Departure 1: on demonstrations this is not an estimate of a KL divergence, which it is on the
    policy's own samples only. Departure 2: TorchRL leaves the term off by default (kl_to_ref_coeff)
    and suggests no size; 0.1 is chosen here.
    """
    gap = ref_token_logps - token_logps
    return -token_logps + over(kappa, gap) * (tame_exp(gap) - gap - 1)
