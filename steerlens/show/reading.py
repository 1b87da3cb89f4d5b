"""Figures of what a steer is made of: spectrum, highlighted text, strengths of texts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from steerlens.analysis.highlight import Highlight
from steerlens.analysis.svd import Spectrum
from steerlens.evaluate.strength import TextStrengths
from steerlens.show.numbers import fixed, percent
from steerlens.show.style import (
    BLUE,
    COLUMN,
    GREY,
    LINE,
    RED,
    SOFT,
    axes,
    figure_of,
    ink,
    legend_above,
    look,
    neutral,
    shade,
)
from steerlens.show.tables import check_made, check_table, groups, rows_of
from steerlens.values.texts import plain_texts

PITCH, SIZE = 17.0, 9.0
"""Distance of lines and size of type in a highlighted text, points."""


@look()
def plot_highlight(found: Highlight, *, width: float = 2 * COLUMN, ax: Axes | None = None) -> Axes:
    """Draw a text whose tokens are shaded by their evidence, the best spans boxed with their sums.

    Red speaks for the strength, blue against it, the deepest shade is the largest evidence of the
    text. Lines break between words where the next would pass the width. The figure is as high as
    the text needs; given `ax`, it is drawn from its top and may overflow.

    Args:
        found: from `highlight`.
        width: inches.
    """
    check_made(found, "found", Highlight, "of steerlens.highlight(model, steer, text)")
    own = ax is None
    ax = plt.subplots(figsize=(width, 1.0))[1] if ax is None else axes(ax)
    root = figure_of(ax)
    points = 72 / root.dpi
    limit = 72 * width if own else points * ax.bbox.width
    ax.set(xlim=(0, limit), xticks=[], yticks=[])
    ax.axis("off")
    scale = max(float(found.tokens.evidence.abs().max()), 1e-9)
    ax.set_ylim(-PITCH, PITCH)

    def extent(text: str) -> float:
        shown = ax.text(0, 0, text.replace(" ", "\u00a0"), fontsize=SIZE, parse_math=False)
        wide = shown.get_window_extent().width * points
        shown.remove()
        return wide

    sums = {int(s.end) - 1: s.evidence for s in rows_of(found.spans)}
    within = {
        i: k for k, s in enumerate(rows_of(found.spans)) for i in range(int(s.start), int(s.end))
    }
    begins = set(found.spans.start)
    boxes: dict[tuple[int, int], list[float]] = {}
    x, line = 2.0, 0
    for i, (token, value) in enumerate(zip(found.tokens.token, found.tokens.evidence, strict=True)):
        word = token.strip() or "␣"
        gap = extent(" ") * (len(token) > len(token.lstrip()) and x > 2)
        note = f" {fixed(sums[i], 1, sign=True)}" if i in sums else ""
        wide, after = extent(word), 0.75 * extent(note) if note else 0.0
        if x + gap + wide + after > limit - 4 and x > 2:
            x, gap, line = 2.0, 0.0, line + 1
        x += gap + 2.5 * (i in begins and x > 2)
        colour = RED if value > 0 else BLUE
        patch = FancyBboxPatch(
            (x, -PITCH * line - 3.2),
            wide,
            10.5,
            "round,pad=0.6",
            fc=colour,
            alpha=0.7 * abs(value) / scale,
            lw=0,
        )
        ax.add_patch(patch)
        ax.text(x, -PITCH * line, word, fontsize=SIZE, va="baseline", color=ink(), parse_math=False)
        left = x
        x += wide
        if note:
            ax.text(
                x,
                -PITCH * line - 1.5,
                note,
                fontsize=0.72 * SIZE,
                va="baseline",
                color=neutral(SOFT),
            )
            x += after + 2.5
        if i in within:
            box = boxes.setdefault((within[i], line), [left, x])
            box[1] = x - (2.5 if note else 0)
    for (_, row), (left, right) in boxes.items():
        outline = FancyBboxPatch(
            (left - 1, -PITCH * row - 4.6),
            right - left + 2,
            13.2,
            "round,pad=0.4",
            fc="none",
            ec=ink(),
            lw=0.8,
        )
        ax.add_patch(outline)
    ax.set_ylim(-PITCH * line - 8, PITCH - 4)
    if own:
        root.set_size_inches(width, (PITCH * line + 8 + PITCH - 4) / 72)
        ax.set_position((0, 0, 1, 1))
    return ax


@look()
def plot_text_strengths(
    found: TextStrengths, *, names: list[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the likelihood curve of each text over strengths; a dot and a bar mark its maximum and ±
    one standard error.

    Args:
        found: from `infer_strength`, with curves.
        names: of the texts, for the legend.
    """
    about = "of steerlens.infer_strength(model, steer, texts, strengths=(-2, 0, 2))"
    check_made(found, "found", TextStrengths, about)
    if not len(found.token_curve):
        raise ValueError(f"found: it has no curves, expected those {about}")
    called = None if names is None else plain_texts("names", names)
    if called is not None and len(called) <= found.table.text.max():
        raise ValueError(
            f"names: got {len(called)}, expected one for each of the {found.table.text.max() + 1} texts"
        )
    ax = axes(ax)
    top = max(float(found.table.strength.abs().clip(upper=2).max()), 1e-9)
    for (text, curve), row in zip(
        groups(found.curve, "text", sort=True), rows_of(found.table), strict=True
    ):
        colour = shade(row.strength, top)
        curve = curve.sort_values("strength")
        label = called[int(text)] if called else f"text {text}"
        sns.lineplot(
            x=curve.strength,
            y=curve.log_likelihood,
            ax=ax,
            color=colour,
            label=label,
            errorbar=None,
        )
        if not row.at_limit and curve.strength.min() <= row.strength <= curve.strength.max():
            ax.errorbar(
                row.strength,
                row.gain,
                xerr=row.error,
                fmt="o",
                color=colour,
                markersize=4,
                linewidth=0.9,
                capsize=2,
            )
    low, high = float(found.curve.log_likelihood.min()), float(found.table.gain.max())
    ax.set_ylim(max(low, -3 * max(high, 0.5)) * 1.05, max(high, 0.1) * 1.25)
    ax.set_xlim(float(found.curve.strength.min()), float(found.curve.strength.max()))
    ax.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    ax.set(xlabel="strength", ylabel="log-likelihood − that at 0\n(nats per text)")
    legend_above(ax)
    return ax


@look()
def plot_spectrum(
    found: Spectrum, again: pd.DataFrame | None = None, *, n: int = 24, ax: Axes | None = None
) -> Axes:
    """Draw the gains of the leading directions, filled as far as another half of the texts keeps
    them, where that is given.

    The number above the first bar is its share of the sum of squares.
    """
    check_made(found, "found", Spectrum, "of steerlens.spectrum(steer)")
    if again is not None:
        check_table(again, "direction gain kept spread", "of split_half_reliability", "again")
    ax = axes(ax)
    table = found.table.head(n)
    ax.bar(table.direction, table.gain, color="none", edgecolor=GREY, linewidth=0.8, label="gain")
    if again is not None:
        # NaN, where there is nothing to keep, is drawn as nothing kept
        kept, spread = (
            np.clip(again.kept, 0, 1).fillna(0) * again.gain,
            again.spread.fillna(0) * again.gain,
        )
        ax.bar(
            again.direction, kept, color=RED, alpha=0.85, label="kept by a fit to the other half"
        )
        below = np.minimum(spread, kept)
        ax.errorbar(
            again.direction, kept, yerr=[below, spread], fmt="none", color=ink(), linewidth=0.8
        )
    for row in rows_of(table.head(1)):
        ax.text(
            row.direction,
            row.gain,
            f" {percent(row.share)}",
            ha="center",
            va="bottom",
            fontsize=7,
            color=neutral(SOFT),
        )
    ax.set(
        xlabel="direction",
        ylabel="gain (nats)" if found.kronecker is not None else "singular value",
    )
    ax.margins(y=0.12)
    legend_above(ax)
    return ax


@look()
def plot_components(table: pd.DataFrame, *, words: int = 6, n: int = 6) -> Figure:
    """Draw the words at both ends of the leading components, one panel each; `table` from
    `components`.

    The title says the share of variance or the kurtosis, and the stability; a component whose
    stability is nearer to chance than to 1 is grey.
    """
    check_table(table, "component stability chance top bottom", "of components")
    shown = table.head(n)
    columns = 3 if len(shown) > 4 else 2
    rows = -(-len(shown) // columns)
    fig, panels = plt.subplots(
        rows, columns, figsize=(2.15 * COLUMN, 1.55 * rows), layout="constrained", squeeze=False
    )
    for ax in panels.flat:
        ax.axis("off")
    for ax, row in zip(panels.flat, shown.to_dict("records"), strict=False):
        believed = row["stability"] >= (1 + row["chance"]) / 2
        said = (
            f"{percent(row['share'])} of variance"
            if "share" in row
            else f"kurtosis {fixed(row['kurtosis'], 1, sign=True)}"
        )
        ax.set_title(
            f"{row['component']}: {said}, stability {fixed(row['stability'], 2)}", fontsize=7.5
        )
        for x, end, colour in ((0.47, "bottom", BLUE), (0.53, "top", RED)):
            for k, word in enumerate(row[end].split(", ")[:words]):
                ax.text(x, 0.95 - k / words, word, ha="right" if end == "bottom" else "left", va="top", fontsize=8,
                        color=colour if believed else GREY, parse_math=False)  # fmt: skip
        ax.plot((0.5, 0.5), (0, 0.95), color=neutral(LINE), linewidth=0.8)
        ax.set(xlim=(0, 1), ylim=(0, 1))
    return fig
