"""Losses on single responses that are labelled good or bad, measured against a reference.

Notation: r is the log-ratio log π/π_ref of a response, summed over its tokens.
"""

import torch
from torch.nn.functional import logsigmoid

from toyalign.objectives import objective
from toyalign.shapes import Column, Count, Hyper, Row


@objective(
    paper="Ethayarajh et al. 2024 (KTO), arXiv 2402.01306",
    equation="the KTO loss: λ_y less the value of the response",
    expects={"logps": "either"},
)
def kto(
    logps: Row,
    ref_logps: Row,
    labels: Count,
    kl_estimate: Column,
    *,
    beta: Hyper = 0.1,
    lam_d: Hyper = 1.0,
    lam_u: Hyper = 1.0,
) -> Row:
    """Make each response a gain or a loss as people feel them, from a moving point of reference.

    L = λ_D·σ(−β·(r − z₀)) for a good response, λ_U·σ(β·(r − z₀)) for a bad one

    Shapes: all [run, row], z₀ [run, 1]; log-probabilities summed over tokens, z₀ in nats.
    Gradient: good up and bad down, λ·β·σ(x)·σ(−x) with x = β·(r − z₀): largest at r = z₀, fading
    on both sides, so that responses already decided, or hopeless, are let alone.
    Limits: each value lies between 0 and λ. Smooth everywhere.
    Departure 1: z₀ is given, a constant estimate of KL(π‖π_ref), at least 0; how it is estimated is
    the caller's affair. The paper uses responses to other prompts of the batch.
    """
    gain = beta * (logps - ref_logps - kl_estimate)
    return torch.where(labels > 0, lam_d * torch.sigmoid(-gain), lam_u * torch.sigmoid(gain))


@objective(
    paper="Jung et al. 2024 (BCO), arXiv 2404.04656",
    equation="the binary classifier optimisation loss with the reward shift δ",
    expects={"logps": "either"},
)
def bco_unpaired(
    logps: Row,
    ref_logps: Row,
    labels: Count,
    mean_log_ratio: Column,
    *,
    beta: Hyper = 0.1,
) -> Row:
    """Tell good from bad responses by their log-ratio, against its mean.

    L = −log σ(β·r − δ) for a good response, −log σ(−(β·r − δ)) for a bad one, with δ = β·r̄

    Shapes: all [run, row], r̄ [run, 1]; log-probabilities summed over tokens, r̄ in nats.
    Gradient: good up by β·σ(δ − β·r), bad down by β·σ(β·r − δ): β/2 at the mean, fading only for
    responses on their right side, never more than β.
    Limits: one good and one bad response bound DPO's loss on that pair from above. Smooth
    everywhere, δ being held constant.
    Departure 1: r̄ is the mean over the data at hand; the paper and TRL keep a running mean.
    Departure 2: the optional density ratio that reweights bad responses to other prompts is left
    out, which is its value 1.
    """
    reward = beta * (logps - ref_logps - mean_log_ratio)
    return -logsigmoid(torch.where(labels > 0, reward, -reward))


@objective(
    paper="D'Oosterlinck et al. 2024 (APO), arXiv 2408.06266; taken apart into single responses in "
    "TRL's KTOTrainer",
    equation="7, one term for each response",
    expects={"logps": "either"},
)
def apo_zero_unpaired(logps: Row, ref_logps: Row, labels: Count, *, beta: Hyper = 0.1) -> Row:
    """Raise good responses above the reference and lower bad ones below it.

    L = 1 − σ(β·r) for a good response, σ(β·r) for a bad one

    Shapes: all [run, row]; log-probabilities summed over tokens, in nats.
    Gradient: good up and bad down, β·σ(β·r)·σ(−β·r): β/4 at the reference, fading on both sides.
    Limits: it is `kto` with z₀ = 0 and λ = 1. Each value lies between 0 and 1. Smooth everywhere.
    """
    reward = beta * (logps - ref_logps)
    return torch.sigmoid(torch.where(labels > 0, -reward, reward))
