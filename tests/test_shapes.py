"""The shapes in the annotations are enforced while the tests run."""

import jaxtyping
import pytest
import torch

import toyalign as ta

ROW = torch.zeros(3, 1, dtype=torch.float64)


def test_a_missing_axis_is_noticed():
    # [3, 1] against [3] would broadcast to [3, 3] and train on pairs that nobody made.
    with pytest.raises(jaxtyping.TypeCheckError, match="rejected_logps"):
        ta.dpo(ROW, torch.zeros(3, dtype=torch.float64), ROW, ROW)


def test_axes_that_differ_are_noticed():
    with pytest.raises(jaxtyping.TypeCheckError):
        ta.dpo(ROW, ROW, ROW, torch.zeros(3, 2, dtype=torch.float64))


def test_a_column_for_another_number_of_runs_is_noticed():
    with pytest.raises(jaxtyping.TypeCheckError, match="beta"):
        ta.dpo(ROW, ROW, ROW, ROW, beta=torch.ones(2, 1, dtype=torch.float64))


def test_integers_are_no_log_probabilities():
    with pytest.raises(jaxtyping.TypeCheckError):
        ta.sft(torch.zeros(3, 1, dtype=torch.int64), ROW)


def test_the_right_shapes_pass():
    assert ta.dpo(ROW, ROW, ROW, ROW, beta=torch.ones(3, 1, dtype=torch.float64)).shape == (3, 1)
