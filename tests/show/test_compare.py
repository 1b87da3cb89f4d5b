"""Pictures of methods at the same cost."""

from collections.abc import Iterator
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from steerlens.show import plot_at_kl, plot_rows

GAIN = {"steer": 0.3, "mean difference": 0.1, "random direction": 0.0}


@pytest.fixture
def table() -> Iterator[pd.DataFrame]:
    rows = [
        (name, kl, kl if name != "mean difference" else min(kl, 0.1), gain * kl, note)
        for name, gain in GAIN.items()
        for kl, note in ((0.05, ""), (0.2, "" if name != "mean difference" else "spends at most"))
    ]
    rows = [("base", 0.0, 0.0, 0.0, ""), *rows]
    found = pd.DataFrame(rows, columns=["method", "kl", "given_kl", "gain", "note"])
    found = found.assign(
        kind="all", gain_low=found.gain - 0.01, gain_high=found.gain + 0.01, perplexity=4.0
    )
    yield found
    plt.close("all")


def lines(ax, marker: str) -> list:
    return [
        line for line in ax.get_lines() if line.get_marker() == marker and len(line.get_xdata())
    ]


def test_each_method_is_a_line_from_budget_to_budget(table):
    ax = plot_at_kl(table)
    drawn = {tuple(line.get_ydata()) for line in lines(ax, "None")}
    assert {(0.3 * 0.05, 0.3 * 0.2), (0.0, 0.0)} <= drawn
    assert [text.get_text() for text in ax.texts] == [
        "random direction",
        "mean difference",
        "steer",
    ]
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "gain in mean score"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.05", "0.2"]


def test_the_axis_is_the_cost_on_the_texts_that_the_budgets_hold_for(table):
    own = table.assign(kl_on="own", own_kl=3 * table.given_kl)
    for made, texts, factor in ((table, "given", 1), (own, "own", 3)):
        ax = plot_at_kl(made)
        assert ax.get_xlabel() == f"KL on {texts} texts (nats per token)"
        _, first, *_ = (list(line.get_xdata()) for line in lines(ax, "None"))
        assert first == pytest.approx([0.05 * factor, 0.2 * factor])


def test_what_could_not_spend_the_budget_is_hollow_at_what_it_spent(table):
    hollow = [
        line for line in lines(plot_at_kl(table), "o") if line.get_markerfacecolor() == "none"
    ]
    assert [line.get_xdata().tolist() for line in hollow] == [[0.1]]


def test_names_at_the_ends_keep_apart(table):
    same = table.assign(gain=0.2, gain_low=0.1, gain_high=0.3)
    ax = plot_at_kl(same)
    ax.get_figure().draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without their lines
    assert len(boxes) == 3
    for one, other in pairwise(boxes):
        assert one.y1 <= other.y0 + 1


def test_perplexities_are_on_a_logarithmic_axis(table):
    assert plot_at_kl(table, "perplexity").get_yscale() == "log"
    assert plot_rows(table, "perplexity").get_xscale() == "log"


def test_rows_are_methods_with_their_numbers(table):
    ax = plot_rows(table, "gain")
    assert [label.get_text() for label in ax.get_yticklabels()] == table.method.tolist()
    assert [text.get_text() for text in ax.texts][:3] == ["0", "0.015", "0.06"]
    low, high = ax.get_ylim()
    assert low > high  # the first is on top
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], table.gain)
    unnamed = plot_rows(table, "gain", names=False)
    assert {label.get_text() for label in unnamed.get_yticklabels()} == {""}


@pytest.mark.parametrize("plot", (plot_at_kl, plot_rows))
def test_what_cannot_be_drawn_is_refused(plot, table):
    with pytest.raises(ValueError, match="measure: got 'joy'"):
        plot(table, "joy")
    two = pd.concat([table, table.assign(kind="other")])
    with pytest.raises(ValueError, match=r"kind: got None, expected one of \['all', 'other'\]"):
        plot(two, "gain")
    assert len(plot(two, "gain", kind="other").texts) == len(plot(table, "gain").texts)


@pytest.mark.parametrize("plot", (plot_at_kl, plot_rows))
def test_a_dollar_in_a_methods_name_is_a_dollar(plot, table):
    renamed = table.assign(method=[f"costs ${k}_$ {k}" for k in range(len(table))])
    fig = plot(renamed, "gain").figure
    fig.draw_without_rendering()
    assert not any(
        text.get_parse_math() for text in fig.findobj(Text) if "costs" in text.get_text()
    )


def test_several_axes_at_once_are_refused(unchecked: None, table):
    axs = plt.figure().subplots(2, 2)
    with pytest.raises(ValueError, match=r"ax: got ndarray, expected one Axes.*axs\[0, 0\]"):
        plot_rows(table, "gain", ax=axs)
