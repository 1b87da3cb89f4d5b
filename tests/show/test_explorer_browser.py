"""The explorer in a real browser: what its script shows is what Python computes, what others wrote
does nothing, and keys, links, small screens and dark ones work."""

import base64
import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from steerlens.show import explorer
from steerlens.show.explorer.page import page as render
from tests.show.browser import Page, browser, find_browser
from tests.show.test_explorer import fits, hostile, model, one, two  # noqa: F401  (fixtures)

READY = "!document.getElementById('explorer').hidden"
SHARES = (
    "[...document.querySelectorAll('#bars li')].map("
    "x => [x.querySelector('.word').textContent, +x.dataset.p, +x.dataset.plain])"
)


@pytest.fixture(scope="module")
def page():
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: install one, or name it with STEERLENS_CHROMIUM")
    with browser(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def silence(page: Page):
    """No test leaves a word on the console or asks for anything but its own file."""
    page.said.clear()
    page.asked.clear()
    page.resize(1280, 900)
    yield
    assert page.said == []
    assert {address.split(":")[0] for address in page.asked} <= {"file", "about", "data"}


@pytest.fixture(scope="module")
def files(one, two, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    folder = tmp_path_factory.mktemp("pages")
    return {
        name: shown.save(folder / f"{name}.html") for name, shown in (("one", one), ("two", two))
    }


def move(page: Page, *strengths: float) -> None:
    """Drag the sliders."""
    for j, s in enumerate(strengths):
        page.ask(
            f"{{ const x = document.getElementById('strength-{j}'); x.value = {s}; x.dispatchEvent(new Event('input')); }}"
        )


def shown_text(page: Page, side: str) -> str:
    return page.ask(
        f"[...document.querySelectorAll('#{side} [role=option]')].map(x => x.textContent).join(' ')"
    )


@pytest.mark.parametrize("strengths", [(-2.0, 0.0), (2.0, 2.0), (0.63, -1.37)])
def test_moving_the_sliders_shows_what_python_computes(page, files, two, strengths):  # noqa: F811
    e = two.exploration
    page.open(files["two"], wait=READY)
    before = page.ask(SHARES)
    move(page, *strengths)
    near = [
        int(np.abs(np.array(axis) - s).argmin()) for axis, s in zip(e.stops, strengths, strict=True)
    ]
    written = e.written[e.grid[0, near[0], near[1]]]
    words = [piece.strip() for piece in written.pieces]
    assert shown_text(page, "steered") == " ".join(words)
    assert shown_text(page, "plain") == " ".join(
        piece.strip() for piece in e.written[e.grid[0, 1, 1]].pieces
    )
    at = written.positions[written.start]
    found = page.ask(SHARES)
    assert found != before and len(found) == 11
    for s, column in ((strengths, 1), ((0.0, 0.0), 2)):
        exact = np.exp(e.candidates.log_probs(e.readout.head, s)[at])
        names = [e.readout.tokens[i].strip() for i in e.candidates.ids[at]]
        known = dict(zip(names, exact, strict=True))
        assert [row[0] for row in found[:-1]] and all(row[0] in known for row in found[:-1])
        assert all(abs(row[column] - known[row[0]]) < 1e-6 for row in found[:-1])
        assert abs(found[-1][column] - (1 - sum(known[row[0]] for row in found[:-1]))) < 1e-6
    # the likeliest come first; the last may be the written word instead
    likeliest = np.sort(np.exp(e.candidates.log_probs(e.readout.head, strengths)[at]))[::-1]
    assert np.allclose([row[1] for row in found[:9]], likeliest[:9], atol=1e-6)
    assert (
        abs(float(page.ask("document.getElementById('gauge').dataset.kl")) - e.cost.at(strengths))
        < 1e-9
    )
    assert page.ask(
        "document.querySelector('.dial output').textContent"
    ) == f"{strengths[0]:+g}".replace("-", "−")


def test_a_scale_and_a_soft_cap_are_applied_in_the_page_too(page, one, tmp_path):  # noqa: F811
    on = dataclasses.replace(one.exploration.readout, scale=0.7, softcap=3.0)
    e = dataclasses.replace(one.exploration, readout=on)
    path = tmp_path / "capped.html"
    path.write_text(render(e), encoding="utf-8")
    page.open(path, "#s=3", wait=READY)
    written = e.written[e.grid[0, 3]]
    exact = np.exp(e.candidates.log_probs(on.head, (3.0,))[written.positions[written.start]])
    plain = np.exp(one.exploration.candidates.log_probs(one.exploration.readout.head, (3.0,)))
    found = [row[1] for row in page.ask(SHARES)[:9]]
    assert np.allclose(found, np.sort(exact)[::-1][:9], atol=1e-6)
    assert not np.allclose(
        found, np.sort(plain[written.positions[written.start]])[::-1][:9], rtol=0.1
    )


def test_every_place_of_a_text_can_be_chosen(page, files, one):  # noqa: F811
    e = one.exploration
    written = e.written[e.grid[0, 3]]
    page.open(files["one"], "#s=3", wait=READY)
    exact = np.exp(e.candidates.log_probs(e.readout.head, (3.0,)))
    for i in (1, written.start, len(written.pieces) - 1):
        page.ask(f"document.querySelectorAll('#steered [role=option]')[{i}].click()")
        (mine,) = [row for row in page.ask(SHARES)[:-1] if row[0] == written.pieces[i].strip()]
        assert abs(mine[1] - exact[written.positions[i], 0]) < 1e-6
        said = page.ask("document.getElementById('context').textContent")
        assert said == "Steered text, after: " + "".join(written.pieces[:i])


def test_colours_and_boxes_follow_the_evidence(page, files, two):  # noqa: F811
    e = two.exploration
    page.open(files["two"], "#s=2,2&c=1", wait=READY)
    written = e.written[e.grid[0, 2, 2]]
    colours = page.ask(
        "[...document.querySelectorAll('#steered [role=option]')].map(x => x.style.backgroundColor)"
    )
    for colour, x in zip(colours, written.evidence[1], strict=True):
        if abs(x) > 0.2:
            assert colour.startswith("rgba(208, 73, 47" if x > 0 else "rgba(58, 127, 196")
    sums = page.ask("[...document.querySelectorAll('#steered .box small')].map(x => x.textContent)")
    assert sums == [f"\u00a0{s.value:+.1f}".replace("-", "−") for s in written.spans[1]]
    page.ask("document.querySelectorAll('[name=colour]')[2].click()")
    assert page.ask("document.querySelectorAll('#steered .box').length") == 0
    move(page, 0, 0)  # nothing is changed, so nothing is coloured
    drawn = "[...document.querySelectorAll('.text [role=option]')].every(x => x.style.backgroundColor.endsWith(', 0)'))"
    assert page.ask(drawn)


def test_hovering_tells_the_probabilities_of_a_word(page, files, one):  # noqa: F811
    e = one.exploration
    page.open(files["one"], "#s=3", wait=READY)
    written = e.written[e.grid[0, 3]]
    word = f"document.querySelectorAll('#steered [role=option]')[{written.start}]"
    corner = page.ask(
        f"(() => {{ const r = {word}.getBoundingClientRect(); return [r.x, r.y]; }})()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=corner[0] + 4, y=corner[1] + 4)
    said = page.ask("document.getElementById('tip').textContent")
    p = [
        np.exp(e.candidates.log_probs(e.readout.head, (s,))[written.positions[written.start], 0])
        for s in (0.0, 3.0)
    ]
    told = [float(x.split(" %")[0].split()[-1]) / 100 for x in said.split("\n")[0].split(", ")]
    assert np.allclose(told, p, rtol=0.06, atol=0.0001)
    assert f"{written.evidence[0][written.start]:+.2f}".replace("-", "−") in said
    page.press("Escape")
    assert page.ask("document.getElementById('tip').hidden")


def test_a_link_holds_the_view(page, files, two):  # noqa: F811
    link = "#p=1&s=-2,0.5&w=plain.2&c=1"
    page.open(files["two"], link, wait=READY)
    assert page.ask("location.hash") == link
    seen = page.ask(SHARES)
    written = two.exploration.written[two.exploration.grid[1, 1, 1]]
    assert shown_text(page, "plain") == " ".join(piece.strip() for piece in written.pieces)
    assert page.ask("document.getElementById('prompt').value") == "1"
    page.open(files["two"], wait=READY)
    assert page.ask(SHARES) != seen
    page.ask(f"location.hash = '{link}'; new Promise(done => setTimeout(done, 50))")
    assert page.ask(SHARES) == seen


@pytest.mark.parametrize(
    "link", ["#p=99&s=1e9,nan&w=plain.9999&c=7", "#%", "#s=,&p=-1&w=constructor.1", "#p=1.5&c=x"]
)
def test_a_broken_link_shows_the_page_all_the_same(page, files, link: str):
    page.open(files["two"], link, wait=READY)
    assert len(page.ask(SHARES)) == 11
    assert all(0 <= row[1] <= 1 for row in page.ask(SHARES))


def test_keys_move_strengths_and_words(page, files, one):  # noqa: F811
    page.open(files["one"], wait=READY)
    page.ask("document.getElementById('strength-0').focus()")
    value = "document.getElementById('strength-0').getAttribute('aria-valuetext')"
    presses = {"End": "+3", "PageDown": "+1.5", "ArrowLeft": "+1.46", "Home": "−1", "PageUp": "0"}
    for key, seen in presses.items():
        page.press(key)
        assert page.ask(value) == seen, key
    page.ask("document.querySelector('.zero').click()")
    assert page.ask(value) == "0"
    page.ask("document.querySelector('#steered [tabindex=\"0\"]').focus()")
    page.press("Home")
    page.press("ArrowRight")
    assert page.ask("document.activeElement.dataset.piece") == "1"
    assert page.ask("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.ask("document.querySelectorAll('[aria-selected=true]').length") == 1


def test_the_picture_is_svg_of_what_is_shown(page, files):
    page.open(files["one"], "#s=1.5", wait=READY)
    page.ask("URL.createObjectURL = (x) => { window.kept = x; return 'about:blank#'; }")
    page.ask("HTMLAnchorElement.prototype.click = function () { window.name_ = this.download; }")
    page.ask("document.getElementById('save').click()")
    assert page.ask("window.name_") == "steerlens-joy1.5.svg"
    root = ElementTree.fromstring(page.ask("window.kept.text()"))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0].startswith("joy +1.5 on toy-64: ")
    for label, *_ in page.ask(SHARES):
        assert label in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}script"))) == 0


def test_what_others_wrote_does_nothing(page, one, tmp_path):  # noqa: F811
    path = tmp_path / "evil.html"
    path.write_text(hostile(one), encoding="utf-8")
    page.open(path, wait=READY)
    move(page, 3)
    page.ask("document.querySelectorAll('#plain [role=option]')[1].click()")
    page.ask("document.getElementById('save').click()")
    assert page.ask("window.pwned") is None
    assert page.ask("document.querySelectorAll('img').length") == 0
    assert "<img src=x" in page.ask("document.getElementById('steered').textContent")
    assert page.ask("document.querySelector('#bars .word').textContent").endswith("${1}")


def test_the_policy_stops_scripts_and_requests_even_so(page, files):
    page.open(files["one"], wait=READY)
    page.ask(
        "{ const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s); }"
    )
    page.ask(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\" onerror=\"window.pwned = 2\">')"
    )
    assert page.ask("fetch('https://example.org').then(() => 'sent', () => 'stopped')") == "stopped"
    assert page.ask("window.pwned") is None
    assert len(page.said) >= 3 and all("Content Security Policy" in line for line in page.said)
    page.said.clear()
    page.asked[:] = [
        address for address in page.asked if not address.startswith("https://example.org")
    ]


@pytest.mark.parametrize("width", [320, 390, 800, 1600])
def test_it_fits_every_screen_light_and_dark(page, files, width: int):
    grounds = []
    for dark in (False, True):
        page.resize(width, 800, dark=dark)
        page.open(files["two"], "#s=1,-1", wait=READY)
        assert page.ask("document.documentElement.scrollWidth") <= width
        grounds.append(page.ask("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(23, 24, 27)"]


FAKE = """
globalThis.kernel = { prompt: "my", html: "<b>one</b>", said: "", heard: {}, sent: [] };
globalThis.model = {
  get: (name) => kernel[name],
  set: (name, x) => { kernel[name] = x; },
  on: (name, f) => { kernel.heard[name] = f; },
  off: (name, f) => { if (kernel.heard[name] === f) delete kernel.heard[name]; },
  save_changes: () => { kernel.sent.push(kernel.prompt); },
};
"""
"""What a notebook hands to a widget."""


def test_the_widget_sends_prompts_and_shows_what_comes_back(page, files):
    source = (Path(explorer.__file__).parent / "templates" / "widget.js").read_text("utf-8")
    page.open(files["one"], wait=READY)
    page.call("Page.navigate", url="about:blank")
    page.ask(FAKE)
    link = "data:text/javascript;base64," + base64.b64encode(source.encode()).decode()
    page.ask(
        f"import('{link}').then(x => {{ globalThis.end = x.default.render({{ model, el: document.body }}); }})"
    )
    assert page.ask("document.querySelector('iframe').srcdoc") == "<b>one</b>"
    assert (
        page.ask("document.querySelector('iframe').sandbox.value")
        == "allow-scripts allow-downloads"
    )
    page.ask("document.querySelector('input').value = '<i>you</i>'")
    page.ask("document.querySelector('form').requestSubmit()")
    assert page.ask("kernel.sent") == ["<i>you</i>"]
    page.ask("kernel.said = 'writing …'; kernel.heard['change:said']()")
    assert page.ask("document.querySelector('button').disabled")
    page.ask("kernel.html = 'two'; kernel.said = '<i>no</i>'")
    page.ask("Object.values(kernel.heard).forEach(f => f())")
    assert page.ask("document.querySelector('iframe').srcdoc") == "two"
    assert page.ask("document.querySelector('[role=status]').textContent") == "<i>no</i>"
    assert not page.ask(
        "document.querySelector('button').disabled || !!document.querySelector('i')"
    )
    page.ask("end()")
    assert page.ask("Object.keys(kernel.heard).length") == 0
