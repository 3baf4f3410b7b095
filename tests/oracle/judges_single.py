"""Judges of the losses on single responses: labelled, demonstrated, or scored."""

from contextlib import nullcontext

import torch
from draws import Draw
from judging import judge
from libraries import (
    ACCELERATOR,
    LIGER,
    OLD_TRL,
    OPENRLHF,
    TORCHRL,
    TRL,
    openrlhf_aggregate,
    running_mean,
)
from torch import Tensor
from wheels import Stub, function, passage

SFT = "torchrl/objectives/llm/sft.py"
BETAS = ({"beta": 0.1}, {"beta": 0.7})
WEIGHTS = (
    {"beta": 0.1},
    {"beta": 0.7, "lam_d": 1.5, "lam_u": 0.4},
)


def split(draw: Draw, name: str) -> tuple[Tensor, Tensor]:
    good = draw["labels"] > 0
    return draw[name][good], draw[name][~good]


# Desirable and undesirable responses.

_old_kto = function(OLD_TRL, "trl/trainer/kto_trainer.py", "KTOTrainer.kto_loss")
_kto = passage(
    TRL,
    "trl/trainer/kto_trainer.py",
    "KTOTrainer._compute_loss",
    first="mode = ",
    last="losses = torch.cat(",
    disable_gradient_checkpointing=lambda *_: nullcontext(),
    is_peft_model=lambda _: False,
)
_liger_kto = function(
    LIGER, "liger_kernel/chunked_loss/kto_loss.py", "LigerFusedLinearKTOFunction.preference_loss_fn"
)


def kto_trainer(loss_type: str, beta: float, lam_d: float = 1.0, lam_u: float = 1.0) -> Stub:
    return Stub(
        accelerator=ACCELERATOR,
        beta=beta,
        loss_type=loss_type,
        calculate_KL=loss_type == "kto",
        desirable_weight=lam_d,
        undesirable_weight=lam_u,
    )


def old_kto(draw: Draw, loss_type: str, **settings: float) -> Tensor:
    ratios = draw["other_ratios"]
    (good, bad), (ref_good, ref_bad) = split(draw, "logps"), split(draw, "ref_logps")
    trainer = kto_trainer(loss_type, **settings)
    return _old_kto(trainer, good, bad, ratios, ref_good, ref_bad, torch.zeros_like(ratios))[0]


def kto(draw: Draw, loss_type: str, **settings: float) -> Tensor:
    ratios = draw["other_ratios"]
    trainer = kto_trainer(loss_type, **settings)
    trainer.model = Stub(training=True)
    trainer.aux_loss_enabled = False
    trainer.precompute_ref_logps = False
    trainer.args = Stub(gradient_checkpointing_kwargs=None)
    trainer._compute_kl_logps = lambda model, _: ratios if model == "policy" else 0 * ratios
    policy = Stub(log_probs=draw["token_logps"] * draw["mask"])
    frozen = Stub(log_probs=draw["ref_token_logps"] * draw["mask"])
    trainer.ref_model = lambda **_: frozen

    class Policy:
        def __call__(self, **_: object) -> Stub:
            return policy

        def __eq__(self, other: object) -> bool:
            return other == "policy"

    pad = torch.nn.functional.pad
    inputs = {
        "label": draw["labels"].bool(),
        "input_ids": pad(draw["tokens"], (1, 0)),
        "completion_mask": pad(draw["mask"].long(), (1, 0)),
    }
    return _kto(self=trainer, model=Policy(), inputs=inputs).losses


@judge("kto", OLD_TRL, WEIGHTS, reduction="by label")
def old_trl_kto(draw: Draw, **settings: float) -> Tensor:
    return old_kto(draw, "kto", **settings)


@judge("kto", TRL, WEIGHTS, reduction="by label")
def trl_kto(draw: Draw, **settings: float) -> Tensor:
    return kto(draw, "kto", **settings)


@judge("kto", LIGER, BETAS)
def liger_kto(draw: Draw, beta: float) -> Tensor:
    good, reference = draw["labels"] > 0, draw["ref_logps"]
    kl = draw["kl_estimate"]
    return _liger_kto(draw["logps"], good, draw["tokens"], reference, beta=beta, kl=kl)[0]


@judge("apo_zero_unpaired", OLD_TRL, BETAS, reduction="by label")
def old_trl_apo_zero_unpaired(draw: Draw, beta: float) -> Tensor:
    return old_kto(draw, "apo_zero_unpaired", beta=beta)


@judge("apo_zero_unpaired", TRL, BETAS, reduction="by label")
def trl_apo_zero_unpaired(draw: Draw, beta: float) -> Tensor:
    return kto(draw, "apo_zero_unpaired", beta=beta)


_old_bco = function(OLD_TRL, "trl/trainer/bco_trainer.py", "BCOTrainer.bco_loss")


def mean_of_all(draw: Draw) -> dict[str, Tensor]:
    return {"mean_log_ratio": (draw["logps"] - draw["ref_logps"]).mean().detach()}


@judge(
    "bco_unpaired",
    OLD_TRL,
    BETAS,
    reduction="by label",
    given=mean_of_all,
    note="the first step of its running mean",
)
def old_trl_bco(draw: Draw, beta: float) -> Tensor:
    trainer = Stub(
        beta=beta, running=running_mean(ACCELERATOR), match_underlying_distribution=False
    )
    good, bad = split(draw, "logps")
    return _old_bco(trainer, good, bad, *split(draw, "ref_logps"), None, None)[0]


# Demonstrations.

_openrlhf_sft = function(
    OPENRLHF, "openrlhf/models/loss.py", "SFTLoss", aggregate_loss=openrlhf_aggregate
)
_sft = function(TORCHRL, SFT, "sft_loss")
_minor_sft = function(TORCHRL, SFT, "minor_sft_loss")
_kl_to_ref = function(TORCHRL, SFT, "SFTLoss._kl_to_ref")
KAPPAS = ({"kappa": 0.1}, {"kappa": 2.0})
ALONE = (0.3,)  # no reference, so no log-ratio


@judge("sft", TORCHRL, spreads=ALONE, note="on average log-probabilities, its default")
def torchrl_sft(draw: Draw) -> Tensor:
    return _sft(draw["average_logps"], "none")


@judge("sft", OPENRLHF, spreads=ALONE, rtol=1e-7, note="adds 1e-8 to lengths")
def openrlhf_sft(draw: Draw) -> Tensor:
    return _openrlhf_sft(token_level_loss=False)(draw["token_logps"], draw["mask"])


@judge("best_of_n", TORCHRL, spreads=ALONE, note="SFT on the best response")
def torchrl_sft_on_the_best(draw: Draw) -> Tensor:
    return _sft(draw["average_logps"][draw["rewards"].argmax()], "mean")


@judge("minor_sft", TORCHRL, [{**beta, "norm": "torchrl"} for beta in BETAS])
def torchrl_minor_sft(draw: Draw, beta: float, norm: str) -> Tensor:
    return _minor_sft(draw["average_logps"], draw["ref_average_logps"], beta, "none")


@judge("minor_sft", TORCHRL, BETAS, note="times 2/(beta·m), without its length normalisation")
def torchrl_minor_sft_of_sums(draw: Draw, beta: float) -> Tensor:
    return 2 / (beta * draw["lengths"]) * _minor_sft(draw["logps"], draw["ref_logps"], beta, "none")


@judge("npo", TORCHRL, BETAS, note="MinorSFT with policy and reference exchanged, times 2/beta")
def torchrl_minor_sft_mirrored(draw: Draw, beta: float) -> Tensor:
    policy, reference = draw["rejected_logps"], draw["ref_rejected_logps"]
    return 2 / beta * _minor_sft(reference, policy, beta, "none")


@judge("sft_kl", TORCHRL, KAPPAS, spreads=(0.3, 5.0), reduction="sequence mean")
def torchrl_sft_and_kl_to_ref(draw: Draw, kappa: float) -> Tensor:
    rows = []
    for row, length in enumerate(draw["lengths"].long().tolist()):
        policy, reference = (draw[n][row, :length] for n in ("token_logps", "ref_token_logps"))
        loss = Stub(kl_to_ref_coeff=kappa)
        rows.append(_sft(policy.mean(), "none") + _kl_to_ref(loss, [policy], [reference])[0])
    return torch.stack(rows)


_dft = passage(
    TRL,
    "trl/trainer/sft_trainer.py",
    "SFTTrainer.compute_loss",
    first="per_token_loss = -outputs.log_probs",
    last="loss = per_token_loss.sum()",
)


@judge("dft", TRL, spreads=ALONE, reduction="token mean")
def trl_dft(draw: Draw) -> Tensor:
    outputs = Stub(log_probs=draw["token_logps"] * draw["mask"], label_mask=draw["mask"])
    trainer = Stub(args=Stub(loss_type="dft"))
    return _dft(self=trainer, outputs=outputs, num_items_in_batch=None).loss


# Scored responses: the actor's step of implicit Q-learning is that of AWR, with its limit of 100.

_iql = passage(
    TORCHRL,
    "torchrl/objectives/iql.py",
    "IQLLoss.actor_loss",
    first="exp_a = torch.exp(",
    last="loss_actor = -(",
)


def iql(draw: Draw, score: Tensor, tau: float) -> Tensor:
    return _iql(
        self=Stub(tensor_keys=Stub(log_prob="log_prob"), temperature=1 / tau),
        min_q=score,
        value=torch.zeros_like(score),
        log_prob=draw["logps"],
        tensordict=Stub(set=lambda *_: None),
    ).loss_actor


@judge("awr", TORCHRL, ({"tau": 1.0, "w_max": 100.0}, {"tau": 0.2, "w_max": 100.0}), spreads=ALONE)
def torchrl_iql_actor(draw: Draw, tau: float, w_max: float) -> Tensor:
    return iql(draw, draw["advantages"], tau)


@judge("rwr", TORCHRL, ({"tau": 1.0}, {"tau": 3.0}), spreads=ALONE, note="IQL's, below its limit")
def torchrl_iql_actor_on_rewards(draw: Draw, tau: float) -> Tensor:
    return iql(draw, draw["rewards"], tau)
