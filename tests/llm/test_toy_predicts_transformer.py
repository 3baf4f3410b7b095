"""The study `toy_predicts_transformer`: what it measures, when it reads, whom it ranks."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import toyalign as ta
from toyalign.objectives import OBJECTIVES
from toyalign.registry import load_module

STUDY = load_module(Path(__file__).parents[2] / "studies" / "toy_predicts_transformer.py")


def test_the_gpu_preset_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ta.ToyalignError, match="preset gpu needs a CUDA device"):
        STUDY.language_model(STUDY.PRESETS["gpu"], 0)


def test_without_the_extra_it_says_so(monkeypatch):
    monkeypatch.setattr(STUDY, "find_spec", lambda name: None)
    with pytest.raises(ta.ToyalignError, match=r"pip install \"toyalign\[llm\]\""):
        STUDY.language_model(STUDY.PRESETS["fast"], 0)


def test_language_models_come_first_so_that_what_is_missing_shows_at_once():
    label, function, _ = next(iter(STUDY.parts(STUDY.PRESETS["gpu"])))
    assert label.startswith("transformer") and function is STUDY.language_model


def test_whoever_is_no_twin_is_ranked():
    """The rule of the docstring, applied to all losses in the order in which they are listed."""
    unknown = ("rewards", "prompted")
    kept = {}
    for card in sorted(OBJECTIVES.values(), key=lambda card: FAMILIES.index(card.family)):
        wanted = card.kind == "pairs" and "fixed" in card.sources and card.name == card.fn.__name__
        if wanted and not any(word in name for name in card.needs for word in unknown):
            own = STUDY.push(card)
            if all(float(own @ other) <= STUDY.TWINS for other in kept.values()):
                kept[card.name] = own
    assert {"sft", *kept} == set(STUDY.OBJECTIVES)


FAMILIES = (
    "pairwise", "anchored", "divergence", "informed", "intuitive", "lengthwise", "likelihood",
    "links", "online", "policy_gradient", "reference_free", "unpaired",
)  # fmt: skip


def test_sequences_are_measured_as_they_should():
    problem = STUDY.Pairs(vocabulary=4, tokens=3, count=2, texts=1)
    traj = ta.simulate("dpo", problem, policy="prefix", steps=5, lr=3.0, marks=[0, 5])
    found, logps = STUDY.measured(traj), {}
    for side in ("chosen", "rejected"):
        logps[side] = traj.measured()[f"{side}_logps"]
    gained = {side: values[1] - values[0] for side, values in logps.items()}
    assert found["displacement"][1] == pytest.approx(gained["chosen"])
    assert found["margin"][1] == pytest.approx(gained["chosen"] - gained["rejected"])
    table, reference = traj.log_probs[-1, 0].reshape(4, 3, 4), traj.reference[0].reshape(4, 3, 4)
    drift = (np.exp(table) * (table - reference)).sum(-1)[:2].sum(-1).mean()  # two prompts
    assert found["drift"][1, 0] == pytest.approx(drift) and drift > 0
    assert found["neither"][0, 0] == 0 and abs(found["neither"][1, 0]) > 1e-4


def test_one_pair_of_one_token_is_measured_as_by_hand():
    before = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    after = torch.tensor([0.4, 0.1, 0.5], dtype=torch.float64).log()
    mask = torch.ones(2, 1)

    def look(log_probs):
        return log_probs[:2].view(2, 1), log_probs.expand(2, 1, 3), mask

    found = STUDY.compared([look(after)] * 2, [look(before)] * 2)
    chosen, rejected = np.log(0.4 / 0.5), np.log(0.1 / 0.3)
    assert found["displacement"] == pytest.approx(chosen) == found["unseen"]
    assert found["margin"] == pytest.approx(chosen - rejected)
    assert found["neither"] == pytest.approx(0.3)
    assert found["drift"] == pytest.approx(0.4 * chosen + 0.1 * rejected + 0.5 * np.log(2.5))


def test_all_are_read_by_the_clock_of_dpo_and_at_its_drift():
    steps = np.arange(11.0)

    def line(slope):
        return (slope * steps)[:, None]

    found = {
        "dpo": {"margin": line(1), "drift": line(0.5), "displacement": line(-1)},
        "slow": {"margin": line(2), "drift": line(0.25), "displacement": line(3)},
        "still": {"margin": line(0), "drift": line(0), "displacement": line(1)},
    }
    params = SimpleNamespace(levels=(2.5,))
    table = STUDY.readings(params, "here", [7], steps, found).set_index(["objective", "effort"])
    assert table.loc[("dpo", "clock"), "step"] == table.loc[("dpo", "drift"), "step"] == 2.5
    assert table.loc[("slow", "clock"), "displacement"] == pytest.approx(7.5)
    assert table.loc[("slow", "drift"), "step"] == pytest.approx(5)  # half as fast
    assert table.loc[("still", "drift"), "displacement"] == 10  # at the end: it never gets there
    with pytest.raises(ta.ToyalignError, match="never reaches 20 nats in world here"):
        STUDY.readings(SimpleNamespace(levels=(20.0,)), "here", [7], steps, found)
