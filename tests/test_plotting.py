"""The figures draw the numbers of the table, in the colours of their roles, into stable files."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation

import toyalign as ta
from toyalign import plotting
from toyalign.plotting.marks import followed


@pytest.fixture(scope="module")
def falling() -> ta.Trajectory:
    problem = ta.adjacent_arms(spread=1.0)
    return ta.simulate("dpo", problem, policy="features", steps=50, seeds=4, lr=0.5)


def test_mass_bars_show_the_probabilities_and_the_roles():
    _, axes = plotting.new_figure()
    plotting.mass_bars(axes[0, 0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], chosen=[0], rejected=[2])
    bars = axes[0, 0].patches[:3]
    assert [bar.get_height() for bar in bars] == [0.5, 0.3, 0.2]
    colours = [plotting.CHOSEN, plotting.OTHERS, plotting.REJECTED]
    assert [hexed(bar.get_facecolor()) for bar in bars] == [c.lower() for c in colours]
    assert bars[2].get_hatch() and not bars[0].get_hatch()


def test_traces_draw_the_mean_change_since_the_start(falling):
    _, axes = plotting.new_figure()
    plotting.traces(axes[0, 0], falling)
    lines = {line.get_label(): line for line in axes[0, 0].lines}
    chosen, _ = falling.pair_logps()
    expected = (chosen - chosen[0]).mean(1)
    np.testing.assert_allclose(lines["chosen"].get_ydata(), expected, atol=1e-12)
    assert hexed(lines["chosen"].get_color()) == plotting.CHOSEN.lower()
    assert hexed(lines["rejected"].get_color()) == plotting.REJECTED.lower()


def test_the_third_line_is_the_biggest_gainer_of_neither_kind(falling):
    label, _, values = followed(falling)[0]
    mass = np.exp(falling.log_probs[:, :, 0]).mean(1)
    gain = mass[-1] - mass[0]
    gain[list(falling.pairs[0])] = -np.inf
    assert label == f"arm {gain.argmax()} (neither)"
    assert values.shape == falling.loss.shape


def test_a_single_run_is_drawn_in_absolute_terms_and_without_pairs_by_gain():
    traj = ta.simulate("reinforce", "near", steps=30, lr=2.0)
    _, axes = plotting.new_figure()
    plotting.traces(axes[0, 0], traj)
    assert axes[0, 0].get_ylabel() == "log-probability (nats)"
    assert "gains most" in axes[0, 0].lines[1].get_label()


def test_phase_field_tints_where_the_chosen_answer_is_pushed_down():
    x, y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5))
    push = np.where(x > 0.1, -1.0, 1.0)
    _, axes = plotting.new_figure(1, 2)
    plotting.phase_field(axes[0, 0], x, y, push, -np.ones_like(x), paths=[(x[0], y[0])])
    tint = axes[0, 0].collections[0].get_array()
    assert (np.ma.getmaskarray(tint).reshape(x.shape) == (push > 0)).all()
    plotting.phase_field(axes[0, 1], x, y, np.ones_like(x), np.zeros_like(x))
    assert len(axes[0, 1].collections) == len(axes[0, 0].collections) - 1


def test_curves_and_dots_show_every_group_with_its_interval():
    table = pd.DataFrame(
        {
            "objective": ["dpo", "dpo", "ipo", "ipo"],
            "step": [0, 1, 0, 1],
            "policy": ["a", "b", "a", "b"],
            "mean": [0.0, 1.0, 2.0, 3.0],
            "low": [-1.0, 0.0, 1.0, 2.0],
            "high": [1.0, 2.0, 3.0, 4.0],
        }
    )
    _, axes = plotting.new_figure(1, 2)
    plotting.curves(axes[0, 0], table, "step")
    assert [line.get_label() for line in axes[0, 0].lines] == ["dpo", "ipo"]
    assert hexed(axes[0, 0].lines[0].get_color()) == plotting.colour_of("dpo").lower()
    plotting.dots(axes[0, 1], table, hue="policy")
    assert [t.get_text() for t in axes[0, 1].get_yticklabels()] == ["dpo", "ipo"]
    assert sorted(axes[0, 1].lines[0].get_xdata()) == [0.0, 2.0]


def test_figures_are_saved_whole_and_alike(tmp_path, falling):
    first = plotting.save_figure(plotting.plot_runs([falling]), tmp_path / "a.svg")
    second = plotting.save_figure(plotting.plot_runs([falling]), tmp_path / "b.svg")
    assert first.read_bytes() == second.read_bytes()
    assert "<text" not in first.read_text()  # letters are outlines, no font is needed
    plotting.save_figure(plotting.plot_mass(falling), tmp_path / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "c.png"]


def test_an_unknown_suffix_is_refused(tmp_path, falling):
    with pytest.raises(ta.ToyalignError, match=r"\.svg, \.png, \.pdf"):
        plotting.save_figure(plotting.plot_mass(falling), tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir())


def test_the_style_changes_nothing_global():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with plotting.house_style():
        assert mpl.rcParams["axes.titlelocation"] == "left"
    assert dict(mpl.rcParams) == before


def test_every_objective_has_a_colour_and_no_role_is_taken():
    from toyalign.objectives import OBJECTIVES

    roles = {plotting.CHOSEN, plotting.REJECTED, plotting.OTHERS, plotting.REFERENCE}
    assert all(plotting.colour_of(name) not in roles for name in OBJECTIVES)
    assert plotting.colour_of("brand_new") == plotting.colour_of("brand_new")


def hexed(colour: object) -> str:
    from matplotlib.colors import to_hex

    return to_hex(colour)


def test_a_lake_map_shows_moves_visits_and_paths():
    _, axes = plotting.new_figure()
    ax = axes[0, 0]
    policy = np.full((6, 4), 0.25)
    policy[0] = (0.0, 0.0, 0.9, 0.1)  # right, mostly
    policy[1] = (0.0, 0.5, 0.5, 0.0)  # down or right
    plotting.lake_map(ax, ("SFF", "FHG"), policy, visits=[2, 1, 0, 0, 0, 5], path=[0, 1, 2, 5])
    arrows = [text for text in ax.texts if isinstance(text, Annotation)]
    # One for the first cell, two for the second; the others' moves are all too unlikely.
    assert [(round(a.xy[0], 3), round(a.xy[1], 3)) for a in arrows] == [
        (0.378, 0.0), (1.0, 0.21), (1.21, 0.0),
    ]  # fmt: skip
    assert [text.get_text() for text in ax.texts if text not in arrows] == ["start", "goal"]
    colours = [patch.get_facecolor()[3] for patch in ax.patches if patch.get_alpha() is not None]
    assert np.allclose(colours, [0.45 * 2 / 5, 0.45 / 5])  # not the goal, which is not acted in
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2, 2]
