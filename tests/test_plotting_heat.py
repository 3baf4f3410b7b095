"""The heat table writes every number where it belongs, and shades it by its order."""

import numpy as np
import pandas as pd
import pytest

from toyalign import plotting
from toyalign.plotting.heat import in_short, shares

FRAME = pd.DataFrame(
    {"stops, nats": [5.0, np.inf, np.nan], "length": [1.0, 1.0, 1.0], "drift": [0.3, -2.0, 0.3001]},
    index=["ipo", "dpo", "sft"],
)


def test_shades_follow_the_order_in_each_column():
    expected = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [np.nan, 0.0, 1.0]]
    np.testing.assert_array_equal(shares(FRAME).to_numpy(), expected)


def test_every_cell_says_its_number_and_headings_take_a_line():
    _, axes = plotting.new_figure()
    plotting.heat_table(axes[0, 0], FRAME, ["pairs", "pairs", "demonstrations"])
    texts = [(text.get_text(), text.get_position()[1]) for text in axes[0, 0].texts]
    assert [word for word, _ in texts if word in ("pairs", "demonstrations")] == [
        "pairs",
        "demonstrations",
    ]
    assert [label.get_text() for label in axes[0, 0].get_yticklabels()] == [
        *("", "ipo", "dpo", ""),
        "sft",
    ]
    assert [label.get_text() for label in axes[0, 0].get_xticklabels()] == list(FRAME.columns)
    heights = dict(texts)
    assert heights["pairs"] < heights["5"] < heights["∞"] < heights["demonstrations"]
    shown = axes[0, 0].collections[0].get_array()
    assert np.ma.getmaskarray(shown).reshape(5, 3).sum() == 3 + 3 + 1  # two headings, one empty


def test_a_table_without_headings_has_its_own_lines_only():
    _, axes = plotting.new_figure()
    plotting.heat_table(axes[0, 0], FRAME)
    assert [label.get_text() for label in axes[0, 0].get_yticklabels()] == list(FRAME.index)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (np.nan, ""),
        (np.inf, "∞"),
        (-np.inf, "−∞"),
        (0.0, "0"),
        (-3.0, "−3"),
        (1e-137, "≈0"),
        (-1e-9, "≈0"),
        (0.000259, "0.0003"),
        (0.000977, "0.001"),
        (-0.00455, "−0.0046"),
        (0.0547, "0.055"),
        (0.547, "0.55"),
        (-6.27, "−6.3"),
        (9.96, "10"),
        (276.8, "277"),
    ],
)
def test_numbers_are_short(number, words):
    assert in_short(number) == words
    assert len(words.lstrip("−")) <= 6
