"""Responses of several tokens: two contexts, three actions, walked by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.problems.exact import own_pairs
from toyalign.problems.sources import labelled, winners
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table, reduce_rows, weights
from toyalign.streams import Streams

# Cells: context * 3 + action. The chosen answer is 1 then 5, the rejected one 2, 3 and 0.
CELLS = torch.tensor([[[[1, 5, 0]], [[2, 3, 0]]]])
MASK = torch.tensor([[[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]]], dtype=torch.float64)
PAIRS = Rows(torch.ones(1, 1, dtype=torch.float64), CELLS, ("chosen_", "rejected_"), mask=MASK)
TABLE = torch.log_softmax(torch.tensor([[[0.1, 0.4, -0.3], [1.0, 0.0, 0.5]]]).double(), -1)
TABLE = TABLE.view(1, 6)
REFERENCE = torch.full((1, 6), 1 / 3, dtype=torch.float64).log()


@dataclass(frozen=True)
class TwoContexts:
    """A chosen and a rejected response; others are drawn as one action in each context."""

    pairs: tuple = ()
    has_pairs: bool = True
    name: str = "two_contexts"
    units = {"first_action": "probability"}  # noqa: RUF012

    def world(self, streams, dtype):
        def respond(probabilities, groups, n, streams):
            runs, count = len(probabilities), groups * n
            uniforms = torch.from_numpy(streams.uniforms("responses", 2 * count))
            actions = (uniforms.view(runs, count, 2) * 3).long()
            mask = torch.ones(runs, 1, count, 2, dtype=dtype)
            cells = (actions + torch.tensor([0, 3])).unsqueeze(1)
            weight = torch.full((1, count), 1 / count, dtype=dtype)
            return Rows(weight, cells, mask=mask), (actions.sum(-1)).to(dtype)

        zeros = torch.zeros(1, 6, dtype=dtype)
        return World(
            contexts=2,
            actions=3,
            reference_logits=REFERENCE.to(dtype).expand(streams.runs, -1),
            rewards=zeros,
            target_log_probs=REFERENCE.to(dtype),
            demonstrations=zeros,
            pair_rows=PAIRS,
            respond=respond,
        )

    def measure(self, world, log_probs, reference):
        return {"first_action": log_probs[:, 0].exp()}


def test_log_probs_are_summed_over_the_tokens_of_a_response():
    found = from_table(["chosen_logps", "rejected_token_logps"], PAIRS, TABLE, 3)
    assert found["chosen_logps"].item() == pytest.approx((TABLE[0, 1] + TABLE[0, 5]).item())
    assert torch.equal(found["rejected_token_logps"][0, 0], TABLE[0, [2, 3, 0]])


def test_lengths_and_masks_end_with_the_response():
    found = constants(["chosen_lengths", "rejected_lengths", "chosen_mask"], PAIRS, REFERENCE, 3)
    assert (found["chosen_lengths"].item(), found["rejected_lengths"].item()) == (2, 3)
    assert found["chosen_mask"].tolist() == [[[1, 1, 0]]]


def test_what_stands_behind_the_end_does_not_count():
    other = Rows(PAIRS.weight, CELLS.clone(), PAIRS.sides, mask=MASK)
    other.cells[0, 0, 0, 2] = 4
    for name in ("chosen_logps", "chosen_token_logps"):
        assert torch.equal(
            from_table([name], PAIRS, TABLE, 3)[name], from_table([name], other, TABLE, 3)[name]
        )


def test_a_loss_per_token_becomes_the_token_mean():
    cells, mask = CELLS.transpose(1, 2).flatten(1, 2), MASK.transpose(1, 2).flatten(1, 2)
    rows = Rows(torch.full((1, 2), 0.5).double(), cells.unsqueeze(1), mask=mask.unsqueeze(1))
    loss = torch.arange(6.0, dtype=torch.float64).view(1, 2, 3)
    assert reduce_rows(loss, rows).item() == pytest.approx((0 + 1 + 3 + 4 + 5) / 5)
    assert weights(loss, rows).sum().item() == pytest.approx(1)


def test_whole_distributions_are_those_of_each_tokens_context():
    found = from_table(["chosen_log_probs"], PAIRS, TABLE, 3)["chosen_log_probs"]
    assert found.shape == (1, 1, 3, 3)
    assert torch.equal(found[0, 0, 0], TABLE[0, :3]) and torch.equal(found[0, 0, 1], TABLE[0, 3:])


def test_the_kl_estimate_is_the_kl_in_the_contexts_of_the_responses():
    rows = labelled(PAIRS)
    found = from_table(["kl_estimate"], rows, TABLE, 3, reference=REFERENCE)["kl_estimate"]
    kl = (TABLE.exp() * (TABLE - REFERENCE)).view(2, 3).sum(-1)
    # Two tokens of the chosen answer, in contexts 0 and 1; three of the other, in 0, 1 and 0.
    assert found.item() == pytest.approx(((kl[0] + kl[1]) + (2 * kl[0] + kl[1])).item() / 2)


def test_flipped_labels_exchange_cells_and_masks():
    rows = own_pairs(TwoContexts().world(Streams([0]), torch.float64), 0.25)
    assert rows.weight.tolist() == [[0.75, 0.25]]
    assert torch.equal(rows.cells[:, 0, 1], CELLS[:, 1, 0])
    assert torch.equal(rows.mask[:, 1, 1], MASK[:, 0, 0])


def test_winners_and_labelled_responses_keep_their_masks():
    assert torch.equal(winners(PAIRS).mask, MASK[:, :1])
    rows = labelled(PAIRS)
    assert rows.mask.tolist() == [[[[1, 1, 0], [1, 1, 1]]]]
    assert rows.values["labels"].tolist() == [[1, 0]]


@pytest.mark.parametrize("name", ["sft", "dpo", "simpo", "dft", "kto", "orpo", "tdpo1", "rdpo"])
def test_fixed_responses_train(name):
    if name == "rdpo":
        name = "r_dpo"
    traj = ta.simulate(name, TwoContexts(), steps=50, lr=0.5, seeds=2)
    chosen = traj.log_probs[..., 0, 1] + traj.log_probs[..., 1, 2]
    rejected = traj.log_probs[..., 0, 2] + traj.log_probs[..., 1, 0] + traj.log_probs[..., 0, 0]
    assert (chosen[-1] - rejected[-1] > chosen[0] - rejected[0] + 0.01).all()
    assert np.allclose(traj.own_measures["first_action"], np.exp(traj.log_probs[..., 0, 0]))


@pytest.mark.parametrize("name", ["reinforce", "best_of_n", "ppo_clip", "grpo", "online_dpo"])
def test_drawn_responses_train(name):
    source = ta.Source("policy", exact=False, prompts=4, responses=8)
    traj = ta.simulate(name, TwoContexts(), steps=60, lr=0.3, seeds=2, source=source)
    best = np.exp(traj.log_probs[..., 2]).mean(-1)  # the last action pays most in both contexts
    assert (best[-1] > best[0] + 0.02).all()
    assert traj.queries[-1] == 60 * 32


def test_a_run_alone_is_the_run_in_a_batch():
    source = ta.Source("policy", exact=False, prompts=2, responses=4)
    many = ta.simulate("reinforce", TwoContexts(), steps=20, seeds=5, source=source)
    alone = ta.simulate("reinforce", TwoContexts(), steps=20, seeds=[3], source=source)
    assert np.array_equal(many.log_probs[:, 3], alone.log_probs[:, 0])


def test_the_table_names_the_problems_own_measures():
    frame = ta.simulate("dpo", TwoContexts(), steps=5).to_frame()
    own = frame.query("quantity == 'first_action'")
    assert set(own["unit"]) == {"probability"} and own["value"].iloc[0] == pytest.approx(1 / 3)
    assert "expected_reward" not in set(frame["quantity"])
