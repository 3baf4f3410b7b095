"""Values and gradients of our objectives against the implementations that others have published.

`make oracle` runs these. Every registered objective is either judged, in one of the files judges_*,
or listed here with the reason why it is not.
"""

from collections import defaultdict
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import Draw
from judging import JUDGES, SCORES, Score, compare
from wheels import function, passage

from toyalign.advantages import ADVANTAGES
from toyalign.objectives import OBJECTIVES

for file in sorted(Path(__file__).parent.glob("judges_*.py")):
    import_module(file.stem)

# No package on PyPI is known to hold these.
UNJUDGED = {
    "gem": "the authors' repository is no package",
    "ift": "the authors' repository is no package",
    "sr_dpo": "no public implementation was found",
    "sr_ipo": "no public implementation was found",
    "tdpo1": "the authors' repository is no package",
    "tdpo2": "the authors' repository is no package",
}


def test_every_objective_is_judged_or_excused():
    judged = {judged.loss for judged in JUDGES}
    assert not judged & set(UNJUDGED)
    assert judged | set(UNJUDGED) == set(OBJECTIVES)


@pytest.mark.parametrize("judged", JUDGES, ids=lambda judged: judged.name)
def test_values_and_gradients_agree(judged):
    score = SCORES[judged.name] = Score()
    compare(judged, score)
    assert score.moved, "no gradient was compared"


SETTINGS = [
    pytest.param(judged, name, id=f"{judged.name} {name}")
    for judged in JUDGES
    for name, value in judged.hyper[-1].items()
    if isinstance(value, float) and value and (judged.loss, name) != ("chi_po", "r_max")
]


@pytest.mark.parametrize(("judged", "name"), SETTINGS)
def test_the_comparison_notices_another_hyperparameter(judged, name):
    one = replace(judged, hyper=judged.hyper[-1:])
    with pytest.raises(AssertionError, match="differ by"):
        compare(one, Score(), shifted={name: 1.001})


# Hyperparameters of judged losses that the judges fix.
FIXED = {
    ("awr", "w_max"): "100 in TorchRL",
    ("chi_po", "r_max"): "oxRL has no clip",
    ("sppo", "scale"): "1 in TRL and Liger",
    ("sppo", "win"): "1 in TRL and Liger",
}


def test_every_hyperparameter_is_compared_at_two_values_or_more():
    seen = defaultdict(set)
    for judged in JUDGES:
        for hyper in judged.hyper:
            for name, value in {**OBJECTIVES[judged.loss].hyper, **hyper}.items():
                seen[judged.loss, name].add(value)
    assert {where for where, values in seen.items() if len(values) < 2} == set(FIXED)


@pytest.mark.parametrize(
    "found",
    [
        lambda: function("trl 1.16.0", "trl/trainer/dpo_trainer.py", "DPOTrainer.no_such_method"),
        lambda: function("trl 1.16.0", "trl/trainer/no_such_file.py", "DPOTrainer"),
        lambda: function("trl 1.15.99", "trl/trainer/dpo_trainer.py", "DPOTrainer"),
        lambda: passage(
            "trl 1.16.0", "trl/trainer/dpo_trainer.py", "DPOTrainer._compute_loss", "loss =", "no"
        ),
    ],
    ids=["method", "file", "version", "passage"],
)
def test_a_judge_that_has_moved_is_an_error(found):
    with pytest.raises(LookupError):
        found()


CORE = "verl/trainer/ppo/core_algos.py"


@pytest.mark.parametrize(
    ("name", "judge", "settings"),
    [
        ("rloo", "compute_rloo_outcome_advantage", {}),
        ("group", "compute_grpo_outcome_advantage", {"epsilon": 1e-4}),  # ours and TRL's
        ("mean", "compute_grpo_outcome_advantage", {"norm_adv_by_std_in_grpo": False}),
    ],
)
def test_advantages_agree_with_verl(name, judge, settings):
    theirs = function("verl 0.9.1", CORE, judge, defaultdict=defaultdict, np=np)
    for seed in range(4):
        rewards = Draw(seed)["rewards"]  # six responses: three groups of two, then two of three
        for groups in (3, 2):
            mine = ADVANTAGES[name](rewards.reshape(1, groups, -1), torch.zeros(1, groups, 1))
            group = np.arange(groups).repeat(len(rewards) // groups)
            mask = torch.ones(len(rewards), 1)
            expected = theirs(rewards.unsqueeze(-1), mask, group, **settings)[0]
            torch.testing.assert_close(mine.flatten(), expected.flatten(), rtol=1e-12, atol=1e-12)
