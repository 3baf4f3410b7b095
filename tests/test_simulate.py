"""The simulator: a seed names a run, mistakes are told in a sentence, steps cost few operations."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import toyalign as ta
from toyalign.chunks import chunk_size
from toyalign.errors import ToyalignError
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.simulate import simulate

EXACT = ta.Source("reference")
DRAWN = ta.Source("reference", exact=False, prompts=6, responses=3, minibatch=2)
ON_POLICY = ta.Source("policy", exact=False, prompts=2, responses=4, reuse=2)


def start_of_its_own(arms: int = 10, **changes) -> ta.Bandit:
    """A bandit whose reference differs from seed to seed."""
    place = np.linspace(-2, 2, arms)
    settings = {
        "reference": np.exp(-(place**2)) / np.exp(-(place**2)).sum(),
        "rewards": np.exp(-((place - 1) ** 2)),
        "pairs": ((1, 0), (arms - 2, 1)),
        "spread": 0.5,
    }
    return ta.Bandit(**{**settings, **changes})


def assert_same_run(one: ta.Trajectory, i: int, other: ta.Trajectory, j: int) -> None:
    """Run i of one trajectory and run j of the other agree in every bit that was recorded."""
    assert one.runs["seed"][i] == other.runs["seed"][j]
    assert np.array_equal(one.log_probs[:, i], other.log_probs[:, j])
    assert np.array_equal(one.loss[:, i], other.loss[:, j])
    assert np.array_equal(one.theta[i], other.theta[j])
    assert np.array_equal(one.reference[i], other.reference[j])
    assert one.scores.keys() == other.scores.keys()
    for name in one.scores:
        assert np.array_equal(one.scores[name][:, i], other.scores[name][:, j]), name
    if one.unseen is not None:
        assert np.array_equal(one.unseen[:, i], other.unseen[:, j])


# --- a seed names a run

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


# --- settings


@pytest.mark.parametrize("name", [card.name for card in OBJECTIVES.values() if card.hyper])
def test_a_swept_hyperparameter_equals_the_number(name):
    for key, default in get_objective(name).hyper.items():
        values = [float(default), 0.6 * float(default)]
        settings = {"steps": 15, "marks": 3, "seeds": 2}
        swept = simulate(name, start_of_its_own(5), **settings, **{key: values})
        assert swept.runs[key].tolist() == [values[0]] * 2 + [values[1]] * 2
        for place, value in enumerate(values):
            alone = simulate(name, start_of_its_own(5), **settings, **{key: value})
            for seed in (0, 1):
                assert_same_run(alone, seed, swept, 2 * place + seed)
        assert not np.array_equal(swept.theta[0], swept.theta[2])


def test_settings_are_crossed_with_seeds_innermost():
    traj = simulate("dpop", steps=1, lr=[0.1, 0.2], beta=[0.3, 0.4], lam=5, seeds=[8, 9])
    assert traj.runs["lr"].tolist() == [0.1] * 4 + [0.2] * 4
    assert traj.runs["beta"].tolist() == [0.3, 0.3, 0.4, 0.4] * 2
    assert traj.runs["seed"].tolist() == [8, 9] * 4
    assert traj.runs["lam"].tolist() == [5] * 8


def test_every_run_has_its_learning_rate():
    traj = simulate("sft", steps=1, lr=[0.1, 0.2])
    step = traj.theta - traj.log_probs[0, :, 0]
    np.testing.assert_allclose(step[1], 2 * step[0], atol=1e-15)
    assert np.abs(step).max() > 0.05


@pytest.mark.parametrize(
    ("steps", "marks", "expected"),
    [
        (1000, 2, (0, 1000)),
        (1000, 5, (0, 1, 10, 100, 1000)),
        (4, 50, (0, 1, 2, 3, 4)),
        (1, 50, (0, 1)),
        (10, [3, 7], (0, 3, 7, 10)),
        (10, [10, 0], (0, 10)),
    ],
)
def test_log_spaced(steps, marks, expected):
    assert ta.log_spaced(steps, marks) == expected


def test_default_records_are_log_spaced():
    marks = ta.log_spaced(10_000, 50)
    assert (marks[0], marks[-1]) == (0, 10_000)
    assert 40 <= len(marks) <= 50
    assert list(marks) == sorted(set(marks))


def test_steps_are_recorded_before_they_are_taken():
    traj = simulate("sft", steps=3, marks=[0, 1, 2, 3])
    assert traj.steps.tolist() == [0, 1, 2, 3]
    assert np.array_equal(traj.log_probs[0], traj.reference[None, 0])
    np.testing.assert_allclose(
        traj.log_probs[-1, 0, 0],
        torch.log_softmax(torch.from_numpy(traj.theta[0]), -1),
        atol=1e-15,
    )
    shorter = simulate("sft", steps=2, marks=[0, 1, 2])
    assert np.array_equal(shorter.log_probs, traj.log_probs[:3])


@pytest.mark.parametrize("policy", ["tabular", "features"])
def test_log_ratios_are_exactly_zero_at_the_start(policy):
    traj = simulate("dpo", start_of_its_own(), policy=policy, seeds=5, steps=2)
    for side in ("chosen", "rejected"):
        start = traj.scores[f"{side}_logps"][0]
        assert np.array_equal(start, traj.scores[f"ref_{side}_logps"][0])
        assert not np.array_equal(start, traj.scores[f"{side}_logps"][-1])
    # -log s(0), whatever the pair; the sum over rows rounds
    np.testing.assert_allclose(traj.loss[0], np.log(2), atol=1e-15)


def test_single_precision():
    single, double = (
        simulate("dpo", start_of_its_own(), steps=50, lr=1.0, dtype=dtype)
        for dtype in ("float32", "float64")
    )
    assert single.log_probs.dtype == single.theta.dtype == np.float32
    assert double.log_probs.dtype == np.float64
    np.testing.assert_allclose(single.log_probs, double.log_probs, atol=1e-4, rtol=0)
    assert np.abs(double.log_probs[-1] - double.log_probs[0]).max() > 0.1


# --- divergence


def test_a_run_that_diverges_ends_alone():
    # IPO multiplies the distance from its target by 1 - 4 lr at every step.
    settings = {"problem": start_of_its_own(), "steps": 400, "seeds": 3, "marks": 12}
    source = ta.Source("fixed")
    with pytest.warns(ta.DivergenceWarning, match=r"ipo: 3 of 6 runs diverged .* step \d+"):
        both = simulate("ipo", source=source, lr=[0.1, 50.0], **settings)
    alone = simulate("ipo", source=source, lr=0.1, **settings)
    for run in range(3):
        assert_same_run(alone, run, both, run)
    assert both.diverged.tolist() == [False] * 3 + [True] * 3
    for run in range(3, 6):
        ended = int(np.flatnonzero(both.steps == both.diverged_at[run])[0])
        assert 0 < ended < len(both.steps) - 1
        assert np.isfinite(both.log_probs[:ended, run]).all()
        assert np.isnan(both.log_probs[ended:, run]).all()
        assert np.isnan(both.loss[ended:, run]).all()
        for name, score in both.scores.items():
            assert np.isfinite(score[:ended, run]).all(), name
            assert np.isnan(score[ended:, run]).all(), name
        before = simulate(
            "ipo",
            settings["problem"],
            source=source,
            lr=50.0,
            seeds=[run - 3],
            steps=int(both.steps[ended - 1]),
            marks=[int(step) for step in both.steps[:ended]],
        )
        assert np.array_equal(before.log_probs[:, 0], both.log_probs[:ended, run])


def test_when_all_runs_have_diverged_the_rest_is_not_computed():
    calls = []

    def explosive(logps):
        calls.append(1)
        return logps * float("nan")

    with pytest.warns(ta.DivergenceWarning, match="1 of 1 runs diverged"):
        traj = simulate(explosive, steps=1000, marks=[0, 1, 5])
    assert len(calls) <= 4
    assert traj.diverged_at.tolist() == [1]
    assert np.isnan(traj.final).all()


# --- mistakes


def mean_loss(chosen_logps, rejected_logps):
    return (rejected_logps - chosen_logps).mean()


def sum_loss(chosen_logps, rejected_logps):
    return (rejected_logps - chosen_logps).sum(1)


def crossed_loss(chosen_logps, rejected_logps):
    return rejected_logps.unsqueeze(1) - chosen_logps.unsqueeze(2)


def transposed_loss(chosen_logps, rejected_logps):
    return rejected_logps - chosen_logps.T


def number_loss(chosen_logps, rejected_logps):
    return 1.0


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (mean_loss, r"\[\]"),
        (sum_loss, r"\[1\]"),
        (crossed_loss, r"\[1, 100, 100\]"),
        (transposed_loss, r"\[100, 100\]"),
        (number_loss, r"\[\]"),
    ],
)
def test_a_loss_of_the_wrong_shape(loss, shape):
    message = rf"{loss.__name__} returned shape {shape}, but must return one value per row"
    with pytest.raises(ToyalignError, match=message):
        simulate(loss, start_of_its_own(), source=EXACT, steps=1, seeds=3)


def test_a_loss_whose_shape_depends_on_the_runs():
    def loss(chosen_logps, rejected_logps):
        values = rejected_logps - chosen_logps
        return values if len(values) == 1 else values[:-1]

    with pytest.raises(ToyalignError, match="loss returned shape"):
        simulate(loss, start_of_its_own(), steps=1, seeds=3)


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (
            "reinforce",
            {"source": "reference"},
            "reinforce does not learn from source='reference': its data must come from policy",
        ),
        ("rwr", {"source": "fixed"}, "data must come from reference or policy"),
        ("dpo", {"source": "policy_gradient"}, "unknown data source 'policy_gradient'"),
        ("dpo", {"steps": 0}, "steps must be at least 1, not 0"),
        ("dpo", {"dtype": "float16"}, "unknown dtype 'float16'; did you mean 'float"),
        ("dpo", {"jobs": 0}, "jobs and chunk must be at least 1"),
        ("dpo", {"chunk": 0}, "jobs and chunk must be at least 1"),
        ("dpo", {"marks": 1}, "at least 2 records are needed"),
        ("dpo", {"marks": [0, 2000]}, "marks must lie between 0 and steps=1000"),
        ("dpo", {"seeds": 0}, "seeds must be a positive number or a list"),
        ("dpo", {"seeds": [1, -1]}, "seeds must be a positive number or a list"),
        ("dpo", {"lr": []}, "lr is an empty list"),
        ("dpo", {"beta": [0.1, float("nan")]}, "beta must be a finite number, not nan"),
        ("dpo", {"lr": float("inf")}, "lr must be a finite number, not inf"),
        ("dpo", {"gamma": 1.0}, "unknown hyperparameter of dpo 'gamma'"),
        ("dpo", {"problem": "nearr"}, "unknown problem 'nearr'; did you mean 'near'"),
        ("dpo", {"policy": "tabula"}, "unknown policy 'tabula'; did you mean 'tabular'"),
        ("dpo", {"optimiser": "adma"}, "unknown optimiser 'adma'; did you mean 'adam'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(objective, settings, message):
    with pytest.raises(ToyalignError, match=message) as caught:
        simulate(objective, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "problem", "expected"),
    [
        ("dpo", "adjacent_arms", "fixed (exact)"),
        ("dpo", "near", "reference (exact)"),
        ("sft", "near", "fixed (exact)"),
        ("rwr", "adjacent_arms", "reference (exact)"),
        ("reinforce", "near", "policy (exact)"),
        ("forward_kl", "two_modes", "fixed (exact)"),
    ],
)
def test_the_usual_source(objective, problem, expected):
    assert simulate(objective, problem, steps=1, marks=2).source == expected


def test_an_objective_whose_data_the_problem_has_not():
    from toyalign.objectives import describe

    card = describe(get_objective("dpo").fn, sources=("fixed",))
    with pytest.raises(ToyalignError, match="takes its data from source=fixed, and this problem"):
        simulate(card, "near", steps=1)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_needs_that_a_source_cannot_give(name):
    # Every objective runs from every origin that its card allows; the others are refused.
    card = get_objective(name)
    for origin in ("fixed", "reference", "policy"):
        for exact in (True, False):
            source = ta.Source(origin, exact=exact)
            allowed = origin in card.sources
            if allowed:
                traj = simulate(name, start_of_its_own(5), source=source, steps=2, lr=0.01)
                assert np.isfinite(traj.log_probs).all()
                assert traj.source.startswith(origin)
            else:
                with pytest.raises(ToyalignError, match="does not learn from"):
                    simulate(name, start_of_its_own(5), source=source, steps=2)


def test_behaviour_log_probs_need_a_policy_that_drew():
    def off_policy(logps, old_logps):
        return -(logps - old_logps).exp()

    traj = simulate(off_policy, start_of_its_own(), source=ON_POLICY, steps=3)
    assert np.isfinite(traj.loss).all()
    np.testing.assert_allclose(traj.loss[0], -1, atol=1e-12)
    with pytest.raises(ToyalignError, match="needs responses: source='reference' or 'policy'"):
        simulate(off_policy, start_of_its_own(), source="fixed", steps=3)


# --- how many operations a step takes


class Counting(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations_per_step(objective, source, arms, dtype) -> float:
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
                dtype=dtype,
            )
        totals.append(counting.seen.total())
    return (totals[1] - totals[0]) / 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("arms", [10, 100])
def test_dispatched_operations_per_step(arms, dtype):
    stored = ta.Source("reference", exact=False, prompts=64, responses=2)
    fresh = ta.Source("policy", exact=False, responses=64)
    assert 5 < operations_per_step("sft", ta.Source("fixed"), arms, dtype) <= 24
    assert 10 < operations_per_step("dpo", stored, arms, dtype) <= 42
    bar = 42 + 4 * math.ceil(math.log2(arms))
    assert 10 < operations_per_step("reinforce", fresh, arms, dtype) <= bar


# --- chunks and progress


def test_chunks_are_about_four_mebibytes():
    assert chunk_size(100, torch.float64) == 4 * 2**20 // 800
    assert chunk_size(100, torch.float32) == 4 * 2**20 // 400
    assert chunk_size(10_000, torch.float64) == 64
    assert chunk_size(10**9, torch.float64) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_goes_to_standard_error(monkeypatch, capsys, jobs):
    from toyalign import chunks

    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(chunks.time, "monotonic", lambda: next(clock))
    simulate("dpo", steps=20, seeds=4, chunk=2, progress=True, jobs=jobs)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("2 of 2 chunks of runs" if jobs == 2 else "chunk 2 of 2, step 20 of 20") in err


def test_no_progress_unless_asked_for(capsys):
    simulate("dpo", steps=20, seeds=4, chunk=2)
    assert capsys.readouterr() == ("", "")
