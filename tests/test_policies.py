"""The policies: each starts at the reference, and shares exactly what it says."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies import POLICIES, get_policy
from toyalign.streams import Streams

STATED = ta.Bandit(
    (0.4, 0.3, 0.2, 0.1),
    rewards=(0.0, 1.0, 0.5, 2.0),
    pairs=((0, 1),),
    spread=0.5,
    prompts=3,
    state_size=4,
    unseen=2,
)
ELSEWHERE = ("embedding", "informed", "transformer")  # they read what a bandit does not have
SMALL = ta.MLP(hidden=(6, 5))


def started(policy, problem=STATED, seeds=(0, 1)):
    """The world, the parameters at the start and the log-probabilities that they give."""
    streams = Streams(list(seeds))
    world = problem.world(streams)
    theta = policy.start(world, streams)
    return world, theta, policy.log_probs(theta, world)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_policy_of_another_world_refuses_a_bandit(name):
    with pytest.raises(ToyalignError, match=f"policy {name} .* this problem has none: try problem"):
        started(get_policy(name))


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ELSEWHERE])
def test_every_policy_starts_near_the_reference(name):
    world, theta, log_probs = started(get_policy(name))
    assert len(theta) == 2
    assert log_probs.shape == (2, 12)
    np.testing.assert_allclose(log_probs.exp().view(2, 3, 4).sum(-1), 1, atol=1e-12)
    # A network's weights are small, not zero: it starts within a hundredth of a nat.
    tolerance = 1e-2 if name == "mlp" else 1e-12
    np.testing.assert_allclose(log_probs, world.reference_logits, atol=tolerance, rtol=0)


@pytest.mark.parametrize("policy", [ta.Tabular(), ta.Features(), SMALL])
def test_a_step_in_one_run_moves_no_other(policy):
    world, theta, before = started(policy)
    moved = theta.clone()
    moved[1, -1] += 0.5
    after = policy.log_probs(moved, world)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("policy", [ta.Tabular(), ta.Features()])
def test_contexts_of_a_table_share_nothing(policy):
    world, theta, before = started(policy)
    moved = theta.clone()
    moved[:, 0] += 0.5
    after = policy.log_probs(moved, world)
    assert torch.equal(after[:, 4:], before[:, 4:])
    assert not torch.equal(after[:, :4], before[:, :4])


@pytest.mark.parametrize("policy", [ta.Tabular(), ta.Features()])
def test_unseen_contexts_of_a_table_keep_the_reference(policy):
    world, theta, _ = started(policy)
    beyond = policy.log_probs(theta + torch.arange(12), world, unseen=True)
    np.testing.assert_allclose(beyond, world.reference_logits, atol=1e-12, rtol=0)


# --- features


def test_features_have_length_one_and_the_stated_inner_products():
    phi = ta.Features(overlap=1.5).matrix(31)
    products = phi @ phi.T
    np.testing.assert_allclose(products.diagonal(), 1, atol=1e-12)
    distance = np.abs(np.subtract.outer(np.arange(31), np.arange(31)))
    inner = slice(9, 22)  # six widths from the edges
    expected = np.exp(-(distance**2) / (4 * 1.5**2))
    np.testing.assert_allclose(products[inner, inner], expected[inner, inner], atol=1e-9)


def test_features_without_overlap_are_the_table():
    assert torch.equal(ta.Features(overlap=0).matrix(5), torch.eye(5, dtype=torch.float64))
    problem = ta.adjacent_arms(spread=0.5)
    table, features = (
        ta.simulate("dpo", problem, policy=policy, steps=200, lr=2.0, seeds=3)
        for policy in ("tabular", ta.Features(overlap=0))
    )
    assert np.abs(table.log_probs[-1] - table.log_probs[0]).max() > 0.1
    np.testing.assert_allclose(features.log_probs, table.log_probs, atol=1e-12, rtol=0)


def test_a_step_on_one_arm_spills_over_as_the_inner_product_says():
    # With logits Phi theta a gradient g on the logits moves them by Phi Phi^T g.
    policy = ta.Features(overlap=1.0)
    problem = ta.Bandit(np.full(9, 1 / 9), target=np.eye(9)[4])
    traj = ta.simulate("sft", problem, policy=policy, steps=1, lr=0.1)
    phi = policy.matrix(9).numpy()
    push = 0.1 * (np.eye(9)[4] - 1 / 9)
    logits = phi @ phi.T @ push
    expected = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(traj.final[0, 0], expected, atol=1e-12)


def test_negative_overlap_is_refused():
    with pytest.raises(ToyalignError, match="overlap must be 0 or more, not -1"):
        ta.Features(overlap=-1)


# --- the network


def test_the_network_reads_the_context():
    world, theta, _ = started(SMALL)
    random = torch.Generator().manual_seed(0)
    theta = theta + torch.randn(theta.shape, generator=random, dtype=theta.dtype)
    by_context = SMALL.log_probs(theta, world).view(2, 3, 4)
    assert (by_context[:, 0] - by_context[:, 1]).abs().max() > 0.01
    beyond = SMALL.log_probs(theta, world, unseen=True)
    assert beyond.shape == (2, 8)
    np.testing.assert_allclose(beyond.exp().view(2, 2, 4).sum(-1), 1, atol=1e-12)


def test_the_network_is_the_one_that_torch_would_make():
    world, theta, log_probs = started(SMALL)
    weights = list(theta[1].split([24, 6, 6, 6, 30, 5, 20, 4]))
    (x,) = world.states[1:2]
    x = x @ weights[0].view(6, 4).T + weights[1]
    x = torch.relu(torch.nn.functional.layer_norm(x, (6,), weights[2], weights[3]))
    x = torch.relu(x @ weights[4].view(5, 6).T + weights[5])
    x = x @ weights[6].view(4, 5).T + weights[7]
    expected = torch.log_softmax(x, -1).flatten()
    np.testing.assert_allclose(log_probs[1], expected, atol=1e-12)


def test_the_network_has_weights_of_its_own_for_every_seed():
    _, theta, _ = started(SMALL, seeds=(0, 1))
    _, again, _ = started(SMALL, seeds=(1,))
    assert not torch.equal(theta[0, :24], theta[1, :24])
    assert torch.equal(theta[1], again[0])
    assert theta[:, :24].abs().max() <= 0.01 * (6 / 10) ** 0.5  # Xavier's bound times the gain
    assert theta[:, :24].abs().max() > 0.008 * (6 / 10) ** 0.5


def test_the_network_refuses_a_problem_without_states():
    with pytest.raises(ToyalignError, match=r"this problem has no states: make it with state_size"):
        ta.simulate("dpo", policy="mlp", steps=1)


def test_the_network_in_single_precision():
    traj = ta.simulate("sft", STATED, policy=SMALL, steps=3, dtype="float32")
    assert traj.theta.dtype == np.float32
    assert np.isfinite(traj.unseen).all()


# --- lookup


def test_lookup():
    assert get_policy("features") == ta.Features()
    assert get_policy(SMALL) is SMALL
    with pytest.raises(ToyalignError, match="unknown policy 'feature'; did you mean 'features'"):
        get_policy("feature")
    with pytest.raises(ToyalignError, match="is not a policy: it has no method log_probs"):
        get_policy(3)
