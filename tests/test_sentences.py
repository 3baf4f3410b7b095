"""The sentences and the table, from trajectories written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from toyalign.sentences import by_setting, circumstances, pick, sentence, setting_of, table
from toyalign.trajectory import Trajectory

START = (0.2, 0.3, 0.5)


def trajectory(*ends, pairs=((0, 1),), rewards=(0.0, 0.0, 0.0), diverged_at=None, **settings):
    """Runs on three arms that go from START to the given probabilities; NaN where they diverged."""
    count = len(ends)
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[START] * count, ends], dtype=float))[:, :, None, :]
    runs = {"lr": [0.1] * count, **settings, "seed": list(range(count))}
    return Trajectory(
        objective="loss",
        problem="three_arms",
        policy="features",
        source="fixed (exact)",
        runs={name: np.array(column) for name, column in runs.items()},
        steps=np.array([0, 40]),
        log_probs=log_probs,
        reference=np.log(np.array([[START]] * count)),
        rewards=np.array(rewards),
        pairs=pairs,
        loss=np.zeros((2, count)),
        scores={"chosen_logps": log_probs[..., 0, 0]},
        queries=np.array([0, 0]),
        diverged_at=np.array(diverged_at or [-1] * count),
        theta=np.array(ends, dtype=float),
    )


def test_one_run_that_falls_while_the_margin_rises():
    # ln(0.1/0.2) = -0.693; margin = ln(0.1/0.2) - ln(0.05/0.3) = -0.693 + 1.792 = 1.099
    assert sentence(trajectory((0.1, 0.05, 0.85))) == (
        "loss: the chosen log-prob fell by 0.69 nats (-1.61 to -2.30) while the margin rose to "
        "1.10 nats; the largest gain, +0.35 of probability, went to arm 2, which is neither answer."
    )


def test_one_run_that_rises():
    told = sentence(trajectory((0.6, 0.1, 0.3)))
    assert "the chosen log-prob rose by 1.10 nats (-1.61 to -0.51) and the margin rose to" in told
    assert told.endswith("+0.40 of probability, went to arm 0, which is the chosen answer.")


def test_the_rejected_answer_may_gain():
    told = sentence(trajectory((0.1, 0.8, 0.1)))
    assert "and the margin fell to -1.67 nats" in told
    assert told.endswith("went to arm 1, which is the rejected answer.")


def test_nothing_happened():
    assert sentence(trajectory(START)) == (
        "loss: the chosen log-prob stayed at -1.61 nats and the margin stayed at 0.00 nats; "
        "no arm gained as much as 0.01 of probability."
    )


def test_several_runs_are_counted():
    told = sentence(trajectory((0.1, 0.05, 0.85), (0.1, 0.1, 0.8), (0.4, 0.1, 0.5)))
    # Changes: -0.693, -0.693, +0.693 nats; margins ln(.5*6), ln(.5*3), ln(2*3): 1.10, 0.41, 1.79.
    assert "the chosen log-prob fell in 2 of 3 runs (median change -0.69 nats, -1.61 to" in told
    assert "while the margin rose to a median of 1.10 nats" in told
    assert "(median +0.30 of probability) went to an arm that is neither answer in 2 of 3" in told
    assert told.endswith("runs (arm 2).")


def test_several_runs_without_a_change():
    assert "stayed at -1.61 nats in all 2 runs" in sentence(trajectory(START, START))


def test_runs_that_agree_on_the_kind_of_arm_but_not_on_the_arm():
    four = trajectory((0.6, 0.1, 0.3), (0.1, 0.1, 0.8), (0.6, 0.1, 0.3), pairs=((0, 1), (2, 1)))
    told = sentence(four)
    assert "the mean chosen log-prob" in told
    assert told.endswith("went to a chosen answer in 3 of 3 runs, most often arm 0.")


def test_an_arm_in_both_roles():
    told = sentence(trajectory((0.1, 0.8, 0.1), pairs=((0, 1), (1, 2))))
    assert told.endswith("arm 1, which is an answer chosen in one pair and rejected in another.")


def test_without_pairs_it_speaks_of_reward():
    # Reward 0.2*0 + 0.3*1 + 0.5*3 = 1.8 to 0.1 + 2.4 = 2.5; KL = Σ p ln(p/q) = 0.197 nats.
    told = sentence(trajectory((0.1, 0.1, 0.8), pairs=(), rewards=(0.0, 1.0, 3.0)))
    assert told == (
        "loss: the expected reward rose by 0.70 (1.80 to 2.50) at a KL to the reference of 0.20 "
        "nats; the largest gain, +0.30 of probability, went to arm 2, whose reward is the highest."
    )


def test_a_gainer_that_is_not_the_best():
    told = sentence(trajectory((0.1, 0.8, 0.1), pairs=(), rewards=(0.0, 1.0, 3.0)))
    assert "the expected reward fell by 0.70" in told
    assert told.endswith("arm 1, whose reward is 1.00 (the highest is 3.00, arm 2).")


def test_several_runs_without_pairs():
    ends = [(0.1, 0.8, 0.1), (0.1, 0.1, 0.8), (0.1, 0.1, 0.8)]
    told = sentence(trajectory(*ends, pairs=(), rewards=(0.0, 1.0, 3.0)))
    assert "rose in 2 of 3 runs (median change +0.70, 1.80 to 2.50) at a median KL" in told
    assert told.endswith("went to arm 2 in 2 of 3 runs, whose reward is the highest.")


def test_equal_rewards_have_no_best_arm():
    told = sentence(trajectory((0.1, 0.1, 0.8), pairs=()))
    assert told.endswith("the largest gain, +0.30 of probability, went to arm 2.")


def test_diverged_runs_are_left_out_and_named():
    lost = (np.nan,) * 3
    some = trajectory((0.1, 0.05, 0.85), lost, (0.1, 0.05, 0.85), diverged_at=[-1, 40, -1])
    told = sentence(some)
    assert "fell in 2 of 2 runs" in told
    assert told.endswith("1 of 3 runs diverged (non-finite numbers) and are left out.")
    assert "2 of 3" in table([some])


def test_all_runs_diverged():
    lost = (np.nan,) * 3
    assert sentence(trajectory(lost, diverged_at=[40])) == (
        "loss: the run diverged (non-finite numbers) by step 40; a smaller learning rate may help."
    )
    both = trajectory(lost, lost, diverged_at=[1, 40])
    assert "all 2 runs diverged (non-finite numbers) by step 40" in sentence(both)
    assert "diverged" in table([both])


def test_absurd_numbers_stay_short():
    far = trajectory((0.1, 0.05, 0.85))
    far.log_probs[1, :, :, 0] = -1e300
    assert "fell by 1e+300 nats (-1.61 to -1e+300)" in sentence(far)
    assert max(map(len, table([far]).splitlines())) < 100


def test_the_table_has_before_and_after_with_units():
    lines = table([trajectory((0.1, 0.05, 0.85), beta=[0.3])]).splitlines()
    assert lines[0].split("  ")[0] == "objective"
    for unit in ("log-prob, nats", "probability", "nats"):
        assert unit in lines[1]
    # mass on neither: 0.5 to 0.85; KL = .1 ln .5 + .05 ln(1/6) + .85 ln 1.7 = 0.292
    assert lines[2].split() == (
        "loss beta=0.3 -1.61 -> -2.30 -1.20 -> -3.00 0.50 -> 0.85 0.00 -> 1.10 0.00 -> 0.29".split()
    )
    assert len(lines) == 3


def test_the_table_without_pairs():
    text = table([trajectory((0.1, 0.1, 0.8), pairs=(), rewards=(0.0, 1.0, 3.0))])
    # entropy 1.030 to 0.639 nats; mass moved 0.3
    assert text.splitlines()[2].split() == (
        "loss 1.80 -> 2.50 0.00 -> 0.20 1.03 -> 0.64 0.00 -> 0.30".split()
    )
    assert "setting" not in text and "runs" not in text


def test_the_table_has_a_row_per_setting():
    ends = [(0.1, 0.05, 0.85), (0.1, 0.05, 0.85), (0.4, 0.1, 0.5), (0.4, 0.1, 0.5)]
    sweep = trajectory(*ends, beta=[0.1, 0.1, 0.3, 0.3])
    rows = table([sweep]).splitlines()[2:]
    assert [row.split()[:3] for row in rows] == [
        ["loss", "beta=0.1", "2"],
        ["loss", "beta=0.3", "2"],
    ]
    assert "-2.30" in rows[0] and "-0.92" in rows[1]
    assert "lr=" not in rows[0]


def test_learning_rates_are_named_where_they_differ():
    sweep = trajectory((0.1, 0.05, 0.85), (0.4, 0.1, 0.5), lr=[0.1, 1.0])
    assert "lr=0.1" in table([sweep]) and "lr=1 " in table([sweep])


def test_settings_of_any_kind_have_a_name():
    part = trajectory((0.1, 0.1, 0.8), beta=[0.30000000000000004], kind=["hinge"], on=[True])
    assert setting_of(part, hidden=("seed", "lr")) == "beta=0.3 kind=hinge on=True"


def test_by_setting_keeps_every_run_once():
    ends = [(0.1, 0.05, 0.85), (0.2, 0.05, 0.75), (0.3, 0.05, 0.65)]
    parts = by_setting(trajectory(*ends, beta=[0.3, 0.1, 0.3]))
    assert [part.runs["seed"].tolist() for part in parts] == [[0, 2], [1]]
    assert np.exp(parts[0].final[:, 0, 0]) == pytest.approx([0.1, 0.3])


def test_pick_takes_the_same_runs_of_everything():
    ends = [(0.1, 0.05, 0.85), (0.2, 0.05, 0.75), (0.3, 0.05, 0.65)]
    whole = trajectory(*ends)
    some = pick(whole, np.array([2, 0]))
    assert some.runs["seed"].tolist() == [2, 0]
    for name, values in some.measured().items():
        np.testing.assert_array_equal(values, whole.measured()[name][:, [2, 0]])
    np.testing.assert_array_equal(some.theta, whole.theta[[2, 0]])
    np.testing.assert_array_equal(
        some.scores["chosen_logps"], whole.scores["chosen_logps"][:, [2, 0]]
    )


def test_circumstances():
    one = circumstances([trajectory((0.1, 0.1, 0.8))], "sgd")
    assert one == (
        "problem three_arms, policy features, data fixed (exact); 40 steps of sgd, lr 0.1; seed 0"
    )
    two = circumstances([trajectory((0.1, 0.1, 0.8), (0.2, 0.1, 0.7))], "adam")
    assert two.endswith("40 steps of adam, lr 0.1; seeds 0 to 1, medians over them")


def test_circumstances_say_when_seeds_make_no_difference():
    same = circumstances([trajectory((0.1, 0.1, 0.8), (0.1, 0.1, 0.8))], "sgd")
    assert "every seed gave the same numbers" in same


def test_circumstances_name_the_sources_where_they_differ():
    first = trajectory((0.1, 0.1, 0.8))
    second = replace(first, objective="other", source="policy (sampled)")
    assert "data fixed (exact) for loss, policy (sampled) for other;" in circumstances(
        [first, second], "sgd"
    )
