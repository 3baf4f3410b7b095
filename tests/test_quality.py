"""What a policy may know of the answers' quality, and the quality prompt of Sr-DPO."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.informed import Informed
from toyalign.problems.bandit import graded_arms
from toyalign.streams import Streams


def world_of(problem, seeds=(0, 1)):
    return problem.world(Streams(list(seeds)))


@pytest.mark.parametrize("knowledge", [0.0, 0.5, 1.0])
def test_knowledge_is_the_correlation_with_the_reward(knowledge):
    # 200 runs of 20 arms: the mean of sample correlations of true value ρ has a standard error of
    # at most 1/√(200·19) = .016; ρ = 0 and 1 are exact up to that.
    world = world_of(graded_arms(knowledge=knowledge), range(200))
    rewards = world.rewards[0].numpy()
    found = [np.corrcoef(rewards, quality)[0, 1] for quality in world.quality.numpy()]
    assert np.mean(found) == pytest.approx(knowledge, abs=0.05)
    assert (world.quality[0] == world.quality[1]).all() == (knowledge == 1)


def test_a_bandit_says_nothing_of_quality_unless_asked():
    assert world_of(ta.far()).quality is None
    with pytest.raises(ToyalignError, match="knowledge must lie between 0 and 1, not 2"):
        graded_arms(knowledge=2)
    with pytest.raises(ToyalignError, match="all rewards are equal"):
        ta.Bandit([0.5, 0.5], knowledge=0.5)


def test_the_policy_starts_at_the_reference_and_the_prompt_tilts_it():
    world, policy = world_of(graded_arms()), Informed(tilt=0.5)
    theta = policy.start(world, Streams([0, 1]))
    torch.testing.assert_close(policy.log_probs(theta, world), world.reference_logits)
    tilted = torch.log_softmax(world.reference_logits + 0.5 * world.quality, -1)
    torch.testing.assert_close(policy.prompted(theta, world), tilted)


def test_the_tilt_cancels_in_log_ratios_and_the_direction_of_quality_does_not():
    world = world_of(graded_arms())
    theta = torch.randn(2, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def ratios(tilt):
        policy = Informed(tilt=tilt)
        start = policy.prompted(torch.zeros_like(theta), world)
        ratio = policy.prompted(theta, world) - start
        return ratio - ratio[:, :1]  # a normaliser is common to all arms

    torch.testing.assert_close(ratios(0.0), ratios(2.0))
    policy = Informed(plain=0.3, behind=1.0)
    plain = policy.log_probs(theta, world) - world.reference_logits
    more = ratios(1.0) - (plain - plain[:, :1])
    known = world.quality - world.quality[:, :1]
    torch.testing.assert_close(more, 0.7 * known * theta[:, -1:])


def delta_of(traj, theta, world, policy, beta=0.1):
    ((chosen, rejected),) = traj.pairs
    ratio = policy.prompted(theta, world) - policy.prompted(torch.zeros_like(theta), world)
    return beta * (ratio[:, chosen] - ratio[:, rejected])


def test_the_simulator_scores_the_pair_behind_the_prompt():
    # Beside it, step by step: −log σ(βh − λ·Δ), with Δ from the prompted tables held constant.
    problem = graded_arms(pairs=((3, 8),))
    policy, lam, beta, lr = Informed(), 0.5, 0.1, 20.0
    traj = ta.simulate(
        "sr_dpo", problem, policy=policy, source="fixed", steps=5, lr=lr, seeds=2, marks=range(6),
        lam=lam, beta=beta,
    )  # fmt: skip
    world = world_of(problem)
    theta = policy.start(world, Streams([0, 1]))
    start = policy.log_probs(theta, world)
    for step in range(6):
        leaf = theta.clone().requires_grad_()
        table = policy.log_probs(leaf, world)
        np.testing.assert_allclose(traj.log_probs[step, :, 0], table.detach(), atol=1e-12)
        ratio = table - start
        delta = delta_of(traj, theta, world, policy)
        value = -torch.nn.functional.logsigmoid(beta * (ratio[:, 3] - ratio[:, 8]) - lam * delta)
        theta = theta - lr * torch.autograd.grad(value.sum(), leaf)[0]
    assert delta_of(traj, theta, world, policy).abs().min() > 0


def test_a_policy_without_a_prompted_table_hears_nothing_in_it():
    # Then Δ is the naive one, β·h: with λ = 1 the weight stays ½ for ever.
    problem = graded_arms(pairs=((3, 8),))
    traj = ta.simulate(
        "sr_dpo", problem, policy="tabular", source="fixed", steps=50, lr=5.0, seeds=1, lam=1.0
    )
    chosen, rejected = traj.pair_logps()
    margin = (chosen - rejected)[:, 0]
    slopes = np.diff(margin) / np.diff(traj.steps)
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-9)
