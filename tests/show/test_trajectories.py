"""Figures of trajectories: points and lines at the numbers of their tables, and nothing left
behind."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from steerlens.analysis.trajectories import Trajectories, cluster_report, project, step_statistics
from steerlens.maths.stats import mean_interval
from steerlens.show.trajectories import COLOURS, LABELS, plot_clusters, plot_map, plot_steps


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def found() -> Trajectories:
    g = torch.Generator().manual_seed(0)
    task, text = torch.arange(3).repeat_interleave(6), torch.arange(18).repeat_interleave(12)
    states = torch.randn(18 * 12, 5, generator=g) + 2 * torch.eye(5)[task[text]]
    return Trajectories(states, text, task, ("a", "b", "c"), ("x",) * 18, "made")


@pytest.fixture(scope="module")
def clustered(found) -> pd.DataFrame:
    return pd.concat(
        cluster_report(found, permutations=9, draws=10, n_init=1, seed=seed).assign(
            layer=layer, seed=seed
        )
        for layer in (0, 1)
        for seed in range(2 if layer else 1)
    )


@pytest.fixture(scope="module")
def stepped(found) -> pd.DataFrame:
    return pd.concat(
        step_statistics(found, walks=5, draws=10, seed=layer).assign(layer=layer)
        for layer in (0, 1)
    )


@pytest.fixture
def figures(found, clustered, stepped):
    return {
        "map": lambda ax=None: plot_map(found, project(found), ax=ax),
        "clusters": lambda ax=None: plot_clusters(clustered, ax=ax),
        "steps": lambda ax=None: plot_steps(stepped, ax=ax),
    }


def names(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def lines(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {
        str(drawn.get_label()): drawn
        for drawn in ax.containers
        if isinstance(drawn, ErrorbarContainer)
    }


def span(drawn: ErrorbarContainer) -> np.ndarray:
    """Lower and upper ends of the vertical error bars."""
    return np.array([segment[:, 1] for segment in drawn.lines[2][0].get_segments()])


@pytest.mark.parametrize("name", ["map", "clusters", "steps"])
def test_it_draws_on_the_axes_that_it_is_given_or_on_new_ones_and_leaks_no_settings(
    name: str, figures
):
    figure, (ax, other) = plt.subplots(1, 2)
    before = dict(mpl.rcParams)
    assert figures[name](ax) is ax
    assert ax.has_data() and not other.has_data()
    mine = figures[name]()
    assert mine.figure is not figure and mine.yaxis.label.get_size() == 8  # the look was on inside
    assert dict(mpl.rcParams) == before


def test_a_map_has_every_state_in_its_tasks_colour_and_says_how_much_it_shows(found):
    shown = project(found)
    ax = plot_map(found, shown, paths=2, states=9)
    clouds = [c for c in ax.collections if len(c.get_offsets())]
    owner = found.task[found.text].numpy()
    for t, cloud in enumerate(clouds):
        np.testing.assert_allclose(cloud.get_offsets(), shown.points[owner == t])
        assert to_hex(cloud.get_facecolor()[0]) == to_hex(COLOURS[t])
    assert names(ax) == ["a", "b", "c"]
    assert f"({100 * shown.explained[1]:.0f} % of variance)" in ax.get_ylabel()
    ways = [
        line
        for line in ax.lines
        if len(line.get_xdata()) == 9 and to_hex(line.get_color()) != "#ffffff"
    ]
    assert len(ways) == 6
    np.testing.assert_allclose(ways[0].get_xdata(), shown.points[:9, 0])


def test_a_map_of_another_method_promises_no_variance(found):
    ax = plot_map(found, project(found, method="tsne"), paths=0)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t-SNE 1", "t-SNE 2") and not ax.lines


@pytest.mark.parametrize("points", ["texts", "positions"])
def test_clusters_have_a_line_a_set_the_mean_over_seeds_and_chance(clustered, points: str):
    ax = plot_clusters(clustered, points=points)
    table = clustered[(clustered.points == points) & (clustered.measure == "silhouette")]
    assert list(lines(ax)) == ["all tasks", "a / b", "a / c", "b / c"]
    drawn = lines(ax)["a / c"]
    mine = table[table.tasks == "a | c"]
    single, several = (mine[mine.layer == layer] for layer in (0, 1))
    mean, low, high = mean_interval(several.value.tolist())
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), [single.value.iloc[0], mean])
    np.testing.assert_allclose(
        span(drawn), [[single.low.iloc[0], single.high.iloc[0]], [low, high]]
    )
    band = (
        ax.collections[-1]
        if not lines(ax)
        else next(c for c in ax.collections if c.get_label() == "chance (95 %)")
    )
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(table.null_high.max())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]


def test_a_rand_index_has_no_interval_of_its_own(clustered):
    ax = plot_clusters(clustered[clustered.layer == 0], measure="adjusted Rand")
    assert all((span(drawn)[:, 0] == span(drawn)[:, 1]).all() for drawn in lines(ax).values())
    assert ax.get_ylabel() == "adjusted Rand index"


@pytest.mark.parametrize("statistic", list(LABELS))
def test_steps_have_a_line_a_task_and_a_band_a_null(stepped, statistic: str):
    ax = plot_steps(stepped, statistic=statistic)
    table = stepped[stepped.statistic == statistic]
    assert names(ax) == ["a", "b", "c", "random walk", "any order"]
    for t, name in enumerate("abc"):
        mine = table[table.task == name]
        np.testing.assert_allclose(lines(ax)[name].lines[0].get_ydata(), mine.value)
        np.testing.assert_allclose(span(lines(ax)[name]), mine[["low", "high"]])
        assert to_hex(lines(ax)[name].lines[0].get_color()) == to_hex(COLOURS[t])
    ends = [
        (c.get_paths()[0].vertices[:, 1].min(), c.get_paths()[0].vertices[:, 1].max())
        for c in ax.collections[:2]
    ]
    assert ends[0] == pytest.approx((table.walk_low.min(), table.walk_high.max()))
    assert ends[1] == pytest.approx((table.shuffled_low.min(), table.shuffled_high.max()))
    assert ax.get_ylabel() == LABELS[statistic]
