"""Figures of a steer's reading show the numbers of what they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from steerlens.analysis.highlight import Highlight
from steerlens.analysis.svd import Spectrum
from steerlens.evaluate.strength import TextStrengths
from steerlens.show import reading


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def highlighted(words: list[str], evidence: list[float], spans: list[tuple]) -> Highlight:
    tokens = pd.DataFrame({"token": [f" {w}" for w in words], "evidence": evidence})
    return Highlight(
        "joy", 1.0, -1.0, tokens, pd.DataFrame(spans, columns=["start", "end", "text", "evidence"])
    )


def test_a_text_is_drawn_word_by_word_with_its_spans():
    found = highlighted(["a", "good", "film"], [0.0, 2.0, -0.5], [(1, 2, "good", 2.0)])
    ax = reading.plot_highlight(found)
    assert [t.get_text().strip() for t in ax.texts] == ["a", "good", "+2.0", "film"]
    depth = [round(p.get_alpha(), 3) for p in ax.patches if p.get_alpha() is not None]
    assert depth == [0.0, 0.7, 0.175]
    assert len([p for p in ax.patches if p.get_alpha() is None]) == 1  # the box


def test_a_long_text_breaks_into_lines_and_stays_inside():
    words = ["wonderful"] * 60
    ax = reading.plot_highlight(highlighted(words, [1.0] * 60, [(10, 14, "…", 4.0)]), width=4.0)
    places = [t.get_position() for t in ax.texts if t.get_text() == "wonderful"]
    assert len({y for _, y in places}) > 5 and len(places) == 60
    renderer = ax.figure.canvas.get_renderer()
    right = max(t.get_window_extent(renderer).x1 for t in ax.texts)
    assert right <= ax.figure.get_window_extent().x1 + 1


def test_strengths_are_marked_at_their_tops():
    table = pd.DataFrame({
        "text": [0, 1], "tokens": 5, "strength": [1.0, 10.0], "error": [0.5, float("inf")], "robust_error": 0.5,
        "gain": [0.5, 3.0], "evidence": 2.0, "at_limit": [False, True],
    })  # fmt: skip
    curve = pd.DataFrame(
        [
            (t, 0, "a", s, s - s * s / 2 if t == 0 else s / 2)
            for t in (0, 1)
            for s in (-1.0, 0.0, 1.0, 2.0)
        ],
        columns=["text", "position", "token", "strength", "log_likelihood"],
    )
    ax = reading.plot_text_strengths(
        TextStrengths("joy", table, pd.DataFrame(), curve), names=["one", "two"]
    )
    marked = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert marked == [(1.0, 0.5)]  # the other has no top
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["one", "two"]


def test_a_spectrum_shows_gains_and_what_is_kept():
    table = pd.DataFrame(
        {"direction": [1, 2], "gain": [2.0, 1.0], "share": [0.8, 0.2], "cumulative": [0.8, 1.0]}
    )
    again = pd.DataFrame(
        {"direction": [1, 2], "gain": [2.0, 1.0], "kept": [0.5, -0.3], "spread": 0.1}
    )
    ax = reading.plot_spectrum(Spectrum(table, 1.6, 2.5), again)
    assert [bar.get_height() for bar in ax.patches] == [2.0, 1.0, 1.0, 0.0]
    assert ax.get_ylabel() == "gain (nats)" and "80\u202f%" in ax.texts[0].get_text()
    plain = reading.plot_spectrum(Spectrum(table, 1.6, None))
    assert plain.get_ylabel() == "singular value" and len(plain.patches) == 2


def test_components_show_both_ends_and_doubt():
    table = pd.DataFrame({
        "component": [1, 2], "share": [0.5, 0.1], "stability": [0.95, 0.3], "chance": 0.1,
        "top": ["good, fine", "cat"], "bottom": ["bad", "dog"],
    })  # fmt: skip
    first, second = reading.plot_components(table).axes[:2]
    assert [t.get_text() for t in first.texts] == ["bad", "good", "fine"]
    assert "50\u202f% of variance, stability 0.95" in first.get_title()
    assert {t.get_color() for t in first.texts} == {reading.BLUE, reading.RED}
    assert {t.get_color() for t in second.texts} == {reading.GREY}
