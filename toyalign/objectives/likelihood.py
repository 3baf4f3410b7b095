"""Losses on single responses: raise the good ones, perhaps with a weight, or lower the bad ones."""

from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.shapes import Count, Hyper, Row


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
    paper="Xie et al. 2024 (MinorSFT), arXiv 2408.10642",
    equation="the gradient of the paper; the value is its antiderivative",
    expects={"logps": "up"},
)
def minor_sft(logps: Row, ref_logps: Row, lengths: Count, *, beta: Hyper = 0.1) -> Row:
    """SFT that pulls less on what it has already raised above the reference.

    L = −2 / (β·m) · log σ(β·r),  r = log π(y|x) − log π_ref(y|x)

    Shapes: all [run, row]; log-probabilities summed over tokens (inside σ too), in nats.
    Gradient: up, −(2/m)·σ(−β·r): exactly SFT's at the start, less where r > 0, up to twice SFT's
    where r < 0. It never pushes down.
    Limits: β → 0 gives SFT. Long responses freeze first, since r grows with m. Smooth everywhere.
    Departure 1: the paper prints a gradient; a detached weight on the SFT loss has the same
    gradient and a different value. Departure 2: its β was not found; 0.1 is DPO's.
    """
    return -2 / (beta * lengths) * logsigmoid(beta * (logps - ref_logps))


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
