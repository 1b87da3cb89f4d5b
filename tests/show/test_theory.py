"""Theory on ground truth, drawn from small tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from steerlens.show.theory import plot_bounds, plot_ceiling, plot_prior_shift, plot_theorem

PARTS = ("closed by the fit", "not in the data", "not linear", "not learned by the model", "gap")


def test_bars_are_the_parts_and_the_line_is_what_knowing_the_grade_is_worth() -> None:
    shares = {"a": (0.4, 0.1, 0.2, 0.3, 1.0), "b": (0.5, 0.2, -0.1, 0.4, 1.0)}
    table = pd.DataFrame(
        [
            {"model": model, "attribute": "tone", "part": part, "share": share}
            for model, row in shares.items()
            for part, share in zip(PARTS, row, strict=True)
        ]
    )
    ax = plot_ceiling(table)
    for k, row in enumerate(shares.values()):
        bars = [container[k] for container in ax.containers]
        assert [bar.get_width() for bar in bars] == pytest.approx([*row[:2], 1 - sum(row[:2])])
        assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(1)
        assert ax.lines[k].get_xdata() == pytest.approx([1 - row[3]] * 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a\ntone", "b\ntone"]
    plt.close(ax.figure)


def test_what_is_exact_stands_at_the_bottom_and_is_named() -> None:
    rows = [
        (0.0, "no steer", 1e-2),
        (0.1, "no steer", 1e-3),
        (0.0, "theorem's W", 1e-17),
        (0.1, "theorem's W", 2e-2),
    ]
    table = pd.DataFrame(rows, columns=["redraw", "way", "kl"])
    ax = plot_theorem(table.assign(low=table.kl / 2, high=table.kl * 2))
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    floor = ax.get_ylim()[0]
    assert lines["theorem's W"] == pytest.approx([floor, 2e-2]) and floor < 1e-3
    assert [text.get_text() for text in ax.texts] == ["exact"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.1"]
    plt.close(ax.figure)
    without = plot_theorem(table[table.way == "no steer"].assign(low=1e-4, high=1e-1))
    assert not without.texts
    plt.close(without.figure)


def test_bounds_and_shifts_are_where_the_tables_have_them() -> None:
    strengths = np.array([0.5, 1.0, 2.0])
    ax = plot_bounds(pd.DataFrame({"strength": strengths, "measured": 0.01, "bound": strengths}))
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert lines["bound"] == pytest.approx(strengths) and lines["measured"] == pytest.approx(0.01)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.5", "1", "2"]
    plt.close(ax.figure)
    shifts = pd.DataFrame({"strength": [-1.0, 1.0], "kappa": [-2.0, 2.2], "error": 0.1})
    ax = plot_prior_shift(shifts, slope=2.1)
    assert ax.lines[0].get_ydata() == pytest.approx([-2.1, 2.1])
    plt.close(ax.figure)
