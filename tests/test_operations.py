"""How many operations torch dispatches for a step: the part of speed that has no noise."""

import math
from collections import Counter

import pytest
from runs import start_of_its_own
from torch.utils._python_dispatch import TorchDispatchMode

import toyalign as ta
from toyalign.problems import sampled
from toyalign.simulate import simulate


class Counting(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations_per_step(objective, source, arms) -> float:
    """Dispatched operations of 20 more steps, records and set-up not counted."""
    problem = start_of_its_own(arms, pairs=(), spread=0.0)
    totals = []
    for steps in (5, 25):
        with Counting() as counting:
            simulate(
                objective,
                problem,
                source=source,
                steps=steps,
                marks=2,
                optimiser="adam",
                seeds=4,
            )
        totals.append(counting.seen.total())
    return (totals[1] - totals[0]) / 20


@pytest.mark.parametrize("arms", [10, 100])
def test_dispatched_operations_per_step(arms):
    stored = ta.Source("reference", exact=False, prompts=64, responses=2)
    fresh = ta.Source("policy", exact=False, responses=64)
    assert 5 < operations_per_step("sft", ta.Source("fixed"), arms) <= 24
    assert 10 < operations_per_step("dpo", stored, arms) <= 42
    bar = 42 + 4 * math.ceil(math.log2(arms))
    assert 10 < operations_per_step("reinforce", fresh, arms) <= bar


def test_drawing_by_bisection_costs_four_operations_per_doubling_of_the_arms(monkeypatch):
    monkeypatch.setattr(sampled, "_BISECT_FROM", 0)
    fresh = ta.Source("policy", exact=False, responses=64)
    few, many = (operations_per_step("reinforce", fresh, arms) for arms in (16, 128))
    assert many - few == 4 * 3
