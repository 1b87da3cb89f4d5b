"""Figures of edits inside subspaces beside steers."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from steerlens.show.style import (
    AMBER,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    LINE,
    PAPER,
    PURPLE,
    RED,
    TEAL,
    axes,
    ink,
    legend_above,
    log_scale,
    look,
    neutral,
    title_above,
)
from steerlens.show.tables import check_table, groups
from steerlens.values.texts import as_choice

KINDS = {"text": RED, "scrambled": BLUE, "random": GREY}
QUESTIONS = {
    "writes": "steer\nwrites",
    "reads": "steer\nreads",
    "mean difference": "mean\ndiff.",
    "probe": "probe's\nnormal",
    "other texts": "other\ntexts",
}


@look()
def plot_memory(
    table: pd.DataFrame,
    *,
    value: str = "recovered",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what one edit of one token holds, against the length of what it was asked to hold; mean
    and 95 % interval.

    Args:
        table: of `memorise`, with a column `kind` (text, scrambled, random).
        value: "recovered" (tokens; the dashed line is all of them) or "stored" (nats).
    """
    as_choice(value, "value", ("recovered", "stored"))
    check_table(table, f"kind length {value}", "of memorise")
    ax = axes(ax)
    lengths = sorted(table.length.unique())
    sns.lineplot(
        table, x="length", y=value, hue="kind", hue_order=[k for k in KINDS if k in set(table.kind)], palette=KINDS, marker="o",
        ms=4.5, mec=neutral(PAPER), errorbar=("ci", 95), seed=0, ax=ax,
    )  # fmt: skip
    if value == "recovered":
        ax.plot(lengths, lengths, color=ink(), lw=0.8, ls=(0, (4, 3)), zorder=0)
        ax.set_ylim(
            0,
            min(
                max(lengths),
                1.25 * float(table.groupby(["kind", "length"]).recovered.mean().max()) + 0.5,
            ),
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.set(
        xlabel="tokens to memorise",
        ylabel={"recovered": "recovered exactly", "stored": "stored (nats)"}[value],
    )
    ax.legend(title=None)
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax


@look()
def plot_subspaces(table: pd.DataFrame, *, value: str = "largest", ax: Axes | None = None) -> Axes:
    """Draw how much of a ReFT subspace is what another method uses, by layer.

    Grey is what 95 % of random subspaces stay below.

    Args:
        table: of `compare_subspaces`.
        value: "largest" (the best shared direction) or "overlap" (the mean over all of them).
    """
    check_table(
        table,
        "layer question overlap chance_high largest largest_chance_high",
        "of compare_subspaces",
    )
    as_choice(value, "value", ("largest", "overlap"))
    ax = axes(ax, width=1.6 * COLUMN, height=2.4)
    shown = [question for question in QUESTIONS if question in set(table.question)]
    layers = sorted(table.layer.unique())
    width = 0.8 / len(layers)
    colours = [(RED, PURPLE, BLUE, TEAL, GREEN, AMBER)[k % 6] for k in range(len(layers))]
    high = {"largest": "largest_chance_high", "overlap": "chance_high"}[value]
    for k, layer in enumerate(layers):
        rows = table[table.layer == layer].set_index("question").loc[shown]
        x = np.arange(len(shown)) + (k - (len(layers) - 1) / 2) * width
        # what chance reaches stands behind, a little wider
        ax.bar(x, rows[value], 0.62 * width, color=colours[k], label=f"layer {layer}")
        ax.bar(
            x,
            rows[high],
            0.9 * width,
            color=neutral(LINE),
            zorder=0.5,
            label="chance (95 %)" if layer == layers[-1] else None,
        )
    ax.set_xticks(range(len(shown)), [QUESTIONS[question] for question in shown])
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel(
        {"largest": "largest cos² of an angle", "overlap": "mean cos² of the angles"}[value]
    )
    legend_above(ax)
    return ax


@look()
def plot_quality(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the sign margin at equal KL against the number of fitted parameters, with 95 % intervals
    over texts.

    Args:
        table: of `reft_quality`.
    """
    check_table(table, "method layers parameters sign_margin low high", "of reft_quality")
    ax = axes(ax, height=2.6)
    lines = list(groups(table, ["method", "layers"]))
    colours = [
        RED if method == "steer" else colour
        for ((method, _), _), colour in zip(lines, _colours(len(lines)), strict=True)
    ]
    for k, (((method, layers), rows), colour) in enumerate(zip(lines, colours, strict=True)):
        rows = rows.sort_values("parameters")
        x = rows.parameters * 1.04 ** (
            k - len(lines) / 2
        )  # beside one another where they are the same
        name = (
            "steer"
            if method == "steer"
            else f"{method}, layer{'s' if ',' in layers else ''} {layers}"
        )
        ax.errorbar(
            x, rows.sign_margin, yerr=[rows.sign_margin - rows.low, rows.high - rows.sign_margin], color=colour, marker="o",
            ms=4, lw=1.2, elinewidth=0.8, capsize=1.5, label=name,
        )  # fmt: skip
    log_scale(ax, "x", subs=(1, 2, 5))
    ax.set_ylim(bottom=min(0.0, float(table.low.min())))
    ax.set(xlabel="fitted parameters", ylabel="sign margin (nats per token)")
    legend_above(ax)
    return ax


@look()
def plot_composition(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each part of a subspace, and all of it, is worth on the texts of each task, with 95
    % intervals.

    Args:
        table: of `composition`.
    """
    check_table(table, "edit task sign_margin low high", "of composition")
    ax = axes(ax, height=2.2)
    edits, tasks = list(dict.fromkeys(table.edit)), list(dict.fromkeys(table.task))
    for k, (task, colour) in enumerate(zip(tasks, _colours(len(tasks) + 1)[1:], strict=True)):
        rows = table[table.task == task].set_index("edit").loc[edits]
        x = np.arange(len(edits)) + (k - (len(tasks) - 1) / 2) * 0.36
        error = [rows.sign_margin - rows.low, rows.high - rows.sign_margin]
        ax.bar(
            x,
            rows.sign_margin,
            0.33,
            yerr=error,
            color=colour,
            error_kw={"lw": 0.9, "capsize": 2, "ecolor": ink()},
            label=f"on {task} texts",
        )
    ax.axhline(0, color=ink(), lw=0.7)
    ax.set_xticks(
        range(len(edits)), [edit if edit == "together" else f"{edit} rows" for edit in edits]
    )
    ax.set_ylabel("sign margin (nats per token)")
    legend_above(ax)
    return ax


def _colours(n: int) -> list[str]:
    return [(GREY, BLUE, GREEN, PURPLE, AMBER, TEAL)[k % 6] for k in range(n)]
