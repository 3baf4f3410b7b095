"""Losses on pairs in which single tokens or the lengths of the answers count.

Notation: r_w and r_l are the log-ratios log π/π_ref of the chosen (w) and rejected (l) response,
summed over tokens; h = r_w − r_l is the margin; m_w and m_l are the lengths, in tokens.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.objectives.pairwise import margin
from toyalign.shapes import Count, Distribution, Hyper, Mask, Row, Token, over


@objective(
    paper="Azar et al. 2023, arXiv 2310.12036, with the token average of TRL's DPOTrainer",
    equation="17",
    expects={"chosen_logps": "either", "rejected_logps": "either"},
)
def ipo_mean(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    tau: Hyper = 0.1,
) -> Row:
    """IPO on log-ratios averaged over the tokens of each answer.

    L = (r_w/m_w − r_l/m_l − 1/(2τ))²

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: as in `ipo`, divided by the length of each answer.
    Limits: the same τ asks for a target m times larger than under `ipo`. Smooth everywhere.
    """
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen - rejected - 1 / (2 * tau)) ** 2


@objective(
    paper="Lambert et al. 2024 (Tulu 3), arXiv 2411.15124; also Meng et al. 2024 (SimPO), "
    "arXiv 2405.14734, as DPO with length normalisation",
    equation="the length-normalised DPO of Tulu 3's section on preference tuning",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def dpo_norm(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    beta: Hyper = 5.0,
) -> Row:
    """DPO on log-ratios averaged over the tokens of each answer.

    L = −log σ(β·(r_w/m_w − r_l/m_l))

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; lengths in tokens.
    Gradient: up on the chosen answer by (β/m_w)·σ(−u), down on the rejected one by (β/m_l)·σ(−u),
    u being what stands inside σ: the shorter answer moves more.
    Limits: with answers of one token it is DPO; β must be about m times that of DPO, and 5 is
    Tulu 3's. Smooth everywhere.
    """
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return -logsigmoid(beta * (chosen - rejected))


@objective(
    paper="Park et al. 2024 (R-DPO), arXiv 2403.19159",
    equation="the length-regularised DPO loss",
    expects={"chosen_logps": "up", "rejected_logps": "down"},
)
def r_dpo(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 0.01,
) -> Row:
    """DPO that expects less of a pair whose chosen answer is the longer one.

    L = −log σ(β·h + α·(m_w − m_l)),  h = r_w − r_l

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats; α in nats per token.
    Gradient: DPO's, β·σ(−β·h − α·(m_w − m_l)): smaller where the chosen answer is longer, larger
    where it is shorter.
    Limits: α = 0 or equal lengths give DPO; all pairs still push without end. Smooth everywhere.
    Departure 1: the sign is the one that follows from the reward R − α·m, whose optimum is
    R = β·log π/π_ref + α·m; oxRL's `rdpo.py` subtracts the term, which favours long answers.
    Departure 2: the paper's α was not confirmed; 0.01 is oxRL's.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -logsigmoid(beta * h + alpha * (chosen_lengths - rejected_lengths))


@objective(
    paper="Liu et al. 2024 (LD-DPO), arXiv 2409.06411",
    equation="the length-desensitised likelihood, put into the loss of DPO",
    expects={"chosen_token_logps": "up", "rejected_token_logps": "down"},
)
def ld_dpo(
    chosen_token_logps: Token,
    rejected_token_logps: Token,
    ref_chosen_token_logps: Token,
    ref_rejected_token_logps: Token,
    chosen_mask: Mask,
    rejected_mask: Mask,
    chosen_lengths: Count,
    rejected_lengths: Count,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 0.5,
) -> Row:
    """DPO in which the tokens of the longer answer beyond the shorter one's length count less.

    L = −log σ(β·(r'_w − r'_l)),  r' = Σ_t v_t·(log π_t − log π_ref,t), with v_t = 1 on the first
    min(m_w, m_l) tokens of an answer and α on the others

    Shapes: tokens and masks [run, row, token], lengths [run, row]; nats.
    Gradient: DPO's on the tokens that both answers have places for, α times that on the tail.
    Limits: α = 1 or equal lengths give DPO; α = 0 leaves the tail alone. Smooth everywhere.
    Departure 1: places are counted over unmasked tokens, as in TRL's `ld_alpha`, so padding may
    stand on either side.
    """
    shared = torch.minimum(chosen_lengths, rejected_lengths)
    chosen = _weighted(chosen_token_logps - ref_chosen_token_logps, chosen_mask, shared, alpha)
    rejected = _weighted(
        rejected_token_logps - ref_rejected_token_logps, rejected_mask, shared, alpha
    )
    return -logsigmoid(beta * (chosen - rejected))


def _weighted(ratios: Tensor, mask: Tensor, shared: Tensor, alpha: Hyper) -> Tensor:
    """Σ_t v_t·ratio_t, [run, row]: v_t = 1 on the first `shared` unmasked tokens, then α."""
    tail = mask.cumsum(-1) > shared.unsqueeze(-1)
    weight = torch.where(tail, over(alpha, ratios), torch.ones_like(ratios))
    return (weight * mask * ratios).sum(-1)


@objective(
    paper="Zhou et al. 2024 (WPO), arXiv 2406.11827",
    equation="2, with the weights of sampled alignment",
    expects={"chosen_token_logps": "up", "rejected_token_logps": "down"},
    exceptions={
        "reference": "the weight is how likely the policy itself is to write the answer, so it "
        "changes even where policy and reference change alike (Zhou et al. 2024, equation 2)",
    },
)
def wpo(
    chosen_token_logps: Token,
    rejected_token_logps: Token,
    ref_chosen_token_logps: Token,
    ref_rejected_token_logps: Token,
    chosen_log_probs: Distribution,
    rejected_log_probs: Distribution,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: Hyper = 0.01,
) -> Row:
    """DPO that counts a pair by how likely the policy is to write its two answers itself.

    L = −w(y_w)·w(y_l)·log σ(β·h),  w(y) = exp(mean over t of (log π_t − log Σ_v π_t(v)²))

    Shapes: tokens and masks [run, row, token], whole distributions [run, row, token, action]; nats.
    Gradient: DPO's times the constant w(y_w)·w(y_l). The weights carry none, so the distributions
    get none.
    Limits: w is 1 for a text of average probability under the policy, smaller for an unlikely one;
    an answer that the policy would never write gets no push at all. Smooth everywhere.
    Departure 1: what is held constant follows TRL's `use_weighting`.
    """
    chosen = ((chosen_token_logps - ref_chosen_token_logps) * chosen_mask).sum(-1)
    rejected = ((rejected_token_logps - ref_rejected_token_logps) * rejected_mask).sum(-1)
    weight = _agreement(chosen_token_logps, chosen_log_probs, chosen_mask) * _agreement(
        rejected_token_logps, rejected_log_probs, rejected_mask
    )
    return -weight.detach() * logsigmoid(beta * (chosen - rejected))


def _agreement(token_logps: Tensor, log_probs: Tensor, mask: Tensor) -> Tensor:
    """exp(mean over tokens of (log π_t − log Σ_v π_t(v)²)), [run, row]."""
    aligned = token_logps - torch.logsumexp(2 * log_probs, -1)
    return ((aligned * mask).sum(-1) / mask.sum(-1)).exp()


@objective(
    paper="Zeng et al. 2024 (TDPO), arXiv 2404.11999",
    equation="the loss of TDPO1",
    expects={
        "chosen_logps": "up",
        "rejected_logps": "down",
        "chosen_log_probs": "down",
        "rejected_log_probs": "up",
    },
)
def tdpo1(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_log_probs: Distribution,
    rejected_log_probs: Distribution,
    ref_chosen_log_probs: Distribution,
    ref_rejected_log_probs: Distribution,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """DPO with the divergence from the reference along each answer taken into the margin.

    L = −log σ(β·(h − (D_l − D_w))),  D = Σ_t KL(π_ref(·|y_<t)‖π(·|y_<t)) along the answer

    Shapes: log-probabilities [run, row], masks [run, row, token], whole distributions
    [run, row, token, action]; nats.
    Gradient: DPO's on the answers, all with the factor β·σ(−u). On the distributions it keeps the
    policy near the reference along the rejected answer and drives it away along the chosen one.
    Limits: at the start both D are 0 and flat in the logits, so step one is DPO's; what the
    reference never says costs nothing. Smooth everywhere.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = _divergence(chosen_log_probs, ref_chosen_log_probs, chosen_mask)
    rejected = _divergence(rejected_log_probs, ref_rejected_log_probs, rejected_mask)
    return -logsigmoid(beta * (h - (rejected - chosen)))


@objective(
    paper="Zeng et al. 2024 (TDPO), arXiv 2404.11999",
    equation="the loss of TDPO2",
    expects={"chosen_logps": "up", "rejected_logps": "down", "rejected_log_probs": "up"},
)
def tdpo2(
    chosen_logps: Row,
    rejected_logps: Row,
    ref_chosen_logps: Row,
    ref_rejected_logps: Row,
    chosen_log_probs: Distribution,
    rejected_log_probs: Distribution,
    ref_chosen_log_probs: Distribution,
    ref_rejected_log_probs: Distribution,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: Hyper = 0.1,
    alpha: Hyper = 0.5,
) -> Row:
    """TDPO1 without the reward for leaving the reference along the chosen answer.

    L = −log σ(β·(h − α·(D_l − D_w))), with D_w held constant and
    D = Σ_t KL(π_ref(·|y_<t)‖π(·|y_<t)) along the answer

    Shapes: log-probabilities [run, row], masks [run, row, token], whole distributions
    [run, row, token, action]; nats.
    Gradient: DPO's on the answers; on the distributions along the rejected answer a pull to the
    reference, α·β·σ(−u)·π_ref; none along the chosen one.
    Limits: α = 0 is DPO. What the reference never says costs nothing. Smooth everywhere.
    """
    h = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen = _divergence(chosen_log_probs, ref_chosen_log_probs, chosen_mask).detach()
    rejected = _divergence(rejected_log_probs, ref_rejected_log_probs, rejected_mask)
    return -logsigmoid(beta * (h - alpha * (rejected - chosen)))


def _divergence(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Σ_t KL(π_ref,t‖π_t) over the unmasked tokens, [run, row]; 0·log 0 = 0 on either side."""
    reference = ref_log_probs.exp()
    terms = torch.where(reference > 0, reference * (ref_log_probs - log_probs), 0)
    return (terms.sum(-1) * mask).sum(-1)
