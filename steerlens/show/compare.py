"""Methods held against each other at the same cost."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from steerlens.maths.brief import brief
from steerlens.show.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    PINK,
    PURPLE,
    RED,
    TEAL,
    axes,
    figure_of,
    ink,
    look,
)
from steerlens.show.tables import check_table, groups, select

COLOURS = (BLUE, RED, GREEN, PURPLE, AMBER, TEAL, PINK, OLIVE)
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
CONTROLS = ("random direction", "shuffled labels")
RATIOS = ("perplexity", "corpus_perplexity", "slowdown")
"""Measures that are drawn on a logarithmic axis."""
MEASURES = {
    "gain": "gain in mean score",
    "mean_score": "mean score",
    "above_half": "share of texts above one half",
    "expected_max": "expected maximum",
    "any_above": "share of prompts with one above one half",
    "sign_margin": "sign margin (nats per token)",
    "perplexity": "perplexity",
    "corpus_perplexity": "corpus perplexity",
    "distinct_2": "distinct word pairs per word",
    "own_kl": "KL on own texts (nats per token)",
    "own_kl_p95": "95th percentile of KL on own texts (nats)",
    "parameters": "numbers learned",
    "seconds": "seconds to fit",
    "slowdown": "slowdown of writing",
}


@look()
def plot_at_kl(
    table: pd.DataFrame,
    measure: str = "gain",
    *,
    kind: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a measure of what methods write against what they cost, on the texts that the budgets of
    the table hold for.

    Bars are 95 % intervals over prompts where the measure has them. The level of the model itself
    is the thin line; controls are grey. A hollow point is a method that could not spend the budget:
    it stands at what it did spend.

    Args:
        table: from `steerlens.evaluate.compare_writing.compare_writing`.
        measure: a column of it.
        kind: of prompts; None: the only one.

    Raises:
        ValueError: no such column, or several kinds of prompts and none chosen.

    Example:
        >>> rows = [("base", 0.0, 0.0, ""), ("steer", 0.1, 0.3, ""), ("steer", 0.2, 0.4, "")]
        >>> table = pd.DataFrame(rows, columns=["method", "kl", "gain", "note"])
        >>> plot_at_kl(table.assign(given_kl=table.kl, kind="all")).get_ylabel()
        'gain in mean score'
    """
    some = _of_kind(table, measure, kind)
    ax = axes(ax, height=2.9)
    base = select(some, some.kl == 0)
    if len(base):
        ax.axhline(float(base[measure].to_numpy()[0]), color=GREY, lw=0.8, zorder=0)
    ends: list[tuple[float, float, str, str]] = []
    cost = f"{some.kl_on.iloc[0]}_kl" if "kl_on" in some else "given_kl"
    rivals = 0
    for method, rows in groups(select(some, some.kl > 0), "method"):
        rows = rows.sort_values(by=cost)
        control = str(method).startswith(CONTROLS)
        colour = GREY if control else COLOURS[rivals % len(COLOURS)]
        style = STYLES[1] if control else STYLES[rivals // len(COLOURS) % len(STYLES)]
        rivals += not control
        _line(ax, rows, (cost, measure), colour, style)
        last = rows.iloc[-1]
        ends.append((float(last[cost]), float(last[measure]), str(method), colour))
    if measure in RATIOS:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        if _narrow(ax):
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    budgets = sorted(set(some.kl) - {0.0})
    ax.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    texts = "given texts" if cost == "given_kl" else "own texts"
    ax.set(xlabel=f"KL on {texts} (nats per token)", ylabel=MEASURES.get(measure, measure))
    _label_ends(ax, ends)
    return ax


def _line(
    ax: Axes, rows: pd.DataFrame, columns: tuple[str, str], colour: str, style: object
) -> None:
    x, y = (rows[column].to_numpy(float) for column in columns)
    measure = columns[1]
    ax.plot(x, y, color=colour, ls=style, lw=1.1)
    if f"{measure}_low" in rows:
        low, high = (rows[f"{measure}_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.vlines(x, low, high, color=colour, lw=0.7, alpha=0.6)
    for spent in (True, False):
        at = ((rows.note == "") == spent).to_numpy()
        ax.plot(
            x[at], y[at], "o", ms=3, color=colour, mfc=colour if spent else "none", mew=0.8, lw=0
        )


def _narrow(ax: Axes) -> bool:
    """Return whether a logarithmic axis is too short for two powers of ten."""
    low, high = ax.get_ylim()
    return bool(high < 20 * low)


def _label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its right end, apart from one another."""
    shown = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    if not shown:
        return
    root = figure_of(ax)
    root.draw_without_rendering()  # scales and sizes are final from here on
    to_axes = ax.transData + ax.transAxes.inverted()
    at = np.array([to_axes.transform((x, y)) for x, y, _, _ in shown])
    gap = 9.4 / (ax.bbox.height / root.dpi * 72)
    places = at[:, 1].copy()
    for _ in range(500):  # push neighbours apart until none are too near
        short = gap - np.diff(places)
        if (short <= 1e-9).all():
            break
        move = np.maximum(short, 0) / 2
        places[:-1] -= move
        places[1:] += move
    for (x, y, name, colour), place in zip(shown, places, strict=True):
        ax.annotate(
            name, (x, y), xytext=(at[:, 0].max() + 0.1, place), textcoords="axes fraction",
            va="center", fontsize=6.8, color=ink() if colour == GREY else colour,
            annotation_clip=False, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6,
                        "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


@look()
def plot_rows(
    table: pd.DataFrame,
    measure: str,
    *,
    kind: str | None = None,
    names: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one measure of every method in rows, as a column of a table: a point with its 95 %
    interval, and its number.

    Several of them side by side, the names on the first alone, are a table. The level of the model
    itself is the thin line.

    Args:
        table: from `compare_writing`, at one budget; rows keep their order, the first on top.
        measure: a column of it.
        kind: of prompts; None: the only one.
        names: whether the methods are named on the left.

    Raises:
        ValueError: no such column, several kinds of prompts and none chosen.

    Example:
        >>> table = pd.DataFrame({"method": ["base", "steer"], "kind": "all", "gain": [0.0, 0.2]})
        >>> [label.get_text() for label in plot_rows(table, "gain").get_yticklabels()]
        ['base', 'steer']
    """
    some = _of_kind(table, measure, kind)
    ax = axes(ax, height=0.6 + 0.17 * len(some))
    y, x = np.arange(len(some)), some[measure].to_numpy(float)
    controls = [str(name).startswith((*CONTROLS, "base")) for name in some.method]
    colours = [GREY if control else BLUE for control in controls]
    if f"{measure}_low" in some:
        low, high = (some[f"{measure}_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.hlines(y, low, high, color=colours, lw=1.0)
    ax.scatter(x, y, s=12, c=colours, zorder=3)
    if measure in RATIOS:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        near, far = ax.get_xlim()
        # within a decade matplotlib's own ticks of a logarithm run into each other
        few = MaxNLocator(3, steps=[1, 2, 5, 10]) if far < 10 * near else None
        ax.xaxis.set_major_locator(few or LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(x[0], color=GREY, lw=0.6, zorder=0)
    for place, value in zip(y, x, strict=True):
        shown = "–" if np.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        ax.annotate(
            shown, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=6.8,
            color=ink(),
        )  # fmt: skip
    ax.set(ylim=(len(some) - 0.4, -0.6), xlabel=MEASURES.get(measure, measure))
    ax.set_yticks(y, some.method if names else [""] * len(some), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def _of_kind(table: pd.DataFrame, measure: str, kind: str | None) -> pd.DataFrame:
    check_table(table, "method kind", "of compare_writing")
    kinds = table.kind.unique().tolist()
    if kind is None and len(kinds) > 1:
        raise ValueError(f"kind: got None, expected one of {kinds}")
    if measure not in table:
        raise ValueError(
            f"measure: got {brief(measure)}, expected a column of the table, e.g. 'gain'"
        )
    if kind is not None and kind not in kinds:
        raise ValueError(f"kind: got {brief(kind)}, expected one of {kinds}")
    return select(table, table.kind == (kinds[0] if kind is None else kind))
