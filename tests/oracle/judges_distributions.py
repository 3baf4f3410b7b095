"""Judges of the losses on whole next-token distributions; the gradient is taken by the logits."""

from draws import Draw
from judging import judge
from libraries import LIGER, LLAMA, TORCHTUNE, TRL
from torch import Tensor
from wheels import function

ALONE = (0.3,)  # no reference, so no log-ratio

# Demonstrations.

UTILS = "llamafactory/train/trainer_utils.py"
_llama_dft = function(LLAMA, UTILS, "_dft_cross_entropy")
_llama_eaft = function(
    LLAMA,
    UTILS,
    "eaft_loss_func",
    _eaft_cross_entropy=function(LLAMA, UTILS, "_eaft_cross_entropy"),
)
_llama_asft = function(
    LLAMA,
    UTILS,
    "asft_loss_func",
    _asft_cross_entropy=function(
        LLAMA,
        UTILS,
        "_asft_cross_entropy",
        _dft_cross_entropy=_llama_dft,
        _kl_divergence=function(LLAMA, UTILS, "_kl_divergence"),
    ),
)


@judge("dft", LLAMA, spreads=ALONE, level="logits", reduction="token mean")
def llama_dft(draw: Draw) -> Tensor:
    return _llama_dft(draw["logits"].flatten(0, 1), draw.labels_of("").flatten())


@judge(
    "eaft",
    LLAMA,
    ({"alpha": 1.0}, {"alpha": 0.5}),
    spreads=ALONE,
    level="logits",
    reduction="token mean",
)
def llama_eaft(draw: Draw, alpha: float) -> Tensor:
    return _llama_eaft({"logits": draw.shifted("logits")}, draw.shifted_labels(""), alpha=alpha)


@judge(
    "asft",
    LLAMA,
    ({"alpha": 0.1}, {"alpha": 2.0}),
    spreads=(0.3, 3.0),
    level="logits",
    reduction="token mean",
)
def llama_asft(draw: Draw, alpha: float) -> Tensor:
    outputs, reference = {"logits": draw.shifted("logits")}, draw.shifted("ref_logits")
    return _llama_asft(outputs, draw.shifted_labels(""), reference, asft_alpha=alpha)


# Divergences from a target distribution, by row and position.

_jsd = function(TRL, "trl/experimental/gkd/gkd_trainer.py", "GKDTrainer.generalized_jsd_loss")
_liger_jsd = function(
    LIGER,
    "liger_kernel/chunked_loss/jsd_loss.py",
    "LigerFusedLinearJSDFunction.distillation_loss_fn",
)
_torchtune_forward = function(TORCHTUNE, "torchtune/modules/loss/kd_losses.py", "ForwardKLLoss")
_torchtune_reverse = function(TORCHTUNE, "torchtune/modules/loss/kd_losses.py", "ReverseKLLoss")
WHOLE = {"level": "logits", "spreads": (0.3, 3.0)}
MIXTURES = ({"mixture": 0.5}, {"mixture": 0.1})


def trl_divergence(draw: Draw, beta: float) -> Tensor:
    policy, target = draw["logits"], draw["target_logits"]
    return _jsd(policy, target, beta=beta, reduction="none").sum(-1)


@judge("jsd", TRL, MIXTURES, **WHOLE)
def trl_jsd(draw: Draw, mixture: float) -> Tensor:
    return trl_divergence(draw, mixture)


@judge("forward_kl", TRL, **WHOLE, note="beta = 0")
def trl_forward_kl(draw: Draw) -> Tensor:
    return trl_divergence(draw, 0)


@judge("reverse_kl", TRL, **WHOLE, note="beta = 1")
def trl_reverse_kl(draw: Draw) -> Tensor:
    return trl_divergence(draw, 1)


@judge("jsd", LIGER, MIXTURES, **WHOLE, reduction="token sum")
def liger_jsd(draw: Draw, mixture: float) -> Tensor:
    logits = [draw[name].flatten(0, 1) for name in ("logits", "target_logits")]
    return _liger_jsd(*logits, beta=mixture, target=draw.labels_of("").flatten())


@judge("reverse_kl", TORCHTUNE, **WHOLE, reduction="token mean")
def torchtune_reverse_kl(draw: Draw) -> Tensor:
    return _torchtune_reverse()(draw["logits"], draw["target_logits"], draw.labels_of(""))


@judge(
    "forward_kl",
    TORCHTUNE,
    **WHOLE,
    reduction="token mean",
    values=False,
    note="gradients only: it leaves out the target's entropy",
)
def torchtune_forward_kl(draw: Draw) -> Tensor:
    return _torchtune_forward()(draw["logits"], draw["target_logits"], draw.labels_of(""))
