"""IFT: its weights in their versions, its gradient in closed form, and the residual view."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.objectives.intuitive import ift
from toyalign.streams import Streams
from toyalign.views import Residual

LOSSES = torch.tensor([[[2.0, 0.5, 1.0]]], dtype=torch.float64)
ONES = torch.ones(1, 1, 3, dtype=torch.float64)


def value(losses=LOSSES, mask=ONES, **hyper):
    return ift(-losses, mask, **hyper).item()


def gradient(losses, **hyper):
    """dL/dl of every token."""
    leaf = losses.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ift(-leaf, torch.ones_like(leaf), **hyper).sum(), leaf)
    return grad[0, 0].numpy()


# --- the weights


def test_without_propagation_it_is_the_mean():
    assert value(propagation="none") == pytest.approx(3.5 / 3)


def test_eq21_weighs_late_tokens_most():
    # (1 − .5ⁱ⁺¹)/(1 − .5) = 1, 1.5, 1.75
    assert value(propagation="eq21", gamma=0.5) == pytest.approx((2 + 0.75 + 1.75) / 3)
    assert value(propagation="eq21", gamma=1.0) == pytest.approx((2 + 1 + 3) / 3)


def test_alg1_is_quadratic():
    # w_t = γᴺ⁻¹⁻ᵗ·Σ_{i≥t} l_i: .25·3.5, .5·1.5 and 1
    expected = 0.25 * 3.5 * 2 + 0.5 * 1.5 * 0.5 + 1 * 1 * 1
    assert value(propagation="alg1", gamma=0.5) == pytest.approx(expected)
    assert value(2 * LOSSES, propagation="alg1", gamma=0.5) == pytest.approx(4 * expected)


def test_code_is_a_weighted_mean():
    # D = 2 + .25 + .25, .5 + .5, 1
    assert value(gamma=0.5) == pytest.approx((2.5 * 2 + 1 * 0.5 + 1 * 1) / 4.5)
    assert value(gamma=0.0) == pytest.approx(3.5 / 3)
    equal = torch.full_like(LOSSES, 0.7)
    assert value(equal) == pytest.approx(0.7)


@pytest.mark.parametrize("tokens", [1, 2, 7, 50])
def test_codes_weights_sum_to_the_number_of_tokens(tokens):
    # Held constant, the weight of a token over N is its gradient; and D is a triangular product.
    losses = torch.from_numpy(np.random.default_rng(1).exponential(size=(1, 1, tokens)))
    found = gradient(losses, weights="constant", gamma=0.9)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    place = np.arange(tokens)
    power = np.triu(0.9 ** np.clip(place - place[:, None], 0, None))
    answer_for = power @ losses[0, 0].numpy()
    np.testing.assert_allclose(found, answer_for / answer_for.sum(), atol=1e-12)


@pytest.mark.parametrize("gamma", [0.3, 0.95, 1.0])
def test_codes_gradient_is_the_closed_form(gamma):
    # dL/dl_k = (D_k + B_k − L·c_k)/S, with sums over later, earlier and the number of earlier ones
    losses = torch.from_numpy(np.random.default_rng(0).exponential(size=(1, 1, 6)))
    power = np.tril(gamma ** np.subtract.outer(np.arange(6.0), np.arange(6.0)).clip(0))
    later, before, count = (
        power.T @ losses[0, 0].numpy(),
        power @ losses[0, 0].numpy(),
        power.sum(1),
    )
    total = value(losses, torch.ones_like(losses), gamma=gamma)
    expected = (later + before - total * count) / later.sum()
    np.testing.assert_allclose(gradient(losses, gamma=gamma), expected, atol=1e-14)


def test_an_easy_token_after_a_hard_one_is_unlearned_beyond_one_plus_root_three():
    edge = 1 + 3**0.5
    for ratio, sign in ((0.99 * edge, 1), (1.01 * edge, -1)):
        losses = torch.tensor([[[ratio, 1.0]]], dtype=torch.float64)
        assert np.sign(gradient(losses, gamma=1.0)[1]) == sign
        assert gradient(losses, gamma=1.0, weights="constant")[1] > 0


def test_what_is_under_the_mask_has_no_place():
    padded = torch.tensor([[[9.0, 2.0, 0.5, 7.0, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[[0.0, 1, 1, 0, 1]]], dtype=torch.float64)
    for propagation in ("none", "eq21", "alg1", "code"):
        assert value(padded, mask, propagation=propagation) == pytest.approx(
            value(propagation=propagation)
        )


def test_unknown_words_are_refused():
    with pytest.raises(ToyalignError, match="unknown propagation 'eq20'; did you mean 'eq21'"):
        value(propagation="eq20")
    with pytest.raises(ToyalignError, match="unknown weights 'const'"):
        value(weights="const")


# --- the view

COLUMN = {"map": "goal_column", "negative": "wander", "horizon": 20}


def train(name="ift", problem=None, steps=40, **given):
    return ta.simulate(name, problem or ta.frozen_lake(**COLUMN), steps=steps, lr=1.0, **given)


def test_without_share_and_propagation_ift_is_sft():
    ours = train(propagation="none", view=Residual(0.0), seeds=3)
    sft = train("sft", seeds=3)
    np.testing.assert_allclose(ours.log_probs, sft.log_probs, atol=1e-12)


@pytest.mark.parametrize("lam", [0.2, 0.5, 1.0])
def test_greedy_ift_is_sft_where_the_policy_already_prefers_the_demonstration(lam):
    problem = ta.frozen_lake(start="noisy", spread=0.0, **COLUMN)
    ours = train(problem=problem, propagation="none", view=Residual(lam))
    sft = train("sft", problem)
    np.testing.assert_allclose(ours.log_probs, sft.log_probs, atol=1e-12)


def test_a_misled_policy_makes_greedy_ift_differ_and_touch_rows_off_the_path():
    # Up from the first cell is a cell of its own: mixed in, its row is trained as well.
    problem = ta.frozen_lake(**COLUMN)
    sft, ours = train("sft", problem), train(propagation="none", view=Residual(0.5, "sampled"))
    off = ~np.isin(np.arange(18), problem.demo.states)
    assert (sft.log_probs[-1] == sft.log_probs[0])[0, off].all()
    assert (ours.log_probs[-1] != ours.log_probs[0])[0, off].any()


def test_the_order_constructed_on_the_goal_column():
    # 20 starts: beside the path, a sampled residual trains what SFT leaves alone.
    settings = {"seeds": 20, "steps": 400}
    sft = train("sft", **settings).own_measures["transition_mse"][-1]
    greedy = train(propagation="none", **settings).own_measures["transition_mse"][-1]
    sampled = train(propagation="none", view=Residual(0.2, "sampled"), **settings)
    orpo = train("orpo", lam=0.25, **settings).own_measures["transition_mse"][-1]
    assert (sampled.own_measures["transition_mse"][-1] < orpo).all() and (orpo < sft).all()
    assert (greedy > orpo).all() and (greedy < sft).mean() > 0.5


def test_a_run_with_a_sampled_residual_is_the_same_alone():
    view = Residual(0.5, "sampled")
    many, alone = train(seeds=4, view=view), train(seeds=[2], view=view)
    assert np.array_equal(many.log_probs[:, 2], alone.log_probs[:, 0])


@pytest.mark.parametrize("origin", ["fixed", "reference"])
def test_a_sampled_residual_and_drawn_data_have_numbers_of_their_own(origin):
    source = ta.Source(origin, exact=False, prompts=3, responses=4)
    plain, mixed, ours = (
        train(steps=5, view=view, source=source)
        for view in (Residual(0.0), Residual(0.0, "sampled"), Residual(0.5, "sampled"))
    )
    # What is drawn for the view leaves the data alone.
    assert np.array_equal(plain.log_probs, mixed.log_probs)
    assert np.isfinite(ours.loss).all() and (ours.log_probs[-1] != plain.log_probs[-1]).any()


SMALL = ta.MLP(hidden=(8,), layer_norm=False, gain=1.0)


def test_a_network_is_shown_the_mixture():
    problem = ta.frozen_lake(start="bad", **COLUMN)
    settings = {"policy": SMALL, "propagation": "none", "steps": 3}
    plain, sft = train(view=Residual(0.0), **settings), train("sft", policy=SMALL, steps=3)
    np.testing.assert_allclose(plain.log_probs, sft.log_probs, atol=1e-12)
    # Beside it: the mixed one-hot inputs through the same weights.
    streams = Streams([0])
    world = problem.world(streams)
    theta = SMALL.start(world, streams)
    rows = world.demonstration_rows
    table = SMALL.log_probs(theta, world)
    view = Residual(0.5)
    found = view.token_logps(SMALL, theta, table, world, rows, streams)[0, 0]
    first, bias, second, top = theta[0].split([18 * 8, 8, 8 * 4, 4])
    states, actions = problem.demo.states, problem.demo.actions
    reached = problem.lake.next_state[states, table.view(18, 4).argmax(-1).numpy()[states]]
    for place, (state, action) in enumerate(zip(states, actions, strict=True)):
        own = reached[place - 1] if place else state
        x = 0.5 * np.eye(18)[state] + 0.5 * np.eye(18)[own]
        hidden = np.maximum(first.view(8, 18).numpy() @ x + bias.numpy(), 0)
        logits = second.view(4, 8).numpy() @ hidden + top.numpy()
        expected = logits[action] - np.log(np.exp(logits).sum())
        assert found[place].item() == pytest.approx(expected, abs=1e-12)


def test_a_network_can_be_fitted_to_a_start_that_differs_by_cell():
    # KL falls from nats to thousandths; 600 steps of Adam are plenty for 18 cells.
    problem = ta.frozen_lake(start="noisy", **COLUMN)
    world = problem.world(Streams([0, 1]))
    shares = world.reference_logits.exp()
    gaps = []
    for fits in (0, 600):
        fitted = ta.MLP(hidden=(32,), layer_norm=False, gain=1.0, fits=fits)
        log_probs = fitted.log_probs(fitted.start(world, Streams([0, 1])), world)
        gaps.append((shares * (world.reference_logits - log_probs)).sum(1).max().item() / 18)
    assert gaps[0] > 0.02 and gaps[1] < 0.1 * gaps[0]


def test_schedules_of_the_share():
    linear = Residual(0.4, schedule="linear", warmup=10)
    shares = [linear.share(step, Streams([0])).item() for step in (0, 5, 10, 99)]
    assert shares == pytest.approx([0.0, 0.2, 0.4, 0.4])
    streams, noisy = Streams(range(4000)), Residual(0.2, schedule="noisy")
    drawn = np.concatenate([noisy.share(step, streams).flatten() for step in range(3)])
    assert drawn.min() >= 0 and drawn.max() <= 1 and len(set(drawn)) > 10000
    # A normal variable of mean .2 and spread .1 is cut at 0 in 2.3 % of draws, which adds .00085
    # on average; three standard errors of 12,000 draws are .0027.
    assert drawn.mean() == pytest.approx(0.2 + 0.00085, abs=0.0027)
    many, alone = train(seeds=4, view=noisy), train(seeds=[2], view=noisy)
    assert np.array_equal(many.log_probs[:, 2], alone.log_probs[:, 0])
    with pytest.raises(ToyalignError, match="unknown schedule 'liner'; did you mean 'linear'"):
        Residual(schedule="liner")
    with pytest.raises(ToyalignError, match="warmup must be at least 1 step, not 0"):
        Residual(schedule="linear", warmup=0)


def test_on_single_actions_the_view_changes_nothing():
    ours = ta.simulate("ift", "adjacent_arms", steps=30)
    sft = ta.simulate("sft", "adjacent_arms", steps=30)
    np.testing.assert_allclose(ours.log_probs, sft.log_probs, atol=1e-12)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ToyalignError, match="policy features has no residual view"):
        train(policy="features")
    with pytest.raises(ToyalignError, match="needs to know where a move leads"):
        ta.simulate("ift", "two_writers", steps=1)
    with pytest.raises(ToyalignError, match="dpo has the plain view"):
        train("dpo", view=Residual())
    with pytest.raises(ToyalignError, match="lam must be between 0 and 1"):
        Residual(1.5)
    with pytest.raises(ToyalignError, match="unknown choice 'sampeld'; did you mean 'sampled'"):
        Residual(choice="sampeld")
