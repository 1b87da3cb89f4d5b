"""Figures of edits inside subspaces: dots and bars at the numbers of their tables, and nothing left
behind."""

from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer

from steerlens.show.reft import (
    KINDS,
    QUESTIONS,
    plot_composition,
    plot_memory,
    plot_quality,
    plot_subspaces,
)
from steerlens.show.style import RED


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def memory(kinds: tuple[str, ...] = ("random", "text")) -> pd.DataFrame:
    rows = [
        (kind, length, recovered + (kind == "text"), 10.0 * length)
        for kind in kinds
        for length, several in ((1, (1, 1)), (4, (2, 4)), (16, (1, 4)))
        for recovered in several
    ]
    return pd.DataFrame(rows, columns=["kind", "length", "recovered", "stored"])


def subspaces(layers: tuple[int, ...] = (0, 2)) -> pd.DataFrame:
    asked = ["writes", "writes, norm only", "reads", "probe"]
    rows = [
        (
            layer,
            question,
            0.3 + 0.1 * k + 0.01 * layer,
            0.05,
            0.1 + 0.01 * k,
            0.5 + 0.1 * k + 0.01 * layer,
            0.2 + 0.02 * k,
        )
        for layer in layers
        for k, question in enumerate(asked)
    ]
    columns = [
        "layer",
        "question",
        "overlap",
        "chance",
        "chance_high",
        "largest",
        "largest_chance_high",
    ]
    return pd.DataFrame(rows, columns=columns)


def quality() -> pd.DataFrame:
    rows = [
        ("steer", "unembedding", 4, 512, 0.12, 0.10, 0.15), ("steer", "unembedding", 1, 128, 0.10, 0.07, 0.11),
        ("loreft", "0", 1, 129, 0.05, 0.03, 0.08), ("loreft", "0", 4, 516, 0.09, 0.08, 0.12),
        ("loreft", "0, 1", 1, 258, -0.02, -0.04, 0.01), ("r1", "0", 1, 65, 0.04, 0.01, 0.05),
    ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["method", "layers", "rank", "parameters", "sign_margin", "low", "high"]
    )


def composition() -> pd.DataFrame:
    rows = [
        ("mood", "mood", 0.5, 0.4, 0.7), ("mood", "tone", -0.05, -0.1, 0.05),
        ("tone", "mood", 0.02, -0.05, 0.1), ("tone", "tone", 0.3, 0.25, 0.4),
        ("together", "mood", 0.45, 0.35, 0.5), ("together", "tone", 0.28, 0.2, 0.3),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["edit", "task", "sign_margin", "low", "high"])


FIGURES: list[tuple[Callable[..., Axes], Callable[[], pd.DataFrame]]] = [
    (plot_memory, memory), (plot_subspaces, subspaces), (plot_quality, quality), (plot_composition, composition),
]  # fmt: skip


def names(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def bars(ax: Axes) -> list[tuple[list[float], list[float]]]:
    """Centres and heights, a row of bars after another."""
    rows = [container for container in ax.containers if isinstance(container, BarContainer)]
    return [
        ([bar.get_x() + bar.get_width() / 2 for bar in row], [bar.get_height() for bar in row])
        for row in rows
    ]


def span(bar: ErrorbarContainer) -> list[list[float]]:
    """Lower and upper ends of the vertical error bars."""
    return [segment[:, 1].tolist() for segment in bar.lines[2][0].get_segments()]


@pytest.mark.parametrize("plot, table", FIGURES)
def test_it_draws_on_the_axes_that_it_is_given_or_on_new_ones(plot, table):
    open_before = len(plt.get_fignums())  # other tests of this process may have left some
    figure, (ax, other) = plt.subplots(1, 2)
    assert plot(table(), ax=ax) is ax
    assert ax.has_data() and not other.has_data()
    assert plot(table()).figure is not figure
    assert len(plt.get_fignums()) == open_before + 2


@pytest.mark.parametrize("plot, table", FIGURES)
def test_no_settings_are_leaked_and_the_table_is_left_alone(plot, table):
    before, mine = dict(mpl.rcParams), table()
    with mpl.rc_context({"font.size": 17}):
        ax = plot(mine)
        assert mpl.rcParams["font.size"] == 17
        assert ax.yaxis.label.get_size() == 8  # the look was on inside
    assert dict(mpl.rcParams) == before
    pd.testing.assert_frame_equal(mine, table())


@pytest.mark.parametrize("value", ["recovered", "stored"])
def test_memory_shows_the_mean_of_each_kind_at_each_length(value: str):
    table = memory(("random", "scrambled", "text"))
    ax = plot_memory(table, value=value, title="layer 0")
    mean = table.groupby(["kind", "length"])[value].mean()
    shown = {
        to_hex(line.get_color()): line
        for line in ax.lines
        if len(line.get_xdata()) and line.get_marker() == "o"
    }
    assert set(shown) == {to_hex(colour) for colour in KINDS.values()}
    for kind, colour in KINDS.items():
        line = shown[to_hex(colour)]
        assert np.asarray(line.get_xdata()).tolist() == [1, 4, 16]
        np.testing.assert_allclose(line.get_ydata(), mean[kind])
    assert names(ax) == ["text", "scrambled", "random"]
    assert ax.get_title(loc="left") == "layer 0"
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "1",
        "4",
        "16",
    ] and ax.get_xscale() == "log"


def test_all_that_could_be_recovered_is_dashed_and_only_where_tokens_are_counted():
    dashed = {
        value: [
            line.get_ydata()
            for line in plot_memory(memory(), value=value).lines
            if line.get_linestyle() == "--"
        ]
        for value in ("recovered", "stored")
    }
    assert [list(y) for y in dashed["recovered"]] == [[1, 4, 16]] and dashed["stored"] == []
    ax = plot_memory(memory())
    assert ax.get_ylim()[1] >= memory().groupby(["kind", "length"]).recovered.mean().max()
    assert ax.get_ylabel() == "recovered exactly"


def test_kinds_that_are_not_there_are_not_in_the_legend():
    assert names(plot_memory(memory(("random",)))) == ["random"]
    assert names(plot_memory(memory(("random", "text")))) == ["text", "random"]


@pytest.mark.parametrize(
    "value, high", [("largest", "largest_chance_high"), ("overlap", "chance_high")]
)
def test_subspaces_have_a_bar_a_layer_and_question_and_chance_in_front_of_it(value: str, high: str):
    table = subspaces()
    ax = plot_subspaces(table, value=value)
    shown = ["writes", "reads", "probe"]
    rows = bars(ax)
    assert len(rows) == 4
    for k, layer in enumerate((0, 2)):
        mine = table[table.layer == layer].set_index("question").loc[shown]
        (x, heights), (x_chance, chance) = rows[2 * k], rows[2 * k + 1]
        assert heights == pytest.approx(mine[value].tolist()) and chance == pytest.approx(
            mine[high].tolist()
        )
        assert x == pytest.approx(x_chance)
        assert [round(place) for place in x] == [0, 1, 2]
    assert rows[0][0][0] < rows[2][0][0]  # beside one another
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        QUESTIONS[question] for question in shown
    ]
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] >= 1


def test_subspaces_name_every_layer_and_chance_once():
    assert names(plot_subspaces(subspaces())) == ["layer 0", "layer 2", "chance (95 %)"]
    assert names(plot_subspaces(subspaces((1,)))) == ["layer 1", "chance (95 %)"]
    colours = {to_hex(bar.get_facecolor()) for bar in plot_subspaces(subspaces()).patches}
    assert len(colours) == 3


def test_quality_has_a_dot_at_each_sign_margin_and_its_interval():
    table = quality()
    ax = plot_quality(table)
    groups = [container for container in ax.containers if isinstance(container, ErrorbarContainer)]
    expected = [
        rows.sort_values("parameters")
        for _, rows in table.groupby(["method", "layers"], sort=False)
    ]
    assert len(groups) == len(expected) == 4
    for drawn, rows in zip(groups, expected, strict=True):
        line = drawn.lines[0]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), rows.sign_margin)
        np.testing.assert_allclose(
            np.asarray(line.get_xdata(), float), rows.parameters, rtol=0.15
        )  # moved a little to each side
        np.testing.assert_allclose(span(drawn), rows[["low", "high"]])
    assert to_hex(groups[0].lines[0].get_color()) == RED
    assert len({to_hex(drawn.lines[0].get_color()) for drawn in groups}) == 4
    assert names(ax) == ["steer", "loreft, layer 0", "loreft, layers 0, 1", "r1, layer 0"]
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] <= -0.04


def test_quality_begins_at_zero_where_nothing_is_below():
    table = quality()
    assert plot_quality(table[table.low > 0]).get_ylim()[0] == 0
    assert plot_quality(table).get_ylim()[0] < 0


def test_composition_has_a_bar_an_edit_and_task_with_its_interval():
    table = composition()
    ax = plot_composition(table)
    rows = bars(ax)
    assert len(rows) == 2
    for (x, heights), task in zip(rows, ("mood", "tone"), strict=True):
        mine = table[table.task == task]
        assert heights == pytest.approx(mine.sign_margin.tolist())
        assert [round(place) for place in x] == [0, 1, 2]
    intervals = [span(drawn) for drawn in ax.containers if isinstance(drawn, ErrorbarContainer)]
    np.testing.assert_allclose(intervals[1], table[table.task == "tone"][["low", "high"]])
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "mood rows",
        "tone rows",
        "together",
    ]
    assert names(ax) == ["on mood texts", "on tone texts"]
    assert rows[0][0][0] < rows[1][0][0]


def test_composition_does_not_depend_on_the_order_of_the_rows_of_an_edit():
    table = composition()
    turned = table.iloc[[1, 0, 2, 3, 5, 4]]
    assert sorted(map(str, bars(plot_composition(turned))[1][1])) == sorted(
        map(str, bars(plot_composition(table))[0][1])
    )
