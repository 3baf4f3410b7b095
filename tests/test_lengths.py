"""Length problems: texts, pairs, the reward model, and what is measured."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.transformer import Transformer
from toyalign.problems.lengths import END, Lengths, counted, fit_reward, length_of, lengths
from toyalign.streams import Streams

TINY = Transformer(layers=1, heads=1, width=8, fits=60)
TOKENS = torch.tensor([[[3, 2, 0, 0], [0, 1, 0, 2], [1, 1, 1, 1]]])


def world_of(rule, seeds=range(20), **changes):
    return lengths(rule, **changes).world(Streams(list(seeds)))


def test_a_response_counts_up_to_its_first_end():
    assert counted(TOKENS).tolist() == [[[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]]
    assert length_of(TOKENS).tolist() == [[2, 0, 4]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("min", [0.5, 1, 0]), ("skew", [0.5, 1, 0]), ("mode", [0.75, 0.75, 0.25])],
)
def test_the_true_rule(rule, expected):
    # Mode: usual length 1, so the lengths 2, 0 and 4 are off by 1, 1 and 3 of 4.
    assert Lengths(rule, tokens=4, usual=1).truth(TOKENS)[0].tolist() == expected


@pytest.mark.parametrize("rule", ["min", "mode", "skew"])
def test_texts_have_the_stated_lengths(rule):
    # 20 runs of 1,024 texts: the mean length has a standard error of about .013 tokens.
    problem, world = lengths(rule), world_of(rule)
    place = torch.arange(16).double()
    assert length_of(world.corpus).double().mean().item() == pytest.approx(
        (problem.shares(False) * place).sum().item(), abs=0.06
    )
    # Of 64 pairs per run, 2,560 responses: standard error about .04.
    assert length_of(world.tokens).double().mean().item() == pytest.approx(
        (problem.shares(rule == "skew") * place).sum().item(), abs=0.2
    )
    chosen, rejected = world.tokens.chunk(2, 1)
    assert (problem.truth(chosen) >= problem.truth(rejected)).all()
    assert (world.tokens[..., -1] == END).all()  # there is room for the end


def test_the_reward_model_has_learned_the_rule_where_it_has_data():
    for rule, seen in (("min", range(4, 13)), ("mode", range(4, 13)), ("skew", range(5))):
        problem, world = lengths(rule), world_of(rule, [0, 1])
        words = torch.where(
            torch.arange(16) < torch.tensor(list(seen)).unsqueeze(-1), 1 + torch.arange(16) % 5, END
        ).expand(2, -1, -1)
        judge = world.write.args[1]
        rewards = judge(words, torch.zeros(2, len(seen), dtype=torch.long))
        truth = problem.truth(words)
        for run in range(2):
            assert np.corrcoef(rewards[run], truth[run])[0, 1] > 0.9


def test_it_goes_on_where_it_has_seen_nothing():
    # Skew's pairs hardly reach ten tokens, but every word counts: the trend is the rule's.
    problem, world = lengths("skew"), world_of("skew", range(4))
    assert (length_of(world.tokens) > 9).double().mean() < 0.01
    words = torch.where(torch.arange(16) < torch.tensor([[10], [12], [14], [15]]), 1, END)
    rewards = world.write.args[1](words.expand(4, -1, -1), torch.zeros(4, 4, dtype=torch.long))
    assert (rewards.diff(dim=1) < 0).all()
    assert (problem.truth(words).diff() < 0).all()


def test_logistic_regression_by_hand():
    # One feature, always larger by one in the better response: the loss log(1 + e^-w) + w²/1000
    # is least where σ(-w) = w/500.
    features = torch.tensor([[[1.0], [0.0], [0.0], [1.0]]], dtype=torch.float64)
    weight, mean, scale = fit_reward(features, torch.tensor([[1.0, 0.0, 0.0, 1.0]]).double())
    found = weight.item()
    assert 1 / (1 + np.exp(found)) == pytest.approx(found / 500, rel=0.05)
    assert mean.item() == pytest.approx(found / 2) and scale.item() > 0
    ties, _, _ = fit_reward(features, torch.ones(1, 4, dtype=torch.float64))
    assert ties.item() == 0


def test_methods_shorten_and_offline_data_are_the_pairs():
    source = ta.Source("policy", exact=False, prompts=4, responses=6)
    settings = {
        "policy": TINY,
        "steps": 40,
        "lr": 5e-3,
        "optimiser": "adam",
        "seeds": 2,
        "marks": 5,
    }
    problem = lengths("min", count=16)
    own = ta.simulate("reinforce", problem, source=source, **settings).own_measures
    assert (own["length"][-1] < own["length"][0] - 2).all()
    assert (own["true_reward"][-1] > own["true_reward"][0]).all()
    pairs = ta.simulate("dpo", problem, source="fixed", **settings)
    assert pairs.queries[-1] == 0
    assert (pairs.own_measures["length"][-1] < pairs.own_measures["length"][0] - 1).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ToyalignError, match="unknown rule 'mean'; did you mean"):
        lengths("mean")
    with pytest.raises(ToyalignError, match="usual=16 must be shorter than the 16 tokens"):
        lengths("min", usual=16)
    with pytest.raises(ToyalignError, match="texts must be at least 4, not 3"):
        lengths("min", texts=3)


def test_a_run_is_the_same_alone():
    problem = lengths("mode", count=8, judged=64, texts=32)
    settings = {"policy": TINY, "steps": 3, "lr": 0.01, "marks": [0]}
    source = ta.Source("policy", exact=False, prompts=2, responses=3)
    many = ta.simulate("rwr", problem, source=source, seeds=3, **settings)
    alone = ta.simulate("rwr", problem, source=source, seeds=[1], **settings)
    assert np.array_equal(many.theta[1], alone.theta[0])
