"""Margins against the number of texts."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from steerlens.show.few_texts import plot_few_texts


def test_lines_are_means_of_the_draws_and_only_what_is_found_is_filled() -> None:
    rows = [
        (m, n, k, 0.01 * k + n / 1e4, m == "steer" and n > 50)
        for m in ("steer", "other")
        for n in (30, 300)
        for k in (0, 1)
    ]
    ax = plot_few_texts(
        pd.DataFrame(rows, columns=["method", "texts", "draw", "sign_margin", "found"])
    )
    lines = {
        line.get_label(): line
        for line in ax.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    assert set(lines) == {"steer", "other"}
    for line in lines.values():
        assert line.get_ydata() == pytest.approx([0.003 + 0.005, 0.03 + 0.005])
    dots = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
    filled = [line for line in dots if line.get_markerfacecolor() != "none"]
    assert (
        sum(len(line.get_xdata()) for line in dots) == 8
        and sum(len(line.get_xdata()) for line in filled) == 2
    )
    (found,) = [line for line in filled if len(line.get_xdata())]
    assert found.get_ydata() == pytest.approx([0.03, 0.04])
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "texts"
    plt.close(ax.figure)
