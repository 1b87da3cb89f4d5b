"""The figure of moved steers shows the shares of its table."""

import matplotlib.pyplot as plt
import pandas as pd

from steerlens.show.transfer import legend, plot_transfer

TABLE = pd.DataFrame(
    {
        "rule": ["similarity", "trained", "distil"],
        "share": [-0.2, 1.0, 1.3],
        "low": [-0.4, 1.0, 1.1],
        "high": [0.1, 1.0, 1.5],
    }
)


def test_every_rule_is_a_dot_at_its_share_the_trained_one_first():
    ax = plot_transfer(TABLE, title="a → b")
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "trained",
        "distil",
        "similarity",
    ]
    dots = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.lines
        if line.get_marker() == "o"
    }
    assert dots == {(1.0, 0.0), (1.3, 1.0), (-0.2, 2.0)}
    bars = [
        tuple(line.get_xdata())
        for line in ax.lines
        if line.get_marker() == "None" and len(set(line.get_ydata())) == 1
    ]
    assert (1.1, 1.5) in bars and (-0.4, 0.1) in bars
    low, high = ax.get_xlim()
    assert low < -0.4 and high > 1.5 and ax.yaxis_inverted()
    plt.close("all")


def test_a_table_without_shares_is_said_to_have_none():
    """None, as what was read from JSON has it, or NaN."""
    for nothing in (None, float("nan")):
        ax = plot_transfer(TABLE.assign(share=nothing, low=nothing, high=nothing))
        assert "no shares" in ax.texts[0].get_text()
        ax.figure.canvas.draw()
    assert not plot_transfer(TABLE).texts
    plt.close("all")


def test_the_legend_names_the_kinds_that_are_shown():
    ax = plot_transfer(TABLE)
    legend(ax.figure, TABLE.rule)
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == ["trained on the target, labels", "reads text, no labels", "embeddings alone"]
    plt.close("all")
