"""A seed names a run: the same bits alone, in a batch, in any order, chunk and number of jobs."""

import numpy as np
import pytest
import torch
from runs import DRAWN, EXACT, ON_POLICY, assert_same_run, start_of_its_own

import toyalign as ta
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.simulate import simulate

CASES = {
    "dpo exact": ("dpo", EXACT, "tabular"),
    "dpo on drawn minibatches": ("dpo", DRAWN, "tabular"),
    "dpo with features": ("dpo", DRAWN, "features"),
    "reinforce": ("reinforce", ON_POLICY, "tabular"),
    "sft exact with features": ("sft", ta.Source("fixed"), "features"),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_run_is_the_same_alone_and_in_a_batch_of_1000(case, optimiser):
    objective, source, policy = CASES[case]
    settings = {
        "problem": start_of_its_own(),
        "source": source,
        "policy": policy,
        "optimiser": optimiser,
        "steps": 12,
        "marks": 3,
    }
    together = simulate(objective, seeds=1000, **settings)
    assert len({run.tobytes() for run in together.theta}) == 1000
    for seed in (0, 1, 499, 998, 999):
        assert_same_run(simulate(objective, seeds=[seed], **settings), 0, together, seed)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = simulate(objective, seeds=order.tolist(), chunk=333, **settings)
    for place, seed in enumerate(order):
        assert_same_run(shuffled, place, together, seed)


@pytest.mark.parametrize("case", ["dpo exact", "reinforce"])
def test_processes_and_chunks_change_nothing(case):
    objective, source, policy = CASES[case]
    settings = {"source": source, "policy": policy, "steps": 12, "marks": 3, "seeds": 40}
    whole = simulate(objective, start_of_its_own(), **settings)
    for split in ({"chunk": 1}, {"chunk": 7}, {"chunk": 11, "jobs": 2}, {"jobs": 2}):
        parts = simulate(objective, start_of_its_own(), **settings, **split)
        for run in range(40):
            assert_same_run(parts, run, whole, run)


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "drawn"])
def test_every_objective_gives_the_same_bits_alone_and_in_a_batch(name, exact):
    origin = get_objective(name).sources[0]
    source = ta.Source(origin, exact=exact, prompts=0 if exact else 3)
    for dtype in ("float64", "float32"):
        settings = {"source": source, "steps": 6, "marks": 2, "lr": 0.5, "dtype": dtype}
        together = simulate(name, start_of_its_own(5), seeds=21, **settings)
        for seed in (0, 13, 20):
            alone = simulate(name, start_of_its_own(5), seeds=[seed], **settings)
            assert_same_run(alone, 0, together, seed)


def test_a_network_gives_the_same_bits_alone_and_in_a_batch():
    problem = start_of_its_own(7, prompts=3, state_size=4, unseen=2)
    settings = {"policy": ta.MLP(hidden=(6, 5)), "source": DRAWN, "steps": 5, "marks": 2}
    together = simulate("dpo", problem, seeds=40, optimiser="adam", **settings)
    for seed in (0, 17, 39):
        alone = simulate("dpo", problem, seeds=[seed], optimiser="adam", **settings)
        assert_same_run(alone, 0, together, seed)


def kernels_that_round_by_place(chosen_logps, rejected_logps, *, beta=0.3):
    """Softplus, sigmoid, power and logaddexp round the end of a tensor differently."""
    beta = torch.as_tensor(beta, dtype=chosen_logps.dtype)
    gap = (rejected_logps - chosen_logps) * torch.sigmoid(beta) * beta**0.3
    powers = (1 - chosen_logps) ** 0.7 + torch.logaddexp(chosen_logps, rejected_logps)
    return torch.nn.functional.softplus(gap) + 0.1 * torch.sigmoid(rejected_logps) * powers


@pytest.mark.parametrize("arms", [2, 3, 7])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_kernels_that_round_by_place_in_a_users_loss(arms, dtype):
    problem = start_of_its_own(arms, pairs=((1, 0),))
    for source in (EXACT, ta.Source("fixed")):
        settings = {"source": source, "steps": 20, "marks": 2, "dtype": dtype, "lr": 0.5}
        together = simulate(kernels_that_round_by_place, problem, seeds=43, **settings)
        for seed in (0, 20, 40, 41, 42):
            alone = simulate(kernels_that_round_by_place, problem, seeds=[seed], **settings)
            assert_same_run(alone, 0, together, seed)


def test_kernels_that_round_by_place_on_a_column_of_hyperparameters():
    # A column has one entry per run, so that its last runs would be rounded differently.
    settings = {
        "problem": start_of_its_own(),
        "source": ta.Source("reference", exact=False, prompts=64, responses=2),
        "steps": 10,
        "marks": 2,
        "beta": np.linspace(0.1, 2.3, 53).tolist(),
        "seeds": 7,
    }
    together = simulate(kernels_that_round_by_place, **settings)
    parts = simulate(kernels_that_round_by_place, chunk=5, **settings)
    for run in range(53 * 7):
        assert_same_run(parts, run, together, run)


def test_one_thread_whatever_the_user_has():
    # Threads cut a tensor into parts, each with an end of its own.
    seen = []

    def loss(logps):
        seen.append(torch.get_num_threads())
        return -logps

    torch.set_num_threads(2)
    try:
        simulate(loss, steps=2)
        assert seen[1:] == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_same_call_gives_the_same_bits():
    first, second = (
        simulate("reinforce", start_of_its_own(), source=ON_POLICY, steps=9) for _ in range(2)
    )
    assert_same_run(first, 0, second, 0)
