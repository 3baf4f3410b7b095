"""Responses that a policy writes itself: sampling, scoring, collections, and what is measured."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.transformer import Transformer
from toyalign.problems.writing import SequenceBandit, sequence_bandit
from toyalign.streams import Streams

TINY = Transformer(layers=1, heads=1, width=6, fits=0)
FITTED = Transformer(layers=1, heads=1, width=12, fits=150)
SMALL = SequenceBandit((0.4, 0.3, 0.2, 0.1), (0.0, 0.0, 0.0, 1.0), tokens=3, prompts=2, texts=256)
PULLED = ta.Source("policy", exact=False, responses=8, prompts=4, reuse=2)


def written(policy=TINY, problem=SMALL, seeds=(0, 1), groups=4, n=3, purpose="responses"):
    streams = Streams(list(seeds))
    world = problem.world(streams)
    theta = policy.start(world, streams)
    return theta, world.write(policy, theta, groups, n, streams, purpose)


def test_tokens_follow_the_policys_own_distribution():
    # 20,000 responses to one prompt: the first token's shares within 4.5 standard errors (false
    # alarm below 1e-4 for four tokens), and so the third after each of the likelier pairs.
    theta, world = written(groups=1, n=20_000, seeds=[3])
    table = TINY.log_probs(theta, world).exp().view(1, 20_000, 3, 4)[0]
    tokens = world.tokens[0]
    first = torch.bincount(tokens[:, 0], minlength=4) / 20_000
    said = table[0, 0]
    error = (said * (1 - said) / 20_000).sqrt()
    assert ((first - said).abs() < 4.5 * error).all()
    checked = 0
    for pair in {tuple(row) for row in tokens[:200, :2].tolist()}:
        same = (tokens[:, :2] == torch.tensor(pair)).all(1)
        if (count := int(same.sum())) < 500:
            continue
        third = torch.bincount(tokens[same, 2], minlength=4) / count
        said = table[same, 2][0]
        error = (said * (1 - said) / count).sqrt()
        assert ((third - said).abs() < 4.5 * error).all()
        checked += 1
    assert checked >= 5


def test_prompts_go_round_and_rewards_count_the_prompt():
    _, world = written()
    assert world.prompts[0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    rows, rewards = world.respond(None, 4, 3, None)
    wins = (world.tokens == 3).sum(-1)
    asked = rewards * 4 - wins  # of four tokens the prompt's is the rest
    assert set(asked.flatten().tolist()) <= {0.0, 1.0}
    assert asked[0, 0] == asked[0, 1] == asked[0, 6]
    cells = rows.cells[:, 0]
    assert torch.equal(cells.expand(2, -1, -1) % 4, world.tokens)


def test_a_run_writes_the_same_alone():
    _, many = written(seeds=(0, 1, 2))
    _, alone = written(seeds=(1,))
    assert torch.equal(many.tokens[1], alone.tokens[0])
    settings = {"policy": TINY, "source": PULLED, "steps": 6, "lr": 0.1}
    together = ta.simulate("ipo", SMALL, seeds=3, **settings)
    single = ta.simulate("ipo", SMALL, seeds=[1], **settings)
    assert np.array_equal(together.theta[1], single.theta[0])


def test_the_fitted_start_is_near_the_reference():
    # 256 texts of three tokens: token shares have standard errors of .018 at most; twice that and
    # the fit's own noise are allowed.
    theta, world = written(FITTED, groups=8, n=50)
    shares = FITTED.log_probs(theta, world).exp().view(2, -1, 4).mean(1)
    torch.testing.assert_close(
        shares, torch.tensor([SMALL.reference] * 2, dtype=torch.float64), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("objective", ["best_of_n", "rwr", "reinforce", "ppo_clip", "dpo", "ipo"])
def test_methods_that_write_learn_the_rewarded_token(objective):
    traj = ta.simulate(
        objective, SMALL, policy=FITTED, source=PULLED, steps=80, lr=0.02, optimiser="adam",
        seeds=2, marks=5,
    )  # fmt: skip
    reward = traj.measured()["expected_reward"]
    assert (reward[-1] > reward[0] + 0.15).all()
    assert traj.queries[-1] == 80 / 2 * 4 * 8


def test_offline_the_references_texts_are_written_once():
    source = ta.Source("reference", exact=False, responses=4, prompts=2)
    traj = ta.simulate(
        "best_of_n", SMALL, policy=TINY, source=source, steps=5, lr=0.1, seeds=1, marks=range(6)
    )
    assert set(traj.queries[1:]) == {8}
    # The same data at every step: plain descent on them lowers the loss at every step.
    assert (np.diff(traj.loss[:, 0]) < 0).all()


def test_what_is_measured_leaves_the_training_alone():
    settings = {"policy": TINY, "source": PULLED, "steps": 8, "lr": 0.1}
    often = ta.simulate("reinforce", SMALL, marks=range(9), **settings)
    seldom = ta.simulate("reinforce", SMALL, marks=[0], **settings)
    assert np.array_equal(often.theta, seldom.theta)
    assert often.measured()["kl_to_reference"][0] == 0


def test_what_cannot_write_is_refused():
    with pytest.raises(ToyalignError, match="policy tabular cannot write responses of its own"):
        ta.simulate("reinforce", SMALL, policy="tabular", steps=1)
    with pytest.raises(ToyalignError, match="unknown place of the reward 'fur'; did you mean"):
        sequence_bandit("fur")
    with pytest.raises(ToyalignError, match="one number per token, not 2 and 3"):
        SequenceBandit((0.5, 0.5), (1.0, 0.0, 0.0))
    with pytest.raises(ToyalignError, match="prompts must be at least 1, not 0"):
        SequenceBandit((0.5, 0.5), (1.0, 0.0), prompts=0)
