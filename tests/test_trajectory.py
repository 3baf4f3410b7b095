"""The record of some runs and its tidy tables."""

import numpy as np
import pandas as pd
import pytest

import toyalign as ta
from toyalign import measures
from toyalign.errors import ToyalignError
from toyalign.trajectory import UNITS


@pytest.fixture(scope="module")
def traj() -> ta.Trajectory:
    return ta.simulate(
        "dpo", ta.adjacent_arms(spread=0.5), lr=[0.5, 2.0], seeds=3, steps=40, marks=6
    )


@pytest.fixture(scope="module")
def without_pairs() -> ta.Trajectory:
    source = ta.Source("reference", exact=False, prompts=4, responses=3)
    problem = ta.two_modes(arms=6, prompts=2, state_size=3, unseen=1)
    return ta.simulate("rwr", problem, source=source, steps=10, marks=4, seeds=2)


def test_shapes(traj):
    marks, runs = len(traj.steps), 6
    assert traj.log_probs.shape == (marks, runs, 1, 10)
    assert traj.reference.shape == (runs, 1, 10)
    assert traj.loss.shape == (marks, runs)
    assert traj.theta.shape == (runs, 10)
    assert traj.final.shape == (runs, 1, 10)
    assert not traj.diverged.any()
    assert (traj.objective, traj.problem, traj.policy) == ("dpo", "adjacent_arms", "tabular")


def test_measured_agrees_with_the_measures(traj):
    found = traj.measured()
    chosen, rejected = traj.log_probs[..., 0, 4], traj.log_probs[..., 0, 5]
    np.testing.assert_allclose(found["chosen_logps"], chosen)
    np.testing.assert_allclose(found["rejected_logps"], rejected)
    np.testing.assert_allclose(found["expected_reward"], np.exp(chosen))
    np.testing.assert_allclose(found["mass_on_neither"], 1 - np.exp(chosen) - np.exp(rejected))
    reference = traj.reference[:, 0]
    margin = (chosen - rejected) - (reference[:, 4] - reference[:, 5])
    np.testing.assert_allclose(found["margin"], margin, atol=1e-12)
    np.testing.assert_allclose(found["loss"], np.log1p(np.exp(-0.1 * margin)), rtol=1e-12)
    np.testing.assert_allclose(
        found["kl_to_reference"], measures.kl(traj.log_probs[:, :, 0], reference), atol=1e-15
    )
    assert np.isnan(found["chosen_slope"][0]).all()
    assert all(value.shape == traj.loss.shape for value in found.values())
    assert set(found) <= set(UNITS)


def test_the_two_kls_are_not_confused(traj):
    found = traj.measured()
    p, q = np.exp(traj.log_probs[-1, 0, 0]), np.exp(traj.reference[0, 0])
    assert found["kl_to_reference"][-1, 0] == pytest.approx((p * np.log(p / q)).sum(), abs=1e-12)
    assert found["kl_from_reference"][-1, 0] == pytest.approx((q * np.log(q / p)).sum(), abs=1e-12)


def test_pair_logps_are_means_over_pairs():
    problem = ta.Bandit((0.5, 0.3, 0.2), pairs=((0, 1), (0, 2)), prompts=2)
    chosen, rejected = ta.simulate("dpo", problem, steps=1).pair_logps()
    assert chosen[0, 0] == pytest.approx(np.log(0.5))
    assert rejected[0, 0] == pytest.approx((np.log(0.3) + np.log(0.2)) / 2)


def test_no_pairs_to_follow(without_pairs):
    with pytest.raises(ToyalignError, match="problem two_modes has no pairs of its own"):
        without_pairs.pair_logps()


def test_without_pairs_the_rows_are_followed(without_pairs):
    found = without_pairs.measured()
    assert "margin" not in found
    np.testing.assert_array_equal(found["logps"], without_pairs.scores["logps"])
    # Unseen contexts of a table keep the reference.
    reward = measures.expected_reward(without_pairs.reference, without_pairs.rewards).mean(-1)
    np.testing.assert_allclose(found["unseen_expected_reward"], [reward] * 4)
    assert not np.allclose(found["expected_reward"][-1], reward)


def test_to_frame_is_tidy(traj):
    frame = traj.to_frame()
    assert list(frame.columns) == [
        "objective",
        "problem",
        "policy",
        "lr",
        "beta",
        "seed",
        "step",
        "queries",
        "quantity",
        "value",
        "unit",
    ]
    assert not frame.isna().any().any()
    assert set(frame["step"]) == set(traj.steps)
    keys = ["lr", "seed", "step", "quantity"]
    assert not frame.duplicated(keys).any()
    units = frame.drop_duplicates("quantity").set_index("quantity")["unit"]
    assert units.to_dict() == {name: UNITS[name] for name in traj.measured()}
    # the slope has no value at the first record
    assert len(frame) == traj.loss.size * len(traj.measured()) - 6


def test_to_frame_and_back(traj):
    frame = traj.to_frame()
    for name, values in traj.measured().items():
        wide = frame[frame["quantity"] == name].pivot(
            index="step", columns=["lr", "seed"], values="value"
        )
        runs = list(zip(traj.runs["lr"], traj.runs["seed"], strict=True))
        recorded = values[~np.isnan(values).all(1)]
        np.testing.assert_array_equal(wide[runs].to_numpy(), recorded)


def test_to_frame_survives_a_file(traj, tmp_path):
    frame = traj.to_frame()
    frame.to_csv(tmp_path / "runs.csv", index=False)
    back = pd.read_csv(tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, rtol=1e-14, atol=0)


def test_arms_frame(traj):
    frame = traj.arms_frame()
    assert list(frame.columns) == [
        "objective",
        "lr",
        "beta",
        "seed",
        "step",
        "context",
        "action",
        "log_prob",
        "reference_log_prob",
    ]
    assert len(frame) == traj.log_probs.size
    total = frame.assign(p=np.exp(frame["log_prob"])).groupby(["lr", "seed", "step"])["p"].sum()
    np.testing.assert_allclose(total, 1, atol=1e-12)
    row = frame[(frame["lr"] == 2.0) & (frame["seed"] == 1) & (frame["step"] == 40)]
    np.testing.assert_array_equal(row["log_prob"], traj.log_probs[-1, 4, 0])
    np.testing.assert_array_equal(row["reference_log_prob"], traj.reference[4, 0])


def test_a_run_that_has_ended_leaves_the_tables():
    with pytest.warns(ta.DivergenceWarning):
        traj = ta.simulate("ipo", lr=[0.1, 50.0], steps=400, marks=12)
    ended = traj.diverged_at[1]
    # Just before the end the numbers are as large as floats can be, and may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        frame, arms = traj.to_frame(), traj.arms_frame()
    for table in (frame, arms):
        assert table[table["lr"] == 50.0]["step"].max() < ended
        assert table[table["lr"] == 0.1]["step"].max() == 400


def test_queries_are_in_the_table(without_pairs):
    frame = without_pairs.to_frame()
    assert frame[frame["step"] == 0]["queries"].unique().tolist() == [0]
    assert frame[frame["step"] > 0]["queries"].unique().tolist() == [12]


def test_a_bandit_of_many_prompts_is_recorded_whole():
    problem = ta.far(prompts=50, unseen=3, state_size=4)
    traj = ta.simulate("rwr", problem, policy=ta.MLP((5,)), steps=2, marks=2)
    assert traj.log_probs.shape == (2, 1, 50, 100)
    assert np.isfinite(traj.measured()["expected_reward"]).all()
