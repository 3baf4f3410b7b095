"""A small network that reads the context: parameters shared by all contexts and all arms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from toyalign.errors import ToyalignError
from toyalign.optimisers import Adam
from toyalign.policies import policy
from toyalign.policies.networks import evaluated
from toyalign.policies.tabular import normalise
from toyalign.problems.world import World
from toyalign.streams import Streams


@policy
@dataclass(frozen=True)
class MLP:
    """A ReLU network from a context's state to the logits of its arms; theta is [run, parameter].

    The default layers are those of the one-token bandit of Tajwar et al. 2024 (arXiv 2404.14367,
    released code): 50, LayerNorm, then 256 and 256, Xavier-uniform weights with gain 0.01.

    Departure 1: the paper's code fits the network to the reference by 100 Adam steps; here, unless
    `fits` says otherwise, the bias of the last layer is the reference's log-probabilities, so the
    start is the reference up to the tiny weights. What the network computes at its start is the
    frozen reference.

    Args:
        hidden: widths of the hidden layers.
        layer_norm: whether the first of them is normalised.
        gain: of the weights.
        fits: Adam steps by which the start is fitted to the reference, for problems whose contexts
            have references of their own.
        fit_lr: learning rate of these steps.
    """

    hidden: tuple[int, ...] = (50, 256, 256)
    layer_norm: bool = True
    gain: float = 0.01
    fits: int = 0
    fit_lr: float = 0.01

    def start(self, world: World, streams: Streams) -> Tensor:
        """Xavier-uniform weights from each run's own stream, zero biases, reference at the top."""
        states = _states(world, unseen=False)
        network = self._network(world, states)
        shapes = [p.shape for p in network.parameters()]
        count = sum(shape.numel() for shape in shapes if len(shape) == 2)
        uniforms = torch.from_numpy(streams.uniforms("start", count).copy()) * 2 - 1
        parts, used = [], 0
        for name, parameter in network.named_parameters():
            size = parameter.numel()
            if parameter.ndim == 2:
                bound = self.gain * (6 / sum(parameter.shape)) ** 0.5
                parts.append(bound * uniforms[:, used : used + size])
                used += size
            else:
                is_scale = name.endswith("weight")  # of the LayerNorm
                parts.append(torch.full((world.runs, size), float(is_scale), dtype=torch.float64))
        # In a bandit every context has the same reference, which the last bias can therefore hold.
        parts[-1] = world.reference_logits[:, : world.actions].double()
        return self._fitted(torch.cat(parts, 1).to(states.dtype), world, states)

    def log_probs(self, theta: Tensor, world: World, unseen: bool = False) -> Tensor:
        """[run, cell], nats; with `unseen`, for the contexts that are never trained on."""
        states = _states(world, unseen)
        return normalise(evaluated(self._network(world, states), theta, states).flatten(1), world)

    def log_probs_at(self, theta: Tensor, world: World, states: Tensor) -> Tensor:
        """[run, place, action], nats, where the policy is shown these states.

        Args:
            states: [run, place, feature], for example mixtures of those of contexts.
        """
        return torch.log_softmax(evaluated(self._network(world, states), theta, states), -1)

    def _network(self, world: World, states: Tensor) -> nn.Module:
        return _network((states.shape[-1], *self.hidden, world.actions), self.layer_norm)

    def _fitted(self, theta: Tensor, world: World, states: Tensor) -> Tensor:
        """Adam on KL(reference‖policy), averaged over contexts."""
        optimiser, theta = Adam(), theta.clone()
        state, lr = optimiser.state(theta), theta.new_full((len(theta), 1), self.fit_lr)
        shares = world.reference_logits.exp()
        for step in range(self.fits):
            leaf = theta.detach().requires_grad_()
            loss = -(shares * self.log_probs(leaf, world)).sum() / world.contexts
            (grad,) = torch.autograd.grad(loss, leaf)
            optimiser.step(theta, grad, lr, state, step)
        return theta


def _states(world: World, unseen: bool) -> Tensor:
    states = world.unseen_states if unseen else world.states
    if states is None:
        raise ToyalignError(
            "policy mlp reads the context, and this problem has no states: make it with "
            "state_size, for example far(prompts=10, state_size=100)"
        )
    return states


@cache
def _network(widths: Sequence[int], layer_norm: bool) -> nn.Module:
    """The network for one run; its own parameters only give names and shapes."""
    layers: list[nn.Module] = []
    for index, (wide, narrow) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(wide, narrow, device="meta"))
        if index == 0 and layer_norm:
            layers.append(nn.LayerNorm(narrow, device="meta"))
        if index < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
