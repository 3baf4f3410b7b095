"""Judges of the policy-gradient losses. Several mean over tokens; the masks are unequal."""

import torch
from draws import Draw
from judging import judge
from libraries import (
    LIGER,
    OLD_TRL,
    OPENRLHF,
    TORCHTUNE,
    TRL,
    VERL,
    openrlhf_aggregate,
    openrlhf_masked_mean,
)
from torch import Tensor
from wheels import Stub, function, passage

# OpenRLHF and verl cut the log-ratio of a token at 20 nats, ours goes on as a tangent at 30.
NEAR = {"spreads": (0.1, 1.0, 4.0)}
CLIPS = ({"clip": 0.2}, {"clip": 0.05})

# TRL: from the batch to the loss.

_grpo = passage(
    TRL,
    "trl/trainer/grpo_trainer.py",
    "GRPOTrainer._compute_loss",
    first="prompt_ids, prompt_mask = ",
    last="if self.loss_type in ['grpo', 'sapo']",
)


def trl(draw: Draw, loss_type: str, low: float, high: float, beta: float = 0.0, size: int = 1):
    mask = draw["mask"]
    inputs = {
        "prompt_ids": draw["tokens"][:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": draw["tokens"],
        "completion_mask": mask,
        "advantages": draw["advantages"],
        "old_per_token_logps": draw["old_token_logps"],
        "ref_per_token_logps": draw["ref_token_logps"],
        "num_items_in_batch": mask.sum(),
    }
    trainer = Stub(
        model=Stub(training=False),
        accelerator=Stub(num_processes=1),
        args=Stub(delta=None, use_bias_correction_kl=False),
        _get_per_token_logps_and_entropies=lambda *_, **__: (draw["token_logps"], None, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        loss_type=loss_type,
        beta=beta,
        epsilon_low=low,
        epsilon_high=high,
        max_completion_length=size,
    )
    return _grpo(self=trainer, model=None, inputs=inputs).loss


_liger_grpo = function(
    LIGER,
    "liger_kernel/chunked_loss/grpo_loss.py",
    "LigerFusedLinearGRPOFunction.ppo_loss_fn",
    k3_loss_fn=function(LIGER, "liger_kernel/chunked_loss/grpo_loss.py", "k3_loss_fn"),
    clip_coef_fn=function(LIGER, "liger_kernel/chunked_loss/grpo_loss.py", "clip_coef_fn"),
    LigerFusedLinearPPOBase=Stub(
        _compute_dapo_normalizer=function(
            LIGER,
            "liger_kernel/chunked_loss/fused_linear_ppo.py",
            "LigerFusedLinearPPOBase._compute_dapo_normalizer",
        )
    ),
)


def liger(draw: Draw, loss_type: str, low: float, high: float, beta: float = 0.0, size: int = 1):
    mask = draw["mask"]
    return _liger_grpo(
        draw["token_logps"],
        mask,
        draw["advantages"],
        mask,
        ref_per_token_logps=draw["ref_token_logps"],
        old_per_token_logps=draw["old_token_logps"],
        epsilon_low=low,
        epsilon_high=high,
        beta=beta,
        loss_type=loss_type,
        max_completion_length=size,
    )[0]


# verl: its registered losses, and the aggregation they share.

CORE = "verl/trainer/ppo/core_algos.py"
_functional = "verl/utils/torch_functional.py"
_masked_sum = function(VERL, _functional, "masked_sum")
_verl_functions = Stub(
    masked_sum=_masked_sum,
    masked_mean=function(VERL, _functional, "masked_mean", masked_sum=_masked_sum),
)
_shared = {
    "verl_F": _verl_functions,
    "agg_loss": function(VERL, CORE, "agg_loss", verl_F=_verl_functions),
    "ActorConfig": Stub,
    "AlgoConfig": dict,
}
_verl = {
    name: function(VERL, CORE, f"compute_policy_loss_{name}", **_shared)
    for name in ("vanilla", "cispo", "reinforce")
}
_verl_penalised = function(VERL, CORE, "compute_rewards")


def verl(
    draw: Draw,
    name: str,
    low: float,
    high: float,
    mode: str = "token-mean",
    gain: Tensor | None = None,
    **batch: int,
):
    # `clip_ratio_c` cuts off large losses of bad responses, which PPO does not; 3 is its default.
    config = Stub(
        clip_ratio=low,
        clip_ratio_low=low,
        clip_ratio_high=high,
        global_batch_info=batch,
        get=lambda key, default: {"clip_ratio_c": 1e300}[key],
    )
    gain = draw["advantages"] if gain is None else gain
    gain = gain.unsqueeze(-1) * torch.ones_like(draw["mask"])
    old, policy = draw["old_token_logps"], draw["token_logps"]
    return _verl[name](old, policy, gain, draw["mask"], mode, config)[0]


# Plain policy gradients.

_trl_rloo = passage(
    TRL,
    "trl/trainer/rloo_trainer.py",
    "RLOOTrainer._compute_loss",
    first="logps = (per_token_logps * completion_mask)",
    last="loss = per_sequence_loss.mean()",
)
SUM = "seq-mean-token-sum"


@judge("reinforce", VERL, spreads=(0.3,))
def verl_reinforce(draw: Draw) -> Tensor:
    return verl(draw, "reinforce", 0, 0, SUM)


@judge("rloo", VERL, spreads=(0.3,), note="the loss; advantages are given")
def verl_reinforce_for_rloo(draw: Draw) -> Tensor:
    return verl(draw, "reinforce", 0, 0, SUM)


@judge(
    "rloo",
    TRL,
    spreads=(0.3,),
    values=False,
    note="gradients only, on fresh responses: TRL's is a clipped ratio, of value −A",
)
def trl_rloo(draw: Draw) -> Tensor:
    done = _trl_rloo(
        self=Stub(epsilon_low=0.2, epsilon_high=0.2),
        per_token_logps=draw["token_logps"],
        completion_mask=draw["mask"],
        inputs={"old_logps": draw["logps"].detach(), "advantages": draw["advantages"]},
    )
    return done.per_sequence_loss


@judge("reinforce_kl", VERL, ({"beta": 0.1}, {"beta": 1.5}), spreads=(0.3, 3.0))
def verl_reinforce_on_penalised_rewards(draw: Draw, beta: float) -> Tensor:
    policy = draw["token_logps"].detach()
    nothing = torch.zeros_like(policy)
    paid = _verl_penalised(nothing, policy, draw["ref_token_logps"], beta) * draw["mask"]
    return verl(draw, "reinforce", 0, 0, SUM, gain=draw["advantages"] + paid.sum(-1))


# Clipped ratios.

_torchtune_mean = function(TORCHTUNE, "torchtune/rlhf/rewards.py", "masked_mean")
_torchtune_ppo = function(
    TORCHTUNE, "torchtune/rlhf/loss/ppo.py", "PPOLoss", rlhf=Stub(masked_mean=_torchtune_mean)
)
_openrlhf_ppo = function(
    OPENRLHF,
    "openrlhf/models/loss.py",
    "PolicyLoss",
    aggregate_loss=openrlhf_aggregate,
    masked_mean=openrlhf_masked_mean,
)
_old_ppo = passage(
    OLD_TRL,
    "trl/trainer/ppo_trainer.py",
    "PPOTrainer.train",
    first="logprobs_diff = new_logprobs - mb_logprobs",
    last="pg_loss = masked_mean(",
    masked_mean=function(OLD_TRL, "trl/core.py", "masked_mean"),
)


@judge("ppo_clip", OLD_TRL, CLIPS, **NEAR, reduction="token mean")
def old_trl_ppo(draw: Draw, clip: float) -> Tensor:
    return _old_ppo(
        new_logprobs=draw["token_logps"],
        mb_logprobs=draw["old_token_logps"],
        mb_advantage=draw["advantages"].unsqueeze(-1),
        padding_mask=draw["mask"] == 0,
        micro_batch_inds=slice(None),
        args=Stub(cliprange=clip),
    ).pg_loss


@judge("ppo_clip", TORCHTUNE, CLIPS, **NEAR, reduction="token mean", rtol=1e-7, note="adds 1e-8")
def torchtune_ppo(draw: Draw, clip: float) -> Tensor:
    zero = torch.zeros_like(draw["mask"])
    gain = draw["advantages"].unsqueeze(-1)
    loss = _torchtune_ppo(epsilon=clip, value_coeff=0.0)
    old, policy = draw["old_token_logps"], draw["token_logps"]
    return loss(old, policy, gain, zero, zero, zero, draw["mask"].bool(), draw["mask"].bool())[0]


@judge("ppo_clip", OPENRLHF, CLIPS, **NEAR, reduction="token mean")
def openrlhf_ppo(draw: Draw, clip: float) -> Tensor:
    gain = draw["advantages"].unsqueeze(-1)
    loss = _openrlhf_ppo(clip, clip)
    return loss(draw["token_logps"], draw["old_token_logps"], gain, draw["mask"])[0]


@judge("ppo_clip", VERL, CLIPS, **NEAR, reduction="token mean", note="dual clip moved out of sight")
def verl_vanilla(draw: Draw, clip: float) -> Tensor:
    return verl(draw, "vanilla", clip, clip)


GRPO = ({"clip": 0.2, "beta": 0.04}, {"clip": 0.05, "beta": 0.0}, {"clip": 0.2, "beta": 1.5})


@judge("grpo", TRL, GRPO, **NEAR)
def trl_grpo(draw: Draw, clip: float, beta: float) -> Tensor:
    return trl(draw, "grpo", clip, clip, beta)


@judge("grpo", LIGER, GRPO, **NEAR)
def liger_grpo(draw: Draw, clip: float, beta: float) -> Tensor:
    return liger(draw, "grpo", clip, clip, beta)


SIZES = ({"clip": 0.2, "max_length": 8.0}, {"clip": 0.05, "max_length": 5.0})


@judge("dr_grpo", TRL, SIZES, **NEAR)
def trl_dr_grpo(draw: Draw, clip: float, max_length: float) -> Tensor:
    return trl(draw, "dr_grpo", clip, clip, size=max_length)


@judge("dr_grpo", LIGER, SIZES, **NEAR)
def liger_dr_grpo(draw: Draw, clip: float, max_length: float) -> Tensor:
    return liger(draw, "dr_grpo", clip, clip, size=max_length)


@judge("dr_grpo", VERL, SIZES, **NEAR, note="seq-mean-token-sum-norm")
def verl_dr_grpo(draw: Draw, clip: float, max_length: float) -> Tensor:
    mode = "seq-mean-token-sum-norm"
    return verl(draw, "vanilla", clip, clip, mode, loss_scale_factor=max_length)


DAPO = ({"clip_low": 0.2, "clip_high": 0.28}, {"clip_low": 0.05, "clip_high": 0.5})


@judge("dapo", TRL, DAPO, **NEAR, reduction="token mean")
def trl_dapo(draw: Draw, clip_low: float, clip_high: float) -> Tensor:
    return trl(draw, "dapo", clip_low, clip_high)


@judge("dapo", LIGER, DAPO, **NEAR, reduction="token mean")
def liger_dapo(draw: Draw, clip_low: float, clip_high: float) -> Tensor:
    return liger(draw, "dapo", clip_low, clip_high)


@judge("dapo", VERL, DAPO, **NEAR, reduction="token mean")
def verl_dapo(draw: Draw, clip_low: float, clip_high: float) -> Tensor:
    return verl(draw, "vanilla", clip_low, clip_high)


@judge("dapo", OPENRLHF, DAPO, **NEAR, reduction="token mean")
def openrlhf_dapo(draw: Draw, clip_low: float, clip_high: float) -> Tensor:
    gain = draw["advantages"].unsqueeze(-1)
    loss = _openrlhf_ppo(clip_low, clip_high)
    return loss(draw["token_logps"], draw["old_token_logps"], gain, draw["mask"])[0]


HIGH = ({"clip_high": 4.0}, {"clip_high": 0.28})


@judge("cispo", TRL, HIGH, **NEAR, reduction="token mean", note="its epsilon_high is 1 + ours")
def trl_cispo(draw: Draw, clip_high: float) -> Tensor:
    return trl(draw, "cispo", 0.0, 1 + clip_high)


@judge("cispo", LIGER, HIGH, **NEAR, reduction="token mean", note="as TRL")
def liger_cispo(draw: Draw, clip_high: float) -> Tensor:
    return liger(draw, "cispo", 0.0, 1 + clip_high)


@judge("cispo", VERL, HIGH, **NEAR, reduction="token mean", note="with its lower bound at 0")
def verl_cispo(draw: Draw, clip_high: float) -> Tensor:
    return verl(draw, "cispo", 1.0, clip_high)
