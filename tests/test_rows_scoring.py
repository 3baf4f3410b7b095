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
        assert term.axes[:2] == ("run", "row")
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
    assert from_table(["log_probs"], rows, TABLE, 2)["log_probs"].tolist() == [
        [[1, 2], [3, 4]],
        [[5, 6], [7, 8]],
    ]


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
    ):
        streams = Streams([0])
        world = problem.world(streams)
        source = ta.Source("fixed" if needs == ["chosen_logps"] else "policy")
        reference = world.reference_logits
        rows = Collector(source, needs, world, reference, streams).rows(0, reference)
        if needs == ["log_probs"]:
            rows = distributions(world)
        for name in GLOSSARY:
            try:
                found = constants([name], rows, reference, 3)
                found = found or from_table([name], rows, reference, 3)
            except ToyalignError:
                continue
            assert found[name].ndim == len(GLOSSARY[name].axes), name
            given.add(name)
    assert given == set(GLOSSARY)
