"""The simulator: settings, records, runs that diverge, and mistakes told in a sentence."""

import numpy as np
import pytest
import torch
from runs import EXACT, ON_POLICY, assert_same_run, start_of_its_own

import toyalign as ta
from toyalign.chunks import chunk_size
from toyalign.errors import ToyalignError
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.simulate import simulate

# --- settings


@pytest.mark.parametrize("name", [card.name for card in OBJECTIVES.values() if card.hyper])
def test_a_swept_hyperparameter_equals_the_number(name):
    card = get_objective(name)
    on_policy = card.sources[0] == "policy"  # big steps on reused responses, so that clips bind
    settings = {
        "source": ta.Source(card.sources[0], reuse=5),
        "lr": 5.0 if on_policy else 0.1,
        "steps": 15,
        "marks": 3,
        "seeds": 2,
    }
    numbers = {key: v for key, v in card.hyper.items() if not isinstance(v, str)}
    for key, default in numbers.items():
        values = [float(default), 0.6 * float(default)]
        swept = simulate(name, start_of_its_own(5), **settings, **{key: values})
        assert swept.runs[key].tolist() == [values[0]] * 2 + [values[1]] * 2
        for place, value in enumerate(values):
            alone = simulate(name, start_of_its_own(5), **settings, **{key: value})
            for seed in (0, 1):
                assert_same_run(alone, seed, swept, 2 * place + seed)


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


# --- chunks and progress


def test_chunks_are_about_one_mebibyte():
    assert chunk_size(100, torch.float64) == 2**20 // 800
    assert chunk_size(100, torch.float32) == 2**20 // 400
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
