"""Figures of a model's states along text."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from steerlens.analysis.trajectories import Projection, Trajectories
from steerlens.show.style import BLUE, COLUMN, GREEN, RED, look
from steerlens.values.intervals import mean_interval

COLOURS = (BLUE, GREEN, RED, "#8a5fb0", "#c98a1e", "#222222")
SET_COLOURS = ("#8a5fb0", "#c98a1e", "#2f8f9d", "#b0578d", "#6b7a1f", "#555555")
LABELS = {
    "step": "step / spread of the task",
    "spread": "spread of a text / step",
    "cosine": "cosine of successive steps",
    "exponent": "diffusion exponent",
}
NULLS = {"walk": ("#c9c9c9", "random walk"), "shuffled": ("#e3d3b4", "any order")}


@look()
def plot_map(
    found: Trajectories, shown: Projection, *, paths: int = 1, states: int = 8, ax: Axes | None = None
) -> Axes:
    """The states of all texts in two dimensions, in the colours of their tasks, and a few texts' ways.

    Args:
        shown: of `project`, two components or more; the first two are drawn.
        paths: texts of each task whose states are joined, from a ring to a full dot: the first ones of median length.
        states: how many of their states.
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")[1]
    owner = found.task[found.text].numpy()
    length = found.lengths.numpy()
    for t, name in enumerate(found.names):
        x, y = shown.points[owner == t, :2].T
        ax.scatter(x, y, s=5, color=COLOURS[t % len(COLOURS)], alpha=0.22, lw=0, rasterized=True)
        ax.scatter([], [], s=16, color=COLOURS[t % len(COLOURS)], label=name)
    for t in range(len(found.names)):
        mine = np.flatnonzero(found.task.numpy() == t)
        typical = mine[np.argsort(np.abs(length[mine] - np.median(length[mine])), kind="stable")[:paths]]
        for text in typical:
            x, y = shown.points[found.text.numpy() == text, :2][:states].T
            colour = COLOURS[t % len(COLOURS)]
            ax.plot(x, y, color="white", lw=2.2, alpha=0.8, zorder=3)
            ax.plot(x, y, color=colour, lw=0.9, zorder=4)
            ax.plot(x[:1], y[:1], marker="o", ms=4.5, mfc="white", mec=colour, zorder=5)
            ax.plot(x[-1:], y[-1:], marker="o", ms=4.5, mfc=colour, mec="white", mew=0.6, zorder=5)
    axis = {"pca": "component", "tsne": "t-SNE", "umap": "UMAP"}[shown.method]
    share = [f" ({100 * x:.0f} % of variance)" for x in shown.explained] or ["", ""]
    ax.set(xlabel=f"{axis} 1{share[0]}", ylabel=f"{axis} 2{share[1]}", xticks=[], yticks=[])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.16 * (high - low))  # room for the legend
    ax.legend(loc="upper center", ncols=len(found.names), handletextpad=0.1, columnspacing=0.9, fontsize=7)
    return ax


@look()
def plot_clusters(
    table: pd.DataFrame, *, measure: str = "silhouette", points: str = "texts", ax: Axes | None = None
) -> Axes:
    """How far apart each set of tasks lies, layer by layer; grey: what 95 % of shuffled labels stay below, the highest of all.

    Args:
        table: of `cluster_report`, with a column `layer`; several rows of a layer and set (seeds) become their mean and its 95 %
            interval, a single one keeps its own.
        measure: "silhouette" or "adjusted Rand".
        points: "texts" or "positions".
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")[1]
    table = table[(table.measure == measure) & (table.points == points)]
    sets, layers = list(dict.fromkeys(table.tasks)), list(dict.fromkeys(table.layer))
    for k, name in enumerate(sets):
        colour = "#222222" if name == "all" else SET_COLOURS[(k - ("all" in sets)) % len(SET_COLOURS)]
        label = "all tasks" if name == "all" else name.replace(" | ", " / ")
        _line(ax, table[table.tasks == name], layers, k - (len(sets) - 1) / 2, colour, label)
    chance = table.groupby("layer").null_high.max().reindex(layers).to_numpy()
    place = np.arange(-1, len(layers) + 1)
    ax.fill_between(place, 0, np.pad(chance, 1, mode="edge"), color="#d9d9d9", lw=0, zorder=0, label="chance (95 %)")
    top = float(table[["value", "high"]].max().max())
    ax.set_ylim(min(0.0, 1.1 * float(table[["value", "low"]].min().min())), (1.15 + 0.13 * len(sets)) * max(top, 0.05))
    _layers(ax, layers)
    ax.set_ylabel({"silhouette": "silhouette", "adjusted Rand": "adjusted Rand index"}[measure])
    ax.legend(loc="upper left", fontsize=7, labelspacing=0.25)
    return ax


@look()
def plot_steps(table: pd.DataFrame, *, statistic: str = "exponent", ax: Axes | None = None) -> Axes:
    """A statistic of the steps of each task, layer by layer; bands: random walks of the same steps, the same states in any order.

    Args:
        table: of `step_statistics`, with a column `layer`; several rows of a layer and task as in `plot_clusters`.
        statistic: "step", "spread", "cosine" or "exponent".
    """
    if ax is None:
        ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")[1]
    table = table[table.statistic == statistic]
    tasks, layers = list(dict.fromkeys(table.task)), list(dict.fromkeys(table.layer))
    place = np.arange(-1, len(layers) + 1)
    for null, (colour, _) in NULLS.items():
        ends = table.groupby("layer")[[f"{null}_low", f"{null}_high"]].agg(
            {f"{null}_low": "min", f"{null}_high": "max"}
        )
        low, high = (np.pad(x, 1, mode="edge") for x in ends.reindex(layers).to_numpy().T)
        ax.fill_between(place, low, high, color=colour, lw=1.5, edgecolor=colour, zorder=0)
    for k, name in enumerate(tasks):
        colour = COLOURS[k % len(COLOURS)]
        _line(ax, table[table.task == name], layers, k - (len(tasks) - 1) / 2, colour, name)
    handles, names = ax.get_legend_handles_labels()
    handles += [Patch(color=colour) for colour, _ in NULLS.values()]
    names += [label for _, label in NULLS.values()]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.42 * (high - low))  # room for the legend
    _layers(ax, layers)
    ax.set_ylabel(LABELS[statistic])
    ax.legend(handles, names, loc="upper center", ncols=2, fontsize=7, labelspacing=0.25, columnspacing=1.0)
    return ax


def _line(ax: Axes, rows: pd.DataFrame, layers: Sequence[object], shift: float, colour: str, label: str) -> None:
    """Mean and interval at each layer, a little beside the others'."""
    means = []
    for layer in layers:
        here = rows[rows.layer == layer]
        several = len(here) > 1
        means.append(mean_interval(here.value.tolist()) if several else tuple(here[["value", "low", "high"]].iloc[0]))
    value, low, high = np.array(means, dtype=float).T
    error = np.nan_to_num([value - low, high - value]).clip(min=0)
    ax.errorbar(
        np.arange(len(layers)) + 0.06 * shift, value, yerr=error, color=colour, marker="o", ms=3.5, lw=1.2, elinewidth=0.9,
        capsize=1.8, label=label,
    )  # fmt: skip


def _layers(ax: Axes, layers: Sequence[object]) -> None:
    ax.set_xlim(-0.4, len(layers) - 0.6)
    ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set_xlabel("layer")
