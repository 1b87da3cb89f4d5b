"""Figures on the page are its own words and colours, and ask for nothing from elsewhere."""

import re
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import pytest

from steerlens.show import style
from steerlens.show.report.svg import inline_svg
from tests.show.drawn import DRAWN


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(name: str, alt: str = "what it shows") -> str:
    with style.look(dark=False):
        return str(inline_svg(DRAWN[name](None).figure, name, alt))


@pytest.mark.parametrize("name", ["plot_cost", "plot_written_attribute", "plot_gap_closed"])
def test_its_neutral_colours_are_the_pages_and_its_words_are_text(name: str):
    svg = drawn(name)
    root = ET.fromstring(svg)
    assert root.get("aria-label") == "what it shows" and root.get("role") == "img"
    for colour in (style.INK, style.SOFT, style.PAPER, style.LINE):
        assert colour not in svg
    assert "var(--ink)" in svg and "http" not in svg and "<style" not in svg
    assert "strength" in "".join(root.itertext()) or "grade" in "".join(root.itertext())


def test_figures_of_a_page_share_no_id_and_find_their_own():
    ids = []
    for name in ("plot_cost", "plot_label_curve", "plot_losses"):
        svg = drawn(name)
        mine = re.findall(r'\bid="([^"]+)"', svg)
        wanted = re.findall(r'(?:href="|url\()#([^")]+)', svg)
        assert set(wanted) <= set(mine)
        ids += mine
    assert len(ids) == len(set(ids))


def test_what_is_drawn_in_a_dark_notebook_is_drawn_light_for_the_page():
    plt.style.use("dark_background")
    try:
        svg = drawn("plot_cost")
    finally:
        plt.rcdefaults()
    assert "var(--ink)" in svg and style.DARK[style.INK] not in svg


def test_numbers_that_are_read_stay_whole_and_places_are_short():
    with style.look(dark=False):
        ax = style.axes()
        ax.set_title("0.8467")
    svg = inline_svg(ax.figure, "numbers", "a number")
    assert "0.8467" in "".join(ET.fromstring(svg).itertext())
    assert not re.search(r"<path[^>]*\d\.\d{3,}[^>]*>", svg)


def test_words_and_descriptions_are_escaped():
    with style.look(dark=False):
        ax = style.axes()
        ax.set_xlabel("<script>1</script> & more", parse_math=False)
    svg = inline_svg(ax.figure, "evil", "'><script>2</script>")
    assert "<script" not in svg
    assert "<script>1</script> & more" in "".join(ET.fromstring(svg).itertext())
