"""The optimisers against those of torch, and what they do to a run."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.optimisers import clip_per_run, get_optimiser
from toyalign.problems.sources import Collector
from toyalign.streams import Streams

PAIRS = [
    (ta.SGD(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    (ta.Adam(eps=1e-4), lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-4)),
    (
        ta.Adam(eps=1e-4, beta1=0.5, beta2=0.9),
        lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-4, betas=(0.5, 0.9)),
    ),
    (ta.RMSprop(eps=1e-4), lambda p, lr: torch.optim.RMSprop(p, lr=lr, eps=1e-4)),
    (
        ta.RMSprop(eps=1e-4, alpha=0.8),
        lambda p, lr: torch.optim.RMSprop(p, lr=lr, eps=1e-4, alpha=0.8),
    ),
]
IDS = ["sgd", "adam", "adam with other decays", "rmsprop", "rmsprop with another decay"]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=IDS)
def test_on_a_quadratic(ours, theirs):
    # Two runs with a learning rate each; torch takes them one at a time.
    curvature = torch.tensor([1.0, 0.1, 3.0, 0.5], dtype=torch.float64)
    start = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.2, 0.1, -1.0, 2.0]], dtype=torch.float64)
    rates = torch.tensor([[0.05], [0.02]], dtype=torch.float64)
    theta = start.clone()
    state = ours.state(theta)
    for step in range(200):
        ours.step(theta, theta * curvature, rates, state, step)
    for run in (0, 1):
        parameter = torch.nn.Parameter(start[run].clone())
        optimiser = theirs([parameter], rates[run].item())
        for _ in range(200):
            optimiser.zero_grad()
            (0.5 * curvature * parameter**2).sum().backward()
            optimiser.step()
        assert (parameter - start[run]).abs().max() > 0.1
        assert (theta[run] - parameter).abs().max() <= 1e-12


@pytest.mark.parametrize(("ours", "theirs"), PAIRS[:2] + PAIRS[3:4], ids=["sgd", "adam", "rmsprop"])
def test_a_simulated_bandit_against_the_loop_that_everybody_writes(ours, theirs):
    problem = ta.near()
    source = ta.Source("reference", exact=False, prompts=64, responses=2)
    steps, rate = 1000, 0.01
    traj = ta.simulate(
        "dpo", problem, source=source, steps=steps, lr=rate, optimiser=ours, seeds=2, marks=2
    )
    streams = Streams([1])
    world = problem.world(streams)
    rows = Collector(source, ("chosen_logps",), world, world.reference_logits, streams).rows(
        0, world.reference_logits
    )
    chosen, rejected = rows.cells[0]
    reference = world.reference_logits[0]
    parameter = torch.nn.Parameter(reference.clone())
    optimiser = theirs([parameter], rate)
    for _ in range(steps):
        log_probs = torch.log_softmax(parameter, -1)
        margin = (log_probs - reference)[chosen] - (log_probs - reference)[rejected]
        optimiser.zero_grad()
        (-torch.nn.functional.logsigmoid(0.1 * margin)).mean().backward()
        optimiser.step()
    expected = torch.log_softmax(parameter, -1).detach().numpy()
    moved = np.abs(expected - reference.numpy()).max()
    assert moved > 0.01
    assert np.abs(traj.final[1, 0] - expected).max() <= 1e-12


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_arms_that_no_data_touches_keep_their_odds(optimiser):
    # Of 100 arms only four are in a pair. The others change together, through the normaliser.
    problem = ta.Bandit(np.full(100, 0.01), pairs=((3, 7), (50, 51)))
    traj = ta.simulate("dpo", problem, optimiser=optimiser, lr=0.01, steps=1000, marks=2)
    untouched = [arm for arm in range(100) if arm not in (3, 7, 50, 51)]
    start, end = traj.log_probs[0, 0, 0, untouched], traj.log_probs[-1, 0, 0, untouched]
    change = (end - end[0]) - (start - start[0])
    assert np.abs(change).max() <= 1e-11
    assert traj.log_probs[-1, 0, 0, 3] > traj.log_probs[0, 0, 0, 3] + 1e-3


# --- clipping


def test_clipping_is_per_run():
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    clipped = clip_per_run(grad, 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4], [0, 0]], atol=1e-15)
    assert clip_per_run(grad[:, :, None], 1.0).shape == (3, 2, 1)


def test_a_clipped_study_takes_steps_of_that_length():
    traj = ta.simulate("ipo", steps=1, lr=1.0, max_grad_norm=0.01)
    free = ta.simulate("ipo", steps=1, lr=1.0)
    moved = traj.theta - traj.log_probs[0, :, 0]
    assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-9)
    assert np.linalg.norm(free.theta - free.log_probs[0, :, 0]) > 1


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_clip_that_makes_no_sense(limit):
    with pytest.raises(ToyalignError, match="must be above 0"):
        ta.simulate("dpo", steps=1, max_grad_norm=limit)


# --- lookup


def test_lookup():
    assert get_optimiser("adam") == ta.Adam()
    mine = ta.Adam(eps=1e-3)
    assert get_optimiser(mine) is mine
    with pytest.raises(ToyalignError, match="unknown optimiser 'adamm'; did you mean 'adam'"):
        get_optimiser("adamm")
    with pytest.raises(ToyalignError, match="is not an optimiser: it has no method step"):
        get_optimiser(3)
