"""Other people's pair losses as functions of a draw, by library.

Each returns one value per row or one in all. `call` puts our hyperparameters under their names.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from draws import SIDES, Draw
from judging import judge
from torch import Tensor
from wheels import Stub, function, passage

LIGER, LLAMA, OAT = "liger-kernel 0.8.5", "llamafactory 0.9.5", "oat-llm 0.2.4"
OPENRLHF, OXRL, PADDLE = "openrlhf 0.11.2", "oxrl 1.7.2", "paddleformers 1.2.0"
PARLAI, TORCHRL, TORCHTUNE = "parlai 1.7.2", "torchrl 0.14.1", "torchtune 0.6.1"
TRL, OLD_TRL, VERL = "trl 1.16.0", "trl 0.24.0", "verl 0.9.1"
ACCELERATOR = Stub(device="cpu", gather_for_metrics=lambda x: x, use_distributed=False)
Library = Callable[..., Tensor]


def library(package: str) -> Callable[[Library], Library]:
    """Say where a function's code comes from."""

    def mark(fn: Any) -> Any:
        fn.package = package
        return fn

    return mark


def call(of: Any, *fixed: Any, **names: Any) -> Library:
    """A library's function with our hyperparameters renamed.

    Args:
        of: the function.
        fixed: its arguments after the draw.
        names: their name for ours (eps="label_smoothing"); None for one that they do not have; or
            an argument of theirs alone, given as a tuple with its value.
    """
    settings = {name: value[0] for name, value in names.items() if isinstance(value, tuple)}

    def theirs(draw: Draw, **hyper: Any) -> Tensor:
        renamed = {names.get(name, name): value for name, value in hyper.items()}
        renamed.pop(None, None)
        return of(draw, *fixed, **renamed, **settings)

    theirs.__name__ = " ".join([of.__name__, *map(str, fixed)])
    theirs.package = of.package
    return theirs


def judges(loss: str, hyper: Any, *calls: Any, **options: Any) -> None:
    """File several libraries as judges of one loss at the same settings."""
    for theirs in calls:
        judge(loss, theirs.package, hyper, **options)(theirs)


def four(draw: Draw, average: bool = False) -> list[Tensor]:
    """Policy chosen and rejected, reference chosen and rejected, as every DPO code wants them."""
    word = "average_logps" if average else "logps"
    return [draw[f"{prefix}{side}{word}"] for prefix in ("", "ref_") for side in SIDES[1:]]


def both(draw: Draw, name: str, rows: slice = slice(None)) -> Tensor:
    """Chosen rows first, then rejected ones."""
    return torch.cat([draw[name.format(side)][rows] for side in SIDES[1:]])


# TRL 1.16: the trainer's own lines from the model's output to the loss, dispatch included.

_trl = passage(
    TRL,
    "trl/trainer/dpo_trainer.py",
    "DPOTrainer._compute_loss",
    first="mode = ",
    last="for loss_type, loss_weight in",
    disable_gradient_checkpointing=lambda *_: nullcontext(),
    is_peft_model=lambda _: False,
    return_outputs=False,
)


@library(TRL)
def trl(
    draw: Draw,
    loss_type: str | list[str],
    weights: list[float] | None = None,
    rows: slice = slice(None),
    discopop_tau: float | None = None,
    **settings: Any,
) -> Tensor:
    """One value per row, or for more than one loss type that of the batch."""
    mask = both(draw, "{}mask", rows).long()
    # One token of prompt, as the trainer shifts its labels by one.
    inputs = {
        "input_ids": torch.nn.functional.pad(both(draw, "{}tokens", rows), (1, 0)),
        "completion_mask": torch.nn.functional.pad(mask, (1, 0)),
    }
    outputs = {}
    for prefix in ("", "ref_"):
        outputs[prefix] = Stub(log_probs=both(draw, prefix + "{}token_logps", rows) * mask)
    if draw.level == "logits":
        outputs[""].log_sum_sq_probs = (2 * both(draw, "{}log_probs", rows)).logsumexp(-1)
    trainer = Stub(
        model=Stub(training=True),
        ref_model=lambda **_: outputs["ref_"],
        accelerator=ACCELERATOR,
        args=Stub(gradient_checkpointing_kwargs=None, discopop_tau=discopop_tau),
        loss_types=[loss_type] if isinstance(loss_type, str) else loss_type,
        loss_weights=weights or [1.0],
        **{
            "aux_loss_enabled": False,
            "precompute_ref_logps": False,
            "use_weighting": False,
            "ld_alpha": None,
            "label_smoothing": 0.0,
            "f_divergence_type": "reverse_kl",
            **settings,
        },
    )
    done = _trl(self=trainer, model=lambda **_: outputs[""], inputs=inputs)
    return done.per_sequence_loss if isinstance(loss_type, str) else done.loss.unsqueeze(0)


# TRL 0.24, which has what later releases dropped.

_old_config = "trl/trainer/dpo_config.py"
_old_utils = "trl/trainer/utils.py"
kinds = function(OLD_TRL, _old_config, "FDivergenceType", Enum=Enum)
_cap = function(OLD_TRL, _old_utils, "get_exp_cap")
_old = function(
    OLD_TRL,
    "trl/trainer/dpo_trainer.py",
    "DPOTrainer.dpo_loss",
    FDivergenceType=kinds,
    FDivergenceConstants=function(OLD_TRL, _old_config, "FDivergenceConstants"),
    cap_exp=function(OLD_TRL, _old_utils, "cap_exp", get_exp_cap=_cap),
)
running_mean = function(OLD_TRL, _old_utils, "RunningMoments", dataclass=dataclass)


@library(OLD_TRL)
def old_trl(
    draw: Draw, loss_type: str, discopop_tau: float | None = None, **settings: Any
) -> Tensor:
    trainer = Stub(
        accelerator=ACCELERATOR,
        args=Stub(discopop_tau=discopop_tau),
        reference_free=False,
        running=running_mean(ACCELERATOR),
        **{
            "label_smoothing": 0.0,
            "f_divergence_type": kinds.REVERSE_KL,
            "f_divergence_params": None,
            **settings,
        },
    )
    return _old(trainer, *four(draw), loss_type)[0]


# The others: a class or a function each.

_liger = function(
    LIGER, "liger_kernel/chunked_loss/dpo_loss.py", "LigerFusedLinearDPOFunction.preference_loss_fn"
)
_torchtune = function(TORCHTUNE, "torchtune/rlhf/loss/dpo.py", "DPOLoss")
_torchtune_hinge = function(TORCHTUNE, "torchtune/rlhf/loss/dpo.py", "RSOLoss")
_openrlhf = function(OPENRLHF, "openrlhf/models/loss.py", "DPOLoss")
_algorithms = function(OAT, "oat/types.py", "DAPAlgo", Enum=Enum)
_oat = function(OAT, "oat/learners/loss.py", "DPOLoss", DAPAlgo=_algorithms)
_paddle = function(
    PADDLE,
    "paddleformers/nn/criterion/dpo_loss.py",
    "cal_dpo_loss",
    # The few functions of paddle that it uses, by their names in torch.
    paddle=Stub(log=torch.log, exp=torch.exp, log1p=torch.log1p, clip=torch.clamp, cat=torch.cat),
    F=Stub(
        log_sigmoid=torch.nn.functional.logsigmoid,
        sigmoid=torch.sigmoid,
        relu=torch.relu,
    ),
)


# What OpenRLHF's losses share.

openrlhf_masked_mean = function(OPENRLHF, "openrlhf/models/utils.py", "masked_mean")
openrlhf_aggregate = function(
    OPENRLHF, "openrlhf/models/loss.py", "aggregate_loss", masked_mean=openrlhf_masked_mean
)


@library(LIGER)
def liger(draw: Draw, loss_type: str, **settings: Any) -> Tensor:
    chosen, rejected, ref_chosen, ref_rejected = four(draw)
    target = both(draw, "{}tokens")
    return _liger(
        chosen, rejected, target, ref_chosen, ref_rejected, loss_type=loss_type, **settings
    )[0]


def dpo_of(*logps: Tensor, **settings: Any) -> Tensor:
    """torchtune's DPO on log-probabilities that another library has summed."""
    return _torchtune(**settings)(*logps)[0]


@library(TORCHTUNE)
def torchtune(draw: Draw, **settings: Any) -> Tensor:
    return dpo_of(*four(draw), **settings)


@library(TORCHTUNE)
def torchtune_hinge(draw: Draw, **settings: Any) -> Tensor:
    return _torchtune_hinge(**settings)(*four(draw))[0]


@library(OPENRLHF)
def openrlhf(draw: Draw, **settings: Any) -> Tensor:
    return _openrlhf(**settings)(*four(draw))[0]


@library(OAT)
def oat(draw: Draw, algorithm: str = "DPO", **settings: Any) -> Tensor:
    loss = _oat(dap_algo=_algorithms[algorithm], **settings)
    chosen = draw["chosen_logps"]
    return loss(*four(draw), torch.ones_like(chosen), both(draw, "{}mask"))[0]


@library(PADDLE)
def paddle(draw: Draw, loss_type: str, deltas: Tensor | None = None, **settings: Any) -> Tensor:
    config = Stub(
        **{"label_smoothing": 0.0, "offset_alpha": 0.0, "pref_loss_ratio": 1.0, **settings},
        loss_type=loss_type,
    )
    average = loss_type in ("ipo", "or", "simpo")
    return _paddle(Stub(dpo_config=config), *four(draw, average), deltas)


@library(OXRL)
def oxrl(draw: Draw, module: str, name: str, *more: Tensor, **settings: Any) -> Tensor:
    loss = function(OXRL, f"oxrl/algs/{module}.py", name, BaseAlgorithm=object)
    return loss(None, None, None, **settings).compute_loss(*four(draw), *more)[0]


_online = passage(
    TRL,
    "trl/experimental/online_dpo/online_dpo_trainer.py",
    "OnlineDPOTrainer.training_step",
    first="mask = first_half >= second_half",
    last="loss = losses.mean()",
)


@library(TRL)
def online(draw: Draw, loss_type: str, beta: float) -> Tensor:
    """From two responses per prompt and their rewards on; every second pair comes swapped."""
    rows = len(draw["chosen_lengths"])
    swapped = torch.arange(rows) % 2 == 1
    better, worse = torch.ones(rows), torch.zeros(rows)

    def halves(name: str) -> Tensor:
        chosen, rejected = (draw[name.format(side)] for side in SIDES[1:])
        which = swapped.reshape(-1, *[1] * (chosen.ndim - 1))
        first = torch.where(which, rejected, chosen)
        return torch.cat([first, torch.where(which, chosen, rejected)])

    return _online(
        self=Stub(beta=beta, args=Stub(loss_type=loss_type)),
        first_half=torch.where(swapped, worse, better),
        second_half=torch.where(swapped, better, worse),
        batch_size=rows,
        device="cpu",
        logprobs=halves("{}token_logps"),
        ref_logprobs=halves("ref_{}token_logps"),
        completion_mask=halves("{}mask"),
    ).losses
