"""Random tensors for any signature, and how to take a loss's gradient.

Everything is made from the glossary, so an objective that is registered tomorrow gets its inputs
without an edit here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from toyalign.glossary import GLOSSARY
from toyalign.objectives import Objective

RUNS, ROWS, TOKENS, ACTIONS = 2, 5, 4, 6
FROZEN = ("ref_", "old_", "target_")
Tensors = dict[str, Tensor]


def tensors(
    needs: Sequence[str],
    seed: int = 0,
    *,
    runs: int = RUNS,
    rows: int = ROWS,
    dtype: torch.dtype = torch.float64,
) -> Tensors:
    """Random values for a signature: what belongs together (tokens, mask, length) agrees.

    Log-probabilities are negative, distributions sum to one, every response has at least one token
    and at least one row of each run has padding, advantages have both signs.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    lengths, masks = {}, {}
    for side in ("", "chosen_", "rejected_"):
        count = torch.randint(1, TOKENS + 1, (runs, rows), generator=random)
        count[:, 0], count[:, 1] = 1, TOKENS
        lengths[side] = count.double()
        masks[side] = (torch.arange(TOKENS) < count.unsqueeze(-1)).double()
    per_token = {}  # keyed by prefix and side, so that sums agree with their tokens
    made = {}
    for name in needs:
        prefix, side, quantity = parts(name)
        axes = GLOSSARY[name].axes
        if quantity in ("logps", "token_logps"):
            key = (prefix, side)
            if key not in per_token:
                per_token[key] = -2 * normal(runs, rows, TOKENS).abs() - 0.01
            tokens = per_token[key]
            made[name] = tokens if quantity == "token_logps" else (tokens * masks[side]).sum(-1)
        elif quantity == "lengths":
            made[name] = lengths[side]
        elif quantity == "mask":
            made[name] = masks[side]
        elif quantity == "log_probs":
            made[name] = torch.log_softmax(normal(runs, rows, ACTIONS), -1)
        elif quantity == "best_weights":
            made[name] = torch.zeros(runs, rows, dtype=torch.float64)
            made[name][:, 0] = rows
        elif quantity in ("rewards", "advantages"):
            made[name] = normal(runs, rows)
        else:
            raise AssertionError(f"tests/inputs.py cannot make {name} {axes} yet")
        assert made[name].ndim == len(axes)
    return {name: value.to(dtype) for name, value in made.items()}


def parts(name: str) -> tuple[str, str, str]:
    """`ref_chosen_token_logps` to (`ref_`, `chosen_`, `token_logps`)."""
    prefix = next((p for p in FROZEN if name.startswith(p)), "")
    rest = name.removeprefix(prefix)
    side = next((s for s in ("chosen_", "rejected_") if rest.startswith(s)), "")
    return prefix, side, rest.removeprefix(side)


def learned(needs: Sequence[str]) -> list[str]:
    """The tensors that the policy makes, which the gradient flows to."""
    found = []
    for name in needs:
        prefix, _, quantity = parts(name)
        if not prefix and quantity in ("logps", "token_logps", "log_probs"):
            found.append(name)
    return found


def at_start(inputs: Tensors) -> Tensors:
    """The same inputs with the policy equal to the reference, the sampler and the target."""
    return {
        name: inputs.get(name.removeprefix(parts(name)[0]), value) for name, value in inputs.items()
    }


def gradients(loss: Callable[..., Tensor], inputs: Tensors, **hyper: object) -> Tensors:
    """dL/d(log-probability) for the sum of the loss's values, by tensor."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in learned(list(inputs))}
    values = loss(**{**inputs, **leaves}, **hyper)
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaves[name]) if grad is None else grad
        for name, grad in zip(leaves, found, strict=True)
    }


def numerical_gradients(
    loss: Callable[..., Tensor], inputs: Tensors, step: float = 1e-5, **hyper: object
) -> Tensors:
    """The same by central differences. What the loss detaches is held at its value."""
    found = {}
    with _detached_parts_held(loss, inputs, hyper) as value:
        for name in learned(list(inputs)):
            flat = torch.zeros(inputs[name].numel(), dtype=torch.float64)
            for i in range(flat.numel()):
                shift = torch.zeros_like(flat)
                shift[i] = step
                shift = shift.view_as(inputs[name])
                up, down = (value({**inputs, name: inputs[name] + s}) for s in (shift, -shift))
                flat[i] = (up.sum() - down.sum()) / (2 * step)
            found[name] = flat.view_as(inputs[name])
    return found


@contextmanager
def _detached_parts_held(
    loss: Callable[..., Tensor], inputs: Tensors, hyper: Mapping[str, object]
) -> Iterator[Callable[[Tensors], Tensor]]:
    """A function of the inputs in which every `.detach()` returns what it returned at `inputs`."""
    original = torch.Tensor.detach
    kept: list[Tensor] = []
    replay: list[Tensor] = []

    def record(self: Tensor) -> Tensor:
        kept.append(original(self))
        return kept[-1]

    def value(changed: Tensors) -> Tensor:
        replay[:] = kept
        torch.Tensor.detach = lambda self: replay.pop(0)
        try:
            return loss(**changed, **hyper)
        finally:
            torch.Tensor.detach = original

    torch.Tensor.detach = record
    try:
        loss(**inputs, **hyper)
    finally:
        torch.Tensor.detach = original
    yield value


def call(card: Objective, inputs: Tensors, **hyper: object) -> Tensor:
    """The loss with its default hyperparameters, where none are given."""
    return card.fn(**inputs, **card.settings(hyper))
