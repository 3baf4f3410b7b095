"""Random responses that a loss of ours and one of somebody else are called on.

A draw knows every tensor of the glossary, without the axis of runs: `draw["chosen_logps"]`. All of
them follow from a few leaves, which is what both sides are differentiated by:

- level "tokens": the policy's log-probabilities of the tokens of each response;
- level "logits": whole distributions over `ACTIONS` tokens at each position, before the softmax.
"""

import torch
from torch import Tensor

ROWS, TOKENS, ACTIONS = 6, 5, 24
SIDES = ("", "chosen_", "rejected_")


class Draw:
    """Six responses per side, of 1 to 5 tokens, under a policy, a reference and an old policy.

    Args:
        seed: of all that is random.
        spread: standard deviation of the policy's log-ratio to the reference, per token, in nats:
            0.3 is early in training, 3 late, 30 a policy that has run away. From 2 on it is also
            the scale of the policy's own log-probabilities.
        level: "tokens" or "logits".
    """

    def __init__(self, seed: int, spread: float = 0.3, level: str = "tokens") -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.level = level
        self.leaves: dict[str, Tensor] = {}
        self.known: dict[str, Tensor] = {}
        for side in SIDES:
            self._responses(side, spread)
        self.known["labels"] = (torch.arange(ROWS) % 3 > 0).double()  # neither side is empty
        for name in ("rewards", "chosen_rewards", "rejected_rewards", "advantages"):
            self.known[name] = self._normal(ROWS)
        best = self.known["rewards"].argmax()
        self.known["best_weights"] = ROWS * (torch.arange(ROWS) == best).double()
        # The estimate for KTO is made from responses to other prompts.
        self.known["other_ratios"] = spread * self._normal(ROWS)
        self.known["kl_estimate"] = self.known["other_ratios"].mean().clamp(min=0)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def _responses(self, side: str, spread: float) -> None:
        lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=self.random)
        lengths[0], lengths[1] = 1, TOKENS
        mask = (torch.arange(TOKENS) < lengths.unsqueeze(-1)).double()
        self.known[f"{side}lengths"], self.known[f"{side}mask"] = lengths.double(), mask
        picked = torch.randint(0, ACTIONS, (ROWS, TOKENS), generator=self.random)
        self.known[f"{side}tokens"] = picked
        if self.level == "tokens":
            # Not so near 0 that odds overflow.
            policy = -0.05 - max(2, spread) * self._normal(ROWS, TOKENS).abs()
            self.leaves[f"{side}token_logps"] = policy.requires_grad_()
            for prefix in ("ref_", "old_"):
                other = policy.detach() - spread * self._normal(ROWS, TOKENS)
                self.known[f"{prefix}{side}token_logps"] = other
        else:
            policy = max(1.5, spread) * self._normal(ROWS, TOKENS, ACTIONS)
            self.leaves[f"{side}logits"] = policy.requires_grad_()
            for prefix in ("ref_", "old_", "target_"):
                other = policy.detach() - spread * self._normal(ROWS, TOKENS, ACTIONS)
                self.known[f"{prefix}{side}logits"] = other

    def __getitem__(self, name: str) -> Tensor:
        """A tensor by its glossary name (or by the names used here), without the axis of runs."""
        if name in self.leaves:
            return self.leaves[name]
        if name not in self.known:
            self.known[name] = self._made(name)
        return self.known[name]

    def _made(self, name: str) -> Tensor:
        if name == "mean_log_ratio":  # over both sides of the pairs, as BCO's running mean
            sides = [self[f"{s}logps"] - self[f"ref_{s}logps"] for s in SIDES[1:]]
            return torch.cat(sides).mean().detach()
        if name.endswith("token_logps"):
            picked = self[f"{_side(name)}tokens"].unsqueeze(-1)
            return self[name.replace("token_logps", "log_probs")].gather(-1, picked).squeeze(-1)
        if name.endswith("log_probs"):
            return self[name.replace("log_probs", "logits")].log_softmax(-1)
        if name.endswith("average_logps"):  # of this file only: the mean over a response's tokens
            return self[name.replace("average_", "")] / self[f"{_side(name)}lengths"]
        if name.endswith("logps"):
            tokens = self[name.replace("logps", "token_logps")]
            return (tokens * self[f"{_side(name)}mask"]).sum(-1)
        raise KeyError(f"tests/oracle/draws.py cannot make {name} yet")

    def labels_of(self, side: str) -> Tensor:
        """Token ids of a side, −100 where there is none, as language-model code writes it."""
        return torch.where(self[f"{side}mask"] > 0, self[f"{side}tokens"], -100)

    def shifted(self, name: str) -> Tensor:
        """Logits as a language model returns them: one place ahead of what they predict."""
        return torch.nn.functional.pad(self[name], (0, 0, 0, 1))

    def shifted_labels(self, side: str) -> Tensor:
        """The labels to go with them."""
        return torch.nn.functional.pad(self.labels_of(side), (1, 0), value=-100)


def _side(name: str) -> str:
    return next((side for side in SIDES[1:] if side in name), "")
