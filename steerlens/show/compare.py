"""Methods held against each other at the same cost."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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
    ink,
    log_scale,
    look,
)

COLOURS = (BLUE, RED, GREEN, PURPLE, AMBER, TEAL, PINK, OLIVE)
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
CONTROLS = ("random direction", "shuffled labels")
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
    "own_kl": "KL on own text (nats per token)",
    "own_kl_p95": "95th percentile of KL on own text (nats)",
    "slowdown": "slowdown",
}


@look()
def plot_at_kl(
    table: pd.DataFrame,
    measure: str = "gain",
    *,
    kind: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a measure of what methods write against what they cost on given texts.

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
    kinds = table.kind.unique().tolist()
    if kind is None and len(kinds) > 1:
        raise ValueError(f"kind: got None, expected one of {kinds}")
    if measure not in table:
        raise ValueError(f"measure: got {measure!r}, expected a column of the table, e.g. 'gain'")
    some = table[table.kind == (kinds[0] if kind is None else kind)]
    ax = axes(ax, height=2.9)
    base = some[some.kl == 0]
    if len(base):
        ax.axhline(float(base[measure].iloc[0]), color=GREY, lw=0.8, zorder=0)
    ends, rivals = [], 0
    for method, rows in some[some.kl > 0].groupby("method", sort=False):
        rows = rows.sort_values("given_kl")
        control = str(method).startswith(CONTROLS)
        colour = GREY if control else COLOURS[rivals % len(COLOURS)]
        style = STYLES[1] if control else STYLES[rivals // len(COLOURS) % len(STYLES)]
        rivals += not control
        _line(ax, rows, measure, colour, style)
        last = rows.iloc[-1]
        ends.append((float(last.given_kl), float(last[measure]), str(method), colour))
    log_scale(ax, "x", subs=(1, 2, 5))
    ax.set(xlabel="KL on given texts (nats per token)", ylabel=MEASURES.get(measure, measure))
    _label_ends(ax, ends)
    return ax


def _line(ax: Axes, rows: pd.DataFrame, measure: str, colour: str, style: object) -> None:
    x, y = rows.given_kl.to_numpy(float), rows[measure].to_numpy(float)
    ax.plot(x, y, color=colour, ls=style, lw=1.1)  # pyright: ignore
    if f"{measure}_low" in rows:
        low, high = (rows[f"{measure}_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.vlines(x, low, high, color=colour, lw=0.7, alpha=0.6)
    for spent in (True, False):
        at = ((rows.note == "") == spent).to_numpy()
        ax.plot(
            x[at], y[at], "o", ms=3, color=colour, mfc=colour if spent else "none", mew=0.8, lw=0
        )


def _label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its right end, apart from one another."""
    shown = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    if not shown:
        return
    height = ax.bbox.height / ax.get_figure(root=True).dpi * 72
    low, high = ax.get_ylim()
    gap = (high - low) * 8.2 / height
    places = np.array([end[1] for end in shown])
    for _ in range(200):  # push neighbours apart until none are too near
        short = gap - np.diff(places)
        if (short <= 1e-12).all():
            break
        move = np.maximum(short, 0) / 2
        places[:-1] -= move
        places[1:] += move
    right = max(end[0] for end in shown)
    for (x, y, name, colour), place in zip(shown, places, strict=True):
        ax.annotate(
            name, (x, y), xytext=(right * 1.25, place), textcoords="data", va="center", fontsize=6.8,
            color=ink() if colour == GREY else colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
