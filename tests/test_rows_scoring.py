"""The glossary, rows, and the provider of every named tensor."""

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.glossary import GLOSSARY, KINDS, check_names, kind_of
from toyalign.problems.exact import distributions
from toyalign.problems.sources import Collector
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table, reduce_rows
from toyalign.shapes import over
from toyalign.streams import Streams

TABLE = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.float64)
PAIRS = Rows(
    weight=torch.tensor([[0.25, 0.75]], dtype=torch.float64),
    cells=torch.tensor([[[0, 2], [1, 3]], [[3, 0], [2, 1]]]),
    sides=("chosen_", "rejected_"),
)


# --- words


def test_the_glossary_is_complete():
    for name, term in GLOSSARY.items():
        assert term.name == name
        assert term.meaning
        assert term.unit
        assert term.axes[:2] in (("run", "row"), ("run", "1"))
        assert term.shape == f"[{', '.join(term.axes)}]"
        if name.endswith("logps"):
            assert term.unit == "nats"
            assert (term.axes[-1] == "token") == ("token_" in name)
        if not name.startswith(("ref_", "old_", "target_")) and name.endswith("logps"):
            assert f"ref_{name}" in GLOSSARY


def test_check_names():
    check_names(["logps", "rewards"], "fine")
    with pytest.raises(
        ToyalignError, match=r"signature of mine\(\) 'reward'; did you mean 'reward"
    ):
        check_names(["logps", "reward"], "mine")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["chosen_logps", "rewards"], "pairs"),
        (["ref_rejected_logps"], "pairs"),
        (["logps", "advantages"], "samples"),
        (["old_token_logps", "token_logps"], "samples"),
        (["log_probs", "target_log_probs"], "distributions"),
        (["logps", "ref_logps", "lengths"], "demonstrations"),
    ],
)
def test_kind_of(names, kind):
    assert kind_of(names) == kind
    assert kind in KINDS


# --- rows


THREE = Rows(
    weight=torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], dtype=torch.float64),
    cells=torch.tensor([[[4, 5, 6]]]),
    values={"rewards": torch.tensor([[10.0, 20.0, 30.0]], dtype=torch.float64)},
)


def test_every_run_has_an_order_of_its_own():
    moved = THREE.reordered(torch.tensor([[2, 0, 1], [0, 1, 2]]))
    assert moved.count == 3
    assert moved.cells.tolist() == [[[6, 4, 5]], [[4, 5, 6]]]
    assert moved.values["rewards"].tolist() == [[30, 10, 20], [10, 20, 30]]
    assert moved.weight.tolist() == [[0.7, 0.1, 0.2], [0.5, 0.5, 0]]


def test_both_sides_of_a_pair_move_together():
    moved = PAIRS.reordered(torch.tensor([[1, 0], [0, 1]]))
    assert moved.cells.tolist() == [[[2, 0], [3, 1]], [[3, 0], [2, 1]]]


def test_a_part_weighs_one_again():
    part = THREE.part(0, 2)
    assert part.count == 2
    assert part.cells.tolist() == [[[4, 5]]]
    assert part.values["rewards"].tolist() == [[10, 20]]
    np.testing.assert_allclose(part.weight, [[1 / 3, 2 / 3], [0.5, 0.5]])


def test_a_part_without_weight_stays_without():
    assert THREE.part(2, 3).weight.tolist() == [[1], [0]]


# --- scoring


def test_responses_are_looked_up_in_the_policys_table():
    found = from_table(["chosen_logps", "rejected_token_logps"], PAIRS, TABLE, 4)
    assert found["chosen_logps"].tolist() == [[1, 3], [8, 5]]
    assert found["rejected_token_logps"].tolist() == [[[2], [4]], [[7], [6]]]


def test_rows_of_every_cell_are_the_table_itself():
    rows = Rows(weight=torch.full((1, 4), 0.25))
    assert from_table(["logps"], rows, TABLE, 2)["logps"] is TABLE
    whole = Rows(weight=torch.full((1, 2), 0.5), sides=())
    assert from_table(["log_probs"], whole, TABLE, 2)["log_probs"].tolist() == [
        [[1, 2], [3, 4]],
        [[5, 6], [7, 8]],
    ]


def test_a_response_comes_with_everything_that_could_have_been_said():
    rows = Rows(weight=torch.full((1, 3), 1 / 3), cells=torch.tensor([[[3, 0, 1]]]))
    found = from_table(["log_probs"], rows, TABLE, 2)["log_probs"]
    assert found.tolist()[0] == [[[3, 4]], [[1, 2]], [[1, 2]]]
    both = from_table(["rejected_log_probs"], PAIRS, TABLE, 4)["rejected_log_probs"]
    assert both.tolist()[1] == [[[5, 6, 7, 8]], [[5, 6, 7, 8]]]


def test_drift_is_measured_on_the_datas_responses():
    # ratios to the reference of cells 0..3: (0, 1, 2, 3); weights .5 each; PAIRS are cells 0, 2
    # against 1, 3 in the first run
    asked = ["mean_log_ratio"]
    reference = TABLE - torch.arange(4)
    found = from_table(asked, PAIRS, TABLE, 4, reference=reference)["mean_log_ratio"]
    cells = PAIRS.cells.expand(2, -1, -1).double()
    assert found.tolist() == (cells.mean(1) * PAIRS.weight).sum(1, keepdim=True).tolist()


def test_kl_estimate_takes_every_response_in_every_context_and_is_never_negative():
    rows = Rows(weight=torch.tensor([[0.75, 0.25]]), cells=torch.tensor([[[0, 3]]]))
    ratio = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])
    found = from_table(["kl_estimate"], rows, TABLE + ratio, 2, reference=TABLE)
    # two contexts of two arms: arm 0 has ratios 1 and 3, arm 1 has 2 and 4
    assert found["kl_estimate"].tolist() == [[0.75 * 2 + 0.25 * 3], [0.0]]


def test_a_third_response_is_the_references_on_average():
    reference = torch.tensor([[0.25, 0.75, 0.5, 0.5]]).double().log().expand(2, -1)
    rows = Rows(
        weight=torch.ones(1, 1), cells=torch.tensor([[[2], [3]]]), sides=("chosen_", "rejected_")
    )
    found = from_table(["logps"], rows, TABLE, 2, reference=reference)["logps"]
    assert found.tolist() == [[3.5], [7.5]]


def test_the_prompted_pair_is_the_plain_one_without_gradient():
    table = TABLE.double().requires_grad_()
    found = from_table(["prompted_chosen_logps", "chosen_logps"], PAIRS, table, 4)
    assert torch.equal(found["prompted_chosen_logps"], found["chosen_logps"])
    assert not found["prompted_chosen_logps"].requires_grad


def test_single_responses_are_looked_up():
    rows = Rows(weight=torch.full((1, 2), 0.5), cells=torch.tensor([[[3, 0]]]))
    assert from_table(["logps"], rows, TABLE, 4)["logps"].tolist() == [[4, 1], [8, 5]]


def test_constants_come_from_the_reference_the_sampler_and_the_data():
    rows = Rows(
        weight=torch.full((1, 2), 0.5),
        cells=torch.tensor([[[3, 0]]]),
        values={"rewards": torch.ones(2, 2)},
        behaviour=-TABLE,
    )
    needs = ["logps", "ref_logps", "old_logps", "old_token_logps", "rewards", "lengths", "mask"]
    found = constants(needs, rows, 10 * TABLE, 4)
    assert "logps" not in found
    assert found["ref_logps"].tolist() == [[40, 10], [80, 50]]
    assert found["old_logps"].tolist() == [[-4, -1], [-8, -5]]
    assert found["old_token_logps"].shape == (2, 2, 1)
    assert found["rewards"].tolist() == [[1, 1], [1, 1]]
    assert found["lengths"].tolist() == [[1, 1], [1, 1]]
    assert found["mask"].shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("logps", PAIRS),
        ("ref_logps", PAIRS),
        ("lengths", PAIRS),
        ("old_logps", PAIRS),
        ("chosen_mask", Rows(weight=torch.ones(1, 4) / 4)),
        ("rewards", PAIRS),
    ],
)
def test_what_the_rows_do_not_have(name, rows):
    with pytest.raises(ToyalignError, match=f"this data source has no {name} \\("):
        found = constants([name], rows, TABLE, 4)
        from_table([need for need in [name] if need not in found], rows, TABLE, 4)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1)])
def test_reduce_rows_is_the_weighted_sum(shape):
    loss = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64).view(shape)
    assert reduce_rows(loss, PAIRS).tolist() == [1.75, 4.5]


def test_over_broadcasts_a_hyperparameter():
    like = torch.zeros(2, 3, 4, dtype=torch.float32)
    assert over(0.5, like).shape == (1, 1, 1)
    column = over(torch.tensor([[1.0], [2.0]]), like)
    assert column.shape == (2, 1, 1)
    assert column.dtype == torch.float32


def test_every_name_of_the_glossary_has_a_provider():
    # A loss may ask for any name; each is given by at least one kind of rows.
    problem = ta.Bandit((0.5, 0.3, 0.2), rewards=(0, 1, 2), pairs=((0, 1),))
    given = set()
    for needs in (
        ["chosen_logps"],
        ["logps", "rewards", "advantages", "best_weights"],
        ["logps"],
        ["log_probs"],
        ["logps", "labels"],
        ["chosen_logps", "chosen_rewards", "rejected_rewards"],
    ):
        streams = Streams([0])
        world = problem.world(streams)
        source = ta.Source("fixed" if "chosen_logps" in needs else "policy")
        reference = world.reference_logits
        rows = Collector(source, needs, world, reference, streams).rows(0, reference)
        if needs == ["log_probs"]:
            rows = distributions(world)
        for name in GLOSSARY:
            try:
                found = constants([name], rows, reference, 3)
                found = found or from_table([name], rows, reference, 3, reference=reference)
            except ToyalignError:
                continue
            beside_tokens = name.endswith("log_probs") and bool(rows.sides)
            axes = 4 if beside_tokens else len(GLOSSARY[name].axes)
            assert found[name].ndim == axes, name
            given.add(name)
    assert given == set(GLOSSARY)
