"""Figures of a model's states along text."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from steerlens.analysis.trajectories import Projection, Trajectories
from steerlens.maths.stats import mean_interval
from steerlens.show.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    LINE,
    OLIVE,
    PAPER,
    PINK,
    PURPLE,
    RED,
    TEAL,
    axes,
    ink,
    legend_above,
    look,
    neutral,
)
from steerlens.show.tables import check_made, check_table, select
from steerlens.values.texts import as_choice

COLOURS = (BLUE, GREEN, RED, PURPLE, AMBER, TEAL)
SET_COLOURS = (PURPLE, AMBER, TEAL, PINK, OLIVE, GREY)
LABELS = {
    "step": "step / spread of the task",
    "spread": "spread of a text / step",
    "cosine": "cosine of successive steps",
    "exponent": "diffusion exponent",
}
NULLS = {"walk": (GREY, "random walk"), "shuffled": (AMBER, "any order")}


@look()
def plot_map(
    found: Trajectories,
    shown: Projection,
    *,
    paths: int = 1,
    states: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draw the states of all texts in two dimensions, in the colours of their tasks, and a few
    texts' ways.

    Args:
        shown: of `project`, two components or more; the first two are drawn.
        paths: texts of each task whose states are joined, from a ring to a full dot: the first ones
            of median length.
        states: how many of their states.
    """
    check_made(found, "found", Trajectories, "of trajectories(model, tasks, layer=1)")
    check_made(shown, "shown", Projection, "of project(found)")
    ax = axes(ax, height=2.6)
    owner = found.task[found.text].numpy()
    length = found.lengths.numpy()
    for t, name in enumerate(found.names):
        x, y = shown.points[owner == t, :2].T
        ax.scatter(x, y, s=5, color=COLOURS[t % len(COLOURS)], alpha=0.22, lw=0, rasterized=True)
        ax.scatter([], [], s=16, color=COLOURS[t % len(COLOURS)], label=name)
    for t in range(len(found.names)):
        mine = np.flatnonzero(found.task.numpy() == t)
        typical = mine[
            np.argsort(np.abs(length[mine] - np.median(length[mine])), kind="stable")[:paths]
        ]
        for text in typical:
            x, y = shown.points[found.text.numpy() == text, :2][:states].T
            colour = COLOURS[t % len(COLOURS)]
            ax.plot(x, y, color=neutral(PAPER), lw=2.2, alpha=0.8, zorder=3)
            ax.plot(x, y, color=colour, lw=0.9, zorder=4)
            ax.plot(x[:1], y[:1], marker="o", ms=4.5, mfc=neutral(PAPER), mec=colour, zorder=5)
            ax.plot(
                x[-1:],
                y[-1:],
                marker="o",
                ms=4.5,
                mfc=colour,
                mec=neutral(PAPER),
                mew=0.6,
                zorder=5,
            )
    axis = {"pca": "component", "tsne": "t-SNE", "umap": "UMAP"}[shown.method]
    share = [f" ({100 * x:.0f} % of variance)" for x in shown.explained] or ["", ""]
    ax.set(xlabel=f"{axis} 1{share[0]}", ylabel=f"{axis} 2{share[1]}", xticks=[], yticks=[])
    legend_above(ax)
    return ax


@look()
def plot_clusters(
    table: pd.DataFrame,
    *,
    measure: str = "silhouette",
    points: str = "texts",
    ax: Axes | None = None,
) -> Axes:
    """Draw how far apart each set of tasks lies, layer by layer.

    Grey is what 95 % of shuffled labels stay below, the highest of all sets.

    Args:
        table: of `cluster_report`, with a column `layer`; several rows of a layer and set (seeds)
            become their mean and its 95 % interval, a single one keeps its own.
        measure: "silhouette" or "adjusted Rand".
        points: "texts" or "positions".
    """
    check_table(table, "tasks layer measure points value low high null_high", "of cluster_report")
    as_choice(measure, "measure", ("silhouette", "adjusted Rand"))
    as_choice(points, "points", ("texts", "positions"))
    ax = axes(ax)
    table = select(table, (table.measure == measure) & (table.points == points))
    sets, layers = list(dict.fromkeys(table.tasks)), list(dict.fromkeys(table.layer))
    for k, name in enumerate(sets):
        colour = ink() if name == "all" else SET_COLOURS[(k - ("all" in sets)) % len(SET_COLOURS)]
        label = "all tasks" if name == "all" else name.replace(" | ", " / ")
        mine = select(table, table.tasks == name)
        _line(ax, mine, layers, k - (len(sets) - 1) / 2, colour, label)
    chance = table.groupby("layer").null_high.max().reindex(layers).to_numpy()
    place = np.arange(-1, len(layers) + 1)
    ax.fill_between(
        place,
        0,
        np.pad(chance, 1, mode="edge"),
        color=neutral(LINE),
        lw=0,
        zorder=0,
        label="chance (95 %)",
    )
    top = float(table[["value", "high"]].max().max())
    ax.set_ylim(min(0.0, 1.1 * float(table[["value", "low"]].min().min())), 1.1 * max(top, 0.05))
    _layers(ax, layers)
    ax.set_ylabel({"silhouette": "silhouette", "adjusted Rand": "adjusted Rand index"}[measure])
    legend_above(ax)
    return ax


@look()
def plot_steps(table: pd.DataFrame, *, statistic: str = "exponent", ax: Axes | None = None) -> Axes:
    """Draw a statistic of the steps of each task, layer by layer.

    Bands are of random walks of the same steps, and of the same states in any order.

    Args:
        table: of `step_statistics`, with a column `layer`; several rows of a layer and task as in
            `plot_clusters`.
        statistic: "step", "spread", "cosine" or "exponent".
    """
    check_table(table, "task layer statistic value low high", "of step_statistics")
    as_choice(statistic, "statistic", LABELS)
    ax = axes(ax)
    table = select(table, table.statistic == statistic)
    tasks, layers = list(dict.fromkeys(table.task)), list(dict.fromkeys(table.layer))
    place = np.arange(-1, len(layers) + 1)
    for null, (colour, _) in NULLS.items():
        ends = table.groupby("layer")[[f"{null}_low", f"{null}_high"]].agg(
            {f"{null}_low": "min", f"{null}_high": "max"}
        )
        low, high = (np.pad(x, 1, mode="edge") for x in ends.reindex(layers).to_numpy().T)
        ax.fill_between(place, low, high, color=colour, alpha=0.35, lw=1.5, zorder=0)
    for k, name in enumerate(tasks):
        colour = COLOURS[k % len(COLOURS)]
        mine = select(table, table.task == name)
        _line(ax, mine, layers, k - (len(tasks) - 1) / 2, colour, name)
    _layers(ax, layers)
    ax.set_ylabel(LABELS[statistic])
    bands = [Patch(color=colour, alpha=0.35, label=label) for colour, label in NULLS.values()]
    legend_above(ax, handles=[*ax.get_legend_handles_labels()[0], *bands])
    return ax


def _line(
    ax: Axes, rows: pd.DataFrame, layers: Sequence[object], shift: float, colour: str, label: str
) -> None:
    """Draw mean and interval at each layer, a little beside the others'."""
    means = []
    for layer in layers:
        here = select(rows, rows.layer == layer)
        several = len(here) > 1
        means.append(
            mean_interval(here.value.tolist())
            if several
            else tuple(here[["value", "low", "high"]].iloc[0])
        )
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
