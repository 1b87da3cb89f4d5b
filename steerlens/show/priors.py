"""Figures of tuned prompts: what priors are worth, how far prompts go, what their words say, and
how they move the context."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from steerlens.maths.stats import mean_interval
from steerlens.show.style import (
    BLUE,
    GREEN,
    GREY,
    LINE,
    PURPLE,
    RED,
    axes,
    ink,
    legend_above,
    look,
    neutral,
)
from steerlens.show.tables import check_table, select
from steerlens.values.texts import as_choice

QUESTIONS = ("writes", "reads", "steer's move")
WAYS = ("prompt", "nearest words", "random words")


@look()
def plot_priors(
    table: pd.DataFrame, *, number: str = "nll", start: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a number for each prior: a small dot per seed, the mean with its 95 % interval over
    seeds.

    Args:
        table: of `compare_priors`.
        number: a column of it, e.g. "nll", "sign_margin", "drift", "nearest".
        start: the column that says what it was before the fit, drawn as a grey ring, e.g.
            "start_drift".
    """
    check_table(table, f"prior {number} {start or ''}", "of compare_priors")
    ax = axes(ax, height=2.6)
    names = list(dict.fromkeys(table.prior))
    for k, name in enumerate(names):
        rows = select(table, table.prior == name)
        mean, low, high = mean_interval(rows[number].to_numpy())
        ax.plot(rows[number], np.full(len(rows), k), "o", ms=2.2, color=RED, alpha=0.35, mew=0)
        ax.errorbar(
            mean,
            k,
            xerr=[[mean - low], [high - mean]],
            fmt="o",
            ms=4,
            color=RED,
            lw=1.2,
            capsize=1.5,
        )
        if start is not None:
            ax.plot(
                rows[start].mean(),
                k,
                "o",
                ms=4.5,
                mfc="none",
                mec=GREY,
                label="before the fit" if not k else None,
            )
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", lw=0.4, color=neutral(LINE))
    return ax


@look()
def plot_readability(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what a prompt is worth, what its nearest words are worth in its place, and what random
    words are.

    Args:
        table: of `readability`, one for each seed, with a column `seed`.
    """
    check_table(table, "what sign_margin", "of readability")
    ax = axes(ax, height=2.2)
    shown = [way for way in WAYS if way in set(table.what)]
    for k, (way, colour) in enumerate(zip(shown, (RED, BLUE, GREY), strict=False)):
        values = table[table.what == way].sign_margin.to_numpy()
        mean, low, high = mean_interval(values)
        ax.bar(
            k,
            mean,
            0.6,
            color=colour,
            yerr=[[mean - low], [high - mean]],
            error_kw={"lw": 0.9, "capsize": 2, "ecolor": ink()},
        )
        ax.plot(np.full(len(values), k) + 0.2, values, "o", ms=2.5, color=ink(), alpha=0.6, mew=0)
    ax.axhline(0, color=ink(), lw=0.7)
    ax.set_xticks(range(len(shown)), [way.replace(" ", "\n") for way in shown])
    ax.set_ylabel("sign margin (nats per token)")
    return ax


@look()
def plot_moves(table: pd.DataFrame, *, question: str = "writes", ax: Axes | None = None) -> Axes:
    """Draw the share of an intervention's move of `c` along each steer's directions.

    Grey is what 95 % of random subspaces stay below.

    Args:
        table: of `state_shift_overlap`, one for each seed, with columns `seed` and `intervention`.
        question: "writes", "reads" or "steer's move".
    """
    check_table(table, "steer question share chance_high intervention", "of state_shift_overlap")
    as_choice(question, "question", QUESTIONS)
    ax = axes(ax, height=2.2)
    rows = select(table, table.question == question)
    kinds, steers = list(dict.fromkeys(rows.intervention)), list(dict.fromkeys(rows.steer))
    width = 0.8 / len(kinds)
    for j, (kind, colour) in enumerate(zip(kinds, (RED, BLUE, GREEN, PURPLE), strict=False)):
        for k, steer in enumerate(steers):
            some = select(rows, (rows.intervention == kind) & (rows.steer == steer))
            mean, low, high = mean_interval(some.share.to_numpy())
            x = k + (j - (len(kinds) - 1) / 2) * width
            ax.bar(x, mean, 0.62 * width, color=colour, yerr=[[mean - low], [high - mean]], label=None if k else kind,
                   error_kw={"lw": 0.9, "capsize": 2, "ecolor": ink()})  # fmt: skip
            last = "chance (95 %)" if (j, k) == (len(kinds) - 1, 0) else None
            ax.bar(
                x, some.chance_high.mean(), 0.9 * width, color=neutral(LINE), zorder=0.5, label=last
            )
    ax.set_xticks(range(len(steers)), steers, parse_math=False)
    ax.set_ylabel(
        {"writes": "share along writes", "reads": "share along reads"}.get(
            question, "cos² with the steer's move"
        )
    )
    legend_above(ax)
    return ax


@look()
def plot_compression(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much of what a prompt changes so many rows change too, with the 95 % interval over
    seeds.

    Args:
        table: of `compression`, one for each length and seed, with columns `length` and `seed`;
            several prompts are averaged.
    """
    check_table(table, "way gap_closed length seed", "of compression")
    ax = axes(ax, height=2.4)
    lengths = sorted(table.length.unique())
    for way, colour in (("distilled", RED), ("last tokens", BLUE), ("random words", GREY)):
        some = table[table.way == way].groupby(["length", "seed"]).gap_closed.mean()
        ends = [mean_interval(some[length].to_numpy()) for length in lengths]
        mean, low, high = (np.array(column) for column in zip(*ends, strict=True))
        ax.errorbar(
            lengths,
            mean,
            yerr=[mean - low, high - mean],
            color=colour,
            marker="o",
            ms=4,
            lw=1.2,
            capsize=2,
            label=way,
        )
    ax.axhline(1, color=ink(), lw=0.8, ls=(0, (4, 3)))
    ax.axhline(0, color=ink(), lw=0.7)
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.set(xlabel="rows in the place of the prompt", ylabel="share of its effect")
    legend_above(ax)
    return ax
