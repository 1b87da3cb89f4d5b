"""Figures of edits inside subspaces beside steers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from steerlens.show.style import BLUE, COLUMN, GREEN, GREY, RED, look

KINDS = {"text": RED, "scrambled": BLUE, "random": GREY}
QUESTIONS = {
    "writes": "writes what\nthe steer writes",
    "reads": "reads what\nthe steer reads",
    "mean difference": "holds the\nmean difference",
    "probe": "holds the\nprobe's normal",
    "other texts": "same fit,\nother texts",
}


@look()
def plot_memory(
    table: pd.DataFrame, *, value: str = "recovered", title: str | None = None, ax: Axes | None = None
) -> Axes:
    """What one edit of one token holds, against the length of what it was asked to hold; mean and 95 % interval.

    Args:
        table: of `memorise`, with a column `kind` (text, scrambled, random).
        value: "recovered" (tokens; the dashed line is all of them) or "stored" (nats).
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")[1]
    lengths = sorted(table.length.unique())
    sns.lineplot(
        table, x="length", y=value, hue="kind", hue_order=[k for k in KINDS if k in set(table.kind)], palette=KINDS, marker="o",
        ms=4.5, errorbar=("ci", 95), seed=0, ax=ax,
    )  # fmt: skip
    if value == "recovered":
        ax.plot(lengths, lengths, color="#222222", lw=0.8, ls=(0, (4, 3)), zorder=0)
        ax.set_ylim(0, min(max(lengths), 1.25 * float(table.groupby(["kind", "length"]).recovered.mean().max()) + 0.5))
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.set(xlabel="tokens to memorise", ylabel={"recovered": "recovered exactly", "stored": "stored (nats)"}[value])
    ax.legend(title=None, loc="lower left" if value == "recovered" else "upper left")
    if title is not None:
        ax.set_title(title, loc="left")
    return ax


@look()
def plot_subspaces(table: pd.DataFrame, *, value: str = "largest", ax: Axes | None = None) -> Axes:
    """How much of a ReFT subspace is what another method uses, by layer; grey bars: what 95 % of random subspaces stay below.

    Args:
        table: of `compare_subspaces`.
        value: "largest" (the best shared direction) or "overlap" (the mean over all of them).
    """
    if ax is None:
        ax = plt.subplots(figsize=(1.6 * COLUMN, 2.4), layout="constrained")[1]
    shown = [question for question in QUESTIONS if question in set(table.question)]
    layers = sorted(table.layer.unique())
    width = 0.8 / len(layers)
    colours = sns.color_palette("flare", len(layers))
    high = {"largest": "largest_chance_high", "overlap": "chance_high"}[value]
    for k, layer in enumerate(layers):
        rows = table[table.layer == layer].set_index("question").loc[shown]
        x = np.arange(len(shown)) + (k - (len(layers) - 1) / 2) * width
        ax.bar(x, rows[value], 0.9 * width, color=colours[k], label=f"layer {layer}")
        ax.bar(
            x,
            rows[high],
            0.9 * width,
            color="#bbbbbb",
            alpha=0.85,
            label="chance (95 %)" if layer == layers[-1] else None,
        )
    ax.set_xticks(range(len(shown)), [QUESTIONS[question] for question in shown])
    ax.set_ylim(0, 1.2)  # room for the legend
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel({"largest": "largest cos² of an angle", "overlap": "mean cos² of the angles"}[value])
    ax.legend(ncols=2, loc="upper left", fontsize=7)
    return ax


@look()
def plot_quality(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Contrast at equal KL against the number of fitted parameters, with 95 % intervals over texts.

    Args:
        table: of `reft_quality`.
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")[1]
    groups = list(table.groupby(["method", "layers"], sort=False))
    colours = [
        RED if method == "steer" else colour
        for ((method, _), _), colour in zip(groups, _colours(len(groups)), strict=True)
    ]
    for k, (((method, layers), rows), colour) in enumerate(zip(groups, colours, strict=True)):
        rows = rows.sort_values("parameters")
        x = rows.parameters * 1.04 ** (k - len(groups) / 2)  # beside one another where they are the same
        name = "steer" if method == "steer" else f"{method}, layer{'s' if ',' in layers else ''} {layers}"
        ax.errorbar(
            x, rows.contrast, yerr=[rows.contrast - rows.low, rows.high - rows.contrast], color=colour, marker="o", ms=4, lw=1.2,
            elinewidth=0.8, capsize=1.5, label=name,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(bottom=min(0.0, float(table.low.min())))
    ax.set(xlabel="fitted parameters", ylabel="contrast (nats per token)")
    ax.legend(fontsize=7)
    return ax


@look()
def plot_composition(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What each part of a subspace, and all of it, is worth on the texts of each task, with 95 % intervals.

    Args:
        table: of `composition`.
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")[1]
    edits, tasks = list(dict.fromkeys(table.edit)), list(dict.fromkeys(table.task))
    for k, (task, colour) in enumerate(zip(tasks, _colours(len(tasks) + 1)[1:], strict=True)):
        rows = table[table.task == task].set_index("edit").loc[edits]
        x = np.arange(len(edits)) + (k - (len(tasks) - 1) / 2) * 0.36
        error = [rows.contrast - rows.low, rows.high - rows.contrast]
        ax.bar(
            x,
            rows.contrast,
            0.33,
            yerr=error,
            color=colour,
            error_kw={"lw": 0.9, "capsize": 2},
            label=f"on {task} texts",
        )
    ax.axhline(0, color="#222222", lw=0.7)
    ax.set_xticks(range(len(edits)), [edit if edit == "together" else f"{edit} rows" for edit in edits])
    ax.set_ylabel("contrast (nats per token)")
    ax.set_ylim(top=1.3 * float(table.high.max()))  # room for the legend
    ax.legend(loc="upper left", ncols=2)
    return ax


def _colours(n: int) -> list[str]:
    return [(GREY, BLUE, GREEN, "#8a5fb0", "#c98a1e", "#222222")[k % 6] for k in range(n)]
