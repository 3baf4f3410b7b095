"""Contracts on what a loss does at once: where a step pushes, and trust regions."""

import numpy as np
import torch
from torch import Tensor

from toyalign.check.pushes import LENGTH, REACH, plane, pushes
from toyalign.check.subject import Broken, NotApplicable, Subject
from toyalign.glossary import parts
from toyalign.objectives.points import Tensors

_SLACK = 1e-9  # of the largest push: smaller ones are rounding
_PART = 2e-3  # of the policy gradient: a small entropy bonus may stand beside it


def direction(subject: Subject) -> str:
    """A small step raises what it must raise and lowers what it must lower."""
    kinds = {
        "pairs": _pairs,
        "labelled": _labelled,
        "demonstrations": _demonstrations,
        "samples": _samples,
        "distributions": _distributions,
    }
    return kinds[subject.card.kind](subject)


def _pairs(subject: Subject) -> str:
    at, push = plane(subject)
    chosen, rejected = at.values()
    force, counter = push.values()  # on the chosen and on the rejected answer
    size = max(force.abs().max().item(), counter.abs().max().item())
    slack = _SLACK * size
    sides = {parts(name)[1] for name in subject.learned} - {""}
    centre = (chosen == 0) & (rejected == 0)
    up, down = force[centre].item(), counter[centre].item()
    anchored = any(f"ref_{name}" in subject.needs for name in subject.learned)
    gain = force - counter
    share = f"the chosen answer is pushed down on {(force < -slack).double().mean():.0%}"
    map_ = f"{share} of the plane of log-ratios within ±{REACH:g} nats"
    wrong = centre & ((gain <= slack) if anchored else (gain < -slack))
    if wrong.any():
        what = (
            "pushes the chosen answer down"
            if up < -slack
            else "pushes the rejected answer up"
            if down > slack
            else "does not push the pair apart"
        )
        raise Broken(
            f"{what} where policy = reference (chosen {up:+.3g}, rejected {down:+.3g} per nat); "
            f"{map_}"
        )
    misordered = chosen < rejected
    if not (gain[misordered] > slack).any():
        raise Broken("on a misordered pair (chosen below rejected) nothing is pushed apart")
    falls = misordered & (force < -slack)
    rises = misordered & (counter > slack)
    for bad, side, way, wrong_force in (
        (falls, "chosen", "down", force),
        (rises, "rejected", "up", counter),
    ):
        if bad.any() and f"{side}_" in sides:
            worst = int((wrong_force.abs() * bad).argmax())
            raise Broken(
                f"pushes the {side} answer {way} while the pair is misordered, on "
                f"{bad.sum() / misordered.sum():.0%} of such pairs (most at log-ratios of "
                f"{chosen[worst]:+.3g} for chosen and {rejected[worst]:+.3g} for rejected: "
                f"{wrong_force[worst]:+.3g} per nat); {map_}"
            )
    _far_misordered(subject)
    return f"at policy = reference: chosen {up:+.3g}, rejected {down:+.3g} per nat; {map_}"


def _far_misordered(subject: Subject) -> None:
    """Pairs whose chosen answer has fallen far, or whose rejected one has risen far."""
    far = torch.tensor([0.0, 5.0, 20.0, 50.0, 100.0], dtype=torch.float64)
    fallen, risen = (x.flatten()[1:] for x in torch.meshgrid(far, far, indexing="ij"))
    push = pushes(subject, {"chosen_": -fallen, "rejected_": risen}, level=-150.0)
    slack = _SLACK * max(side.abs().max().item() for side in push.values())
    likely = torch.tensor([0.0, 0.1, 0.3, 0.6], dtype=torch.float64)  # an answer of p = e^-0.9
    sure = pushes(subject, {"chosen_": -likely, "rejected_": 0 * likely}, level=-0.9)
    if (sure["chosen_"] < -_SLACK * max(x.abs().max().item() for x in sure.values())).any():
        raise Broken("pushes the chosen answer down where it is likely and has fallen")
    for side, wrong in (("chosen", -push["chosen_"]), ("rejected", push["rejected_"])):
        if (wrong > slack).any():
            at = int(wrong.argmax())
            raise Broken(
                f"pushes the {side} answer {'down' if side == 'chosen' else 'up'} where the pair "
                f"is badly misordered (chosen {-fallen[at]:g}, rejected {risen[at]:+g} nats from "
                "the reference)"
            )


def _labelled(subject: Subject) -> str:
    line = torch.linspace(-REACH, REACH, 25, dtype=torch.float64)
    good = pushes(subject, {"": line}, level=-12.0, data={"labels": torch.ones_like(line)})[""]
    bad = pushes(subject, {"": line}, level=-12.0, data={"labels": torch.zeros_like(line)})[""]
    slack = _SLACK * max(good.abs().max().item(), bad.abs().max().item())
    start = line == 0
    if not (good[start] > slack).all() or not (bad[start] < -slack).all():
        raise Broken(
            f"where policy = reference a step moves a desirable response by "
            f"{good[start].item():+.3g} and an undesirable one by {bad[start].item():+.3g} per nat"
        )
    if (good[line < 0] < -slack).any():
        raise Broken("a step lowers a desirable response that lies below the reference")
    if (bad[line > 0] > slack).any():
        raise Broken("a step raises an undesirable response that lies above the reference")
    return (
        f"at policy = reference: desirable {good[start].item():+.3g}, undesirable "
        f"{bad[start].item():+.3g} per nat"
    )


def _demonstrations(subject: Subject) -> str:
    line = torch.linspace(-REACH, 0, 13, dtype=torch.float64)
    for level in (-3.0, -6.0, -12.0):
        push = pushes(subject, {"": line}, level=level)[""]
        slack = _SLACK * push.abs().max().item()
        if push[-1] <= slack:
            raise Broken(
                f"where policy = reference a step does not raise a demonstration of log-prob "
                f"{level:g} nats ({push[-1]:+.3g} per nat)"
            )
        if (push < -slack).any():
            at = int(push.argmin())
            raise Broken(
                f"a step lowers a demonstration that lies {-line[at]:.3g} nats below the reference "
                f"({push[at]:+.3g} per nat)"
            )
    return f"at policy = reference: a demonstration {push[-1]:+.3g} per nat"


def _samples(subject: Subject) -> str:
    name = next(n for n in ("advantages", "rewards", "best_weights", "") if n in subject.needs)
    if not name:
        raise NotApplicable("it asks for neither rewards nor advantages")
    worth = torch.tensor([0.0, 1.0, 2.0] if name == "best_weights" else [-2.0, -0.5, 0.5, 2.0])
    at = torch.zeros(len(worth))
    push = pushes(subject, {"": at}, data={name: worth.double()})[""]
    slack = _SLACK * push.abs().max().item()
    listed = ", ".join(f"{w:g}: {p:+.3g}" for w, p in zip(worth, push, strict=True))
    seen = f"push per nat by {name} where policy = reference: {listed}"
    if push[-1] <= slack:
        raise Broken(f"a response of positive {name} is not raised; {seen}")
    if (push.diff() < -slack).any() or push[-1] - push[0] <= slack:
        raise Broken(f"a better response is not pushed up more than a worse one; {seen}")
    if name == "advantages" and any(need.startswith("ref_") for need in subject.needs):
        away = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64)
        pull = pushes(subject, {"": away}, level=-12.0, data={name: 0 * away})[""]
        if (pull * away > _SLACK * pull.abs().max()).any():
            raise Broken(
                "a response of advantage 0 is pushed away from the reference: "
                f"{pull[-1]:+.3g} per nat at a log-ratio of +3"
            )
    if name == "advantages" and push[-2] < -slack:
        raise Broken(f"a response of positive {name} is lowered; {seen}")
    return seen


def _distributions(subject: Subject) -> str:
    if "target_log_probs" not in subject.needs:
        raise NotApplicable("it has no target distribution")
    random = torch.Generator().manual_seed(subject.seed)
    logits = torch.randn(1, 6, 5, generator=random, dtype=torch.float64)
    noise = 0.1 * torch.randn(1, 6, 5, generator=random, dtype=torch.float64)
    target = torch.log_softmax(logits, -1)

    def build(leaf: Tensor) -> Tensors:
        policy = torch.log_softmax(leaf, -1)
        made = {"log_probs": policy, "target_log_probs": target, "ref_log_probs": policy.detach()}
        return {name: made[name] for name in subject.needs}

    (grad,) = subject.row_gradients(build, [logits + noise])
    away = target.exp() - torch.softmax(logits + noise, -1)
    gain = (-grad * away).sum(-1)
    if not (gain > 0).all():
        raise Broken("close to the target, a step on the logits leads away from it")
    return "close to the target, a step leads towards it"


def trust_region(subject: Subject) -> str:
    """At ratio 1 the policy gradient's, and never gone where the policy must be pulled back."""
    if not {"old_logps", "old_token_logps"} & set(subject.needs):
        raise NotApplicable("it asks for no log-probs of the policy that drew the sample")
    if "advantages" not in subject.needs:
        raise NotApplicable("it asks for no advantages")
    signs = torch.tensor([-1.0, 1.0, -2.0, 2.0], dtype=torch.float64)
    zero = torch.zeros(len(signs))
    at_one = {
        level: pushes(subject, {"": zero}, level=level, data={"advantages": signs})[""]
        for level in (-3.0, -9.0)
    }
    for push in at_one.values():
        odd = torch.stack([push[0] + push[1], push[2] + push[3]]).abs().max()
        if not (push * signs > 0).all() or odd > _PART * push.abs().max():
            raise Broken(
                f"at ratio 1 advantages of −1 and 1 push by {push[0]:+.4g} and {push[1]:+.4g} per "
                "nat; the policy gradient pushes by the advantage itself"
            )
        if push.abs().max() > 2 * (1 + _PART):
            raise Broken(
                f"at ratio 1 an advantage of 2 pushes by {push.abs().max():.4g} per nat, more than "
                "the policy gradient"
            )
        if (push - at_one[-3.0]).abs().max() > 1e-6 * push.abs().max():
            raise Broken("at ratio 1 the push depends on how likely the response is")
    scale = at_one[-3.0].abs().max()
    for sign, ratios in ((1.0, (-2.5, -1.2, -0.7, -0.1)), (-1.0, (0.1, 0.7, 1.2, 2.5))):
        for ratio in ratios:
            push = pushes(
                subject,
                {"": torch.zeros(1)},
                old=ratio * LENGTH if "old_token_logps" in subject.needs else ratio,
                data={"advantages": torch.tensor([sign], dtype=torch.float64)},
            )[""]
            if push[0] * sign <= 1e-6 * scale:
                raise Broken(
                    f"with advantage {sign:+g} and ratio {np.exp(ratio):.2f} the response must be "
                    f"pulled back {'up' if sign > 0 else 'down'}, but the push is {push[0]:+.3g}"
                )
    return "pushes by A at ratio 1; pulls back at ratios from 0.08 to 12"
