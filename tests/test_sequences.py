"""Worlds of sequences: their pairs, reference and measures, and the slope in closed form."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.policies.position import Position
from toyalign.problems import get_problem
from toyalign.problems.sequences import Sequences, edited_pairs, step0_slope, two_writers
from toyalign.similarity import edit_distance, token_groups
from toyalign.streams import Streams

SMALL = Sequences(tokens=6, edits=2, count=5, trained=2, unseen=3, texts=8)


def world_of(problem, seeds=(0, 1)):
    return problem.world(Streams(list(seeds)))


# --- the pairs


@pytest.mark.parametrize("edits", [1, 3, 6])
def test_pairs_have_the_stated_edit_distance(edits):
    world = world_of(Sequences(tokens=6, edits=edits, count=20, vocabulary=4))
    chosen, rejected = (world.pair_rows.cells % 4).unbind(1)
    assert (chosen != rejected).sum(-1).eq(edits).all()
    # Replacements alone are counted; an insertion and a deletion may do it in fewer.
    distances = [
        edit_distance(a.tolist(), b.tolist()) for a, b in zip(chosen[0], rejected[0], strict=True)
    ]
    assert max(distances) == pytest.approx(edits / 6)
    first = token_groups(chosen, rejected)[0].sum(-1)
    assert edits == 6 or len(first.unique()) > 1  # edits stand at various places


def test_responses_and_cells_name_the_same_tokens():
    world = world_of(SMALL)
    assert world.tokens.shape == (2, 2 + 3 + 5, 6)
    assert world.prompts.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 0]]
    context = world.pair_rows.cells // 10
    assert (context[0, 0, :, 0] // 6).tolist() == [0, 1, 0, 1, 0]
    assert (context[0, 1, :, 0] // 6).tolist() == [5, 6, 7, 8, 9]
    flat = world.tokens.flatten(1)
    for side in range(2):
        told = flat.gather(1, context[:, side].flatten(1))
        assert torch.equal(told, (world.pair_rows.cells[:, side] % 10).flatten(1))
    assert world.demonstration_rows.count == 2
    for run in range(2):  # each run has answers of its own
        own = world.demonstration_rows.cells[run].unique()
        assert world.demonstrations[run].sum().item() == pytest.approx(1)
        assert world.demonstrations[run].nonzero().flatten().tolist() == own.tolist()
    assert world.pair_rows.weight.sum().item() == pytest.approx(1)


def test_equal_prefixes_of_a_prompt_are_one_node():
    world = world_of(Sequences(vocabulary=3, tokens=4, edits=2, count=12, trained=2, texts=4))
    named = {}
    for prompt, response, nodes in zip(
        world.prompts[0].tolist(),
        world.tokens[1].tolist(),
        world.nodes[1].view(-1, 4).tolist(),
        strict=True,
    ):
        for place, node in enumerate(nodes):
            assert named.setdefault((prompt, *response[:place]), node) == node
    assert len(set(named.values())) == len(named)


def test_a_world_does_not_depend_on_the_other_runs():
    both, alone = world_of(SMALL), world_of(SMALL, (1,))
    for name in ("tokens", "nodes", "reference_logits", "corpus"):
        assert torch.equal(getattr(both, name)[1:], getattr(alone, name))
        assert name == "nodes" or not torch.equal(getattr(both, name)[0], getattr(both, name)[1])


def test_the_corpus_is_the_same_for_every_number_of_edits():
    few, many = (world_of(Sequences(edits=d, count=4, texts=16)) for d in (1, 9))
    assert torch.equal(few.corpus, many.corpus)
    assert not torch.equal(few.tokens, many.tokens)


# --- the reference


def test_the_reference_is_right_until_it_is_misled():
    world = world_of(Sequences(count=40, edits=2, right=0.7, misled=0.4, texts=1))
    table = world.reference_logits.exp().view(2, 80, 20, 10)
    np.testing.assert_allclose(table.sum(-1), 1, atol=1e-12)
    answers = world.tokens[:, :40]
    correct = answers.repeat(1, 2, 1)
    right = table.gather(-1, correct.unsqueeze(-1)).squeeze(-1)
    begun = (world.tokens != correct).cumsum(-1)
    before = torch.cat([torch.zeros_like(begun[..., :1]), begun[..., :-1]], -1)
    np.testing.assert_allclose(right, torch.where(before > 0, 0.4, 0.7), atol=1e-12)
    # The rest is Dirichlet(1) over nine tokens: its squares sum to 2/10 of the rest's square.
    rest = table.pow(2).sum(-1) - right**2
    assert (rest / (1 - right) ** 2).mean().item() == pytest.approx(0.2, abs=0.005)


def test_writers_err_as_often_as_stated():
    world = world_of(two_writers(texts=2000))
    errors = world.corpus != world.tokens[:, world.corpus_prompts]
    sloppy = (torch.arange(2000) // 8) % 2 == 1
    assert errors[:, sloppy].double().mean().item() == pytest.approx(0.4, abs=0.01)
    assert errors[:, ~sloppy].double().mean().item() == pytest.approx(0.005, abs=0.002)


# --- the slope in closed form


@pytest.mark.parametrize(("q", "expected"), [(0.5, -0.377), (0.8, 0.256), (0.7, 0.045)])
def test_slope_of_one_edit_at_a_random_place(q, expected):
    # One edit in 20 tokens leaves 9.5 later ones on average.
    assert step0_slope(0.8, q, 1.0, 10, 9.5) == pytest.approx(expected, abs=1e-3)


def test_slope_of_one_edit_for_a_reference_that_is_badly_misled():
    assert step0_slope(0.8, 0.3, 1.0, 10, 9.5) == pytest.approx(-0.80, abs=5e-3)


def test_slope_where_every_token_is_edited():
    # Measured independently: 3.246 ± .008 at d = L = 20.
    assert step0_slope(0.8, 0.5, 1.0, 10, 0, 19) == pytest.approx(3.246, abs=0.008)


def test_slope_with_independent_prefixes_is_never_negative():
    assert step0_slope(0.8, 0.1, 0.0, 10, 1000) > 0
    with pytest.raises(ToyalignError, match=r"rho must lie between 0 and 1, not 1.5"):
        step0_slope(0.8, 0.5, 1.5, 10, 1)


@pytest.mark.parametrize(
    ("q", "rho", "edits"), [(0.5, 1.0, 1), (0.3, 1.0, 1), (0.5, 0.3, 1), (0.5, 0.7, 4)]
)
def test_slope_is_what_autograd_finds(q, rho, edits):
    problem = edited_pairs(misled=q, edits=edits, texts=1)
    world = world_of(problem, range(40))
    policy = Position(rho)
    theta = torch.zeros(40, 2 * world.cells, dtype=torch.float64, requires_grad=True)
    table = policy.log_probs(theta, world)
    chosen, rejected = (
        table.gather(1, cells.flatten(1)).view(40, 64, 20).sum(-1)
        for cells in world.pair_rows.cells.unbind(1)
    )
    loss = ta.dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.3)
    (downhill,) = torch.autograd.grad(-loss.sum(), theta, retain_graph=True)
    (rising,) = torch.autograd.grad(chosen.sum(), theta)
    # The margin's gradient is weighed with β/2, and pairs of other prompts share nothing.
    measured = (downhill * rising).sum(1) / (0.3 / 2) / 64
    tokens = world.pair_rows.cells % 10
    _, edited, later = token_groups(tokens[:, 0], tokens[:, 1]).sum(-1).double().mean((1, 2))
    expected = step0_slope(0.8, q, rho, 10, later.item(), edited.item() - 1)
    assert measured.mean().item() == pytest.approx(expected, rel=0.02)


# --- the measures


def test_measures_by_hand():
    world = world_of(SMALL)
    reference = world.reference_logits
    at_start = SMALL.measure(world, reference, reference)
    assert set(at_start) == set(SMALL.units)
    assert at_start["greedy_exact"].eq(1).all()
    for name in ("chosen_displacement", "share_below_reference", "unseen_displacement"):
        assert at_start[name].eq(0).all()
    # Half a nat less on every cell of the first answer, which has three of the five pairs.
    table = reference.clone()
    table[:, : 6 * 10] -= 0.5
    moved = SMALL.measure(world, table, reference)
    assert moved["chosen_displacement"].tolist() == pytest.approx([-6 * 0.5 * 3 / 5] * 2)
    assert moved["share_below_reference"].tolist() == pytest.approx([0.6, 0.6])
    groups = sum(moved[f"displacement_{group}"] for group in ("prefix", "edited", "later"))
    torch.testing.assert_close(groups, moved["chosen_displacement"])
    assert moved["displacement_edited"].tolist() == pytest.approx([-2 * 0.5 * 3 / 5] * 2)
    assert moved["rejected_logps"].equal(at_start["rejected_logps"])
    table = reference.clone()
    table[:, 2 * 60 : 3 * 60] += 0.25  # the first of three unseen answers
    moved = SMALL.measure(world, table, reference)
    assert moved["unseen_displacement"].tolist() == pytest.approx([6 * 0.25 / 3] * 2)
    table[0, :10] = table[0, :10].flip(0)
    assert SMALL.measure(world, table, reference)["greedy_exact"].tolist() == [0.5, 1.0]


# --- no, never, yes


def test_no_never_yes_starts_where_it_says():
    world = world_of(get_problem("no_never_yes"))
    logits = torch.bmm(world.unembeddings, world.hidden.unsqueeze(-1)).squeeze(-1)
    np.testing.assert_allclose(torch.log_softmax(logits, -1), world.reference_logits, atol=1e-12)
    many = get_problem("no_never_yes").world(Streams(range(200))).reference_logits.exp()
    np.testing.assert_allclose(many[:, :3].mean(0), [0.274, 0.331, 0.187], atol=0.01)
    no, never, yes = world.unembeddings[:, :3].unbind(1)
    a, s = (no + yes) / 2, (no - yes) / 2
    np.testing.assert_allclose(never, a + 2 * s, atol=1e-12)
    np.testing.assert_allclose([(a * s).sum(1), (a * a).sum(1) - 1], 0, atol=1e-12)


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edits": 21}, "edits=21 is more than the 20 tokens"),
        ({"edits": 0}, "edits must be at least 1, not 0"),
        ({"trained": 65}, "trained=65 prompts need as many pairs"),
        ({"right": 1.0}, "right must lie between 0 and 1"),
        ({"sloppy": -0.1}, "sloppy must be 0 or more, below 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ToyalignError, match=message):
        edited_pairs(**settings)
