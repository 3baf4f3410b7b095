"""Judges of the losses on pairs that need no reference."""

import torch
from draws import SIDES, Draw
from judging import judge
from libraries import ACCELERATOR, LIGER, LLAMA, OAT, OXRL, PADDLE, PARLAI, TRL, both, paddle
from torch import Tensor
from wheels import Stub, function, passage

CPO = "trl/experimental/cpo/cpo_trainer.py"
ORPO = "trl/experimental/orpo/orpo_trainer.py"
AVERAGES = [f"{side}average_logps" for side in SIDES[1:]]
SUMS = [f"{side}logps" for side in SIDES[1:]]

_cpo_loss = function(TRL, CPO, "CPOTrainer.cpo_loss")
_orpo_loss = function(
    TRL, ORPO, "ORPOTrainer.odds_ratio_loss", log1mexp=function(TRL, ORPO, "log1mexp")
)
_select = function(
    TRL, "trl/trainer/utils.py", "selective_log_softmax", is_triton_available=lambda: False
)
_liger_cpo = function(
    LIGER, "liger_kernel/chunked_loss/cpo_loss.py", "LigerFusedLinearCPOFunction.preference_loss_fn"
)
_liger_orpo = function(
    LIGER,
    "liger_kernel/chunked_loss/orpo_loss.py",
    "LigerFusedLinearORPOFunction.preference_loss_fn",
)
_llama_orpo = function(
    LLAMA, "llamafactory/train/dpo/trainer.py", "CustomDPOTrainer.odds_ratio_loss"
)
_simpo = {
    LIGER: function(
        LIGER,
        "liger_kernel/chunked_loss/simpo_loss.py",
        "LigerFusedLinearSimPOFunction.preference_loss_fn",
    ),
    LLAMA: function(LLAMA, "llamafactory/train/dpo/trainer.py", "CustomDPOTrainer.simpo_loss"),
    OAT: function(OAT, "oat/learners/loss.py", "SimPOLoss"),
}


def whole_trainer(kind: str, path: str, **names: object):
    """The lines of a trainer of TRL's from the logits to the batch's loss, on one pair at a time.

    Its likelihood term is a mean over the tokens of the batch; with one pair that is the mean over
    the chosen answer's tokens, as ours has it.
    """
    forward = passage(
        TRL,
        path,
        f"{kind}.concatenated_forward",
        first="def cross_entropy_loss",
        last="rejected_logps = ",
    )
    logps = function(TRL, path, f"{kind}.get_batch_logps", selective_log_softmax=_select)
    combine = passage(
        TRL, path, f"{kind}.get_batch_loss_metrics", first="forward_output = ", last="loss = "
    )

    def loss(draw: Draw, **settings: object) -> Tensor:
        rows = []
        for row in range(len(draw["chosen_lengths"])):
            trainer = Stub(
                accelerator=ACCELERATOR,
                is_encoder_decoder=False,
                aux_loss_enabled=False,
                get_batch_logps=logps,
                **settings,
            )
            labels = torch.stack([draw.shifted_labels(side)[row] for side in SIDES[1:]])
            done = forward(
                self=trainer,
                all_logits=torch.stack([draw.shifted(f"{side}logits")[row] for side in SIDES[1:]]),
                # There is no prompt but one token, so "prompt and response" is the response.
                concatenated_batch={
                    "concatenated_labels": labels,
                    "concatenated_input_ids": labels.clamp(min=0),
                    "concatenated_attention_mask": (labels >= 0).long(),
                },
                len_chosen=1,
            )
            nll = done.nll_loss if hasattr(done, "nll_loss") else done.chosen_nll_loss
            trainer.concatenated_forward = lambda *_, d=done, n=nll: (
                d.chosen_logps,
                d.rejected_logps,
                None,
                None,
                n,
            )
            for name, method in names.items():
                setattr(trainer, name, lambda *logps, m=method, t=trainer: m(t, *logps))
            rows.append(combine(self=trainer, model=None, batch=None).loss)
        return torch.stack(rows)

    return loss


_cpo = whole_trainer("CPOTrainer", CPO, cpo_loss=_cpo_loss)
_orpo = whole_trainer("ORPOTrainer", ORPO, odds_ratio_loss=_orpo_loss)


def cpo_term(draw: Draw, names: list[str], loss_type: str, **settings: object) -> Tensor:
    """TRL's preference term alone, by row."""
    trainer = Stub(
        accelerator=ACCELERATOR,
        loss_type=loss_type,
        **{"alpha": 0.0, "label_smoothing": 0.0, **settings},
    )
    return _cpo_loss(trainer, *[draw[name] for name in names])[0]


# ParlAI's agent raises responses of positive reward and lowers those of negative reward, each with
# a mean over their tokens: one pair at a time that is the mean over the tokens of each answer.

_unlikelihood = function(
    PARLAI,
    "projects/dialogue_unlikelihood/agents.py",
    "RewardUnlikelihoodAgentTrait.compute_loss",
    AverageMetric=lambda *_: None,
    PPLMetric=lambda *_: None,
)


@judge(
    "unlikelihood",
    PARLAI,
    ({"alpha": 1.0}, {"alpha": 0.3}),
    level="logits",
    note="one pair at a time",
)
def parlai_reward_unlikelihood(draw: Draw, alpha: float) -> Tensor:
    rows = []
    for row in range(len(draw["chosen_lengths"])):
        labels = torch.stack([draw.labels_of(side)[row] for side in SIDES[1:]]).clamp(min=-1)
        logits = torch.stack([draw[f"{side}logits"][row] for side in SIDES[1:]])
        agent = Stub(
            model=lambda ys, logits=logits: (logits, logits.argmax(-1)),
            _model_input=lambda _: (),
            NULL_IDX=-1,
            is_training=True,
            opt={"fp16": False, "alpha": alpha},
            global_metrics=Stub(add=lambda *_: None),
        )
        batch = Stub(label_vec=labels, rewards=torch.tensor([1.0, -1.0]))
        rows.append(_unlikelihood(agent, batch))
    return torch.stack(rows)


SIMPO = ({"beta": 2.0, "gamma": 1.0}, {"beta": 10.0, "gamma": 3.0})


@judge("simpo", TRL, SIMPO)
def trl_simpo(draw: Draw, beta: float, gamma: float) -> Tensor:
    return cpo_term(draw, AVERAGES, "simpo", beta=beta, simpo_gamma=gamma)


@judge("simpo", LIGER, SIMPO)
def liger_simpo(draw: Draw, beta: float, gamma: float) -> Tensor:
    target = both(draw, "{}tokens")
    return _simpo[LIGER](*[draw[n] for n in AVERAGES], target, beta=beta, gamma=gamma)[0]


@judge("simpo", LLAMA, SIMPO)
def llama_simpo(draw: Draw, beta: float, gamma: float) -> Tensor:
    return _simpo[LLAMA](Stub(beta=beta, simpo_gamma=gamma), *[draw[n] for n in AVERAGES])


@judge("simpo", OAT, SIMPO, note="its margin is gamma/beta")
def oat_simpo(draw: Draw, beta: float, gamma: float) -> Tensor:
    chosen, rejected = (draw[n] for n in AVERAGES)
    return _simpo[OAT](beta, gamma / beta)(chosen, rejected, torch.ones_like(chosen))[0]


ALPHAPO = {
    "hyper": (
        {"beta": 2.5, "gamma": 0.1, "alpha": 0.25},
        {"beta": 1.0, "gamma": 1.0, "alpha": -0.5},
        {"beta": 2.5, "gamma": 1.0, "alpha": 0.0},
    ),
    "spreads": (0.3, 3.0),  # beyond 30 nats ours goes on as a tangent
}
_oxrl_alphapo = function(OXRL, "oxrl/algs/alphapo.py", "AlphaPO")


@judge("alphapo", OXRL, **ALPHAPO)
def oxrl_alphapo(draw: Draw, beta: float, gamma: float, alpha: float) -> Tensor:
    loss = _oxrl_alphapo(None, None, beta=beta, gamma=gamma, alpha=alpha)
    return loss.compute_loss(*[draw[name] for name in AVERAGES])[0]


@judge("alphapo", TRL, **ALPHAPO)
def trl_alphapo(draw: Draw, beta: float, gamma: float, alpha: float) -> Tensor:
    return cpo_term(draw, AVERAGES, "simpo", beta=beta, simpo_gamma=gamma, alpha=alpha)


@judge(
    "cpo",
    TRL,
    ({"beta": 0.1, "alpha": 1.0}, {"beta": 0.7, "alpha": 0.2}, {"beta": 0.7, "alpha": 0.0}),
    level="logits",
    note="one pair at a time",
)
def trl_cpo(draw: Draw, beta: float, alpha: float) -> Tensor:
    settings = {"loss_type": "sigmoid", "label_smoothing": 0.0, "alpha": 0.0}
    return _cpo(draw, beta=beta, cpo_alpha=alpha, **settings)


@judge("cpo", LIGER, ({"beta": 0.1, "alpha": 0.0},))
def liger_cpo(draw: Draw, beta: float, alpha: float) -> Tensor:
    return _liger_cpo(*[draw[name] for name in SUMS], both(draw, "{}tokens"), beta=beta)[0]


LAMS = ({"lam": 0.1}, {"lam": 1.5})


@judge("orpo", TRL, LAMS, level="logits", note="one pair at a time, without a prompt")
def trl_orpo(draw: Draw, lam: float) -> Tensor:
    return _orpo(draw, beta=lam)


@judge("orpo", LIGER, LAMS, note="plus the likelihood, which its base class adds")
def liger_orpo(draw: Draw, lam: float) -> Tensor:
    odds = _liger_orpo(*[draw[name] for name in AVERAGES], both(draw, "{}tokens"), beta=lam)[0]
    return odds - draw["chosen_average_logps"].mean()


@judge("orpo", LLAMA, LAMS)
def llama_orpo(draw: Draw, lam: float) -> Tensor:
    return _llama_orpo(Stub(beta=lam), *[draw[name] for name in AVERAGES])


# SLiC-HF's rank loss is CPO's hinge at beta = 1/delta, times delta; the rest is plain likelihood.


@judge(
    "slic",
    TRL,
    ({"delta": 1.0, "lam": 0.0}, {"delta": 3.0, "lam": 0.0}, {"delta": 3.0, "lam": 0.1}),
    note="delta times CPO's hinge at beta 1/delta, plus the likelihood",
)
def trl_cpo_hinge(draw: Draw, delta: float, lam: float) -> Tensor:
    hinge = cpo_term(draw, SUMS, "hinge", beta=1 / delta)
    return delta * hinge - lam * draw["chosen_logps"]


@judge("orpo", PADDLE, ({"lam": 1.0},), note="plus the likelihood")
def paddle_or(draw: Draw, lam: float) -> Tensor:
    return paddle(draw, "or") - draw["chosen_average_logps"].mean()


@judge("simpo", PADDLE, SIMPO, note="reference at 0")
def paddle_simpo(draw: Draw, beta: float, gamma: float) -> Tensor:
    for name in ("ref_chosen_average_logps", "ref_rejected_average_logps"):
        draw.known[name] = torch.zeros_like(draw["chosen_logps"])
    return paddle(draw, "simpo", beta=beta, simpo_gamma=gamma)
