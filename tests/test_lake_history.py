"""The lake told move by move, for policies that remember."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.transformer import Transformer
from toyalign.problems.lake import return_within
from toyalign.problems.lake_history import LakeHistory, lake_history
from toyalign.problems.lake_paths import starting_policy
from toyalign.streams import Streams

LITTLE = Transformer(layers=1, heads=1, width=16, fits=150)


def world_of(problem, seeds=(0, 1)):
    return problem.world(Streams(list(seeds)))


def test_the_texts_succeed_as_often_as_the_policy_behind_them():
    # 4 runs of 1,024 episodes: a share near .1 has a standard error of .005; 4.5 of them.
    problem = lake_history()
    world = world_of(problem, range(4))
    rewards = problem._judge(world.corpus, torch.zeros(4, 1024, dtype=torch.long))
    policy = starting_policy(problem.lake, "noisy", problem.demo, problem.other)
    exact = return_within(problem.lake, policy[None], problem.horizon)[0]
    error = np.sqrt(exact * (1 - exact) / 4096)
    assert abs(rewards.mean().item() - exact) < 4.5 * error


def test_the_pair_is_the_demonstration_and_the_worse_path():
    problem = lake_history(map="fork5_7", negative="wrong_turn")
    rows = world_of(problem).pair_rows
    moves, mask = rows.cells % 4, rows.mask
    for side, path in enumerate((problem.demo, problem.other)):
        count = len(path.actions)
        assert moves[0, side, 0, :count].tolist() == path.actions.tolist()
        assert mask[0, side, 0].tolist() == [1.0] * count + [0.0] * (12 - count)


def test_an_episode_by_hand():
    # On the 4x4 map right, right, down, down, down, right reaches the goal; left bumps the wall.
    problem = lake_history()
    tokens = torch.tensor([[[2, 2, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0], [2, 1] + [0] * 10, [0] * 12]])
    assert problem._judge(tokens, torch.zeros(1, 3, dtype=torch.long)).tolist() == [[1.0, 0.0, 0.0]]
    assert problem.inside(tokens).sum(-1).tolist() == [[6, 2, 12]]


@pytest.mark.parametrize("objective", ["sft", "dpo", "orpo", "kto"])
def test_given_paths_are_learned(objective):
    settings = {"policy": LITTLE, "source": "fixed", "optimiser": "adam", "marks": 4}
    traj = ta.simulate(objective, lake_history(), steps=100, lr=3e-3, seeds=2, **settings)
    own = traj.own_measures
    if objective in ("sft", "orpo"):
        assert (own["success"][-1] > 0.9).all() and (own["wrong_moves"][-1] < 0.05).all()
    assert (own["kl_to_reference"][-1] > 0.1).all()


def test_reinforce_learns_from_its_own_episodes():
    source = ta.Source("policy", exact=False, prompts=1, responses=32)
    traj = ta.simulate(
        "reinforce", lake_history(), policy=LITTLE, source=source, steps=80, lr=3e-3,
        optimiser="adam", seeds=2, marks=4,
    )  # fmt: skip
    assert (traj.own_measures["success"][-1] > 0.6).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ToyalignError, match="horizon=3 cuts off a path of 6 moves"):
        LakeHistory(horizon=3)
    with pytest.raises(ToyalignError, match="unknown negative 'hule'; did you mean 'hole'"):
        lake_history(negative="hule")
    with pytest.raises(ToyalignError, match="policy tabular cannot write"):
        ta.simulate("reinforce", lake_history(), policy="tabular", steps=1)
