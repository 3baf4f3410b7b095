"""Policies of sequences: what they share, and what becomes of the chosen response for it."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.bigram import Bigram
from toyalign.policies.embedding import Embedding
from toyalign.policies.position import Position, Prefix
from toyalign.policies.transformer import Transformer
from toyalign.problems.answers import no_never_yes
from toyalign.problems.sequences import Sequences, edited_pairs, two_writers
from toyalign.streams import Streams

SMALL = Sequences(tokens=5, edits=1, count=4, trained=2, unseen=1, texts=32, vocabulary=6)
TINY = Transformer(layers=1, width=8, fits=5, batch=8)
POLICIES = [Prefix(), Position(), Position(0.3), Bigram(), TINY]


def started(policy, problem=SMALL, seeds=(0, 1)):
    streams = Streams(list(seeds))
    world = problem.world(streams)
    theta = policy.start(world, streams)
    return world, theta, policy.log_probs(theta, world)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_distributions_and_runs_on_their_own(policy):
    world, theta, before = started(policy)
    np.testing.assert_allclose(before.exp().view(2, -1, 6).sum(-1), 1, atol=1e-12)
    if policy != TINY:
        np.testing.assert_allclose(before, world.reference_logits, atol=1e-12)
    moved = theta.clone()
    moved[1] += torch.linspace(0, 1, moved.shape[1])
    after = policy.log_probs(moved, world)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_the_same_bits_alone_and_in_a_batch(policy):
    settings = {"policy": policy, "source": "fixed", "steps": 4, "marks": 2, "beta": 0.3}
    together = ta.simulate("dpo", SMALL, seeds=9, **settings)
    for seed in (0, 5, 8):
        alone = ta.simulate("dpo", SMALL, seeds=[seed], **settings)
        assert alone.theta[0].tobytes() == together.theta[seed].tobytes()
        assert alone.log_probs[:, 0].tobytes() == together.log_probs[:, seed].tobytes()


# --- what is shared


def shifted(policy, world, theta, entry):
    """Contexts that move when one parameter of run 0 does."""
    moved = theta.clone()
    moved[0, entry] += 0.7
    change = policy.log_probs(moved, world) - policy.log_probs(theta, world)
    return set(change[0].view(-1, 6).abs().amax(-1).gt(1e-9).nonzero().flatten().tolist())


def test_a_prefix_shares_with_equal_prefixes_alone():
    world, theta, _ = started(Prefix())
    nodes = world.nodes[0].tolist()
    for context in (0, 7, 15, len(nodes) - 1):
        there = {c for c, node in enumerate(nodes) if node == nodes[context]}
        assert shifted(Prefix(), world, theta, nodes[context] * 6 + 1) == there
        assert shifted(Position(0), world, Position(0).start(world, Streams([0, 1])),
                       world.cells + nodes[context] * 6) == there  # fmt: skip


def test_a_position_shares_with_all_responses_of_its_prompt():
    world, theta, _ = started(Position())
    # Prompt 0 has the responses 0, 3 and 5: its answer and two rejected ones.
    assert shifted(Position(), world, theta, 2 * 6 + 4) == {2, 3 * 5 + 2, 5 * 5 + 2}


def test_kernel_of_two_prefixes_at_a_position():
    policy = Position(0.3)
    world, theta, _ = started(policy)
    theta.requires_grad_()
    logits = policy.log_probs(theta, world)
    chosen, rejected = 4, 3 * 5 + 4  # the last context of the answer and of a rejected copy
    differ = world.nodes[0, chosen] != world.nodes[0, rejected]
    grads = []
    for context in (chosen, rejected):
        pair = logits[0, context * 6] - logits[0, context * 6 + 1]  # a difference of two logits
        grads.append(torch.autograd.grad(pair, theta, retain_graph=True)[0][0])
    own, cross = grads[0] @ grads[0], grads[0] @ grads[1]
    assert own.item() == pytest.approx(2, abs=1e-12)
    assert cross.item() == pytest.approx(0.6 if differ else 2, abs=1e-12)


def test_a_bigram_reads_the_last_token():
    world, theta, _ = started(Bigram())
    tokens = world.tokens[0].tolist()
    for token in range(7):
        there = {
            response * 5 + place
            for response, row in enumerate(tokens)
            for place in range(5)
            if (row[place - 1] if place else 6) == token
        }
        assert shifted(Bigram(), world, theta, token * 6 + 2) == there


# --- the transformer


def test_the_transformer_reads_its_prompt_and_no_later_token():
    world, theta, before = started(TINY)
    changed = world.tokens.clone()
    changed[:, :, 3] = (changed[:, :, 3] + 1) % 6
    after = TINY.log_probs(theta, ta_replace(world, tokens=changed))
    change = (after - before).view(2, -1, 5, 6).abs().amax(-1)
    assert change[:, :, :4].eq(0).all()
    assert change[:, :, 4].gt(1e-6).all()
    other = TINY.log_probs(theta, ta_replace(world, prompts=(world.prompts + 1) % 3))
    assert (other - before).abs().view(2, -1, 5, 6).amax(-1).gt(1e-9).all()


def ta_replace(world, **changes):
    from dataclasses import replace

    return replace(world, **changes)


def test_the_transformer_learns_that_one_error_makes_more_likely():
    policy = Transformer(fits=150)
    world, _, table = started(policy, two_writers(), seeds=(0, 1))
    pairs = world.pair_rows.cells % 10
    by_token = table.gather(1, world.pair_rows.cells.flatten(1)).view(2, 2, -1, 12).exp()
    first = (pairs[:, 0] != pairs[:, 1]).int().cumsum(-1)
    later = (first > 0) & (pairs[:, 0] == pairs[:, 1])
    right = by_token[:, 0][later].mean().item()
    misled = by_token[:, 1][later].mean().item()
    assert 0.85 < right < 0.99
    assert misled < right - 0.1


def test_a_start_that_is_remembered_is_the_same():
    from toyalign.policies import transformer

    _, theta, _ = started(TINY)
    theta += 1  # what was remembered must not be this tensor
    _, again, _ = started(TINY)
    transformer._starts.clear()
    _, afresh, _ = started(TINY)
    assert torch.equal(again, afresh)
    assert not torch.equal(again, theta)


def test_worlds_without_texts_are_refused():
    with pytest.raises(ToyalignError, match="reads tokens and learns from a corpus"):
        started(Transformer(), ta.adjacent_arms())
    with pytest.raises(ToyalignError, match="heads=3 does not divide width=32"):
        Transformer(heads=3)
    with pytest.raises(ToyalignError, match="try problem no_never_yes"):
        started(Embedding(), ta.adjacent_arms())
    with pytest.raises(ToyalignError, match="rho must lie between 0 and 1, not 2"):
        Position(2)


# --- what becomes of the chosen response


def displaced(objective, policy, problem, **settings):
    traj = ta.simulate(objective, problem, policy=policy, marks=2, beta=0.3, **settings)
    return {name: values[-1] for name, values in traj.measured().items()}


def test_dpo_lowers_the_chosen_response_where_positions_are_shared():
    problem = edited_pairs(texts=1)
    settings = {"steps": 400, "lr": 64.0, "seeds": 3}  # weights are 1/64: rate 1 for each pair
    shared = displaced("dpo", Position(), problem, **settings)
    assert shared["chosen_displacement"].mean() == pytest.approx(-4.49, abs=0.5)
    assert shared["displacement_later"].mean() == pytest.approx(-4.71, abs=0.5)
    np.testing.assert_allclose(shared["displacement_prefix"], 0, atol=1e-9)
    alone = displaced("dpo", Prefix(), problem, **settings)
    assert alone["chosen_displacement"].mean() == pytest.approx(0.90, abs=0.05)
    assert (alone["share_below_reference"] == 0).all()


def test_dpop_with_small_steps_holds_the_chosen_response_at_the_reference():
    problem = edited_pairs(count=16, texts=1)
    held = displaced("dpop", Position(), problem, steps=1500, lr=1.6, seeds=2)
    assert np.abs(held["chosen_displacement"]).max() < 0.2
    assert (held["displacement_later"] < -0.5).all()  # the total is held, not every token


@pytest.mark.parametrize(("gamma", "falls"), [(2.0, True), (0.5, False)])
def test_never_beyond_no_sends_the_mass_to_yes(gamma, falls):
    traj = ta.simulate(
        "dpo", no_never_yes(gamma=gamma), policy=Embedding(), source="fixed", steps=100, lr=0.1,
        beta=0.3, seeds=20, marks=2,
    )  # fmt: skip
    start, end = np.exp(traj.log_probs[[0, -1], :, 0, :3])
    assert ((end < start)[:, 0] == falls).all()
    assert ((end < start)[:, 1] == falls).all()
    assert ((end > start)[:, 2] == falls).all()
    assert (end[:, 0] / end[:, 1] > 1.2 * start[:, 0] / start[:, 1]).all()
