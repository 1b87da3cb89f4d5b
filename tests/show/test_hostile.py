"""What others wrote is text in everything that shows itself as HTML: in a real browser too."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.analysis.embeddings.compare import Comparison
from steerlens.analysis.embeddings.table import ResultTable
from steerlens.analysis.highlight import Highlight
from steerlens.analysis.svd.directions import Spectrum
from steerlens.analysis.transfer.report import TransferReport
from steerlens.evaluate.advise import Advice, Gate
from steerlens.evaluate.strength import TextStrengths
from steerlens.methods.gist.distill import Distilled
from steerlens.methods.prompt.soft_prompt import SoftPrompt
from steerlens.show.explorer.build import Explorer
from steerlens.values.alignment import Alignment
from steerlens.values.fit import Fit, Report
from steerlens.values.losses import Losses
from tests.show.browser import Page, assert_inert, browser, find_browser

EVIL = (
    "</td></div></script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>"
    "<a href='javascript:window.pwned=3'>&\"'`><svg onload=window.pwned=4>"
)
TABLE = pd.DataFrame({"rule": [EVIL], EVIL: [1.0], "gap_closed": [0.5], "saved": [2.0]})


def words() -> sl.Readout:
    return sl.Readout(torch.eye(2), torch.zeros(2), (EVIL, EVIL + "b"), model_id=EVIL)


def report() -> Report:
    losses = Losses(1.0, 1.0, 1.0, 1.0)
    return Report(
        EVIL, losses, losses, {1.0: losses}, (0.1, 0.1), None, None, EVIL, 1.0, 1.0, 1, 1, 0, 0,
        settings={EVIL: EVIL},
    )  # fmt: skip


def alignment() -> Alignment:
    ids = torch.arange(2)
    return Alignment(
        words(), words(), torch.eye(2), words().tokens, ids, ids, torch.ones(2) / 2, True, 0.0, 2,
        1.0, 0.5, torch.ones(2),
    )  # fmt: skip


def samples() -> dict[type, Any]:
    """One of each class that shows itself, with an attack wherever a text can be."""
    on, spans = words(), pd.DataFrame({"start": [0], "end": [1], "text": [EVIL], "evidence": [1.0]})
    steer = sl.Steer(torch.eye(2), on, EVIL)
    rows = SoftPrompt(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "soft", (), on, EVIL)
    pieces = pd.DataFrame({"token": [EVIL, " \n", "$x$"], "evidence": [1.0, -1.0, 0.5]})
    return {
        Advice: Advice(EVIL, 1.0, 0.1, EVIL, (1.0, 0.5, 2.0), 3.0, 2.0, (Gate(EVIL, False, EVIL),)),
        Alignment: alignment(),
        Comparison: Comparison(TABLE, TABLE, (EVIL,)),
        Distilled: Distilled(rows, EVIL, TABLE, (), 1, 0, 1.0, 0),
        Explorer: Explorer(None, f"<!doctype html><p>{'x'}</p>"),  # pyright: ignore
        Fit: Fit(steer, steer, report()),
        Highlight: Highlight(EVIL, 1.0, 0.0, pieces, spans, True, EVIL),
        Report: report(),
        ResultTable: ResultTable(TABLE, (EVIL,)),
        Spectrum: Spectrum(TABLE, 1.0),
        TextStrengths: TextStrengths(EVIL, TABLE, TABLE, TABLE),
        TransferReport: TransferReport(TABLE, {EVIL: steer}, alignment(), 0.5, 0.1),
    }


def those_that_show_themselves() -> Iterator[type]:
    for _, name, _ in pkgutil.walk_packages(sl.__path__, "steerlens."):
        if not name.endswith("__main__"):
            for found in vars(importlib.import_module(name)).values():
                own = isinstance(found, type) and found.__module__ == name
                if own and "_repr_html_" in vars(found):
                    yield found


class Tags(HTMLParser):
    """The tags and attributes that a page has."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_every_class_that_shows_itself_is_tried(unchecked) -> None:
    assert set(samples()) == set(those_that_show_themselves())


def test_none_has_a_tag_that_a_text_asked_for(unchecked) -> None:
    for kind, value in samples().items():
        tags = Tags(value._repr_html_())
        assert not tags.found & {"script", "img", "svg", "a", "object", "embed"}, kind
        assert not any(name.startswith("on") for name in tags.attributes), kind
        allowed = {"iframe"} if kind is Explorer else set()
        assert tags.found & {"iframe"} == allowed


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: install one, or name it with STEERLENS_CHROMIUM")
    with browser(path) as opened:
        yield opened


def test_none_does_anything_in_a_browser(page: Page, tmp_path: Path, unchecked) -> None:
    parts = [f"<section>{value._repr_html_()}</section>" for value in samples().values()]
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'>{''.join(parts)}", encoding="utf-8")
    assert_inert(page, file, EVIL)
    # what is within stays within: no text closed what it stands in
    assert page.ask("document.body.children.length") == len(parts)


def test_the_attack_is_one(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "live.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'>{EVIL}", encoding="utf-8")
    page.open(file)
    assert page.ask("window.pwned")
    with pytest.raises(AssertionError):
        assert_inert(page, file, EVIL)


def test_dollars_are_no_mathematics_to_a_notebook() -> None:
    pieces = pd.DataFrame({"token": ["$5", " or", " $6"], "evidence": [1.0, 0.0, -1.0]})
    shown = Highlight("joy", 1.0, 0.0, pieces, pieces.head(0).assign(start=[], end=[]))
    assert re.search(r"<div class='tex2jax_ignore mathjax_ignore'", shown._repr_html_())
