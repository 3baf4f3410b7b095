"""Judges of the losses on pairs, but those that need no reference."""

import torch
from draws import SIDES, Draw
from judging import judge
from libraries import (
    ACCELERATOR,
    LLAMA,
    OAT,
    OLD_TRL,
    OXRL,
    PADDLE,
    TORCHTUNE,
    TRL,
    call,
    dpo_of,
    four,
    judges,
    kinds,
    liger,
    oat,
    old_trl,
    online,
    openrlhf,
    oxrl,
    paddle,
    running_mean,
    torchtune,
    torchtune_hinge,
    trl,
)
from torch import Tensor
from wheels import Stub, function, passage

BETAS = ({"beta": 0.1}, {"beta": 0.7})
TAUS = ({"tau": 0.1}, {"tau": 0.7})
EPS = ({"beta": 0.1, "eps": 0.1}, {"beta": 0.7, "eps": 0.3})
EXO = ({"beta": 0.1, "eps": 1e-3}, {"beta": 0.7, "eps": 0.2})
ALPHAS = ({"beta": 0.1, "alpha": 0.01}, {"beta": 0.7, "alpha": 0.3})
SMOOTHED = {"eps": "label_smoothing"}
# Ours goes on as a tangent where an exponent passes 30, theirs overflows later or is capped.
# Responses have up to 5 tokens.
BELOW_30 = {"spreads": (0.3, 2.0)}

# The margin alone counts.

dpo = [call(lib, "sigmoid") for lib in (trl, old_trl, liger)]
judges("dpo", BETAS, *dpo, call(torchtune), call(openrlhf), call(oat), call(oxrl, "dpo", "DPO"))
judges("online_dpo", BETAS, call(online, "sigmoid"), note="with its choice of the better response")

smoothed = [call(old_trl, "sigmoid", **SMOOTHED), call(torchtune, **SMOOTHED)]
smoothed += [call(lib, **SMOOTHED) for lib in (openrlhf, oat)]
judges("cdpo", EPS, *smoothed, call(paddle, "sigmoid", **SMOOTHED))
judges("robust_dpo", EPS, *[call(lib, "robust", **SMOOTHED) for lib in (trl, old_trl, liger)])
judges("exo", EXO, *[call(lib, "exo_pair", **SMOOTHED) for lib in (trl, old_trl, liger)])

judges("ipo", TAUS, call(openrlhf, tau="beta", ipo=(True,)), call(oat, "IPO", tau="beta"))
judges("ipo", TAUS, call(old_trl, "ipo", tau="beta"), note="dpo_loss alone; its trainer averages")
judges("online_ipo", TAUS, call(online, "ipo", tau="beta"), note="sums where DPOTrainer averages")
judges("ipo_mean", TAUS, call(trl, "ipo", tau="beta"), call(paddle, "ipo", tau="beta"))

hinges = [call(lib, "hinge") for lib in (trl, old_trl, liger, paddle)]
judges("hinge", BETAS, *hinges, call(torchtune_hinge, beta="gamma"), call(oat, "SLiC"))

DISCO = ({"beta": 0.05, "tau": 0.05}, {"beta": 0.7, "tau": 0.5})
discopop = [call(lib, "discopop", tau="discopop_tau") for lib in (trl, old_trl, liger)]
judges("discopop", DISCO, *discopop, spreads=(0.3, 3.0))

judges("aot", BETAS, call(trl, "aot"), call(old_trl, "aot"))
judges("aot_unpaired", BETAS, call(trl, "aot_unpaired"), call(oxrl, "aot", "AOT"))
judges("aot_unpaired", BETAS, call(old_trl, "aot_pair"), note="there named aot_pair")


@judge("infonca", TORCHTUNE, ({"beta": 0.1, "alpha": 1.0}, ALPHAS[1]), note="as cDPO, eps by row")
def soft_labels(draw: Draw, beta: float, alpha: float) -> Tensor:
    wrong = torch.sigmoid((draw["rejected_rewards"] - draw["chosen_rewards"]) / alpha)
    return torchtune(draw, beta=beta, label_smoothing=wrong)


def in_order(draw: Draw) -> dict[str, Tensor]:
    """Rewards whose order is that of the pair, as the logarithm of the gap wants it."""
    rewards = torch.stack([draw["chosen_rewards"], draw["rejected_rewards"]])
    return {"chosen_rewards": rewards.amax(0) + 0.01, "rejected_rewards": rewards.amin(0)}


def gap(draw: Draw) -> Tensor:
    return in_order(draw)["chosen_rewards"] - in_order(draw)["rejected_rewards"]


@judge("offset_dpo", PADDLE, ALPHAS, given=in_order, note="adds 1e-6 to the gap")
def offset_alpha(draw: Draw, beta: float, alpha: float) -> Tensor:
    return paddle(draw, "sigmoid", gap(draw) - 1e-6, beta=beta, offset_alpha=alpha)


@judge("offset_dpo", OXRL, ALPHAS, given=in_order, note="its constant by row")
def odpo(draw: Draw, beta: float, alpha: float) -> Tensor:
    return oxrl(draw, "odpo", "ODPO", beta=beta, odpo_delta=alpha * gap(draw).log())


# Each answer is held to the reference for itself.

DPOP = ({"beta": 0.3, "lam": 50.0}, {"beta": 0.1, "lam": 5.0})
judges("dpop", DPOP, call(oat, lam="dpo_positive_lambda"))
judges("dpop", DPOP, call(paddle, "dpop", lam="dpop_lambda"))
judges("minor_dpo", BETAS, call(oxrl, "minor_dpo", "MinorDPO"))
CAL = ({"beta": 0.001, "weight": 1.0}, {"beta": 0.7, "weight": 0.5})
judges("cal_dpo", CAL, call(oxrl, "caldpo", "CalDPO", weight="caldpo_lambda"))
judges("nca", BETAS, *[call(lib, "nca_pair") for lib in (trl, old_trl, liger, paddle)])
judges("apo_zero", BETAS, *[call(lib, "apo_zero") for lib in (trl, old_trl, liger)])
judges("apo_down", BETAS, *[call(lib, "apo_down") for lib in (trl, old_trl, liger)])
SPPO = [{"beta": beta, "scale": 1.0} for beta in (0.001, 0.7)]
sppo = [call(lib, "sppo_hard", scale=None) for lib in (trl, old_trl, liger, paddle)]
judges("sppo", SPPO, *sppo, note="without the paper's factor 1/2, so scale = 1")


_llama_bco = function(LLAMA, "llamafactory/train/dpo/trainer.py", "CustomDPOTrainer.bco_loss")


def no_shift(draw: Draw) -> dict[str, Tensor]:
    return {"mean_log_ratio": torch.zeros(())}


judges("bco", BETAS, call(old_trl, "bco_pair"), note="the first step of its running mean")
unshifted = [call(lib, "bco_pair") for lib in (trl, liger)]
judges("bco", BETAS, *unshifted, given=no_shift, note="without the shift, so a mean of 0")


@judge("bco", LLAMA, BETAS, note="the first step of its running mean")
def bco_loss(draw: Draw, beta: float) -> Tensor:
    return _llama_bco(Stub(beta=beta, running=running_mean(ACCELERATOR)), *four(draw))


NLL = ({"beta": 0.1, "alpha": 1.0}, {"beta": 0.7, "alpha": 0.2})
judges("dpo_nll", NLL, call(oat, alpha="sft_weight"))


@judge("dpo_nll", TRL, NLL, note='["sigmoid", "sft"], one pair at a time')
def sigmoid_and_sft(draw: Draw, beta: float, alpha: float) -> Tensor:
    rows = [
        trl(draw, ["sigmoid", "sft"], [1.0, alpha], rows=slice(row, row + 1), beta=beta)
        for row in range(len(draw["chosen_lengths"]))
    ]
    return torch.cat(rows)


# XPO: there the response of the reference is one half of the pair. Which one: row by row.

XPO = ({"beta": 0.1, "alpha": 1e-5}, {"beta": 0.7, "alpha": 0.3})
_xpo = function(OLD_TRL, "trl/trainer/xpo_trainer.py", "XPOTrainer._compute_losses")


def policy_won(draw: Draw) -> Tensor:
    return torch.arange(len(draw["chosen_lengths"])) % 2 == 0


def half_of_the_pair(draw: Draw) -> dict[str, Tensor]:
    return {"logps": torch.where(policy_won(draw), draw["rejected_logps"], draw["chosen_logps"])}


@judge("xpo", OLD_TRL, XPO, given=half_of_the_pair, note="with one half of the pair for logps")
def xpo(draw: Draw, beta: float, alpha: float) -> Tensor:
    won = policy_won(draw)
    trainer = Stub(args=Stub(loss_type="sigmoid"), beta=beta, alpha=alpha, accelerator=ACCELERATOR)
    halves = []
    for prefix in ("", "ref_"):
        chosen, rejected = (
            draw[f"{prefix}{side}token_logps"] * draw[f"{side}mask"] for side in SIDES[1:]
        )
        of_policy = torch.where(won.unsqueeze(-1), chosen, rejected)
        of_reference = torch.where(won.unsqueeze(-1), rejected, chosen)
        halves.append((of_policy, of_reference))
    (policy, policy_on_ref), (ref, ref_on_ref) = halves
    return _xpo(trainer, policy, policy_on_ref, ref_on_ref, ref, won)[0]


_oat_xpo = passage(
    OAT,
    "oat/algorithms/xpo.py",
    "XPOLearner.learning_step",
    first="chosen = torch.tensor(extra['chosen_ids'])",
    last="loss = preference_loss + ",
)


@judge("xpo", OAT, XPO, given=half_of_the_pair, note="with one half of the pair for logps")
def learning_step(draw: Draw, beta: float, alpha: float) -> Tensor:
    won = policy_won(draw)
    return _oat_xpo(
        self=Stub(xpo_alpha=alpha),
        extra={"chosen_ids": (~won).long().tolist()},  # 0 where the rejected one is the reference's
        device="cpu",
        chosen_logps=draw["chosen_logps"],
        rejected_logps=draw["rejected_logps"],
        loss_masks=torch.ones(len(won)),
        preference_loss=oat(draw, beta=beta),
    ).loss


# Other functions of the ratio.

judges("f_dpo_forward", BETAS, call(trl, "sigmoid", f_divergence_type=("forward_kl",)), **BELOW_30)
judges("f_dpo_jsd", BETAS, call(trl, "sigmoid", f_divergence_type=("js_divergence",)))
judges(
    "f_dpo_jsd",
    BETAS,
    call(old_trl, "sigmoid", f_divergence_type=(kinds.JS_DIVERGENCE,)),
    rtol=1e-7,
    note="torch's softplus drops exp(−20) there",
)
POWERS = [{"beta": b, "alpha": a} for b, a in ((0.1, 0.5), (0.7, 0.2), (0.7, 1.5))]
alpha_divergence = {"f_divergence_type": ("alpha_divergence",), "alpha": "f_alpha_divergence_coef"}
judges("f_dpo_alpha", POWERS, call(trl, "sigmoid", **alpha_divergence), **BELOW_30)


@judge("f_dpo_alpha", OLD_TRL, POWERS, **BELOW_30, note="its alpha is 1 − ours")
def old_alpha_divergence(draw: Draw, beta: float, alpha: float) -> Tensor:
    settings = {
        "f_divergence_type": kinds.ALPHA_DIVERGENCE,
        "f_divergence_params": {"alpha_divergence_coef": 1 - alpha},
    }
    return old_trl(draw, "sigmoid", beta=beta, **settings)


UNCLIPPED = [{"beta": beta, "r_max": 1e9} for beta in (0.05, 0.7)]
chipo = call(oxrl, "chipo", "ChiPO", r_max=None)
judges("chi_po", UNCLIPPED, chipo, **BELOW_30, note="without the clip, so with a far one")

# Tokens and lengths count.

judges("dpo_norm", ({"beta": 5.0}, {"beta": 0.7}), call(trl, "sigmoid_norm"))
judges("r_dpo", ALPHAS, call(oat, "LR_DPO", alpha="len_reg_alpha"))
SHARES = ({"beta": 0.1, "alpha": 0.5}, {"beta": 0.7, "alpha": 0.2})
judges("ld_dpo", SHARES, call(trl, "sigmoid", alpha="ld_alpha"))
weighted = call(trl, "sigmoid", use_weighting=(True,))
CAP = "TRL 0.24 caps the product of the weights at 1"
judges("wpo", ({"beta": 0.01}, {"beta": 0.7}), weighted, level="logits", note=CAP)


@judge("r_dpo", OXRL, ALPHAS, note="subtracts the term, so at the opposite alpha")
def rdpo(draw: Draw, beta: float, alpha: float) -> Tensor:
    lengths = draw["chosen_lengths"], draw["rejected_lengths"]
    return oxrl(draw, "rdpo", "RDPO", *lengths, beta=beta, alpha=-alpha)


_llama_logps = function(
    LLAMA, "llamafactory/train/trainer_utils.py", "get_batch_logps", IGNORE_INDEX=-100
)


@judge("ld_dpo", LLAMA, SHARES, level="logits", note="its trainer leaves the reference unweighted")
def get_batch_logps(draw: Draw, beta: float, alpha: float) -> Tensor:
    parts = []
    for prefix in ("", "ref_"):
        logits = torch.cat([draw.shifted(f"{prefix}{side}logits") for side in SIDES[1:]])
        labels = torch.cat([draw.shifted_labels(side) for side in SIDES[1:]])
        parts += _llama_logps(logits, labels, ld_alpha=alpha)[0].chunk(2)
    return dpo_of(*parts, beta=beta)
