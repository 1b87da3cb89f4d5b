"""Every figure looks right in any style that is set, on its own axes and on given ones, light and
dark; words are readable."""

import re
from collections.abc import Iterable
from importlib.resources import files
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

import steerlens.show as show
from steerlens.show import style
from tests.show.drawn import DRAWN, SCORES


@pytest.fixture(autouse=True)
def closed():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    mpl.rcParams.update(before)


def styled(name: str) -> None:
    if name == "seaborn":
        sns.set_theme(context="talk", style="darkgrid")
    else:
        plt.style.use(name)


def tick_labels(ax: Axes) -> dict[str, list[plt.Text]]:
    """What is written at the ticks that are in view, by axis."""
    found = {}
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels = [t for t in axis.get_ticklabels(which="both") if t.get_text() and t.get_visible()]
        found[name] = [t for t in labels if low <= t.get_position()[name == "y"] <= high]
    return found


def overlap(labels: Iterable[plt.Text]) -> list[tuple[str, str]]:
    """Pairs of texts that lie on one another, as they are drawn now."""
    extents = [(t.get_text(), t.get_window_extent().padded(-1)) for t in labels]
    return [(a, b) for (a, one), (b, other) in combinations(extents, 2) if one.overlaps(other)]


def check(name: str, ax: Axes) -> None:
    """A figure that was drawn: our sizes, nothing on anything, every word seen, the legend off the
    data."""
    labels = tick_labels(ax)
    for texts in labels.values():
        assert overlap(texts) == [], name
    assert {t.get_size() for texts in labels.values() for t in texts} <= {7.5}, name
    ground = to_hex(ax.figure.get_facecolor())
    legend = ax.get_legend()
    words = [ax.xaxis.label, ax.yaxis.label, ax.title, *labels["x"], *labels["y"]]
    words += legend.findobj(plt.Text) if legend else []
    for text in words:
        assert not text.get_text() or style.contrast(to_hex(text.get_color()), ground) >= 4.5, (
            name,
            text,
        )
    if legend:
        assert legend.get_window_extent().y0 >= ax.get_window_extent().y1 - 1, name


def test_every_plot_is_public_and_drawn_here():
    plots = {name for name in show.__all__ if name.startswith("plot_")}
    assert plots - {"plot_components"} == set(DRAWN)
    assert dir(show) == sorted(show.__all__) and all(
        callable(getattr(show, name)) for name in show.__all__
    )
    with pytest.raises(AttributeError, match=r"no attribute 'plot_x'; it has .*plot_cost"):
        _ = show.plot_x  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("which", ["seaborn", "dark_background"])
def test_given_axes_are_dressed_whatever_style_they_were_made_in_and_settings_stay(which: str):
    styled(which)
    before = dict(mpl.rcParams)
    fig, panels = plt.subplots(
        6, 4, figsize=(4 * style.COLUMN, 18), gridspec_kw={"hspace": 0.8, "wspace": 0.4}
    )
    for ax, (name, draw) in zip(panels.flat, DRAWN.items(), strict=False):
        assert draw(ax) is ax and dict(mpl.rcParams) == before, name
    fig.canvas.draw()
    for ax, name in zip(panels.flat, DRAWN, strict=False):
        assert ax.has_data() or ax.texts, name
        check(name, ax)


@pytest.mark.parametrize("name", DRAWN)
def test_new_axes_are_right_though_they_are_drawn_in_other_settings(name: str):
    styled("seaborn")
    before = dict(mpl.rcParams)
    ax = DRAWN[name](None)
    assert dict(mpl.rcParams) == before
    ax.figure.canvas.draw()
    check(name, ax)
    legend, whole = ax.get_legend(), ax.figure.bbox
    assert legend is None or (
        legend.get_window_extent().x1 <= whole.x1 + 1
        and legend.get_window_extent().y1 <= whole.y1 + 1
    )


def test_ticks_of_small_numbers_do_not_run_into_one_another_in_narrow_panels():
    with style.look():
        fig, panels = plt.subplots(
            1, 4, sharex=True, figsize=(2.2 * style.COLUMN, 3), layout="constrained"
        )
        for ax in panels:
            show.plot_singular_words(SCORES, ax=ax)
    fig.canvas.draw()
    assert overlap(label for ax in panels for label in tick_labels(ax)["x"]) == []
    assert "10^{−4}" in panels[0].xaxis.get_offset_text().get_text()


def test_panels_have_letters_above_their_legends():
    with style.look():
        fig, panels = plt.subplots(1, 2, figsize=(2 * style.COLUMN, 2.5), layout="constrained")
        DRAWN["plot_quality"](panels[0])
        DRAWN["plot_singular_words"](panels[1])
        style.label_panels(panels, ["quality"])
    fig.canvas.draw()
    assert [ax.get_title(loc="left") for ax in panels] == [
        "$\\mathbf{a}$  quality",
        "$\\mathbf{b}$",
    ]
    title = next(
        t
        for t in panels[0].findobj(plt.Text)
        if "quality" in t.get_text() and "mathbf" in t.get_text()
    )
    assert title.get_window_extent().y0 >= panels[0].get_legend().get_window_extent().y1 - 2


def test_what_is_new_in_a_dark_notebook_is_dark_and_the_page_asks_for_light():
    plt.style.use("dark_background")
    with style.look():
        assert (
            style.ink() == style.DARK[style.INK]
            and style.neutral(style.LINE) == style.DARK[style.LINE]
        )
        with style.look():  # as figures inside a block of one's own
            assert style.ink() == style.DARK[style.INK]
    with style.look(dark=False):
        assert style.ink() == style.INK and style.neutral(style.LINE) == style.LINE


@pytest.mark.parametrize("ground", ["none", "#0000", (0, 0, 0, 0), ("black", 0.0)])
def test_a_ground_that_is_seen_through_is_taken_for_white_however_it_is_written(ground: ColorType):
    with mpl.rc_context({"figure.facecolor": "black"}), style.look():
        assert style.ink() == style.DARK[style.INK]
    with mpl.rc_context({"figure.facecolor": ground}), style.look():
        assert style.ink() == style.INK


@pytest.mark.parametrize("canvas", [FigureCanvasPdf, FigureCanvasSVG])
def test_the_legend_is_laid_out_alike_where_the_backend_only_writes_files(
    canvas: type[FigureCanvasBase],
):
    columns = []
    for kind in (FigureCanvasAgg, canvas):
        ax = Figure((3, 2)).subplots()
        kind(style.figure_of(ax))
        for name in ("short", "a long name", "a name that is longer", "a last one"):
            ax.plot([0, 1], label=name)
        style.legend_above(ax)
        style.title_above(ax, "title")
        columns.append(ax.get_legend()._ncols)
    assert columns[0] == columns[1] < 4


@given(st.floats(-30, 30), st.floats(0, 30))
def test_words_on_any_chip_have_a_contrast_of_four_and_a_half(strength: float, top: float):
    ground = style.shade(strength, 1.15 * top)
    assert style.contrast(style.on(ground), ground) >= 4.5


def sheet() -> dict[str, dict[str, str]]:
    """The page's colours, light and dark."""
    css = (files("steerlens.show.report") / "templates" / "style.css").read_text(encoding="utf-8")
    light, dark, *_ = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return {
        scheme: dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text))
        for scheme, text in (("light", light), ("dark", dark))
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_of_the_page_and_colours_of_its_data_are_seen(scheme: str):
    colours = sheet()[scheme]
    for ground in ("paper", "card"):
        for words in ("ink", "soft", "good", "bad"):
            assert style.contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
    data = [
        style.BLUE,
        style.GREY,
        style.RED,
        style.GREEN,
        style.PURPLE,
        style.AMBER,
        style.TEAL,
        style.PINK,
        style.OLIVE,
    ]
    for colour in [*data, *(style.shade(x, 1) for x in np.linspace(-1, 1, 41))]:
        assert style.contrast(colour, colours["paper"]) >= 3, colour


def test_figures_and_page_agree_on_neutral_colours():
    light, dark = sheet()["light"], sheet()["dark"]
    for name, colour in (
        ("ink", style.INK),
        ("soft", style.SOFT),
        ("paper", style.PAPER),
        ("line", style.LINE),
    ):
        assert (light[name], dark[name]) == (colour, style.DARK[colour])
