"""What `explain` says of a gradient is measured, and agrees with what is known by hand."""

import pytest
import torch

import toyalign as ta
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.relatives import relatives
from toyalign.words import gradient_in_words


def said(name: str) -> str:
    return " ".join(gradient_in_words(get_objective(name)))


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        # -+ b s(-b h): .05 at the start; s(-2) / s(0) = .24, s(2) / s(0) = 1.76 at h = -+20
        (
            "dpo",
            [
                "At the start it raises the chosen answer (+0.05 per nat) and lowers the rejected "
                "one (-0.05 per nat).",
                "Within ±6 nats the two pushes are equally large and opposite",
                "won by 20 nats the push apart has faded to 0.24 of the first one",
                "lost by 20 nats it is 1.76 times the first one",
                "Within ±6 nats it never pushes the chosen answer down.",
            ],
        ),
        # 2 (1/(2 tau) - h): 10 at the start, -3 and 5 times that at h = 20 and -20
        (
            "ipo",
            [
                "raises the chosen answer (+10 per nat)",
                "has turned round (-3 times the first one)",
                "lost by 20 nats it is 5 times",
                "pushes the chosen answer down on 17% of the plane",
            ],
        ),
        # b/2 each at the start; below the reference 1 + 50 times as hard
        ("dpop", ["pushed up 51 times as hard as the rejected one is pushed"]),
        # until the margin of 1/b = 20 nats, then nothing
        (
            "hinge",
            ["won by 20 nats the push apart is gone", "lost by 20 nats it is still the same"],
        ),
        ("npo", ["leaves alone the chosen answer (no push) and lowers the rejected one (-1"]),
        ("discopop", ["lowers the chosen answer", "raises the rejected one"]),
        ("sft", ["raises the response of log-probability −6 (+1 per nat)", "is still the same"]),
        # the push is the probability itself: e^-6 at the start, e^5 times that 5 nats above
        ("dft", ["(+0.00248 per nat)", "is 148 times the first one", "faded to 0.0067"]),
        # both labels: b/4
        ("kto", ["raises the chosen answer (+0.025 per nat)"]),
    ],
)
def test_what_is_said_of_a_gradient(name, sentences):
    for sentence in sentences:
        assert sentence in said(name), said(name)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_there_are_words_for_every_objective_on_answers(name):
    card = OBJECTIVES[name]
    words = gradient_in_words(card)
    assert bool(words) == (card.kind in ("pairs", "labelled", "demonstrations"))
    assert not any("nan" in word or "inf" in word for word in words)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dpop", "With lam = 0 it is dpo."),
        ("cdpo", "With eps = 0 it is dpo."),
        ("robust_dpo", "With eps = 0 it is dpo."),
        ("dpo_nll", "With alpha = 0 it is dpo."),
        ("sr_dpo", "With lam = 0 it is dpo."),
        ("r_dpo", "With alpha = 0 it is dpo."),
        ("ld_dpo", "With alpha = 1 it is dpo."),
        ("tdpo2", "With alpha = 0 it is dpo."),
        ("f_dpo_alpha", "With alpha = 1 it is dpo."),
        ("sr_ipo", "With lam = 0 it is ipo."),
        ("dpo", "It is dpop with lam = 0."),
        ("alphapo", "With alpha = 0 it is simpo."),
        ("asft", "With alpha = 0 it is dft."),
        ("reinforce_kl", "With beta = 0 it is reinforce."),
        ("discopop", "Nothing else of its kind pushes in much the same way."),
    ],
)
def test_relatives_one_term_away_are_found(name, sentence):
    assert sentence in relatives(get_objective(name)), relatives(get_objective(name))


def test_a_users_loss_has_relatives_too():
    def squared_hinge(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
        return torch.relu(1 - 0.1 * margin) ** 2

    (nearest,) = relatives(get_objective(squared_hinge))
    assert nearest.startswith("Its pushes are most like those of ")
    assert "raises the chosen answer" in " ".join(gradient_in_words(get_objective(squared_hinge)))


def test_labelled_rows_are_both_sides_of_the_pairs():
    traj = ta.simulate("kto", ta.adjacent_arms(), policy="tabular", steps=200, lr=1.0)
    chosen, rejected = traj.pair_logps()
    assert chosen[-1, 0] > chosen[0, 0] and rejected[-1, 0] < rejected[0, 0]
