"""Theory: on exact data each objective ends where the mathematics says it must.

Steps are small enough for the sharpest curvature at hand and many enough for the flattest, so that
what is left is the distance that each test states.
"""

import numpy as np
import pytest

import toyalign as ta

ARMS = {"reference": (0.4, 0.3, 0.2, 0.1), "rewards": (0.0, 0.5, 1.0, 0.3)}
OVERLAP = 1.5


def end_of(objective, problem, **settings) -> np.ndarray:
    """Final probabilities of one run, [action]."""
    return np.exp(ta.simulate(objective, problem, marks=2, **settings).final[0, 0])


# --- where each objective ends


@pytest.mark.parametrize("objective", ["reverse_kl", "forward_kl", "jsd", "sft"])
@pytest.mark.parametrize("policy", [ta.Tabular(), ta.Features(overlap=0.5)])
def test_divergences_and_sft_end_at_the_target(objective, policy):
    target = (0.1, 0.15, 0.25, 0.5)
    problem = ta.Bandit(**ARMS, target=target)
    end = end_of(objective, problem, policy=policy, lr=4.0, steps=600)
    np.testing.assert_allclose(end, target, atol=1e-7)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_reverse_kl_to_the_target_is_regularised_reward(beta):
    problem = ta.Bandit(**ARMS, temperature=beta)
    end = end_of("reverse_kl", problem, lr=2.0, steps=600)
    np.testing.assert_allclose(end, problem.optimum(beta), atol=1e-10)


@pytest.mark.parametrize(("beta", "advantage"), [(0.3, "baseline"), (1.0, "raw")])
def test_on_policy_reinforce_with_a_penalty_ends_at_the_same_place(beta, advantage):
    problem = ta.Bandit(**ARMS)
    source = ta.Source("policy", advantage=advantage)
    end = end_of("reinforce_kl", problem, source=source, beta=beta, lr=2.0, steps=900)
    np.testing.assert_allclose(end, problem.optimum(beta), atol=1e-10)


def test_both_take_the_same_steps():
    # The gradient of E[R] - b KL(pi || ref) is -b times that of KL(pi || tilted reference).
    beta = 0.5
    problem = ta.Bandit(**ARMS, temperature=beta)
    settings = {"steps": 50, "marks": 10}
    reinforce = ta.simulate("reinforce_kl", problem, source="policy", beta=beta, lr=0.4, **settings)
    reverse = ta.simulate("reverse_kl", problem, lr=0.4 * beta, **settings)
    assert np.abs(reverse.log_probs[-1] - reverse.log_probs[0]).max() > 0.1
    np.testing.assert_allclose(reinforce.log_probs, reverse.log_probs, atol=1e-12)


@pytest.mark.parametrize(("beta", "rate"), [(0.5, 10.0), (1.0, 10.0), (2.0, 2.0)])
def test_dpo_on_bradley_terry_pairs_ends_at_the_tilted_reference(beta, rate):
    problem = ta.Bandit(**ARMS)
    source = ta.Source("reference", labels="bradley_terry")
    end = end_of("dpo", problem, source=source, beta=beta, lr=rate, steps=1000)
    np.testing.assert_allclose(end, problem.optimum(beta), atol=1e-10)


def test_dpo_on_bradley_terry_pairs_with_flipped_labels_is_drawn_back():
    # Flips shrink the odds, hence the implied reward: the end lies nearer to the reference.
    problem = ta.Bandit(**ARMS)
    source = ta.Source("reference", labels="bradley_terry", label_noise=0.2)
    end = end_of("dpo", problem, source=source, beta=0.5, lr=10.0, steps=500)
    optimum, reference = problem.optimum(0.5), problem.reference
    assert 0 < end[2] - reference[2] < 0.75 * (optimum[2] - reference[2])


@pytest.mark.parametrize(("tau", "rate"), [(0.3, 0.1), (1.0, 0.5)])
def test_rwr_ends_at_the_tilted_reference(tau, rate):
    problem = ta.Bandit(**ARMS)
    end = end_of("rwr", problem, source="reference", tau=tau, lr=rate, steps=800)
    np.testing.assert_allclose(end, problem.optimum(tau), atol=1e-10)


@pytest.mark.parametrize(
    # The rate is limited by the likeliest arm, the last digits by the rarest.
    ("make", "rate", "tolerance"),
    [(ta.far, 20.0, 1e-4), (ta.near, 10.0, 5e-4)],
)
def test_offline_best_of_n_levels_off_at_the_best_of_ten(make, rate, tolerance):
    problem = make()
    source = ta.Source("reference", responses=10)
    traj = ta.simulate("best_of_n", problem, source=source, lr=rate, steps=3000)
    reward = traj.measured()["expected_reward"][:, 0]
    assert reward[-1] == pytest.approx(problem.best_of(10), abs=tolerance)
    assert abs(reward[-1] - reward[-2]) < tolerance
    assert reward[0] < problem.best_of(10) - 0.25
    # The winner's distribution itself: F(R)^10 - F(R-)^10, shared by arms of equal reward.
    _, level = np.unique(problem.rewards, return_inverse=True)
    mass = np.bincount(level, problem.reference)
    wins = np.diff(mass.cumsum() ** 10, prepend=0.0)
    expected = wins[level] * problem.reference / mass[level]
    assert 0.5 * np.abs(np.exp(traj.final[0, 0]) - expected).sum() < 1e-3


def test_on_policy_best_of_n_does_not_level_off_there():
    problem = ta.near()
    source = ta.Source("policy", responses=10)
    end = end_of("best_of_n", problem, source=source, lr=1.0, steps=500)
    assert end @ problem.rewards > problem.best_of(10) + 0.02


def test_ipo_ends_at_its_target_margin():
    traj = ta.simulate("ipo", tau=[0.1, 0.5], lr=0.05, steps=400)
    np.testing.assert_allclose(traj.measured()["margin"][-1], [5.0, 1.0], atol=1e-10)


def test_dpo_on_one_pair_never_ends():
    margin = ta.simulate("dpo", lr=40.0, steps=500).measured()["margin"][:, 0]
    assert (np.diff(margin) > 0).all()
    assert margin[-1] > 30


# --- does the chosen answer fall?


@pytest.mark.parametrize(
    ("objective", "hyper", "rate"),
    [("dpo", "beta", 0.1), ("ipo", "tau", 0.1), ("dpop", "beta", 0.02)],
)
def test_with_a_table_and_one_pair_the_chosen_answer_never_falls(objective, hyper, rate):
    # Its logit goes up and the other's down by the same amount, so the normaliser gains less than
    # the chosen logit does. IPO's steps must not overshoot its target: rate < 1/4.
    problem = ta.adjacent_arms(spread=1.0)
    settings = {"seeds": 100, "steps": 300, "marks": 40, "lr": rate}
    traj = ta.simulate(objective, problem, **settings, **{hyper: [0.05, 0.1, 0.5, 1.0]})
    chosen, _ = traj.pair_logps()
    assert chosen.shape[1] == 400
    assert (chosen[1:] > chosen[0]).all()
    assert np.diff(chosen, axis=0).min() > -1e-12  # IPO comes to rest at its target


def test_with_shared_features_the_chosen_answer_falls_in_most_runs():
    problem = ta.adjacent_arms(spread=1.0)
    settings = {"policy": ta.Features(OVERLAP), "seeds": 100, "steps": 200}
    fell = {}
    for name, hyper, rate in (("dpo", "beta", 0.1), ("ipo", "tau", 0.01), ("dpop", "beta", 0.02)):
        traj = ta.simulate(name, problem, lr=rate, marks=20, **settings, **{hyper: 0.1})
        chosen, rejected = traj.pair_logps()
        fell[name] = (chosen[-1] < chosen[0]).mean()
        assert ((chosen - rejected)[-1] > (chosen - rejected)[0]).all()
    assert fell["dpo"] > 0.6
    assert fell["ipo"] > 0.6
    assert fell["dpop"] == 0


def test_the_first_step_falls_where_the_features_say_so():
    # d log p_w = lr (b/2) (e_w - p)' Phi Phi' (e_w - e_l): its sign needs no simulation.
    problem, policy = ta.adjacent_arms(spread=1.0), ta.Features(OVERLAP)
    rate, beta = 1e-6, 0.1
    traj = ta.simulate("dpo", problem, policy=policy, seeds=100, steps=1, lr=rate, beta=beta)
    phi = policy.matrix(problem.arms).numpy()
    (chosen, rejected), *_ = problem.pairs
    e_w, e_l = np.eye(problem.arms)[[chosen, rejected]]
    slope = (e_w - np.exp(traj.reference[:, 0])) @ phi @ phi.T @ (e_w - e_l)
    moved = np.diff(traj.pair_logps()[0], axis=0)[0]
    np.testing.assert_allclose(moved / (rate * beta / 2), slope, atol=1e-6)
    assert np.array_equal(np.sign(moved), np.sign(slope))
    assert 0.5 < (slope < 0).mean() < 0.9


def test_the_pair_losses_share_their_first_direction():
    # Before any loss can tell the answers apart, all of them pull along (e_w - e_l).
    problem = ta.adjacent_arms(spread=1.0)
    moves = {}
    for name in ("dpo", "ipo", "dpop", "minor_dpo"):
        traj = ta.simulate(name, problem, policy="features", seeds=5, steps=1, lr=1e-6)
        move = traj.theta - 0.0
        moves[name] = move / np.linalg.norm(move, axis=1, keepdims=True)
    for name, move in moves.items():
        np.testing.assert_allclose(move, moves["dpo"], atol=1e-12, err_msg=name)


def test_npo_lowers_the_rejected_answer():
    # d log p_l is proportional to -(1 - 2 p_l + sum of p^2), which is never positive.
    traj = ta.simulate("npo", ta.adjacent_arms(spread=1.0), seeds=20, steps=200, lr=0.2)
    _, rejected = traj.pair_logps()
    assert (np.diff(rejected, axis=0) < 0).all()
    assert (rejected[-1] < rejected[0] - 1).all()


# --- adaptive steps


@pytest.mark.parametrize("optimiser", [ta.Adam(eps=1e-2), ta.RMSprop(eps=1e-2)])
def test_adaptive_optimisers_end_at_the_same_place(optimiser):
    # With a small eps they would dither about the optimum by about the learning rate.
    problem = ta.Bandit(**ARMS, temperature=0.5)
    end = end_of("reverse_kl", problem, optimiser=optimiser, lr=1e-2, steps=800)
    np.testing.assert_allclose(end, problem.optimum(0.5), atol=1e-10)
