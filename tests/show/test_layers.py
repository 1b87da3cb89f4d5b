"""Worth by site, drawn from a small table."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from steerlens.show.layers import plot_sites

SITES = (
    "steer", "hook_embed", "blocks.0.hook_attn_out", "blocks.0.hook_resid_post", "blocks.4.hook_resid_post", "unembed.hook_in",
)  # fmt: skip


def test_points_stand_over_their_layers_and_the_line_is_the_steers() -> None:
    table = pd.DataFrame(
        [(site, 0.1 + k / 100, 0.08, 0.2) for k, site in enumerate(SITES)],
        columns=["site", "sign_margin", "low", "high"],
    )
    ax = plot_sites(table, title="where")
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "input\nembeddings", "layer 0", "layer 4", "unembedding",
    ]  # fmt: skip
    assert ax.lines[0].get_ydata() == pytest.approx([0.1, 0.1])
    drawn = {
        (round(float(x)), round(float(y), 3))
        for container in ax.containers
        for x, y in zip(*container[0].get_data(), strict=True)
    }
    assert drawn == {(0, 0.11), (1, 0.12), (1, 0.13), (2, 0.14), (3, 0.15)}
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["steer", "attention's output", "behind the layer"]
    plt.close(ax.figure)


def test_a_table_without_ends_has_layers_alone() -> None:
    table = pd.DataFrame(
        [("steer", 0.1, 0.08, 0.2), ("blocks.1.hook_mlp_out", 0.1, 0.08, 0.2)],
        columns=["site", "sign_margin", "low", "high"],
    )
    ax = plot_sites(table)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 1"]
    plt.close(ax.figure)
