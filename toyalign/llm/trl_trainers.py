"""TRL's three trainers, as far as `toyalign.llm.trl` relies on them: their batches and own losses.

All that TRL could change here without saying so goes into TRL's own loss, which `trl` computes a
second time from it on every training batch and holds to TRL's gradient.
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toyalign.errors import ToyalignError
from toyalign.llm.guards import without_noise
from toyalign.llm.logprobs import score
from toyalign.llm.rows import compares
from toyalign.objectives import Objective, describe, get_objective
from toyalign.objectives.coefficients import compose
from toyalign.objectives.policy_gradient import dapo
from toyalign.shapes import Row, Token, tame_exp

Own = tuple[Objective, dict[str, Any]]  # a loss with its hyperparameters
Parts = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]  # what `compose` takes


@dataclass
class Seen:
    """Log-probabilities that went by, [row, token], nats: zeros where nothing is trained.

    Args:
        policy: the policy's.
        leaf: what TRL was given instead: the same numbers without their past.
        frozen: the reference's, if it was asked.
    """

    policy: Tensor | None = None
    leaf: Tensor | None = None
    frozen: Tensor | None = None


class Home(ABC):
    """A trainer of TRL with an objective in it.

    Args:
        trainer: of TRL.
        card: the objective.
        hyper: its hyperparameters.
        reference: what SFTTrainer is to compare with.
    """

    name, kind = "", ""  # of the trainer, of its data
    sides: tuple[str, ...] = ("",)
    own: tuple[str, ...] = ()  # settings of TRL's own loss
    why = ""  # it may lack a reference

    def __init__(
        self, trainer: Any, card: Objective, hyper: dict[str, Any], reference: nn.Module | None
    ):
        self.trainer, self.card, self.hyper, self.reference = trainer, card, hyper, reference
        self.compares = compares(card)

    @abstractmethod
    def offered(self) -> set[str]:
        """Names of the tensors that there are."""

    @abstractmethod
    def prepare(self) -> None:
        """Set up the trainer, once nothing speaks against the objective."""

    @abstractmethod
    def read(self, seen: Seen, logps: Tensor, inputs: Any) -> Parts:
        """Tokens, masks and all other tensors of a batch, with these log-probabilities."""

    @abstractmethod
    def divisors(self, mask: Tensor, inputs: Any, items: Any) -> tuple[Any, Any]:
        """What divides a mean over rows and a sum over tokens, if these are counted."""

    @abstractmethod
    def stock(self) -> Own:
        """TRL's own loss, its settings being at their defaults."""

    def _split(self, prefix: str, values: Tensor) -> dict[str, Tensor]:
        """[side · row, token] to [1, row, token], by prefix and side."""
        halves = values.float().unsqueeze(0).chunk(len(self.sides), 1)
        return {prefix + side: half for side, half in zip(self.sides, halves, strict=True)}

    def _named(self, *prefixes: str) -> set[str]:
        kinds = ("logps", "token_logps")
        names = {f"{p}{side}{kind}" for p in prefixes for side in self.sides for kind in kinds}
        return names | {f"{side}{kind}" for side in self.sides for kind in ("mask", "lengths")}


class Pairs(Home):
    """DPOTrainer: chosen responses above rejected ones in a batch."""

    name, kind, sides = "DPOTrainer", "pairs", ("chosen_", "rejected_")
    own = ("loss_type", "loss_weights", "f_divergence_type", "ld_alpha", "use_weighting",
           "label_smoothing", "beta")  # fmt: skip
    why = "precompute_ref_log_probs keeps sums over tokens only"

    def offered(self) -> set[str]:
        names = self._named("", "ref_") | {"mean_log_ratio"}
        if self.trainer.precompute_ref_logps:
            names -= {f"ref_{side}token_logps" for side in self.sides}
        return names

    def prepare(self) -> None:
        self.trainer.beta = float(self.hyper.get("beta", self.trainer.args.beta))

    def read(self, seen: Seen, logps: Tensor, inputs: Any) -> Parts:
        mask = inputs["completion_mask"][:, 1:]
        last = slice(-mask.shape[1], None)  # prompt tuning puts tokens of its own in front
        masks, tokens = self._split("", mask), self._split("", logps[:, last])
        data: dict[str, Tensor] = {}
        if seen.frozen is not None:
            tokens |= self._split("ref_", seen.frozen[:, last])
        else:
            data |= {f"ref_{side}logps": inputs[f"ref_{side}logps"][None] for side in self.sides}
        sums = compose(get_objective("dpo").needs, tokens, masks, data)
        ratios = [sums[f"{side}logps"] - sums[f"ref_{side}logps"] for side in self.sides]
        data["mean_log_ratio"] = torch.cat(ratios, 1).detach().mean().view(1, 1)
        return tokens, masks, data

    def divisors(self, mask: Tensor, inputs: Any, items: Any) -> tuple[Any, Any]:
        return 1, None  # the trainer divides by the number of micro-batches

    def stock(self) -> Own:
        return get_objective("dpo"), {"beta": self.trainer.beta}


class Demonstrations(Home):
    """SFTTrainer: its reference is given, or the model without its adapter."""

    name, kind = "SFTTrainer", "demonstrations"
    own = ("loss_type", "label_smoothing_factor", "packing", "padding_free", "eval_packing")
    why = "give it one, reference=..., or train an adapter"

    def offered(self) -> set[str]:
        adapted = hasattr(self.trainer.model, "disable_adapter")
        return self._named("", *["ref_"] * (adapted or self.reference is not None))

    def prepare(self) -> None:
        if self.trainer.compute_loss_func is not None:
            raise ToyalignError(f"compute_loss_func and {self.card.name} are two losses: name one")
        if not self.compares:
            return
        without_noise(self.trainer.model)
        if self.reference is not None:
            frozen = self.reference.eval().requires_grad_(False)
            self.reference = self.trainer.accelerator.prepare_model(frozen, evaluation_mode=True)

    def read(self, seen: Seen, logps: Tensor, inputs: Any) -> Parts:
        wanted = inputs["labels"] != -100
        mask = wanted[:, 1:]
        tokens = self._split("", logps[:, -mask.shape[1] :])
        if self.compares and seen.frozen is None:
            plain = self.trainer.model
            off = nullcontext() if self.reference is not None else plain.disable_adapter()
            with torch.no_grad(), off:
                texts = (inputs["input_ids"], inputs["attention_mask"], wanted.long())
                seen.frozen = score(self.reference or plain, *texts, entropy=False)[0].logps
        if seen.frozen is not None:
            tokens |= self._split("ref_", seen.frozen)
        return tokens, self._split("", mask), {}

    def divisors(self, mask: Tensor, inputs: Any, items: Any) -> tuple[Any, Any]:
        if items is None:
            return 1, mask.sum().clamp(min=1)
        trainer = self.trainer
        processes = trainer.accelerator.num_processes // trainer.get_tp_size()
        shares = processes if trainer.args.average_tokens_across_devices else 1
        return trainer.current_gradient_accumulation_steps, items / shares

    def stock(self) -> Own:
        return _NLL, {}


class Samples(Home):
    """GRPOTrainer: its responses, its advantages, and the policy that wrote them."""

    name, kind = "GRPOTrainer", "samples"
    own = ("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level",
           "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy",
           "off_policy_mask_threshold", "multi_objective_aggregation")  # fmt: skip
    why = "with beta=0 in the GRPOConfig it computes none"

    def offered(self) -> set[str]:
        told = self.trainer.beta or self.hyper.get("beta") == 0
        return self._named("", "old_", *["ref_"] * bool(told)) | {"advantages"}

    def prepare(self) -> None:
        args, name = self.trainer.args, self.card.name
        if args.use_vllm and args.vllm_importance_sampling_correction:
            raise ToyalignError(f"{name} has no place for vllm_importance_sampling_correction")
        mine = self.hyper.get("beta", self.trainer.beta if self.compares else 0)
        if mine != self.trainer.beta:
            raise ToyalignError(
                f"beta is {self.trainer.beta} in the GRPOConfig, and {mine} in {name}: say the same"
            )
        asked = self.card.advantage
        if asked == "raw":
            raise ToyalignError(f"{name} learns from raw rewards, and TRL hands on advantages only")
        scale = "group" if asked == "group" else "none"
        if self.trainer.scale_rewards != scale:
            raise ToyalignError(
                f"{name} wants the advantage {asked!r}: set scale_rewards={scale!r} in the "
                "GRPOConfig (a loss of your own says on its card what it wants)"
            )

    def read(self, seen: Seen, logps: Tensor, inputs: Any) -> Parts:
        mask = inputs["completion_mask"]
        mask = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
        logps = logps[:, -mask.shape[1] :]
        tokens = self._split("", logps)
        for prefix in ("old_", "ref_"):  # what TRL does not compute is the policy as it is
            frozen = inputs.get(f"{prefix}per_token_logps")
            tokens |= self._split(prefix, logps.detach() if frozen is None else frozen)
        advantages = inputs["advantages"][None] * self._left_out()
        return tokens, self._split("", mask), {"advantages": advantages}

    def _left_out(self) -> float:
        """What turns R − mean of the group into R − mean of the others, which has no bias."""
        if self.card.advantage not in ("rloo", "baseline"):
            return 1.0
        trainer = self.trainer
        count = trainer.num_generations if self._training else trainer.num_generations_eval
        return float(count / max(1, count - 1))

    @property
    def _training(self) -> bool:
        return bool(self.trainer.model.training)

    def divisors(self, mask: Tensor, inputs: Any, items: Any) -> tuple[Any, Any]:
        trainer = self.trainer
        tokens = inputs["num_items_in_batch"].clamp(min=1) / trainer.accelerator.num_processes
        if not self._training:
            return 1, tokens
        steps = trainer.current_gradient_accumulation_steps
        return steps, tokens * steps / trainer.args.steps_per_generation

    def stock(self) -> Own:
        trainer = self.trainer
        low, high, beta = trainer.epsilon_low, trainer.epsilon_high, trainer.beta
        corrected, gain = bool(trainer.args.use_bias_correction_kl), 1 / self._left_out()
        return _DAPO, {"low": low, "high": high, "beta": beta, "gain": gain, "corrected": corrected}


def _nll(token_logps: Token) -> Token:
    return -token_logps


def _dapo(
    token_logps: Token,
    old_token_logps: Token,
    ref_token_logps: Token,
    advantages: Row,
    *,
    low: float = 0.2,
    high: float = 0.2,
    beta: float = 0.0,
    gain: float = 1.0,
    corrected: bool = True,
) -> Token:
    """TRL's `dapo`, with its KL term, which the ratio may multiply."""
    values = dapo(token_logps, old_token_logps, gain * advantages, clip_low=low, clip_high=high)
    gap = ref_token_logps - token_logps
    ratio = tame_exp(token_logps - old_token_logps) if corrected else 1.0
    return values + beta * (tame_exp(gap) - gap - 1) * ratio


_NLL, _DAPO = describe(_nll), describe(_dapo)
HOMES: dict[str, type[Home]] = {home.name: home for home in (Pairs, Demonstrations, Samples)}
