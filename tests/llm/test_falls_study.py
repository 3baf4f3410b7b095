"""The study of falling answers on a language model: what it measures, and its GPU preset, tiny."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from toyalign.errors import ToyalignError
from toyalign.llm.data import Example
from toyalign.registry import load_module

study = load_module(Path(__file__).parents[2] / "studies" / "llm_chosen_falls.py")
TINY = replace(
    study.PRESETS["gpu"], seeds=1, models=((1, 32), (1, 64)), sums=2, demonstrations=64, passes=1,
    rounds=2, prompts=8, edits=(1, 6), objectives=("sft", "dpo", "ipo", "dpop"), steps=2, batch=4,
    looks=(1, 2), rates=(1e-3,), device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return study.study.run(TINY)


def test_the_gpu_preset_runs_wherever_its_numbers_are_small(table):
    # bfloat16 and all: the same code, with another device, sizes and counts.
    assert TINY.bf16 and table.model.nunique() == 2
    runs = table[(table.part != "start") & (table.step == 2) & (table.answers == "unseen")]
    assert len(runs) == 2 * (4 * 2 + 3)
    assert np.isfinite(runs.drop(columns=["part", "model", "objective", "answers"])).all(axis=None)
    assert (runs.chosen.abs() > 1e-4).all()


def test_the_groups_of_tokens_add_up_to_the_answer(table):
    changes = table[table.part != "start"]
    groups = changes[list(study.GROUPS)].sum(axis=1)
    np.testing.assert_allclose(groups, changes.chosen, atol=1e-4)
    np.testing.assert_allclose(changes.chosen - changes.rejected, changes.margin, atol=1e-6)
    # Where every digit is replaced the first token is, so nothing comes before it.
    assert (changes[changes.edits == 6].prefix == 0).all()
    assert (changes[changes.edits == 1].prefix != 0).any()


def test_every_figure_and_claim_reads_the_table(table):
    from toyalign.plotting import house_style

    with house_style():
        axes = [len(draw(table).axes) for draw in study.study.figures.values()]
    assert axes[0] == 6 and min(axes) >= 3  # a line of panels per model in the first
    for claim in study.study.claims.values():
        assert claim(table).holds in ("holds", "does not hold", "cannot tell")


def test_tokens_are_before_at_or_after_the_edits():
    example = Example((1,), ((5, 6, 7, 8, 2), (5, 9, 7, 4, 2)))
    before = [(torch.full((5,), -1.0), torch.full((5,), -2.0))]
    now = [(torch.tensor([-1.5, -0.9, -3.0, -0.5, -1.25]), torch.full((5,), -3.0))]
    found = study.changes([example], now, before)
    assert found["prefix"] == pytest.approx(-0.5)
    assert found["edited"] == pytest.approx(0.1 + 0.5)
    assert found["later"] == pytest.approx(-2.0 - 0.25)
    assert found["chosen"] == pytest.approx(-2.15) and found["fell"] == 1
    assert found["rejected"] == pytest.approx(-5) and found["margin"] == pytest.approx(2.85)
    lost = np.exp(-5) - np.exp(-7.15) + np.exp(-10) - np.exp(-15)
    assert found["left"] == pytest.approx(lost)


def test_an_equal_margin_is_found_between_two_looks():
    def run(seed, margins, chosen):
        return pd.DataFrame(
            {"part": "change", "model": "m", "objective": "dpo", "edits": 1, "answers": "trained",
             "seed": seed, "step": [1, 2, 3], "margin": margins, "chosen": chosen}
        )  # fmt: skip

    equal = study.EQUAL
    rows = [
        run(0, [equal / 2, equal * 3 / 2, equal], [1.0, 0.0, 7.0]),  # halfway, the first time
        run(1, [2 * equal, 9.0, 9.0], [-1.0, 0.0, 0.0]),  # from the start, where both are 0
        run(2, [0.0, 1.0, equal - 0.1], [1.0, 1.0, 1.0]),  # never
    ]
    assert study.at_equal_margin(pd.concat(rows), "dpo").to_dict() == {0: 0.5, 1: -0.5}


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ToyalignError, match="this preset needs a GPU with CUDA"):
        study.by_model(study.PRESETS["gpu"], (2, 64), 0)
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    with pytest.raises(ToyalignError, match="pip install"):
        study.by_model(study.PRESETS["fast"], (2, 64), 0)
