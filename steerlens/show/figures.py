"""Figures: functions of a table from `steerlens.analysis` that draw on one Axes and return it."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlens.maths.brief import brief
from steerlens.show.numbers import fixed, format_signed
from steerlens.show.style import (
    BLUE,
    GREY,
    PAPER,
    RED,
    SOFT,
    axes,
    ink,
    legend_above,
    look,
    neutral,
    shade,
)
from steerlens.show.tables import check_table, groups, records, select
from steerlens.values.atomic import write_json
from steerlens.values.paths import as_path
from steerlens.values.texts import as_choice


@look()
def plot_label_curve(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how likely texts of each label are at each strength; `table` from `label_curve`.

    Bands are ± 2 standard errors; a dot marks each curve's highest point. What lies far below 0 is
    cut off.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"label": 1.0, "strength": [0, 1], "log_likelihood": [0.0, 0.1], "error": 0.0})
        >>> plot_label_curve(table).get_xlabel()
        'strength'
    """
    check_table(table, "label strength log_likelihood error", "of steerlens.label_curve")
    ax = axes(ax)
    top = max(table.label.abs().max(), 1e-9)
    for label, part in groups(table.sort_values("strength"), "label", sort=True):
        colour = shade(float(label), top)
        sns.lineplot(
            x=part.strength,
            y=part.log_likelihood,
            ax=ax,
            color=colour,
            label=format_signed(float(label)),
            errorbar=None,
        )
        low, high = part.log_likelihood - 2 * part.error, part.log_likelihood + 2 * part.error
        ax.fill_between(part.strength, low, high, color=colour, alpha=0.15, linewidth=0)
        best = part.loc[part.log_likelihood.idxmax()]
        ax.plot(best.strength, best.log_likelihood, "o", color=colour, markersize=4, zorder=5)
    highest = float(table.log_likelihood.max() + 2 * table.error.max())
    bottom = float((table.log_likelihood - 2 * table.error).min())
    ax.set_ylim(max(bottom, -4 * max(highest, 1e-6)) * 1.05, highest * 1.25 + 1e-9)
    ax.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    ax.set(xlabel="strength", ylabel="log-likelihood − that at 0\n(nats per token)")
    legend_above(ax, title="label of the texts")
    return ax


@look()
def plot_written_attribute(
    table: pd.DataFrame, *, name: str = "attribute", ax: Axes | None = None
) -> Axes:
    """Draw the distribution of the attribute of generated texts at each strength; `table` from
    `written_attribute`.

    One ridge per strength, its area the same for all: a density estimate reflected at -1 and 1, so
    nothing leaks out. The dot and the number are the mean.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"strength": [-1.0, -1.0, 1.0, 1.0], "attribute": [-0.9, -0.5, 0.2, 0.8]})
        >>> len(plot_written_attribute(table).get_yticks())
        2
    """
    check_table(table, "strength attribute", "of steerlens.written_attribute")
    strengths = sorted(table.strength.unique())
    ax = axes(ax, height=0.9 + 0.24 * len(strengths))
    grid = np.linspace(-1, 1, 401)
    densities = [
        ridge_density(table.attribute[table.strength == s].to_numpy(), grid) for s in strengths
    ]
    scale = 1.35 / max(d.max() for d in densities)
    top = max(map(abs, strengths))
    for k, (s, density) in reversed(list(enumerate(zip(strengths, densities, strict=True)))):
        colour, mean = shade(s, top), float(table.attribute[table.strength == s].mean())
        front = 3 * (len(strengths) - k)
        ax.fill_between(
            grid, k, k + scale * density, color=colour, alpha=0.75, linewidth=0, zorder=front
        )
        ax.plot(grid, k + scale * density, color=neutral(PAPER), linewidth=0.8, zorder=front + 1)
        ax.plot(
            mean,
            k,
            "o",
            color=neutral(PAPER),
            markeredgecolor=ink(),
            markersize=4,
            zorder=200,
            clip_on=False,
        )
        ax.text(1.06, k, fixed(mean, 2, sign=True), va="center", fontsize=7, color=neutral(SOFT))
    ax.text(1.06, len(strengths) - 0.1, "mean", fontsize=7, color=neutral(SOFT), style="italic")
    ax.set(
        xlim=(-1, 1),
        ylim=(-0.35, len(strengths) + 0.75),
        yticks=range(len(strengths)),
        xticks=(-1, -0.5, 0, 0.5, 1),
    )
    ax.set_yticklabels([format_signed(s) for s in strengths])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"{name} of the text (exact posterior mean)", parse_math=False)
    ax.set_ylabel("strength")
    return ax


@look()
def plot_gap_closed(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much of the distance to the truth a steer covers on texts of each grade; `table`
    from `gap_closed`.

    Full bars at strength = grade; hollow ones at the best multiple of it, chosen on other texts,
    where that is not 1. Lines are 95 % intervals.
    """
    check_table(table, "grade multiple gap_closed low high", "of steerlens.gap_closed")
    ax = axes(ax)
    top = max(abs(g) for g in table.grade if g != "all")
    multiple = float(table.multiple.iloc[0])
    shown = select(table, table.grade != 0)
    bars = [("", "strength = grade", True)]
    if multiple != 1:
        bars.append(("best_", f"strength = {multiple:g} × grade", False))
    width = 0.68 / len(bars)
    for j, (prefix, label, full) in enumerate(bars):
        for x, (_, row) in enumerate(shown.iterrows()):
            colour = neutral(SOFT) if row.grade == "all" else shade(row.grade, top)
            y, low, high = (
                100 * row[f"{prefix}{column}"] for column in ("gap_closed", "low", "high")
            )
            at = x + (j - (len(bars) - 1) / 2) * (width + 0.04)
            ax.bar(
                at, y, width=width, color=colour if full else "none", edgecolor=colour, linewidth=1
            )
            ax.errorbar(at, y, yerr=[[y - low], [high - y]], color=ink(), linewidth=0.8, capsize=2)
        ax.bar(0, 0, color=neutral(SOFT) if full else "none", edgecolor=neutral(SOFT), label=label)
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.axhline(100, color=GREY, linewidth=0.7, linestyle=(0, (4, 3)))
    ax.text(
        len(shown) - 0.45, 98, "the truth", ha="right", va="top", fontsize=7, color=neutral(SOFT)
    )
    ax.set_xticks(
        range(len(shown)), ["all" if g == "all" else format_signed(g) for g in shown.grade]
    )
    lows = shown[["low", "best_low"]] if len(bars) == 2 else shown[["low"]]
    ax.set(
        ylim=(min(0.0, 100 * float(lows.min().min())) - 2, 105),
        xlabel="grade of the texts",
        ylabel="gap closed (%)",
    )
    legend_above(ax)
    return ax


@look()
def plot_singular_words(
    scores: pd.DataFrame, *, direction: int = 1, side: str = "+", ax: Axes | None = None
) -> Axes:
    """Draw the words that one side of a direction writes and avoids; `scores` from
    `singular_scores`."""
    check_table(scores, "direction side role word score", "of singular_scores", "scores")
    as_choice(side, "side", ("+", "-"))
    if not (scores.direction == direction).any():
        known = sorted(map(int, scores.direction.unique()))
        raise ValueError(f"direction: got {brief(direction)}, expected one of {known}")
    ax = axes(ax, height=2.6)
    mine = select(
        scores,
        (scores.direction == direction) & (scores.side == side) & (scores.role != "reads"),
    )
    mine = mine.sort_values("score").drop_duplicates("word")
    ax.barh(
        range(len(mine)), mine.score, color=[RED if s > 0 else BLUE for s in mine.score], height=0.7
    )
    ax.set_yticks(range(len(mine)), mine.word, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color=GREY, linewidth=0.7)
    ax.locator_params(axis="x", nbins=3)
    ax.ticklabel_format(axis="x", scilimits=(-1, 3))  # a panel is narrow, and −0.025 is wide
    ax.set(xlabel="score at strength +1")
    ax.set_title(
        f"direction {direction}{side.replace('-', '−')}", loc="left", color=ink(), size=8.5
    )
    return ax


def save_figure(fig: Figure, folder: str | Path, name: str, numbers: Any) -> list[Path]:
    """Save `name.pdf`, `name.png` and `name.json` in a folder that exists.

    They are the picture twice, and the numbers it shows.

    `numbers` is a DataFrame, or anything that JSON can say. The figure is closed.
    """
    folder = as_path(folder, "folder")
    paths = [folder / f"{name}.{ending}" for ending in ("pdf", "png", "json")]
    with look():
        fig.savefig(paths[0], bbox_inches="tight", metadata={"CreationDate": None})
        fig.savefig(paths[1], bbox_inches="tight")
    plt.close(fig)
    write_json(paths[2], records(numbers) if isinstance(numbers, pd.DataFrame) else numbers)
    return paths


def ridge_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a Gaussian density estimate on [-1, 1], reflected at both ends.

    The bandwidth is fixed, so that ridges compare.
    """
    width = 0.07
    points = np.concatenate([values, -2 - values, 2 - values])
    density = np.exp(-0.5 * ((grid[:, None] - points) / width) ** 2).sum(1)
    return density / (len(values) * width * np.sqrt(2 * np.pi))


__all__ = [
    "plot_gap_closed",
    "plot_label_curve",
    "plot_singular_words",
    "plot_written_attribute",
    "save_figure",
]
