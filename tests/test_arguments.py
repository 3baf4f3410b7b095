"""What users get wrong, or right in an unusual way, when they call `simulate`."""

import functools
import math

import numpy as np
import pytest

import toyalign as ta
from toyalign.objectives import get_objective
from toyalign.problems import get_problem
from toyalign.registry import load_module


def test_a_losss_own_clip_reaches_the_loss():
    traj = ta.simulate("ppo_clip", "near", steps=3, clip=0.05)
    assert (traj.runs["clip"] == 0.05).all()


def test_gradients_are_clipped_per_run():
    free, bound = (
        ta.simulate("ipo", steps=1, lr=1.0, max_grad_norm=limit).theta for limit in (None, 0.1)
    )
    start = np.log(ta.adjacent_arms().reference)
    assert np.linalg.norm(free - start) > 1
    np.testing.assert_allclose(np.linalg.norm(bound - start), 0.1, rtol=1e-9)


def test_a_list_of_one_is_that_one():
    listed = ta.simulate("dpo", steps=5, beta=[0.3], lr=[0.2])
    plain = ta.simulate("dpo", steps=5, beta=0.3, lr=0.2)
    assert np.array_equal(listed.log_probs, plain.log_probs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": -0.1}, "lr must be 0 or more"),
        ({"lr": math.nan}, "finite"),
        ({"beta": math.inf}, "finite"),
        ({"beta": []}, "empty"),
        ({"betta": 0.1}, "did you mean 'beta'"),
        ({"steps": 0}, "at least 1"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"marks": 1}, "at least 2"),
        ({"marks": [5000]}, "between 0 and"),
        ({"dtype": "float46"}, "did you mean 'float64'"),
        ({"jobs": 0}, "jobs"),
        ({"chunk": 0}, "chunk"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"optimiser": "adm"}, "did you mean 'adam'"),
        ({"policy": "tabula"}, "did you mean 'tabular'"),
        ({"problem": "nera"}, "did you mean 'near'"),
        ({"source": "refrence"}, "did you mean 'reference'"),
    ],
)
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(ta.ToyalignError, match=said):
        ta.simulate("dpo", **wrong)


@pytest.mark.parametrize("spread", [-1.0, math.nan, math.inf])
def test_a_spread_that_is_no_spread_is_refused(spread):
    with pytest.raises(ta.ToyalignError, match="spread"):
        ta.adjacent_arms(spread=spread)


def test_what_is_no_problem_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def five():\n    return 5\n")
    with pytest.raises(ta.ToyalignError, match="no method world"):
        get_problem(f"{tmp_path / 'mine.py'}:five")


def test_a_partial_function_has_no_name_to_file_it_under():
    with pytest.raises(ta.ToyalignError, match="def"):
        get_objective(functools.partial(ta.dpo, beta=0.2))


def test_a_loss_without_a_gradient_is_refused():
    def detached(chosen_logps, rejected_logps):
        return -(chosen_logps - rejected_logps).detach()

    with pytest.raises(ta.ToyalignError, match="does not depend"):
        ta.simulate(detached)


def test_a_file_that_exits_is_an_error_not_an_exit(tmp_path):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ta.ToyalignError, match="SystemExit"):
        load_module(tmp_path / "leaves.py")


def test_an_arm_that_has_vanished_can_be_drawn():
    from toyalign import plotting

    traj = ta.simulate("ipo", tau=0.01, lr=1.0, steps=50, optimiser="adam")
    drawn = ta.simulate("sft", steps=2)
    gone = traj.log_probs.copy()
    gone[-1, ..., 3] = -2000.0
    object.__setattr__(traj, "log_probs", gone)
    assert plotting.plot_runs([traj, drawn]) is not None
