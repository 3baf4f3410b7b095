"""Advantages and best-of-N weights, by hand and by enumeration."""

import itertools

import numpy as np
import pytest
import torch
from torch import tensor

from toyalign.advantages import (
    ADVANTAGES,
    best_weights,
    exact_advantages,
    exact_best_weights,
)

GROUP = tensor([[[1.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
EXPECTED = tensor([[[0.3]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "high", "low", "precision"),
    [
        ("raw", 1, 0, 1e-15),
        ("baseline", 0.7, -0.3, 1e-15),
        ("mean", 0.5, -0.5, 1e-15),
        ("rloo", 2 / 3, -2 / 3, 1e-15),  # 1 - 1/3, the mean of the other three
        ("group", 0.865875, -0.865875, 5e-7),  # .5 / (sqrt(1/3) + 1e-4), N - 1 in the deviation
    ],
)
def test_a_group_of_four(name, high, low, precision):
    found = ADVANTAGES[name](GROUP, EXPECTED)
    assert found.flatten().tolist() == pytest.approx([high, low, low, high], abs=precision, rel=0)


@pytest.mark.parametrize("name", ["mean", "rloo", "group"])
def test_a_group_of_one_has_nothing_to_compare(name):
    assert ADVANTAGES[name](GROUP[..., :1], EXPECTED).tolist() == [[[0.0]]]


def test_groups_do_not_mix():
    rewards = tensor([[[1.0, 0.0], [5.0, 5.0]]], dtype=torch.float64)
    expected = torch.zeros(1, 2, 1, dtype=torch.float64)
    assert ADVANTAGES["rloo"](rewards, expected).tolist() == [[[1.0, -1.0], [0.0, 0.0]]]
    assert ADVANTAGES["group"](rewards, expected)[0, 1].tolist() == [0.0, 0.0]


# --- all arms at once

REWARDS = tensor([[[0.0, 1.0, 3.0]]], dtype=torch.float64)
WEIGHT = tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)


@pytest.mark.parametrize("name", ["baseline", "mean", "rloo"])
def test_exact_advantages_compare_with_the_expectation(name):
    assert exact_advantages(name, REWARDS, WEIGHT).tolist() == [[[-1.0, 0.0, 2.0]]]


def test_exact_group_advantages_divide_by_the_deviation():
    # variance = (1 * .5 + 0 + 4 * .25) = 1.5
    found = exact_advantages("group", REWARDS, WEIGHT)[0, 0].tolist()
    scale = 1 / (np.sqrt(1.5) + 1e-4)
    assert found == pytest.approx([-scale, 0, 2 * scale], abs=1e-15)


def test_exact_raw_advantages_have_a_row_for_every_run():
    weight = WEIGHT.expand(4, 1, 3)
    assert torch.equal(exact_advantages("raw", REWARDS, weight), REWARDS.expand(4, 1, 3))


# --- best of N


def test_best_weights_share_ties():
    rewards = tensor([[[1.0, 3.0, 2.0], [2.0, 2.0, 0.0]]], dtype=torch.float64)
    assert best_weights(rewards).tolist() == [[[0.0, 3.0, 0.0], [1.5, 1.5, 0.0]]]


def enumerated_best_weights(rewards: list[float], weight: list[float], draws: int) -> np.ndarray:
    """Every sequence of draws: how often each arm is the best, relative to being drawn once."""
    share = np.zeros(len(rewards))
    for arms in itertools.product(range(len(rewards)), repeat=draws):
        probability = np.prod([weight[arm] for arm in arms])
        best = max(rewards[arm] for arm in arms)
        winners = [arm for arm in arms if rewards[arm] == best]
        for arm in winners:
            share[arm] += probability / len(winners)
    return share / np.array(weight)


@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize(
    "rewards",
    [[0.3, 0.1, 0.7, 0.2], [1.0, 0.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 5.0, 5.0, 5.0]],
)
def test_exact_best_weights_against_enumeration(rewards, draws):
    weight = [0.4, 0.3, 0.2, 0.1]
    found = exact_best_weights(
        tensor([[rewards]], dtype=torch.float64), tensor([[weight]], dtype=torch.float64), draws
    )
    expected = enumerated_best_weights(rewards, weight, draws)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-13)
    assert found[0, 0].numpy() @ weight == pytest.approx(1, abs=1e-12)


def test_exact_best_weights_of_several_runs_and_contexts():
    rewards = tensor([[[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]], dtype=torch.float64)
    weight = torch.softmax(torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)), -1)
    weight = weight.double() / weight.double().sum(-1, keepdim=True)
    found = exact_best_weights(rewards, weight, 4)
    assert found.shape == (3, 2, 3)
    for run, context in itertools.product(range(3), range(2)):
        expected = enumerated_best_weights(
            rewards[0, context].tolist(), weight[run, context].tolist(), 4
        )
        np.testing.assert_allclose(found[run, context], expected, atol=1e-12)


def test_exact_best_weights_of_an_arm_that_is_never_drawn():
    weight = tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64)
    found = exact_best_weights(REWARDS, weight, 3)
    assert torch.isfinite(found).all()
    assert (found * weight).sum().item() == pytest.approx(1, abs=1e-12)
