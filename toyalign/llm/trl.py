"""Any loss of the package in TRL's own trainers, which keep their adapters, references and logs.

    import trl
    from toyalign.llm.trl import with_objective

    trainer = trl.DPOTrainer(model=..., args=trl.DPOConfig(...), train_dataset=...)
    with_objective(trainer, "dpop", beta=0.1, lam=5)
    trainer.train()

Losses on pairs go with DPOTrainer, on demonstrations with SFTTrainer, on samples with GRPOTrainer.

TRL's `compute_loss` runs as ever, and logs; a hook picks up the log-probabilities of tokens that
its models return, and the objective's loss on them takes the place of TRL's. These are internals
that TRL has promised to nobody. So its versions are held to `SUPPORTED`, and on every training
batch the gradient of TRL's own loss is computed a second time from what was picked up: where the
two differ, an error says so before anything is trained.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from toyalign.doctor import release
from toyalign.errors import ToyalignError
from toyalign.llm.guards import loss_of
from toyalign.llm.trl_trainers import HOMES, Home, Seen
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.objectives.coefficients import compose

SUPPORTED = ("1.16", "1.17")  # TRL from the first to before the second
TOLERANCE = 1e-3  # how far the two gradients of TRL's own loss may lie apart, relatively

Trainer = TypeVar("Trainer")


def with_objective(
    trainer: Trainer,
    objective: str | Loss | Objective,
    *,
    reference: nn.Module | None = None,
    **hyper: Any,
) -> Trainer:
    """Let a trainer of TRL train with an objective, and return it.

    Args:
        trainer: a DPOTrainer, SFTTrainer or GRPOTrainer of TRL.
        objective: a registered name, `path/to/file.py:function`, or a function.
        reference: for SFTTrainer, which has none: the frozen model that the objective compares
            with; if not given, the model without its adapter. The other trainers bring their own.
        **hyper: hyperparameters of the objective; those of TRL's own loss stay at their defaults.

    Raises:
        ToyalignError: for a TRL outside `SUPPORTED`, another trainer, an objective that learns from
            other data or asks for what the trainer does not have, and settings of TRL's own loss
            that would be lost; and in training, if TRL does not compute its loss as known here.

    The loss is given log-probabilities in nats, float32, [1, row] or [1, row, token]. Rows weigh
    alike in a micro-batch and micro-batches alike in a step; the tokens of a loss per token weigh
    alike in the whole step. TRL's metrics stay those of TRL's own loss: `loss` alone is the
    objective's, and the rewards that DPOTrainer logs are in units of the objective's beta.
    """
    _guard()
    names = [kind.__name__ for kind in type(trainer).__mro__ if kind.__module__.startswith("trl.")]
    found = next((HOMES[name] for name in names if name in HOMES), None)
    if found is None:
        raise ToyalignError(f"{type(trainer).__name__} is none of TRL's {', '.join(HOMES)}")
    card = get_objective(objective)
    home = found(trainer, card, card.settings(hyper), reference)
    _check_objective(home)
    _check_settings(home)
    home.prepare()
    trainer.compute_loss = _Loss(home)  # type: ignore[attr-defined]
    return trainer


def _guard() -> None:
    try:
        version = metadata.version("trl")
    except metadata.PackageNotFoundError:
        raise ToyalignError("TRL is not installed: pip install 'toyalign[trl]'") from None
    first, end = SUPPORTED
    if not release(first) <= release(version) < release(end):
        raise ToyalignError(
            f"TRL {version} is installed, and toyalign knows TRL from {first} to before {end}; "
            "toyalign.llm.trainer needs no TRL"
        )


def _check_objective(home: Home) -> None:
    card = home.card
    if card.kind != home.kind:
        other = next((name for name, other in HOMES.items() if other.kind == card.kind), "")
        hint = f"; its place is {other}" if other else ""
        raise ToyalignError(
            f"{card.name} learns from {card.kind}, and {home.name} from {home.kind}{hint}"
        )
    if card.view != "plain":
        raise ToyalignError(
            f"{card.name} shows the model inputs of its own (the {card.view} view); TRL does not"
        )
    if home.kind == "pairs" and set(card.sources) == {"policy"}:
        raise ToyalignError(
            f"{card.name} learns from pairs that the policy writes as it trains, and {home.name} "
            "from a dataset"
        )
    if home.reference is not None and home.kind != "demonstrations":
        raise ToyalignError(f"{home.name} has a reference of its own: give it none here")
    missing = [name for name in card.needs if name not in home.offered()]
    if missing:
        why = f" ({home.why})" if any(name.startswith("ref_") for name in missing) else ""
        raise ToyalignError(
            f"{card.name} asks for {', '.join(missing)}, which {home.name} does not have{why}"
        )


def _check_settings(home: Home) -> None:
    args = home.trainer.args
    for entry in (entry for entry in fields(args) if entry.name in home.own):
        made = entry.default_factory
        default = entry.default if made is MISSING else made()
        given = getattr(args, entry.name)
        if given not in (default, home.hyper.get(entry.name, default)):
            raise ToyalignError(
                f"{entry.name}={given!r} in the {type(args).__name__} is of TRL's own loss, which "
                f"{home.card.name} replaces: leave it out, or give {home.card.name} the same"
            )
    if home.trainer.aux_loss_enabled:
        raise ToyalignError(
            "TRL adds a load-balancing loss, which would be lost: set router_aux_loss_coef=0.0"
        )


@contextmanager
def _picked_up(trainer: Any, model: nn.Module) -> Iterator[Seen]:
    """Note what the policy and the reference return, and give TRL a copy without a past.

    The copy is a leaf: TRL's loss can be differentiated by it without going back into the model.
    """
    seen = Seen()

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        logps = getattr(output, "log_probs", None)
        if logps is not None and seen.policy is None and module is model:
            seen.policy, seen.leaf = logps, logps.detach().requires_grad_()
            output.log_probs = seen.leaf
        elif logps is not None and seen.policy is not None:
            seen.frozen = logps.detach()

    # With several processes `model` is a wrapper, but an adapter's reference is the bare model.
    models = dict.fromkeys([model, trainer.model, getattr(trainer, "ref_model", None)])
    handles = [m.register_forward_hook(hook) for m in models if isinstance(m, nn.Module)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Loss:
    """A trainer's `compute_loss`: TRL's own, with another value."""

    def __init__(self, home: Home):
        self.home = home

    def __call__(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        home, items = self.home, num_items_in_batch
        with _picked_up(home.trainer, model) as seen:
            found = type(home.trainer).compute_loss(
                home.trainer, model, inputs, return_outputs, items
            )
        if seen.policy is None:
            raise self._changed("its model returned no log_probs")
        if torch.is_grad_enabled():
            self._verify(found[0] if return_outputs else found, seen, inputs, items)
        loss = self._value(home.card, home.hyper, seen, seen.policy, inputs, items)
        return (loss, found[1]) if return_outputs else loss

    def _value(
        self,
        card: Objective,
        hyper: Mapping[str, Any],
        seen: Seen,
        logps: Tensor,
        inputs: Any,
        items: Any,
    ) -> Tensor:
        """A loss on the batch, a share of its mean over the step."""
        home = self.home
        tokens, masks, data = home.read(seen, logps, inputs)
        # As in TRL: a response that was cut off altogether has one token, of log-probability 0.
        data |= {f"{side}lengths": mask.sum(-1).clamp(min=1) for side, mask in masks.items()}
        mask = masks[home.sides[0]]
        values = loss_of(card, compose(card.needs, tokens, masks, data), hyper, mask)
        rows, count = home.divisors(mask, inputs, items)
        if values.ndim == 2:
            return values.mean() / rows
        if count is None:
            raise ToyalignError(
                f"{card.name} returned a value per token, and {home.name} does not count the "
                "tokens of a step: return one per row, or train with toyalign.llm.trainer"
            )
        loss: Tensor = (values * mask).sum() / count
        return loss

    def _verify(self, own: Tensor, seen: Seen, inputs: Any, items: Any) -> None:
        """Compute TRL's own loss a second time, and compare the gradients."""
        assert seen.leaf is not None
        if not own.requires_grad:
            raise self._changed("it has no gradient")
        theirs = torch.autograd.grad(own, seen.leaf, allow_unused=True)[0]
        if theirs is None:
            raise self._changed("it does not depend on the log_probs that its model returned")
        try:
            again = self._value(*self.home.stock(), seen, seen.leaf, inputs, items)
        except (AttributeError, KeyError, RuntimeError) as error:
            raise self._changed(f"{type(error).__name__}: {error}") from error
        ours = torch.autograd.grad(again, seen.leaf)[0]
        trained = seen.leaf != 0  # TRL may sum over the zeros beside, which come from no model
        size, off = (float((part * trained).norm()) for part in (theirs, theirs - ours))
        if not off <= TOLERANCE * size:
            raise self._changed(f"its gradient has the norm {size:.3g} and lies {off:.3g} off")

    def _changed(self, what: str) -> ToyalignError:
        return ToyalignError(
            f"{self.home.name} of TRL {metadata.version('trl')} does not compute its own loss as "
            f"toyalign knows it: {what}. Nothing was trained; toyalign.llm.trainer needs no TRL"
        )


__all__ = ["SUPPORTED", "with_objective"]
