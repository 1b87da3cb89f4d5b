"""How the cost of something grows."""

import numpy as np
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
from steerlens.show.tables import check_table, column, groups, select

COLOURS = (RED, BLUE, GREEN, GREY)


def exponent(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Fit the power law `y = a xᵏ` by least squares of the logarithms.

    The result is `k`, its standard error and `a`.
    """
    u, v = np.log(x.to_numpy(float)), np.log(y.to_numpy(float))
    if len(set(u)) < 3:
        raise ValueError(
            f"x: got {len(set(u))} different values, expected at least 3 to fit an exponent and its error"
        )
    around = u - u.mean()
    k = float(around @ v / (around @ around))
    rest = v - v.mean() - k * around
    error = float(np.sqrt(rest @ rest / (len(u) - 2) / (around @ around)))
    return k, error, float(np.exp(v.mean() - k * u.mean()))


@look()
def plot_scaling(
    table: pd.DataFrame,
    *,
    what: str,
    tail: int = 4,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw seconds against one size, on logarithmic axes; each way with the power law of its
    largest sizes.

    Args:
        table: one row per run: `size`, `way`, `seconds`. Dots are runs, lines the fitted laws.
        what: the size is.
        tail: so many of the largest sizes are fitted; small ones cost what calling costs.
    """
    check_table(table, "size way seconds", "one row per run")
    ax = axes(ax, height=2.6)
    for (way, runs), colour in zip(groups(table, "way"), COLOURS, strict=False):
        sizes = sorted(runs["size"].unique())
        fitted = select(runs, column(runs, "size").isin(sizes[-tail:]))
        k, error, a = exponent(column(fitted, "size"), fitted.seconds)
        median = runs.groupby("size").seconds.median()
        ax.plot(runs["size"], runs.seconds, ".", ms=3, color=colour, alpha=0.45, mew=0)
        ax.plot(
            median.index, median, "o", ms=4, color=colour, label=f"{way}: {k:.2f} ± {error:.2f}"
        )
        x = np.array([sizes[-tail], sizes[-1]], float)
        ax.plot(x, a * x**k, color=colour, lw=1.2)
    log_scale(ax, "x")
    log_scale(ax, "y")
    ax.set(xlabel=what, ylabel="seconds")
    ax.grid(True, which="major")
    legend_above(ax, title="exponent")
    if title is not None:
        title_above(ax, title)
    return ax
