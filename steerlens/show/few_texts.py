"""How much a number of texts is worth."""

from typing import cast

import pandas as pd
from matplotlib.axes import Axes

from steerlens.show.style import (
    BLUE,
    GREEN,
    GREY,
    RED,
    axes,
    legend_above,
    log_scale,
    look,
    title_above,
)
from steerlens.show.tables import check_table, groups

COLOURS, MARKERS = (RED, BLUE, GREEN, GREY), "osDv"


@look()
def plot_few_texts(
    table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the sign margin of several methods against the number of texts that they were fitted to.

    Lines are means over the draws of the texts, dots the draws; a filled dot is a fit whose own
    verdict is that it is better than shuffled labels, a hollow one a fit that is not told from
    them, or has no verdict.

    Args:
        table: one row per method, number of texts and draw: `method`, `texts`, `sign_margin` (nats
            per token, at the same cost), `found` (the verdict).
    """
    check_table(table, "method texts sign_margin found", "one row per fit")
    ax = axes(ax, height=2.6)
    methods = list(groups(table, "method"))
    for k, ((method, rows), colour, marker) in enumerate(
        zip(methods, COLOURS, MARKERS, strict=False)
    ):
        x = rows.texts * 1.05 ** (
            k - (len(methods) - 1) / 2
        )  # beside one another where they are the same
        by_texts = rows.assign(x=x).groupby("texts")[["x", "sign_margin"]]
        means = cast(pd.DataFrame, by_texts.mean())
        ax.plot(
            means.x,
            means.sign_margin,
            color=colour,
            lw=1.2,
            marker=marker,
            ms=4,
            mfc="none",
            label=method,
        )
        for found, face in ((True, colour), (False, "none")):
            some = (rows.found == found).to_numpy()
            ax.plot(
                x[some],
                rows.sign_margin[some],
                marker,
                ms=2.6,
                mfc=face,
                mec=colour,
                mew=0.6,
                alpha=0.7,
                lw=0,
            )
    ax.axhline(0, lw=0.8, color=GREY, zorder=0)
    log_scale(ax, "x", subs=(1, 3))
    ax.set(xlabel="texts", ylabel="sign margin (nats per token)")
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax
