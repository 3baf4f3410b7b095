"""Probes that need no training: the shape of the loss itself."""

import numpy as np
import torch
from torch import Tensor

from toyalign.check.pushes import REACH, plane, pushes
from toyalign.check.subject import NotApplicable, Subject
from toyalign.check.training import train
from toyalign.glossary import parts
from toyalign.objectives.points import random_tensors
from toyalign.policies.features import Features
from toyalign.problems.bandit import adjacent_arms

_FAR = 20.0  # nats below the reference
# nats: every tenth up to 40, then coarser, by 1 %
_MARGINS = torch.cat([torch.arange(0, 40, 0.1), torch.logspace(1.602, 3.7, 490)]).double()
_GONE = 1e-6  # of the first push: a push that reaches zero from less has only faded


def _only_for(subject: Subject, *kinds: str) -> None:
    if subject.card.kind not in kinds:
        raise NotApplicable(f"a question about {' or '.join(kinds)}")


def pushes_down(subject: Subject) -> tuple[float, str]:
    """Share of the plane of log-ratios (±6 nats) where the chosen answer is pushed down."""
    _only_for(subject, "pairs", "demonstrations")
    if subject.card.kind == "demonstrations":
        line = torch.linspace(-REACH, REACH, 25, dtype=torch.float64)
        force = pushes(subject, {"": line}, level=-12.0)[""]
        share = float((force < -1e-9 * force.abs().max()).double().mean())
        return share, "share of log-ratios at which a demonstration is pushed down"
    up = plane(subject)[1]["chosen_"]
    share = float((up < -1e-9 * up.abs().max()).double().mean())
    traj = train(
        subject.card, adjacent_arms(spread=0.5), policy=Features(1.5), steps=200, lr=0.3, seeds=4
    )
    ((chosen, rejected),) = traj.pairs
    ratios = (traj.log_probs - traj.reference)[:, :, 0]
    at = [torch.from_numpy(ratios[..., arm].copy()).clamp(-60, 6) for arm in (chosen, rejected)]
    sides = {"chosen_": at[0].flatten(), "rejected_": at[1].flatten()}
    force = pushes(subject, sides, level=-12.0)["chosen_"].view(at[0].shape)
    there = (force < -1e-9 * force.abs().max()).any(1)
    if not there.any():
        return share, "a short training with shared features does not get there"
    step = traj.steps[int(there.double().argmax())]
    return share, f"a short training with shared features gets there at step {step}"


def fading(subject: Subject) -> tuple[float, str]:
    """Push on the rejected answer 20 nats below the reference, over the push at the start."""
    side = {"pairs": "rejected_", "labelled": ""}.get(subject.card.kind)
    if side is None or not any(parts(name)[1] == side for name in subject.learned):
        raise NotApplicable("it pushes no rejected answer")
    rejected = torch.tensor([0.0, -_FAR], dtype=torch.float64)
    ratios = {"chosen_": torch.zeros(2), side: rejected} if side else {"": rejected}
    push = pushes(subject, ratios, level=-24.0, data={"labels": torch.zeros(2).double()})[side]
    if push[0] == 0:
        raise NotApplicable("nothing pushes the rejected answer at the start")
    ratio = float(push[1] / push[0])
    how = "grows" if ratio > 1.001 else "stays" if ratio > 0.999 else "fades"
    if ratio < -1e-9:
        how = "turns round"
    elif abs(ratio) < 1e-6:
        how = "dies out"
    return ratio, f"as the rejected answer falls 20 nats below the reference, its push {how}"


def stops(subject: Subject) -> tuple[float, str]:
    """Margin at which a pair that is always won is no longer pushed apart."""
    margin = _rest(subject, 0.0)
    if np.isinf(margin):
        return margin, "deterministic preferences are pushed apart without end"
    return margin, f"deterministic preferences are pushed apart up to a margin of {margin:.3g} nats"


def flipped_labels(subject: Subject) -> tuple[float, str]:
    """Margin at which a pair comes to rest when 20 % of its labels are flipped."""
    margins = [_rest(subject, noise) for noise in (0.1, 0.2, 0.4)]
    listed = ", ".join(f"{margin:.3g}" for margin in margins)
    return margins[1], (
        f"with 10, 20, 40 % of labels flipped the margin rests at {listed} nats, both answers "
        "moving alike"
    )


def _rest(subject: Subject, noise: float) -> float:
    """The margin at which the expected push apart ends, chosen and rejected moving alike."""
    _only_for(subject, "pairs")
    if not {"chosen_", "rejected_"} <= {parts(name)[1] for name in subject.learned}:
        raise NotApplicable("it moves one side of a pair only")
    half = _MARGINS / 2
    there, back = (
        pushes(subject, {"chosen_": sign * half, "rejected_": -sign * half}, level=-6 - half)
        for sign in (1, -1)
    )
    apart = (1 - noise) * (there["chosen_"] - there["rejected_"])
    apart = apart - noise * (back["chosen_"] - back["rejected_"])
    before = torch.cat([apart[:1], apart[:-1]])
    stopped = (apart < 0) | ((apart == 0) & (before > _GONE * apart[0]))
    return float(_MARGINS[int(stopped.double().argmax())]) if stopped.any() else float("inf")


def length(subject: Subject) -> tuple[float, str]:
    """Push on a token of a 100-token response, over that on a token of a 10-token response."""
    side = "chosen_" if subject.card.kind == "pairs" else ""
    _only_for(subject, "pairs", "labelled", "demonstrations", "samples")
    others = {"chosen_", "rejected_"} if subject.card.kind == "pairs" else {""}
    at = {one: torch.zeros(1) for one in sorted(others)}
    # The longer response is as likely per token, as responses of a language model are.
    both = [pushes(subject, at, level=-0.5 * tokens, tokens=tokens) for tokens in (10, 100)]
    side = side if both[0][side][0] != 0 else "rejected_" if "rejected_" in at else side
    short, long = (found[side][0] for found in both)
    if short == 0:
        raise NotApplicable(f"nothing pushes the {side.rstrip('_') or 'response'} at the start")
    ratio = float(long / short)
    return ratio, f"a token of a response ten times as long is pushed {ratio:.3g} times as hard"


def precision(subject: Subject) -> tuple[float, str]:
    """Error of the gradient in bfloat16, largest over random points."""
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        tensors = random_tensors(subject.needs, subject.seed, rows=32, apart=1.0)
        rounded = {name: value.to(dtype) for name, value in tensors.items()}
        exact = subject.gradients({name: value.double() for name, value in rounded.items()})
        found = subject.gradients(rounded)
        errors[dtype] = max(_error(found[name].double(), exact[name]) for name in exact)
    return errors[torch.bfloat16], (
        f"computed in bfloat16 the gradient is off by {errors[torch.bfloat16]:.1%}, in float32 by "
        f"{errors[torch.float32]:.0e} of its largest entry"
    )


def _error(found: Tensor, exact: Tensor) -> float:
    scale = exact.abs().max().item()
    return (found - exact).abs().max().item() / scale if scale else 0.0


def cost(subject: Subject) -> tuple[float, str]:
    """Forward passes over a response per row: policy, reference, prompted, old policy."""
    passes = {
        (prefix, side)
        for prefix, side, quantity in map(parts, subject.needs)
        if quantity in ("logps", "token_logps", "log_probs") and prefix != "target_"
    }
    frozen = any(prefix.startswith("ref_") for prefix, _ in passes)
    return len(passes), f"{'needs' if frozen else 'needs no'} reference model"
