"""The registry of objectives, the signature as a schema, and identities between the losses."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import call, gradients, tensors

import toyalign as ta
from toyalign.errors import ToyalignError
from toyalign.objectives import OBJECTIVES, Objective, describe, get_objective, objective

PAIR = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
MY_LOSS = '''"""A file that imports nothing of ours."""

from torch.nn.functional import softplus


def my_loss(chosen_logps, rejected_logps, *, margin=1.0):
    """Keep the chosen answer ahead of the rejected one by a margin."""
    return softplus(margin - (chosen_logps - rejected_logps))


def helper(chosen_logps):
    return chosen_logps
'''


@pytest.fixture
def my_file(tmp_path):
    path = tmp_path / "my_loss.py"
    path.write_text(MY_LOSS)
    return path


# --- a card


def test_the_decorator_files_a_card_and_returns_the_bare_function():
    def fresh(logps, *, scale=2.0):
        """Does little."""
        return -scale * logps

    try:
        bare = objective(paper="A paper", equation="1", expects={"logps": "up"})(fresh)
        assert bare is fresh
        card = OBJECTIVES["fresh"]
        assert (card.needs, card.hyper) == (("logps",), {"scale": 2.0})
        assert (card.kind, card.family) == ("demonstrations", "test_objectives")
        assert ta.fresh is fresh
        assert np.isfinite(ta.simulate("fresh", steps=2).loss).all()
    finally:
        OBJECTIVES.remove("fresh")
        vars(ta).pop("fresh", None)


def test_a_taken_name_is_refused():
    def dpo(chosen_logps, rejected_logps):
        return rejected_logps - chosen_logps

    assert OBJECTIVES["dpo"]
    with pytest.raises(ToyalignError, match="objective 'dpo' exists already"):
        objective()(dpo)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_a_plain_function_of_the_package(name):
    assert getattr(ta, name) is OBJECTIVES[name].fn
    assert inspect.isfunction(OBJECTIVES[name].fn)
    assert name in dir(ta)


def test_settings_override_defaults_and_know_their_names():
    card = get_objective("dpop")
    assert card.settings({"lam": 5.0}) == {"beta": 0.3, "lam": 5.0}
    with pytest.raises(ToyalignError, match=r"hyperparameter of dpop 'betta'; did you mean 'beta'"):
        card.settings({"betta": 1.0})


def test_summary_is_the_first_line():
    assert get_objective("sft").summary.startswith("Raise the demonstrations")
    assert describe(lambda logps: -logps).summary == "no description"


# --- the signature is the schema


def _star(*tensors):
    return tensors


def _double_star(logps, **others):
    return logps


def _typo(chosen_logps, rejected_logp):
    return chosen_logps


def _no_default(logps, *, beta):
    return logps


def _default(logps, beta=0.1):
    return logps


def _empty():
    return 0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            _typo,
            r"unknown tensor name in the signature of _typo\(\) 'rejected_logp'; did you mean ",
        ),
        (_typo, r"did you mean 'rejected_logps'\?"),
        (_no_default, r"hyperparameter 'beta' of _no_default\(\) needs a default"),
        (_default, r"'beta' of _default\(\) has a default.*after a bare \*"),
        (_star, r"_star\(\) must name its tensors one by one, not take \*tensors"),
        (_double_star, r"_double_star\(\) must name its tensors one by one"),
        (_empty, r"_empty\(\) asks for no tensors"),
    ],
)
def test_a_signature_that_is_no_schema(loss, message):
    with pytest.raises(ToyalignError, match=message):
        get_objective(loss)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"sources": ("fixd",)}, "unknown data source on the card of .* did you mean 'fixed'"),
        ({"expects": {"rejected_logps": "up"}}, "expects 'rejected_logps' to go 'up'"),
        ({"expects": {"logps": "upwards"}}, "expects 'logps' to go 'upwards'"),
    ],
)
def test_a_card_that_says_something_unknown(card, message):
    def loss(logps):
        return -logps

    with pytest.raises(ToyalignError, match=message):
        describe(loss, **card)


# --- lookup


def test_lookup_by_name_function_card_and_file(my_file):
    card = get_objective("dpo")
    assert get_objective(ta.dpo) is card
    assert get_objective(card) is card
    mine = get_objective(f"{my_file}:my_loss")
    assert isinstance(mine, Objective)
    assert (mine.name, mine.hyper) == ("my_loss", {"margin": 1.0})
    assert mine.needs == ("chosen_logps", "rejected_logps")
    assert "my_loss" not in OBJECTIVES


def test_unknown_names_get_the_nearest_one(my_file):
    with pytest.raises(
        ToyalignError, match=r"unknown objective 'dpoo'; did you mean 'dpo'\?.*list"
    ):
        get_objective("dpoo")
    with pytest.raises(ToyalignError, match=r"did you mean 'my_loss'\? Known: helper, my_loss$"):
        get_objective(f"{my_file}:my_los")
    with pytest.raises(ToyalignError, match="there is no file"):
        get_objective(f"{my_file.parent}/none.py:my_loss")


def test_a_users_file_trains(my_file):
    spec = f"{my_file}:my_loss"
    traj = ta.simulate(spec, steps=50, lr=0.5, margin=[0.5, 2.0], policy="features")
    assert traj.objective == "my_loss"
    assert traj.runs["margin"].tolist() == [0.5, 2.0]
    chosen, rejected = traj.pair_logps()
    assert ((chosen - rejected)[-1] > (chosen - rejected)[0] + 0.5).all()


# --- identities


def draws(name: str, seed: int):
    return tensors(get_objective(name).needs, seed)


@pytest.mark.parametrize("seed", range(3))
def test_dpop_without_penalty_is_dpo(seed):
    inputs = draws("dpo", seed)
    dpo, dpop = ta.dpo(**inputs, beta=0.2), ta.dpop(**inputs, beta=0.2, lam=0.0)
    torch.testing.assert_close(dpop, dpo, rtol=0, atol=0)
    ours = gradients(ta.dpop, inputs, beta=0.2, lam=0.0)
    for name, grad in gradients(ta.dpo, inputs, beta=0.2).items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-14, atol=0)


def test_minor_dpo_is_dpo_where_the_rejected_answer_is_above_its_reference():
    inputs = draws("dpo", 0)
    r_l = inputs["rejected_logps"] - inputs["ref_rejected_logps"]
    above = r_l >= 0
    assert above.any()
    assert (~above).any()
    dpo, minor = ta.dpo(**inputs), ta.minor_dpo(**inputs)
    torch.testing.assert_close(minor[above], dpo[above], rtol=1e-13, atol=0)
    assert (minor[~above] > dpo[~above]).all()
    theirs, ours = gradients(ta.dpo, inputs), gradients(ta.minor_dpo, inputs)
    for name in theirs:
        torch.testing.assert_close(ours[name][above], theirs[name][above], rtol=1e-13, atol=0)
    assert (ours["rejected_logps"][~above] == 0).all()


def test_minor_sft_tends_to_sft_as_beta_vanishes():
    inputs = draws("minor_sft", 0)
    sft = gradients(ta.sft, {name: inputs[name] for name in ("logps", "lengths")})["logps"]
    gaps = [
        (gradients(ta.minor_sft, inputs, beta=beta)["logps"] - sft).abs().max()
        for beta in (1e-2, 1e-3, 1e-4)
    ]
    # 2 s(-b r) = 1 - b r / 2 + ..., so the gap shrinks in proportion to beta.
    assert gaps[2] < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.01)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.01)


def test_minor_sft_is_sft_at_the_start():
    inputs = draws("minor_sft", 0)
    inputs["ref_logps"] = inputs["logps"]
    sft = gradients(ta.sft, {name: inputs[name] for name in ("logps", "lengths")})["logps"]
    torch.testing.assert_close(gradients(ta.minor_sft, inputs)["logps"], sft, rtol=1e-14, atol=0)


def test_npo_is_the_mirror_image_of_minor_sft():
    # Reflect the answer at its reference: r to -r.
    inputs = draws("minor_sft", 1)
    policy, reference = inputs["logps"], inputs["ref_logps"]
    mirrored = {"rejected_logps": 2 * reference - policy, "ref_rejected_logps": reference}
    ours = ta.minor_sft(policy, reference, torch.ones_like(policy), beta=0.3)
    torch.testing.assert_close(ta.npo(**mirrored, beta=0.3), ours, rtol=1e-12, atol=0)


def test_ipo_mean_is_ipo_for_answers_of_one_token():
    inputs = draws("ipo_mean", 0)
    inputs |= {"chosen_lengths": torch.ones(2, 5), "rejected_lengths": torch.ones(2, 5)}
    plain = {name: inputs[name] for name in PAIR}
    torch.testing.assert_close(ta.ipo_mean(**inputs), ta.ipo(**plain), rtol=1e-12, atol=0)


def test_reinforce_kl_without_penalty_is_reinforce():
    inputs = draws("reinforce_kl", 0)
    plain = {name: inputs[name] for name in ("logps", "advantages")}
    assert torch.equal(ta.reinforce_kl(**inputs, beta=0.0), ta.reinforce(**plain))
    ours = gradients(ta.reinforce_kl, inputs, beta=0.0)["logps"]
    assert torch.equal(ours, gradients(ta.reinforce, plain)["logps"])


def test_best_of_n_with_equal_weights_is_sft():
    inputs = draws("best_of_n", 0)
    inputs["best_weights"] = torch.ones(2, 5, dtype=torch.float64)
    plain = {name: inputs[name] for name in ("logps", "lengths")}
    assert torch.equal(ta.best_of_n(**inputs), ta.sft(**plain))


def test_ppo_on_fresh_samples_is_reinforce():
    inputs = draws("ppo_clip", 0)
    inputs["old_token_logps"] = inputs["token_logps"]
    grad = gradients(ta.ppo_clip, inputs)["token_logps"]
    expected = -inputs["advantages"].unsqueeze(-1).expand_as(grad)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)


logits = st.lists(st.floats(-30, 30), min_size=6, max_size=6)


@given(logits, logits, st.floats(0.05, 0.95))
def test_divergences_are_never_negative_and_jsd_is_bounded(policy, target, mixture):
    p, q = (
        torch.log_softmax(torch.tensor([[values]], dtype=torch.float64), -1)
        for values in (policy, target)
    )
    rounding = 1e-12
    assert ta.forward_kl(p, q).item() >= -rounding
    assert ta.reverse_kl(p, q).item() >= -rounding
    jsd = ta.jsd(p, q, mixture=mixture).item()
    bound = -mixture * np.log(mixture) - (1 - mixture) * np.log(1 - mixture)
    assert -rounding <= jsd <= bound + rounding
    assert ta.jsd(q, p, mixture=1 - mixture).item() == pytest.approx(jsd, abs=rounding)
    for name in ("forward_kl", "reverse_kl", "jsd"):
        assert getattr(ta, name)(p, p).item() == pytest.approx(0, abs=rounding)


@given(st.floats(-20, 20), st.integers(0, 5))
def test_pair_losses_see_only_the_margin(shift, seed):
    # Adding a constant to both answers of a pair, as a falling normaliser does, changes nothing.
    for name in ("dpo", "ipo"):
        card, inputs = get_objective(name), draws(name, seed)
        moved = dict(inputs)
        for side in ("chosen_logps", "rejected_logps"):
            moved[side] = inputs[side] + shift
        torch.testing.assert_close(call(card, moved), call(card, inputs), rtol=1e-9, atol=1e-9)


def test_forward_kl_forgives_what_the_target_excludes():
    p = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64).log()
    q = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64).log()
    assert ta.forward_kl(p, q).item() == pytest.approx(np.log(2))
    assert ta.reverse_kl(p, q).item() == np.inf
    assert ta.jsd(p, q).item() == pytest.approx(0.75 * np.log(4 / 3), rel=1e-12)


def test_extreme_log_ratios_stay_finite():
    far = torch.tensor([[1e3, -1e3]], dtype=torch.float64)
    zero = torch.zeros_like(far)
    for name in ("dpo", "ipo", "dpop", "minor_dpo"):
        inputs = dict(zip(PAIR, (far - 2e3, -far - 2e3, zero - 2e3, zero - 2e3), strict=True))
        assert torch.isfinite(call(get_objective(name), inputs)).all()
        for grad in gradients(get_objective(name).fn, inputs).values():
            assert torch.isfinite(grad).all()
