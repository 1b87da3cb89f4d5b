"""Figures of steers that were moved to another model."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerlens.show.style import BLUE, COLUMN, GREY, RED, look

KIND = {
    "trained": ("#222222", "trained on the target, labels"),
    "at home": (GREY, "source's steer on the source"),
    "selftrain": (RED, "reads text, no labels"),
    "distil": (RED, "reads text, no labels"),
    "paired": (RED, "reads text, no labels"),
}
EMBEDDINGS = (BLUE, "embeddings alone")


@look()
def plot_transfer(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Share of the directly trained steer's contrast that each rule keeps at equal KL, with 95 % intervals over texts.

    1 is the trained steer, 0 a steer that does nothing.

    Args:
        table: of a `transfer_report`.
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 0.5 + 0.23 * len(table)), layout="constrained")[1]
    place = {rule: i for i, rule in enumerate((*KIND, "congruence", "authors", "procrustes", "similarity"))}
    order = table.sort_values("rule", key=lambda rules: rules.map(place))
    ax.axvline(0, color="#cccccc", lw=0.8)
    ax.axvline(1, color="#222222", lw=0.8, ls=(0, (4, 3)))
    for y, row in enumerate(order.itertuples()):
        colour, _ = KIND.get(str(row.rule), EMBEDDINGS)
        ax.plot([row.low, row.high], [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
        ax.plot(row.share, y, "o", color=colour, ms=4.5, mec="white", mew=0.5)
    ax.set_yticks(range(len(order)), list(order.rule))
    ax.invert_yaxis()
    ax.set_xlabel("share of the trained steer's contrast")
    ax.set_xlim(min(-0.05, float(order.low.min()) - 0.03), max(1.1, float(order.high.max()) + 0.05))
    if title is not None:
        ax.set_title(title, loc="left")
    return ax


@look()
def legend(fig: Figure, rules: Iterable[str]) -> None:
    """What the colours of `plot_transfer` mean, below a figure that shows these rules."""
    shown = {KIND.get(rule, EMBEDDINGS) for rule in rules}
    kinds = [kind for kind in dict.fromkeys([*KIND.values(), EMBEDDINGS]) if kind in shown]
    marks = [Line2D([], [], marker="o", ls="", color=colour, ms=4.5) for colour, _ in kinds]
    fig.legend(marks, [name for _, name in kinds], loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)
