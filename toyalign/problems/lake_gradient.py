"""The gradient of the expected return on a lake, exactly: no rollouts, no noise."""

import torch
from torch import Tensor

from toyalign.problems.lake import Lake


def exact_return(lake: Lake, log_probs: Tensor, horizon: int) -> Tensor:
    """Expected return within `horizon` moves, [run]; autograd can go back through all of them.

    Args:
        lake: the map and its transitions.
        log_probs: [run, state · 4], float64.
        horizon: moves after which an episode is cut off.
    """
    transition, reward, start, policy = _tensors(lake, log_probs)
    values = torch.zeros_like(policy[..., 0])
    for _ in range(horizon):
        values = (policy * _ahead(reward, transition, values)).sum(-1)
    return values @ start


def exact_policy_gradient(lake: Lake, log_probs: Tensor, horizon: int) -> Tensor:
    """Gradient of `exact_return` by the logits of a softmax policy, [run, state · 4].

    The policy gradient theorem at every moment: visits(s) · π(a|s) · (Q(s, a) − V(s)), the visits
    computed forwards and the values backwards in time.

    Args:
        lake: the map and its transitions.
        log_probs: [run, state · 4], float64, normalised.
        horizon: moves after which an episode is cut off.
    """
    transition, reward, start, policy = _tensors(lake, log_probs)
    values, advantages = torch.zeros_like(policy[..., 0]), []
    for _ in range(horizon):
        q = _ahead(reward, transition, values)
        values = (policy * q).sum(-1)
        advantages.append(q - values.unsqueeze(-1))
    visits, gradient = start.expand(len(policy), -1), torch.zeros_like(policy)
    for advantage in reversed(advantages):
        taken = visits.unsqueeze(-1) * policy
        gradient += taken * advantage
        visits = torch.einsum("rsa,sat->rt", taken, transition)
    return gradient.flatten(1)


def _ahead(reward: Tensor, transition: Tensor, values: Tensor) -> Tensor:
    """Q, [run, state, 4], from the values [run, state] of what comes next."""
    return reward + torch.einsum("sat,rt->rsa", transition, values)


def _tensors(lake: Lake, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    transition, reward, start = map(torch.from_numpy, (lake.transition, lake.reward, lake.start))
    return transition, reward, start, log_probs.exp().view(len(log_probs), -1, 4)
