"""Theory on ground truth, drawn."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

from steerlens.show.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    LINE,
    RED,
    SOFT,
    axes,
    ink,
    legend_above,
    log_scale,
    look,
    neutral,
    title_above,
)
from steerlens.show.tables import check_table, groups, select


@look()
def plot_ceiling(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what the gap to the truth consists of, a bar per model and attribute.

    From 0, the model, to 1, the grammar that is told the grade: what the fit closes, what the best
    linear steer closes beyond it, and the rest. A mark says how far knowing the grade goes for the
    grammar itself: what lies behind it the model has not learned. Whiskers are 95 % intervals of
    the bars' ends.

    Args:
        table: from `steerlens.analysis.theory.gap_parts`, with `model` and `attribute` beside.
    """
    check_table(table, "attribute model part share", "of gap_parts")
    ax = axes(ax, height=2.6)
    bars = list(groups(table, ["attribute", "model"]))
    places = np.arange(len(bars))[::-1].astype(float)
    shares = [rows.set_index("part").share for _, rows in bars]
    fit, more, learned = (
        np.array([share[part] for share in shares])
        for part in ("closed by the fit", "not in the data", "not learned by the model")
    )
    rest = 1 - fit - more
    parts = (
        (fit, RED, "closed by the fit"),
        (more, AMBER, "best linear steer"),
        (rest, neutral(LINE), "beyond a linear steer"),
    )
    left = np.zeros(len(bars))
    for width, colour, label in parts:
        ax.barh(places, width, left=left, height=0.6, color=colour, label=label)
        for at, x, share in zip(places, left, width, strict=True):
            word = "white" if colour in (RED, AMBER) else neutral(SOFT)
            ax.text(
                x + share / 2, at, f"{share:.2f}", ha="center", va="center", size=6.5, color=word
            )
        left = left + width
    for k, (at, x) in enumerate(zip(places, 1 - learned, strict=True)):
        label = None if k else "knowing the grade"
        ax.plot([x, x], [at + 0.3, at + 0.48], color=ink(), lw=1.6, label=label)
    ax.set_yticks(places, [f"{model}\n{attribute}" for (attribute, model), _ in bars])
    ax.tick_params(axis="y", length=0, labelsize=7)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="share of the gap to the grammar told the grade", xlim=(0, 1.01))
    handles = ax.get_legend_handles_labels()[0]
    legend_above(ax, handles=sorted(handles, key=lambda h: isinstance(h, Line2D)))
    if title is not None:
        title_above(ax, title)
    return ax


ROUNDING = 1e-9
"""Nats below which a KL is 0 but for rounding."""
WAYS = {
    "no steer": (GREY, "o"),
    "theorem's W": (RED, "s"),
    "best diagonal W": (BLUE, "D"),
    "best constant offset": (GREEN, "v"),
}


@look()
def plot_theorem(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what steers of the exact belief cost against how often the condition is drawn anew.

    Args:
        table: `redraw`, `way` (those of `WAYS`), `kl` in nats per word, `low`, `high`. A KL of 0 but
            for rounding stands at the bottom.
    """
    check_table(table, "redraw way kl low high", "one row per way")
    ax = axes(ax, height=2.5)
    least = table.kl[table.kl > ROUNDING].min()
    floor = 10 ** np.floor(np.log10(least) - 0.3)
    ticks = sorted(table.redraw.unique())
    for way, (colour, marker) in WAYS.items():
        rows = select(table, table.way == way).sort_values("redraw")
        if not len(rows):
            continue
        x = np.array([ticks.index(r) for r in rows.redraw])
        y, low, high = (rows[name].clip(lower=floor) for name in ("kl", "low", "high"))
        ax.plot(x, y, color=colour, marker=marker, ms=3.5, lw=1.2, label=way, clip_on=False)
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    log_scale(ax, "y")
    ax.set_ylim(bottom=floor)
    if (table.kl <= ROUNDING).any():
        ax.annotate(
            "exact", (0, floor), xytext=(6, 2), textcoords="offset points", size=7, color=RED
        )
    ax.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    ax.set(xlabel="chance δ that the condition is drawn anew", ylabel="KL from the truth (nats)")
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax


@look()
def plot_bounds(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how far a steer is from a straight line in its strength, and what bounds that; means over
    contexts.

    Args:
        table: from `steerlens.analysis.theory.interpolation_error` or `composition_error`.
    """
    check_table(table, "strength measured bound", "of interpolation_error")
    ax = axes(ax, height=2.3)
    table = table.sort_values("strength")
    for name, colour, marker in (
        ("measured", RED, "o"),
        ("bound", BLUE, "D"),
    ):
        ax.plot(
            table.strength, table[name], color=colour, marker=marker, ms=3.5, lw=1.2, label=name
        )
    ax.axhline(2, color=neutral(SOFT), lw=0.8, ls="--")
    ax.annotate("no two distributions differ by more", (table.strength.min(), 2), xytext=(0, 2),
                textcoords="offset points", size=6.5, color=neutral(SOFT))  # fmt: skip
    log_scale(ax, "x")
    log_scale(ax, "y")
    ax.xaxis.set_major_locator(FixedLocator(list(table.strength)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.set(xlabel="strength", ylabel="L1 distance")
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax


@look()
def plot_prior_shift(
    table: pd.DataFrame, *, slope: float, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the shift of the log-prior that explains what was written at each strength.

    Args:
        table: `strength`, `kappa`, `error`.
        slope: nats of log-prior per unit of grade and strength, drawn as a line.
    """
    check_table(table, "strength kappa error", "one row per strength")
    ax = axes(ax, height=2.3)
    ends = np.array([table.strength.min(), table.strength.max()])
    ax.plot(ends, slope * ends, color=neutral(SOFT), lw=1, label=f"{slope:.2f} · strength")
    ax.errorbar(
        table.strength,
        table.kappa,
        1.96 * table.error,
        fmt="o",
        ms=3.5,
        lw=1,
        color=RED,
        label="written",
    )
    ax.set(xlabel="strength", ylabel="shift of the log-prior")
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax
