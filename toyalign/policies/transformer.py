"""A tiny causal transformer, which has learned to write before it is aligned."""

import hashlib
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from toyalign.errors import ToyalignError
from toyalign.optimisers import Adam
from toyalign.policies import policy
from toyalign.policies.networks import evaluated
from toyalign.policies.tabular import normalise
from toyalign.problems.sampled import draw
from toyalign.problems.world import World
from toyalign.streams import Streams

_KEPT = 4
_starts: dict[str, Tensor] = {}


@policy
@dataclass(frozen=True)
class Transformer:
    """Pre-norm transformer over the prompt's token and the response's; theta is [run, parameter].

    Its start, and so the reference, is what it has learned from the problem's corpus: in
    `two_writers` texts of careful writers and of sloppy ones, after whose first error more are to
    be expected. All parameters are shared by all prompts and positions.

    Args:
        layers: number of blocks.
        heads: attention heads, a divisor of the width.
        width: size of the residual stream.
        fits: Adam steps of supervised fine-tuning on the corpus.
        batch: texts per such step.
        fit_lr: learning rate of these steps.

    Raises:
        ToyalignError: if the heads do not divide the width, or a number is below 1 (fits: below 0).
    """

    layers: int = 2
    heads: int = 2
    width: int = 32
    fits: int = 300
    batch: int = 64
    fit_lr: float = 3e-3

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "batch"):
            if getattr(self, name) < 1:
                raise ToyalignError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.heads:
            raise ToyalignError(f"heads={self.heads} does not divide width={self.width}")
        if self.fits < 0 or not self.fit_lr > 0:
            raise ToyalignError("fits must be 0 or more, and fit_lr above 0")

    def start(self, world: World, streams: Streams) -> Tensor:
        """Random weights from each run's own stream, then fitted to each run's own corpus."""
        tokens, _ = _texts(world)
        corpus: Tensor = world.corpus  # type: ignore[attr-defined]
        about: Tensor = world.corpus_prompts  # type: ignore[attr-defined]
        sizes = [p.numel() for p in self._network(world).parameters()]
        normals = torch.from_numpy(streams.normals("start", sum(sizes)))
        dtype = world.reference_logits.dtype
        parts = []
        for part, (name, parameter) in zip(
            normals.split(sizes, 1), self._network(world).named_parameters(), strict=True
        ):
            if parameter.ndim == 2:
                parts.append(part * (0.5 if "place" in name else parameter.shape[1] ** -0.5))
            else:  # scales of the norms are 1, biases 0
                one = "norm" in name and name.endswith("weight")
                parts.append(torch.full_like(part, float(one)))
        theta = torch.cat(parts, 1).to(dtype)
        # Objectives that are compared start from the same worlds: fit each of them once.
        key = hashlib.sha256(theta.numpy().tobytes() + corpus.numpy().tobytes())
        key.update(repr((self, about.tolist(), tokens.shape[-1])).encode())
        found = _starts.get(key.hexdigest())
        if found is None:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # more only get in each other's way at this size
            try:
                found = self._fitted(theta, world, corpus, about)
            finally:
                torch.set_num_threads(threads)
            while len(_starts) >= _KEPT:
                del _starts[next(iter(_starts))]
            _starts[key.hexdigest()] = found
        return found.clone()

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats. The unseen prompts of a world of sequences stand in its table."""
        tokens, prompts = _texts(world)
        runs = len(theta)
        logits = self._logits(theta, world, tokens.expand(runs, -1, -1), prompts.expand(runs, -1))
        return normalise(logits.flatten(1), world)

    def hidden(self, theta: Tensor, world: World) -> Tensor:
        """The last hidden states that predict each token, [run, response, position, width].

        The first position is the prompt's: what `similarity.ches` compares.
        """
        tokens, prompts = _texts(world)
        runs = len(theta)
        read = tokens.expand(runs, -1, -1), prompts.expand(runs, -1)
        network = self._network(world)
        marks = self._marks(theta, world, *read)
        return evaluated(Hidden(network), theta, marks)

    def write(self, theta: Tensor, world: World, prompts: Tensor, uniforms: Tensor) -> Tensor:
        """Responses to prompts, token by token at temperature 1, [run, response, token].

        Args:
            theta: [run, parameter].
            world: whose vocabulary and length the responses have.
            prompts: [run, response], the prompt of each.
            uniforms: [run, response, token] in [0, 1), one for each token.
        """
        tokens = torch.zeros(uniforms.shape, dtype=torch.long)
        for place in range(uniforms.shape[-1]):
            logits = self._logits(theta, world, tokens[..., : place + 1], prompts)[..., -1, :]
            table = torch.softmax(logits, -1).flatten(0, 1)
            drawn = draw(table, uniforms[..., place].reshape(-1, 1))
            tokens[..., place] = drawn.view(prompts.shape)
        return tokens

    def _fitted(self, theta: Tensor, world: World, corpus: Tensor, about: Tensor) -> Tensor:
        """Adam on the mean log-probability of the corpus's tokens, batch after batch."""
        optimiser, theta = Adam(), theta.clone()
        state, runs = optimiser.state(theta), len(theta)
        lr = theta.new_full((runs, 1), self.fit_lr)
        for step in range(self.fits):
            picks = torch.arange(step * self.batch, (step + 1) * self.batch) % corpus.shape[1]
            leaf = theta.detach().requires_grad_()
            texts = corpus[:, picks]
            logits = self._logits(leaf, world, texts, about[picks].expand(runs, -1))
            found = torch.log_softmax(logits, -1).gather(-1, texts.unsqueeze(-1))
            (grad,) = torch.autograd.grad(-found.flatten(1).mean(1).sum(), leaf)
            optimiser.step(theta, grad, lr, state, step)
        return theta

    def _logits(self, theta: Tensor, world: World, tokens: Tensor, prompts: Tensor) -> Tensor:
        """[run, text, position, token] before normalisation."""
        return evaluated(self._network(world), theta, self._marks(theta, world, tokens, prompts))

    def _marks(self, theta: Tensor, world: World, tokens: Tensor, prompts: Tensor) -> Tensor:
        """What is read before each token, one-hot, [run, text, position, word]."""
        asked = prompts.unsqueeze(-1) + world.actions
        read = torch.cat([asked, tokens[..., :-1]], -1)
        count = world.actions + self._prompts(world)
        return torch.nn.functional.one_hot(read, count).to(theta.dtype)

    def _network(self, world: World) -> "Network":
        assert world.tokens is not None
        tall = self._prompts(world)
        sizes = (world.actions, tall, world.tokens.shape[-1])
        return _network(self.layers, self.heads, self.width, *sizes)

    def _prompts(self, world: World) -> int:
        about: Tensor = world.corpus_prompts  # type: ignore[attr-defined]
        return int(about.max()) + 1


class Network(nn.Module):
    """The transformer for one run; reads one-hot tokens [text, position, word].

    It is written with matrix products and ReLU alone: look-ups add up gradients in an order of
    their own, and a curved activation rounds the end of a tensor differently.
    """

    def __init__(self, layers: int, heads: int, width: int, tokens: int, prompts: int, long: int):
        super().__init__()
        self.heads = heads
        self.words = nn.Linear(tokens + prompts, width, bias=False, device="meta")
        self.place = nn.Parameter(torch.empty(long, width, device="meta"))
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, device="meta")
        self.top = nn.Linear(width, tokens, device="meta")

    def forward(self, marks: Tensor) -> Tensor:
        """Logits [text, position, token]."""
        out: Tensor = self.top(self.states(marks).flatten(0, 1)).view(*marks.shape[:2], -1)
        return out

    def states(self, marks: Tensor) -> Tensor:
        """Normalised last hidden states [text, position, width]."""
        texts, long, _ = marks.shape
        x = self.words(marks.flatten(0, 1)) + self.place[:long].repeat(texts, 1)
        for block in self.blocks:
            x = block(x, texts)
        normed: Tensor = self.norm(x).view(texts, long, -1)
        return normed


class Hidden(nn.Module):
    """A network of which only the last hidden states are wanted; its parameters are the same.

    Args:
        network: whose `states` they are.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, marks: Tensor) -> Tensor:
        """Hidden states [text, position, width]."""
        return self.network.states(marks)


class Block(nn.Module):
    """Causal self-attention, then two layers on every position; both are added to the stream."""

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, device="meta")
        self.look = nn.Linear(width, 3 * width, device="meta")
        self.gather = nn.Linear(width, width, device="meta")
        self.norm_2 = nn.LayerNorm(width, device="meta")
        self.wide = nn.Linear(width, 4 * width, device="meta")
        self.narrow = nn.Linear(4 * width, width, device="meta")

    def forward(self, x: Tensor, texts: int) -> Tensor:
        """[text * position, width] to the same; one matrix product serves all positions."""
        width = x.shape[-1]
        split = self.look(self.norm_1(x)).view(texts, -1, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(-1, width)
        x = x + self.gather(mixed)
        out: Tensor = x + self.narrow(torch.relu(self.wide(self.norm_2(x))))
        return out


def _texts(world: World) -> tuple[Tensor, Tensor]:
    """The responses and their prompts."""
    if world.tokens is None or world.prompts is None or getattr(world, "corpus", None) is None:
        raise ToyalignError(
            "policy transformer reads tokens and learns from a corpus, and this problem has none: "
            "try problem two_writers"
        )
    return world.tokens, world.prompts


@cache
def _network(layers: int, heads: int, width: int, tokens: int, prompts: int, long: int) -> Network:
    """The network's names and shapes; it holds no numbers."""
    return Network(layers, heads, width, tokens, prompts, long)
