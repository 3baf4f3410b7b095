"""Points: named tensors at which a loss is looked at.

Everything is made from the glossary, so an objective that is registered tomorrow gets its inputs
without an edit here. What belongs together agrees: totals are sums of tokens, lengths count masks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toyalign.glossary import SIDES, parts
from toyalign.objectives.coefficients import compose

RUNS, ROWS, TOKENS, ACTIONS = 2, 5, 4, 6
Tensors = dict[str, Tensor]


class Point(NamedTuple):
    """Tensors for one call, and words for where that is."""

    where: str
    tensors: Tensors


class Answers(NamedTuple):
    """What `coefficients.compose` makes a signature's tensors from."""

    tokens: Tensors
    masks: Tensors
    data: Tensors


def random_tensors(
    needs: Sequence[str], seed: int = 0, *, dtype: torch.dtype = torch.float64, **how: Any
) -> Tensors:
    """Random values for a signature; `random_answers` says what they are like.

    Args:
        needs: glossary names.
        seed: of the random numbers.
        dtype: of all tensors.
        **how: further arguments of `random_answers`.
    """
    made = compose(needs, *random_answers(needs, seed, **how))
    return {name: value.to(dtype) for name, value in made.items()}


def random_answers(
    needs: Sequence[str],
    seed: int = 0,
    *,
    runs: int = RUNS,
    rows: int = ROWS,
    tokens: int = TOKENS,
    apart: float | None = None,
    left: bool = False,
    sure: bool = False,
) -> Answers:
    """Random responses and what comes with them.

    Log-probabilities are negative, distributions sum to one, the first response has one token and
    the second has all (where there are two), the chosen response has the higher reward, labels and
    advantages have both signs.

    Args:
        needs: glossary names.
        seed: of the random numbers.
        runs: size of the run axis.
        rows: size of the row axis.
        tokens: size of the token axis.
        apart: how far the policy is from the reference and from the policy that drew the responses,
            in nats per token; 0 is where training starts, None leaves them unrelated.
        left: whether the padding stands before the response instead of behind it.
        sure: whether the policy is all but certain of every token.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    masks, made = {}, {}
    place = torch.arange(tokens)
    for side in SIDES:
        lengths = torch.randint(1, tokens + 1, (runs, rows), generator=random)
        lengths[:, 0] = 1
        lengths[:, 1:2] = tokens
        inside = place >= tokens - lengths.unsqueeze(-1) if left else place < lengths.unsqueeze(-1)
        masks[side] = inside.double()
        made[side] = -2 * normal(runs, rows, tokens).abs() - 0.01
        if sure:
            made[side] = torch.full_like(made[side], -1e-9)
        for prefix in ("ref_", "old_", "prompted_", "ref_prompted_"):
            other = -2 * normal(runs, rows, tokens).abs() - 0.01
            if apart is not None:
                noise = normal(runs, rows, tokens)
                other = -(made[side] + apart * noise).abs() if apart else made[side]
            made[prefix + side] = other
    data = _data(needs, normal, runs, rows)
    if apart == 0:  # where training starts nothing has drifted
        for name in ("kl_estimate", "mean_log_ratio"):
            data[name] = 0 * data[name]
    return Answers(made, masks, data)


def _data(needs: Sequence[str], normal: Callable[..., Tensor], runs: int, rows: int) -> Tensors:
    """What is no log-probability of a response: rewards, labels, weights, whole distributions."""
    both_signs = torch.arange(rows) % 2 * -2.0 + 1
    rejected = normal(runs, rows)
    best = torch.zeros(runs, rows, dtype=torch.float64)
    best[:, 0] = rows
    data = {
        "rewards": normal(runs, rows),
        "rejected_rewards": rejected,
        "chosen_rewards": rejected + normal(runs, rows).abs() + 0.1,
        "advantages": (normal(runs, rows).abs() + 0.1) * both_signs,
        "labels": (both_signs + 1).expand(runs, -1) / 2,
        "kl_estimate": 0.3 * normal(runs, 1).abs(),
        "mean_log_ratio": 0.3 * normal(runs, 1),
        "best_weights": best,
    }
    if not {"logps", "token_logps"} & set(needs) and any("log_probs" in n for n in needs):
        start = normal(runs, rows, ACTIONS)
        for prefix in ("", "ref_", "target_"):
            noise = normal(runs, rows, ACTIONS)
            data[f"{prefix}log_probs"] = torch.log_softmax(start + noise, -1)
    return data


def at_start(tensors: Tensors) -> Tensors:
    """The same with the policy equal to the reference, the sampler and the target."""
    own = {name: name.removeprefix(parts(name)[0]) for name in tensors}
    started = {name: tensors.get(own[name], value) for name, value in tensors.items()}
    drifts = [name for name in ("kl_estimate", "mean_log_ratio") if name in tensors]
    return {**started, **{name: 0 * tensors[name] for name in drifts}}


def far_apart(
    needs: Sequence[str], ratio: float, tokens: int, dtype: torch.dtype = torch.float64
) -> Tensors:
    """Long responses whose log-ratio to the reference is up to `ratio` nats in all.

    Every combination of a side that has risen, stayed or fallen is a row. The policy that drew the
    responses is where the reference is.

    Args:
        needs: glossary names.
        ratio: nats, for the whole response.
        tokens: number of tokens.
        dtype: of all tensors.
    """
    likely, unlikely = -5.0 / tokens, -(5.0 + ratio) / tokens
    pairs = [(up, down) for up in (1, 0, -1) for down in (1, 0, -1)]
    made, masks = {}, {}
    for side in SIDES:
        signs = [pair[side == "rejected_"] for pair in pairs]
        policy = [unlikely if sign < 0 else likely for sign in signs]
        reference = [unlikely if sign > 0 else likely for sign in signs]
        for prefix, values in (("", policy), ("ref_", reference), ("old_", reference)):
            made[prefix + side] = (
                torch.tensor(values, dtype=dtype).view(1, -1, 1).repeat(1, 1, tokens)
            )
        for prefix in ("prompted_", "ref_prompted_"):
            made[prefix + side] = made[prefix.replace("prompted_", "") + side]
        masks[side] = torch.ones_like(made[side])

    def normal(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, shape[1], dtype=dtype)[None].expand(shape[:2]).clone()

    data = _data(["token_logps"], normal, 1, len(pairs))
    for name in ("log_probs", "ref_log_probs", "target_log_probs"):
        if not {"logps", "token_logps"} & set(needs) and name in needs:
            data[name] = torch.log_softmax(torch.tensor([[[0.0, -ratio], [-ratio, 0.0]]]), -1)
    if "target_log_probs" in needs:
        data["target_log_probs"] = torch.tensor([0.5, 0.5]).log().expand(1, 2, 2)
    return {name: value.to(dtype) for name, value in compose(needs, made, masks, data).items()}
