"""Figures of steers that were moved to another model."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerlens.show.style import (
    BLUE,
    GREY,
    INK,
    LINE,
    PAPER,
    RED,
    axes,
    figure_of,
    ink,
    look,
    neutral,
    title_above,
)
from steerlens.show.tables import check_table, rows_of

KIND = {
    "trained": (INK, "trained on the target, labels"),
    "at home": (GREY, "source's steer on the source"),
    "selftrain": (RED, "reads text, no labels"),
    "distil": (RED, "reads text, no labels"),
    "paired": (RED, "reads text, no labels"),
}
EMBEDDINGS = (BLUE, "embeddings alone")


@look()
def plot_transfer(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the share of the directly trained steer's sign margin that each rule keeps at equal KL.

    Lines are 95 % intervals over texts. 1 is the trained steer, 0 a steer that does nothing. On
    axes of its own it says below what the colours mean; for several panels, `legend` says it once.

    Args:
        table: of a `transfer_report`. Where it has no shares the drawing says so.
    """
    check_table(table, "rule share low high", "of transfer_report")
    own = ax is None
    ax = axes(ax, height=0.75 + 0.23 * len(table))
    place = {
        rule: i
        for i, rule in enumerate((*KIND, "congruence", "authors", "procrustes", "similarity"))
    }
    order = table.sort_values("rule", key=lambda rules: rules.map(place))
    order = order.astype(dict.fromkeys(("share", "low", "high"), float))  # None, from JSON, is NaN
    if order.share.isna().all():
        said = "no shares: the trained steer's\nmargin is not clearly above 0"
        ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.axvline(0, color=neutral(LINE), lw=0.8)
    ax.axvline(1, color=ink(), lw=0.8, ls=(0, (4, 3)))
    for y, row in enumerate(rows_of(order)):
        colour = _colour(KIND.get(str(row.rule), EMBEDDINGS)[0])
        ax.plot(
            [row.low, row.high], [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round"
        )
        ax.plot(row.share, y, "o", color=colour, ms=4.5, mec=neutral(PAPER), mew=0.5)
    ax.set_yticks(range(len(order)), list(order.rule))
    ax.invert_yaxis()
    ax.set_xlabel("share of the trained steer's sign margin")
    ax.set_xlim(min(-0.05, float(order.low.min()) - 0.03), max(1.1, float(order.high.max()) + 0.05))
    if title is not None:
        title_above(ax, title)
    if own:
        legend(figure_of(ax), table.rule)
    return ax


@look()
def legend(fig: Figure, rules: Iterable[str]) -> None:
    """Say what the colours of `plot_transfer` mean, below a figure that shows these rules; an
    earlier one goes."""
    shown = {KIND.get(rule, EMBEDDINGS) for rule in rules}
    kinds = [kind for kind in dict.fromkeys([*KIND.values(), EMBEDDINGS]) if kind in shown]
    marks = [
        Line2D([], [], marker="o", ls="", color=_colour(colour), ms=4.5) for colour, _ in kinds
    ]
    for old in list(fig.legends):
        old.remove()
    fig.legend(marks, [name for _, name in kinds], loc="outside lower center", ncols=2, frameon=False, fontsize=7.5,
               labelcolor=ink())  # fmt: skip


def _colour(colour: str) -> str:
    return neutral(colour) if colour == INK else colour
