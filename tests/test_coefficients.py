"""What a loss asks for, against the losses' derivatives by hand."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.glossary import is_learned
from toyalign.objectives import get_objective
from toyalign.objectives.coefficients import push_on_pair, push_on_tokens
from toyalign.objectives.points import random_answers


def test_dpo_pushes_both_answers_with_one_size():
    x, y = np.meshgrid([-1.0, 0.0, 2.0], [-3.0, 0.0])
    up, down = push_on_pair(get_objective("dpo"), x, y, (-5.0, -6.0), {"beta": 0.3})
    expected = 0.3 / (1 + np.exp(0.3 * (x - y)))
    np.testing.assert_allclose(up, expected, atol=1e-12)
    np.testing.assert_allclose(down, -expected, atol=1e-12)


def test_losses_on_one_side_leave_the_other_alone():
    x, y = np.meshgrid([-1.0, 1.0], [-1.0, 1.0])
    up, down = push_on_pair(get_objective("sft"), x, y, (-5.0, -5.0), {})
    assert (up == 1).all() and (down == 0).all()
    up, down = push_on_pair(get_objective("npo"), x, y, (-5.0, -5.0), {"beta": 0.1})
    assert (up == 0).all() and (down < 0).all()


def test_token_losses_and_masks_are_served():
    x = np.array([[0.0]])
    up, down = push_on_pair(get_objective("unlikelihood"), x, x, (-1.0, -2.0), {"alpha": 1.0})
    p = np.exp(-2.0)
    np.testing.assert_allclose([up[0, 0], down[0, 0]], [1.0, -p / (1 - p)], atol=1e-12)


def test_rewards_have_no_place_in_the_plane():
    x = np.zeros((1, 1))
    with pytest.raises(ta.ToyalignError, match="not a loss on pairs"):
        push_on_pair(get_objective("reinforce"), x, x, (-1.0, -1.0), {})


def test_only_the_policys_log_probabilities_are_trainable():
    assert is_learned("chosen_token_logps") and is_learned("log_probs")
    fixed = ("ref_logps", "old_token_logps", "target_log_probs", "rewards", "lengths", "mask")
    assert not any(is_learned(name) for name in fixed)


def test_an_input_that_the_loss_ignores_gets_no_push():
    def ignores(chosen_logps, rejected_logps):
        return -chosen_logps

    x = np.array([[0.0, 1.0]])
    up, down = push_on_pair(get_objective(ignores), x, x, (-5.0, -5.0), {})
    assert (up == 1).all() and (down == 0).all()


def test_pushes_on_tokens_are_the_same_whatever_the_loss_asks_for():
    def by_tokens(chosen_token_logps, rejected_token_logps, chosen_mask, rejected_mask):
        gap = (chosen_token_logps * chosen_mask).sum(-1)
        return -(gap - (rejected_token_logps * rejected_mask).sum(-1))

    def by_sums(chosen_logps, rejected_logps):
        return rejected_logps - chosen_logps

    answers = random_answers(["chosen_logps"], 3)
    none, up, down = push_on_tokens(get_objective(by_tokens), answers, {})
    assert torch.equal(up, answers.masks["chosen_"])
    assert torch.equal(down, -answers.masks["rejected_"])
    assert not none.any()
    for one, other in zip(
        push_on_tokens(get_objective(by_sums), answers, {}), (none, up, down), strict=True
    ):
        assert torch.equal(one, other)
