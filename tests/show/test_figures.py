"""Figures: they draw on the given Axes, show the numbers of their table, and are saved with
them."""

import json

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from steerlens.show import figures
from steerlens.show.losses import plot_cost, plot_losses
from steerlens.show.numbers import format_signed
from steerlens.show.style import look, shade


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def curve() -> pd.DataFrame:
    rows = [
        (y, s, y * s - s * s / 2, 0.1, 5, 50) for y in (-1.0, 0.0, 1.0) for s in (-1.0, 0.0, 1.0)
    ]
    return pd.DataFrame(
        rows, columns=["label", "strength", "log_likelihood", "error", "texts", "tokens"]
    )


def gap() -> pd.DataFrame:
    rows = [(-1.0, 0.4), (0.0, 0.0), (1.0, 0.5), ("all", 0.3)]
    table = pd.DataFrame(rows, columns=["grade", "gap_closed"])
    for name in ("low", "high", "best_gap_closed", "best_low", "best_high"):
        table[name] = table.gap_closed + {
            "low": -0.1,
            "high": 0.1,
            "best_low": -0.1,
            "best_high": 0.1,
        }.get(name, 0)
    return table.assign(multiple=1.5)


def test_label_curve_marks_the_top_of_each_curve():
    _, ax = plt.subplots()
    assert figures.plot_label_curve(curve(), ax=ax) is ax
    tops = [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"
    ]
    assert tops == [(-1.0, 0.5), (0.0, 0.0), (1.0, 0.5)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["−1", "0", "+1"]


def test_ridges_have_equal_area_and_stay_inside():
    grid = np.linspace(-1, 1, 2001)
    for values in (np.array([1.0, 1.0]), np.array([-0.2, 0.5, 0.9])):
        density = figures.ridge_density(values, grid)
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-2)
    table = pd.DataFrame({"strength": [-1.0, 0.0, 1.0], "attribute": [-0.5, 0.0, 0.5]})
    ax = figures.plot_written_attribute(table, name="tone")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["−1", "0", "+1"]
    assert {"+0.50", "−0.50", "0.00"} <= {text.get_text() for text in ax.texts}


def test_gap_closed_shows_its_numbers():
    ax = figures.plot_gap_closed(gap())
    heights = [round(bar.get_height()) for bar in ax.patches if bar.get_height()]
    assert heights == [40, 50, 30, 40, 50, 30]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−1", "+1", "all"]


def test_a_best_multiple_that_is_one_is_drawn_once():
    ax = figures.plot_gap_closed(gap().assign(multiple=1.0))
    assert [round(bar.get_height()) for bar in ax.patches if bar.get_height()] == [40, 50, 30]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["strength = grade"]


def test_words_losses_and_cost_draw_their_tables():
    scores = pd.DataFrame(
        {
            "direction": 1,
            "side": "+",
            "role": ["reads", "writes", "avoids"],
            "word": ["so", "good", "bad"],
            "score": [1, 2.0, -1],
        }
    )
    ax = figures.plot_singular_words(scores)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bad", "good"]
    ax = figures.plot_singular_words(scores, side="-")  # one that no context has
    assert not ax.patches and not ax.get_yticklabels()
    losses = pd.DataFrame(
        {
            "label": [-1.0, "all"],
            "background": [2.0, 2.0],
            "steered": [1.9, 1.8],
            "flipped": [2.1, 2.3],
        }
    )
    bars = [round(bar.get_height(), 3) for bar in plot_losses(losses).patches]
    assert bars == [-0.1, -0.2, 0.1, 0.3]
    kl = pd.DataFrame({"strength": [-1.0, 0.0, 1.0], "kl": [0.1, 0.0, 0.1]})
    writing = pd.DataFrame({"strength": [-1.0, 0.0, 1.0], "nll": [2.1, 2.0, 2.2], "error": 0.01})
    assert plot_cost(kl, writing).get_ylabel() == "cost (nats per token)"


def test_save_figure_writes_picture_and_numbers(tmp_path):
    fig = plt.figure()
    table = pd.DataFrame({"grade": [1.0, "all"], "x": [1.0, np.nan]})
    paths = figures.save_figure(fig, tmp_path, "picture", table)
    assert [path.name for path in paths] == ["picture.pdf", "picture.png", "picture.json"]
    assert paths[0].read_bytes()[:4] == b"%PDF" and paths[1].read_bytes()[1:4] == b"PNG"
    assert json.loads(paths[2].read_text()) == [
        {"grade": 1.0, "x": 1.0},
        {"grade": "all", "x": None},
    ]
    assert not plt.fignum_exists(fig.number)


def test_the_look_is_left_behind_but_not_the_backends_switch():
    before = mpl.rcParams["font.size"]
    with look():
        assert mpl.rcParams["font.size"] == 8
        mpl.interactive(True)
    assert mpl.rcParams["font.size"] == before
    assert mpl.is_interactive()
    mpl.interactive(False)


def test_colours_and_signs():
    assert shade(-2, 2) == shade(-5, 2) != shade(2, 2)
    assert shade(0, 0) == shade(0, 3)
    assert [format_signed(x) for x in (-0.5, 0.0, 2.0)] == ["−0.5", "0", "+2"]
