"""Frozen Lake: gymnasium's own steps, the exact numbers, the paths, and training on it."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.problems.lake import (
    MAPS,
    expected_return,
    lake,
    occupancy,
    optimal_policy,
    random_lake,
    reachable,
    return_within,
    transition_mse,
    value_iteration,
    walk,
)
from toyalign.problems.lake_gradient import exact_policy_gradient, exact_return
from toyalign.problems.lake_paths import demonstration, kappa, negative, nu, starting_policy
from toyalign.problems.lake_rollouts import begin, rollout, step, tables

FORK = lake("fork5_7")
RNG = np.random.default_rng(0)


# --- gymnasium


@pytest.mark.parametrize("slippery", [False, True])
@pytest.mark.parametrize("size", ["4x4", "8x8"])
def test_the_same_numbers_make_the_same_episodes_as_gymnasium(size, slippery):
    env = gymnasium.make("FrozenLake-v1", map_name=size, is_slippery=slippery, success_rate=0.8)
    table = tables(lake(size, slippery, success_rate=0.8))
    actions = np.random.default_rng(1)
    steps = mismatches = 0
    for seed in range(10_000):
        if steps > 3000:
            break
        state, _ = env.reset(seed=seed)
        numbers = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        ours = begin(table, torch.tensor([numbers.random()]))
        mismatches += ours.item() != state
        ended = cut = False
        while not (ended or cut):
            action = int(actions.integers(4))
            state, reward, ended, cut, _ = env.step(action)
            cell, number = ours * 4 + action, torch.tensor([numbers.random()])
            ours, got, over = step(table, cell, number)
            mismatches += (ours.item(), got.item(), over.item()) != (state, reward, ended)
            steps += 1
    assert steps > 3000  # four cases: more than 12,000 steps
    assert mismatches == 0


def test_the_transitions_are_those_of_the_environment():
    env = gymnasium.make("FrozenLake-v1", map_name="8x8", is_slippery=True).unwrapped
    made = lake("8x8", slippery=True)
    for state in range(64):
        for action in range(4):
            expected = np.zeros(64)
            for probability, following, _, _ in env.P[state][action]:
                expected[following] += probability
            if not made.terminal[state]:
                np.testing.assert_allclose(made.transition[state, action], expected, atol=1e-15)


def test_unknown_maps_are_refused():
    with pytest.raises(ToyalignError, match="unknown map 'fork5-7'; did you mean 'fork5_7'"):
        lake("fork5-7")
    with pytest.raises(ToyalignError, match="letters S, F, H, G"):
        lake(["SFX", "FFG"])
    with pytest.raises(ToyalignError, match="a start S and a goal G"):
        lake(["SFF", "FFF"])
    with pytest.raises(ToyalignError, match="success_rate"):
        lake("4x4", slippery=True, success_rate=0)


# --- exact numbers


def test_success_without_a_limit_on_the_slippery_maps():
    # 14/17 on the 4x4 map; on the 8x8 map the goal is reached surely, if there is time enough.
    small, large = lake("4x4", slippery=True), lake("8x8", slippery=True)
    assert expected_return(small, optimal_policy(small, 0.9999)) == pytest.approx(14 / 17, abs=1e-6)
    assert expected_return(large, optimal_policy(large, 0.9999)) == pytest.approx(1, abs=1e-3)


def test_a_linear_solve_is_the_limit_of_the_recursion():
    made = lake("4x4", slippery=True)
    policy = RNG.dirichlet(np.ones(4), (3, 16))
    np.testing.assert_allclose(
        expected_return(made, policy), return_within(made, policy, 2000), atol=1e-9
    )


def test_values_are_a_power_of_gamma_on_a_sure_lake():
    q = value_iteration(lake("4x4"), gamma=0.9)
    assert q[0].max() == pytest.approx(0.9**5)  # six moves, the reward comes with the last one


def test_a_policy_that_never_ends_has_no_undiscounted_return():
    left = np.eye(4)[np.zeros(16, int)]  # bumps into the wall of the first cell for ever
    for measure in (expected_return, occupancy):
        with pytest.raises(ToyalignError, match="never ends an episode: take gamma below 1"):
            measure(lake("4x4"), left, gamma=1.0)
    assert expected_return(lake("4x4"), left, gamma=0.9) == 0


def test_occupancy_counts_the_visits_of_a_sure_path():
    made, demo = FORK, demonstration(FORK)
    policy = np.full((16, 4), 0.25)
    policy[demo.states] = np.eye(4)[demo.actions]
    visits = occupancy(made, policy, gamma=0.5)
    np.testing.assert_allclose(visits[demo.states], 0.5 ** np.arange(len(demo.states)))


def test_holes_and_goals_are_not_acted_in():
    acting = reachable(lake("4x4"))
    assert acting.sum() == 11 and not acting[[5, 7, 11, 12, 15]].any()


def test_transition_mse_of_the_uniform_policy():
    # One certain move against four equal ones: (0.75² + 3·0.25²)/4 = 3/16.
    optimal = np.eye(4)[np.zeros(16, int)]
    assert transition_mse(np.full((16, 4), 0.25), optimal, np.ones(16, bool)) == 3 / 16


def test_the_exact_gradient_is_autograds():
    made = lake("4x4", slippery=True)
    logits = torch.from_numpy(RNG.normal(size=(3, 64))).requires_grad_()
    log_probs = torch.log_softmax(logits.view(3, 16, 4), -1).flatten(1)
    (auto,) = torch.autograd.grad(exact_return(made, log_probs, 50).sum(), logits)
    assert (auto.abs().amax(1) > 1e-4).all()
    ours = exact_policy_gradient(made, log_probs.detach(), 50)
    np.testing.assert_allclose(ours, auto, atol=1e-14, rtol=1e-10)


def test_the_exact_return_is_the_recursions():
    log_probs = torch.log_softmax(torch.from_numpy(RNG.normal(size=(2, 16, 4))), -1)
    expected = return_within(FORK, log_probs.exp().numpy(), 30)
    np.testing.assert_allclose(exact_return(FORK, log_probs.flatten(1), 30), expected)


def test_sampled_returns_and_gradients_agree_with_the_exact_ones():
    # 65 z-scores, each beyond 4.9 with probability 1e-6: a false alarm in 15,000 runs. Seed fixed.
    made, horizon, episodes = lake("4x4", slippery=True), 30, 40_000
    logits = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 64)))
    log_probs = torch.log_softmax(logits.view(1, 16, 4), -1).flatten(1)
    uniforms = torch.from_numpy(np.random.default_rng(4).random((1, episodes, 2 * horizon + 1)))
    cells, mask, returns = rollout(tables(made), log_probs.exp(), uniforms)
    exact = exact_return(made, log_probs, horizon)
    z = (returns.mean() - exact) / (returns.std() / episodes**0.5)
    assert abs(z.item()) < 4.9
    # The score of each episode by the logits: taken moves less expected moves, times its return.
    taken = torch.zeros(episodes, 64, dtype=torch.float64).scatter_add_(1, cells[0], mask[0])
    visits = taken.view(episodes, 16, 4).sum(-1, keepdim=True)
    score = taken - (visits * log_probs.exp().view(16, 4)).flatten(1)
    each = score * returns[0].unsqueeze(1)
    exact = exact_policy_gradient(made, log_probs, horizon)[0]
    error = each.std(0) / episodes**0.5
    often = (each != 0).sum(0) >= 400  # few samples have no normal mean and no known error
    z = ((each.mean(0) - exact) / error)[often]
    assert len(z) > 20 and z.abs().max() < 4.9


def test_where_an_episode_starts_says_nothing_of_how_its_first_move_goes():
    # Three starts on slippery ice. A false alarm once in a million; the seed is fixed.
    made, horizon, episodes = lake(("FSFSF", "HFFFH", "FFGFF"), slippery=True), 12, 50_000
    down = torch.tensor([0.05, 0.6, 0.3, 0.05], dtype=torch.float64)  # a uniform policy hides it
    log_probs = down.log().repeat(made.states)[None]
    numbers = torch.from_numpy(np.random.default_rng(5).random((1, episodes, 2 * horizon + 1)))
    cells, _, returns = rollout(tables(made), log_probs.exp(), numbers)
    z = (returns.mean() - exact_return(made, log_probs, horizon)) / (returns.std() / episodes**0.5)
    assert abs(z.item()) < 4.9
    first = np.bincount(cells[0, :, 0] // 4, minlength=made.states) / episodes
    np.testing.assert_allclose(first, made.start, atol=0.01)


def test_rollouts_of_one_run_do_not_depend_on_the_others():
    table, uniforms = tables(FORK), torch.from_numpy(RNG.random((3, 20, 31)))
    log_probs = torch.log_softmax(torch.from_numpy(RNG.normal(size=(3, 16, 4))), -1).flatten(1)
    together = rollout(table, log_probs.exp(), uniforms)
    alone = rollout(table, log_probs[1:2].exp(), uniforms[1:2])
    for many, one in zip(together, alone, strict=True):
        assert torch.equal(many[1:2], one)


# --- paths


def test_demonstrations_are_shortest_paths():
    lengths = {name: len(demonstration(lake(name)).actions) for name in MAPS}
    assert lengths == {"4x4": 6, "8x8": 14, "fork5_7": 5, "fork6_10": 6, "goal_column": 5}


def test_kappa_of_the_named_lakes():
    # Counted by hand: 3 of 5 and 4 of 6 deviations that do not end it; on the goal column all.
    expected = {"fork5_7": 3 / 5, "fork6_10": 2 / 3, "goal_column": 1.0, "4x4": 5 / 11}
    for name, value in expected.items():
        assert kappa(lake(name), demonstration(lake(name))) == pytest.approx(value), name


def test_nu_of_detours_and_wandering():
    for name, value in (("fork5_7", 1 / 7), ("fork6_10", 2 / 10)):
        detour = negative(lake(name), "detour", RNG)
        assert nu(lake(name), detour) == pytest.approx(value)
    wander = negative(lake("goal_column"), "wander", np.random.default_rng(0))
    assert len(wander.actions) == 10 and nu(lake("goal_column"), wander) == 1


def test_the_hole_is_the_nearest_one_whatever_it_shares_with_the_demonstration():
    for name in ("fork5_7", "fork6_10"):
        path = negative(lake(name), "hole", RNG)
        assert path.actions.tolist() == [1, 2] and nu(lake(name), path) == 1 / 2


def test_a_wrong_turn_leaves_the_right_way_at_once():
    for name in ("fork5_7", "fork6_10"):
        path, field = negative(lake(name), "wrong_turn", RNG), lake(name)
        assert path.actions.tolist() == [2, 1] and nu(field, path) == 1
        assert optimal_policy(field)[path.states[0], path.actions[0]] == 0
        last = field.next_state[path.states[-1], path.actions[-1]]
        assert "".join(field.desc)[last] == "H"


def test_a_detour_succeeds_and_a_hole_does_not():
    for kind, letter in (("detour", "G"), ("hole", "H")):
        path = negative(lake("4x4"), kind, RNG)
        last = lake("4x4").next_state[path.states[-1], path.actions[-1]]
        assert "".join(lake("4x4").desc)[last] == letter


def test_what_a_lake_does_not_have_is_refused():
    with pytest.raises(ToyalignError, match="has no hole"):
        ta.frozen_lake(map="goal_column", negative="hole")
    with pytest.raises(ToyalignError, match="unknown negative 'hule'; did you mean 'hole'"):
        ta.frozen_lake(negative="hule")
    with pytest.raises(ToyalignError, match="unknown start 'bed'; did you mean 'bad'"):
        ta.frozen_lake(start="bed")
    with pytest.raises(ToyalignError, match="no way from the start"):
        ta.frozen_lake(map=("SHF", "HFG"))
    with pytest.raises(ToyalignError, match="slippery"):
        _ = lake("4x4", slippery=True).next_state


def test_starting_policies_are_what_they_say():
    demo, other = demonstration(FORK), negative(FORK, "detour", RNG)
    bad = starting_policy(FORK, "bad", demo, other)
    # At the fork, 0.9 of 20/80 and 0.1 uniform.
    assert bad[0, demo.actions[0]] == pytest.approx(0.9 * 0.2 + 0.025)
    assert bad[0, other.actions[0]] == pytest.approx(0.9 * 0.8 + 0.025)
    noisy = starting_policy(FORK, "noisy", demo, other)
    np.testing.assert_allclose(noisy.sum(1), 1)
    assert noisy[0].max() == pytest.approx(0.3 + 0.175)


# --- as a problem


def test_sft_on_a_table_leaves_every_row_off_the_path_alone():
    traj = ta.simulate("sft", ta.frozen_lake(), steps=100, lr=1.0, seeds=3)
    on_path = np.isin(np.arange(16), demonstration(lake("4x4")).states)
    moved = np.abs(traj.log_probs[-1] - traj.log_probs[0]).max((0, -1))
    assert (moved[~on_path] == 0).all() and (moved[on_path] > 0.1).all()
    assert (traj.own_measures["off_path_mse"][-1] == traj.own_measures["off_path_mse"][0]).all()
    assert (traj.own_measures["success"][-1] > 0.5).all()


def test_what_it_measures_is_what_follows_from_the_policy():
    problem = ta.frozen_lake(map="fork5_7", negative="detour")
    traj = ta.simulate("dpo", problem, steps=50, lr=1.0, seeds=2)
    policy = np.exp(traj.final)
    expected = return_within(FORK, policy, problem.horizon)
    np.testing.assert_allclose(traj.own_measures["success"][-1], expected)
    path = negative(FORK, "detour", RNG)
    logps = traj.final[:, path.states, path.actions].sum(1)
    np.testing.assert_allclose(traj.own_measures["rejected_logps"][-1], logps)
    np.testing.assert_allclose(traj.scores["rejected_logps"][-1], logps)


def test_dpo_leaves_alone_what_both_paths_share():
    # The detour of this fork parts from the demonstration at once and meets it in no cell.
    problem = ta.frozen_lake(map="fork5_7", negative="detour", spread=0.0)
    traj = ta.simulate("dpo", problem, steps=1, lr=1.0, marks=2)
    moved = np.abs(traj.log_probs[-1] - traj.log_probs[0])[0].max(-1) > 0
    paths = demonstration(FORK), negative(FORK, "detour", RNG)
    assert set(np.flatnonzero(moved)) == {*paths[0].states.tolist(), *paths[1].states.tolist()}
    assert traj.loss[0, 0] == pytest.approx(np.log(2))


def test_reinforce_learns_a_slippery_lake():
    problem = ta.frozen_lake(slippery=True, success_rate=0.8)
    source = ta.Source("policy", exact=False, responses=32)
    traj = ta.simulate("reinforce", problem, steps=300, lr=1.0, seeds=4, source=source)
    success = traj.own_measures["success"]
    assert np.median(success[-1]) > 5 * np.median(success[0])


def test_a_slippery_lake_has_nothing_fixed_to_learn_from():
    with pytest.raises(ToyalignError, match="no demonstrations"):
        ta.simulate("sft", ta.frozen_lake(slippery=True), source="fixed")


def test_random_lakes_have_a_way_and_their_own_seed():
    assert random_lake(5, 3).desc == random_lake(5, 3).desc != random_lake(5, 4).desc
    assert len(demonstration(random_lake(5, 3)).actions) >= 8


def test_a_move_that_does_not_exist_is_refused():
    with pytest.raises(ToyalignError, match="moves are 0 to 3"):
        walk(lake("4x4"), [1, 7])
    with pytest.raises(ToyalignError, match="size must be at least 2, not 1"):
        random_lake(1, seed=0)


def test_a_walk_follows_the_transitions():
    path = walk(lake("4x4"), [1, 1, 2])
    assert path.states.tolist() == [0, 4, 8]


def test_common_bounds_choose_as_looking_up_does():
    table = tables(lake("4x4", slippery=True, success_rate=0.6))
    assert table.bounds is not None
    rng = np.random.default_rng(0)
    cell = torch.from_numpy(rng.integers(64, size=20_000))
    numbers = torch.from_numpy(rng.random(20_000))
    numbers[:3] = torch.tensor([0.0, 0.2, 0.8])  # the bounds themselves
    for one, other in zip(
        step(table, cell, numbers), step(replace(table, bounds=None), cell, numbers), strict=True
    ):
        assert torch.equal(one, other)
