"""The explorer's numbers are Python's, its page needs nothing else, and what others wrote in it is
inert."""

import base64
import dataclasses
import hashlib
import html
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import steerlens as sl
from steerlens.cli import app
from steerlens.evaluate.losses import kl_at_strengths
from steerlens.maths.logits import logits
from steerlens.show.explorer import build
from steerlens.show.explorer.build import Explorer, explore, read_known
from steerlens.show.explorer.candidates import TOLERANCE, mean_kl, tabulate
from steerlens.show.explorer.chebyshev import Box
from steerlens.show.explorer.page import data, labels, page
from steerlens.show.explorer.study import PRICE, Known

PROMPTS = ["the film was", "my"]
EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>&\"'`${1}"


@pytest.fixture(scope="module")
def model():
    return sl.load_model("toy-64")


@pytest.fixture(scope="module")
def fits(model):
    return {
        name: sl.fit_steer(
            sl.collect(model, sl.toy.corpus(name, n=200, seed=0), progress=False),
            name=name,
            progress=False,
        )
        for name in ("sentiment", "tone")
    }


@pytest.fixture(scope="module")
def one(model, fits) -> Explorer:
    return explore(model, {"joy": fits["sentiment"]}, PROMPTS, strengths=(-1, 0, 1.5, 3), seed=3)


@pytest.fixture(scope="module")
def two(model, fits) -> Explorer:
    return explore(
        model,
        {"joy": fits["sentiment"], "manners": fits["tone"].value},
        PROMPTS,
        texts=list(sl.toy.corpus("tone", n=40, seed=1).texts),
        strengths=(-2, 0, 2),
        max_new_tokens=8,
    )


def decoded(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


@given(st.integers(1, 2), st.integers(2, 7), st.lists(st.floats(-1, 1), min_size=49, max_size=49))
def test_polynomials_of_a_lower_degree_are_exact(axes: int, n: int, numbers: list[float]):
    box = Box((-1.5, -0.2)[:axes], (0.5, 3.0)[:axes], n)

    def f(s: np.ndarray) -> np.ndarray:
        powers = [s[:, k, None] ** np.arange(n) for k in range(axes)]
        a = np.array(numbers)[: n**axes].reshape((n,) * axes)
        return powers[0] @ a if axes == 1 else np.einsum("qi,qj,ij->q", *powers, a)

    at = box.probes(5)
    exact = f(at)
    assert np.allclose(
        box.basis(at) @ box.coefficients(f(box.nodes)), exact, atol=1e-9 * (1 + np.abs(exact).max())
    )


@pytest.mark.parametrize("softcap, scale", [(None, 1.0), (None, 0.5), (4.0, 1.3)])
@pytest.mark.parametrize("n_steers", [1, 2])
def test_probabilities_are_those_of_the_whole_vocabulary(
    softcap: float | None, scale: float, n_steers: int
):
    random = torch.Generator().manual_seed(0)
    d, vocab, n, k = 6, 50, 7, 8
    W_U = torch.randn(d, vocab, generator=random)
    on = sl.Readout(
        W_U, torch.randn(vocab, generator=random), ("a",) * vocab, scale=scale, softcap=softcap
    )
    c, chosen = torch.randn(n, d, generator=random), torch.randint(vocab, (n,), generator=random)
    steers = [sl.Steer(0.15 * torch.randn(d, d, generator=random), on) for _ in range(n_steers)]
    ends = (-1.0, -2.0)[:n_steers], (2.0, 1.0)[:n_steers]
    found = tabulate(on.head, c, chosen, steers, ends, k)
    assert found.ids.shape == (n, k) and (found.ids[:, 0] == chosen.numpy()).all()
    assert all(len(set(row)) == k for row in found.ids.tolist())
    for s in np.random.default_rng(1).uniform(*ends, (5, n_steers)):
        moved = c + sum(float(x) * (c @ steer.W) for x, steer in zip(s, steers, strict=True))
        whole = torch.log_softmax(logits(on.head, moved), 1).gather(1, torch.from_numpy(found.ids))
        ours = found.log_probs(on.head, s.tolist())
        assert np.abs(ours - whole.numpy()).max() < TOLERANCE
        # the shifts matter, and so does the mass of all others
        assert np.abs(found.log_probs(on.head, (0.0,) * n_steers) - whole.numpy()).max() > 0.1
        alone = found._replace(rest=np.full_like(found.rest, 0.0)).log_probs(on.head, s.tolist())
        assert np.abs(alone - whole.numpy()).max() > 0.01


def test_a_polynomial_that_cannot_follow_is_refused_by_name():
    on = sl.Readout(torch.eye(3, 40) * 30, torch.zeros(40), ("a",) * 40)
    steer = sl.Steer(torch.roll(torch.eye(3), 1, 1), on)
    with pytest.raises(ValueError, match=r"strengths: between .* take smaller strengths"):
        chosen = torch.zeros(3, dtype=torch.long)
        tabulate(on.head, torch.eye(3), chosen, [steer], ((-50.0,), (50.0,)), 2)


def test_texts_are_those_that_generate_writes_at_each_stop(model, fits, one, two):
    e = one.exploration
    assert e.stops == ((-1.0, 0.0, 1.5, 3.0),)
    table = sl.generate(model, PROMPTS, fits["sentiment"], strengths=e.stops[0], seed=3, max_new_tokens=24)  # fmt: skip
    whole = [prompt + text for prompt, text in zip(table.prompt, table.text, strict=True)]
    shown = ["".join(e.written[k].pieces) for k in e.grid.ravel()]
    assert shown == whole and len(set(whole)) > 4
    e = two.exploration
    for (p, i, j), k in np.ndenumerate(e.grid):
        both = e.stops[0][i] * fits["sentiment"].value + e.stops[1][j] * fits["tone"].value
        row = sl.generate(model, [PROMPTS[p]], both, max_new_tokens=8)
        assert "".join(e.written[k].pieces) == PROMPTS[p] + row.text[0]


def test_every_word_has_the_probability_that_score_gives(model, fits, two):
    e = two.exploration
    for s in ((0.0, 0.0), (2.0, -2.0), (0.37, 1.21)):
        steer = s[0] * fits["sentiment"].value + s[1] * fits["tone"].value
        ours = e.candidates.log_probs(e.readout.head, s)[:, 0]
        for one in e.written[:6]:
            table = sl.score(model, ["".join(one.pieces)], steer, strengths=(1.0,), end=False)
            assert tuple(table.token) == one.pieces[len(one.pieces) - len(table) :]
            places = [at for at in one.positions if at >= 0]
            assert np.abs(ours[places] - table.log_prob.to_numpy()).max() < TOLERANCE


def test_positions_that_texts_share_are_there_once(one):
    e = one.exploration
    total = sum(sum(at >= 0 for at in w.positions) for w in e.written)
    assert len(e.candidates.ids) < total  # all texts of a prompt share the prompt's own
    first = [w for w in e.written if "".join(w.pieces).startswith(PROMPTS[0])]
    assert len(first) > 1 and len({w.positions[: w.start] for w in first}) == 1


def test_evidence_and_spans_are_those_of_highlight(model, fits, two):
    for one in two.exploration.written[:4]:
        for j, name in enumerate(("sentiment", "tone")):
            text = "".join(one.pieces)
            found = sl.highlight(model, fits[name], text, spans=2, price=PRICE)
            assert tuple(found.tokens.token) == one.pieces
            assert np.allclose(found.tokens.evidence, one.evidence[j], atol=1e-4)
            assert [(s.start, s.end) for s in one.spans[j]] == list(
                zip(found.spans.start, found.spans.end, strict=True)
            )


def test_the_cost_is_the_kl_of_the_model(model, fits, two):
    e = two.exploration
    states = sl.collect(model, list(sl.toy.corpus("tone", n=40, seed=1).texts), progress=False)
    assert e.given and e.cost.n_positions == states.n_positions
    for s in ((0.0, 0.0), (2.0, 2.0), (-1.3, 0.4)):
        both = s[0] * fits["sentiment"].value + s[1] * fits["tone"].value
        kl = float(kl_at_strengths(states, both, (1.0,))[0])
        assert abs(e.cost.at(s) - kl) < TOLERANCE and (kl > 0.01) == (s != (0.0, 0.0))


def test_stops_go_as_far_as_the_budget(model, fits):
    e = explore(model, {"joy": fits["sentiment"]}, ["my"], max_new_tokens=4).exploration
    (axis,) = e.stops
    assert len(axis) == 9 and axis[4] == 0 and axis[-1] == -axis[0]
    states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=3), progress=False)
    kl = mean_kl(states, [fits["sentiment"].value], np.array([[axis[-1]], [2 * axis[-1]]]))
    assert kl[0] < 0.8 and kl[1] > 0.4


def test_the_page_holds_these_numbers_and_nothing_that_ends_its_script(one):
    e, found = one.exploration, data(one.exploration)
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', one.html, re.S)
    assert block and not set(block[1]) & set("<>&'")
    assert json.loads(block[1]) == found
    ids = np.array(found["tokens"])[decoded(found["ids"], "<i4")]
    assert (
        ids.reshape(e.candidates.ids.shape)[0, 0]
        == labels(e.readout, e.candidates.ids[0, :1].tolist())[0]
    )
    for name in ("logits", "rest"):
        ours = getattr(e.candidates, name).astype("<f4").ravel()
        assert (decoded(found[name], "<f4") == ours).all()
    assert (
        decoded(found["shifts"][0], "<f4") == e.candidates.shifts[0].astype("<f4").ravel()
    ).all()


def test_the_page_runs_its_own_script_alone_and_loads_nothing(one):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', one.html)[1])
    style = re.search(r"<style>(.*?)</style>", one.html, re.S)[1]
    script = re.search(r"<script>(.*?)</script>", one.html, re.S)[1]
    for content in (style, script):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert one.html.count("<script") == 2 and one.html.count("<style") == 1
    for banned in ("innerHTML", "eval(", "<link", "<img", " style=", "onload", "@import", "url("):
        assert banned not in one.html
    assert re.findall(r"https?://[^\"'\s]+", one.html) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in one.html and len(one.html) < 300_000


def hostile(given: Explorer) -> str:
    """A page of which everything that others wrote is an attack."""
    e = given.exploration
    rename = {name: name + EVIL for name in e.names}
    words = pd.DataFrame(
        {"direction": [1], "side": ["+"], "gain": [1.0], "reads": [EVIL], "writes": [EVIL], "avoids": [EVIL]}
    )  # fmt: skip
    verdict = dataclasses.replace(
        next(k.verdict for k in e.known.values() if k.verdict), p=0.001, margin=1.0
    )
    e = dataclasses.replace(
        e,
        names=tuple(rename.values()),
        prompts=tuple(prompt + EVIL for prompt in e.prompts),
        known={new: Known(verdict, words) for new in rename.values()},
        written=tuple(
            dataclasses.replace(w, pieces=tuple(piece + EVIL for piece in w.pieces)) for w in e.written
        ),
        readout=dataclasses.replace(
            e.readout, tokens=tuple(t + EVIL for t in e.readout.tokens), model_id=EVIL
        ),
    )  # fmt: skip
    return page(e)


def test_what_others_wrote_is_text(one):
    found = hostile(one)
    assert found.count("<script") == 2 and "<img" not in found
    assert "&lt;img src=x" in found and "\\u003c/script\\u003e" in found


def test_tokens_can_be_seen_and_spaces_are_told_apart():
    on = sl.Readout(
        torch.eye(2, 8),
        torch.zeros(8),
        ("good", " good", " ", "\n", "", "\u200b", " ,"),
    )
    seen = ["good", "·good", "␣", "U+000A", "[unused 4]", "U+200B", "·,", "[unused 7]"]
    assert labels(on, range(8)) == seen
    words = sl.Readout(torch.eye(2), torch.zeros(2), (" good", " bad"))
    assert labels(words, range(2)) == ["good", "bad"]


def test_a_notebook_shows_the_page_apart_from_itself(one):
    shown = one._repr_html_()
    inner = re.search(r"srcdoc='([^']*)'", shown)
    assert inner and html.unescape(inner[1]) == one.html
    assert "sandbox='allow-scripts allow-downloads'" in shown and "same-origin" not in shown
    assert "joy on 'toy-64'" in repr(one) and "MB" in repr(one)


def test_an_empty_prompt_may_end_at_once(model, fits, monkeypatch):
    real = sl.generate
    empty = lambda *a, **k: real(*a, **k).assign(text=lambda t: t.text.where(t.strength != 0, ""))  # noqa: E731
    monkeypatch.setattr("steerlens.show.explorer.study.generate", empty)
    texts = list(sl.toy.corpus("tone", n=20, seed=1).texts)
    e = explore(
        model, {"joy": fits["sentiment"]}, [""], texts=texts, strengths=(-1, 0, 1), max_new_tokens=4
    ).exploration
    assert [bool(e.written[k].pieces) for k in e.grid[0]] == [True, False, True]
    assert e.written[e.grid[0, 0]].start == 0


def test_a_verdict_that_is_no_hides_the_words(model, fits):
    fit = fits["sentiment"]
    doubt = dataclasses.replace(fit.report, verdict=dataclasses.replace(fit.report.verdict, p=0.9))
    shown = explore(
        model, {"joy": dataclasses.replace(fit, report=doubt)}, ["my"], strengths=(-1, 1), max_new_tokens=2
    )  # fmt: skip
    assert (
        "Not told from shuffled labels" in shown.html
        and "where it was about to say" not in shown.html
    )
    plain = explore(model, {"joy": fit.value}, ["my"], strengths=(-1, 1), max_new_tokens=2)
    assert "Not tested" in plain.html and "where it was about to say" in plain.html


def test_words_of_ones_own_say_what_replicates(model, fits):
    words = sl.singular_words(fits["sentiment"], rank=2, tokens=3).assign(kept=[0.9, 0.9, 0.1, 0.1], spread=0.2)  # fmt: skip
    shown = explore(
        model, {"joy": fits["sentiment"]}, ["my"], known={"joy": Known(words=words)}, strengths=(-1, 1),
        max_new_tokens=2,
    )  # fmt: skip
    assert shown.html.count("0.90 ± 0.20") == 2 and shown.html.count('<tr class="soft"') == 2
    assert shown.exploration.known["joy"].verdict == fits["sentiment"].report.verdict


@pytest.mark.parametrize("change, said", [
    ({"steers": {}}, "steers: got 0, expected one or two"),
    ({"steers": "joy"}, "steers: got str"),
    ({"known": {"other": Known()}}, r"known: \['other'\] name no steer"),
    ({"strengths": (0.0,)}, "strengths: got 0 alone"),
    ({"strengths": (float("nan"),)}, "strengths"),
    ({"prompts": []}, "prompts"),
])  # fmt: skip
def test_what_cannot_be_shown_is_refused(model, fits, unchecked, change: dict, said: str):
    given = {"steers": {"joy": fits["sentiment"]}, "prompts": ["my"]} | change
    with pytest.raises(ValueError, match=said):
        explore(model, given.pop("steers"), given.pop("prompts"), **given)


def test_only_steers_are_shown_and_no_page_is_too_large(model, fits, unchecked, monkeypatch):
    joy = fits["sentiment"].value
    with pytest.raises(ValueError, match="'joy' is a SteerWithBackground, expected a Steer"):
        explore(model, {"joy": joy.with_background(joy)}, ["my"])
    with pytest.raises(ValueError, match="lives on the W_U of"):
        explore(sl.load_model("toy-128"), {"joy": joy}, ["my"])
    monkeypatch.setattr(build, "LARGEST", 1000)
    with pytest.raises(
        ValueError, match=r"at most 0.001 are allowed: it grows with prompts \(1\), stops \(3\)"
    ):
        explore(model, {"joy": joy}, ["my"], strengths=(-1, 1), max_new_tokens=2)


def test_the_command_writes_the_page_with_the_verdict_of_the_file(tmp_path, fits):
    path, out = tmp_path / "joy.safetensors", tmp_path / "page.html"
    sl.save(fits["sentiment"].value, path, report=fits["sentiment"].report)
    assert read_known(path).verdict == fits["sentiment"].report.verdict
    command = ["explore", "--model", "toy-64", "--steer", str(path), "--out", str(out), "--prompt", "my",
               "--strengths=-1,1", "--max-new-tokens", "3", "--quiet"]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and result.stdout.strip() == str(out)
    assert str(fits["sentiment"].report.verdict) in html.unescape(out.read_text(encoding="utf-8"))
    for extra, said in (([], "exists"), (["--steer", str(path), "--steer", str(path), "--overwrite"], "got 3"),
                        (["--steer", str(path), "--overwrite"], None), (["--strengths=a"], "--strengths")):  # fmt: skip
        result = CliRunner().invoke(app, [*command, *extra])
        assert (result.exit_code, said is None or said in result.stderr) == (0 if said is None else 2, True)  # fmt: skip


def test_a_widget_writes_for_every_prompt_and_says_what_is_wrong(model, fits):
    pytest.importorskip("anywidget", reason="the extra widget is not installed")
    widget = sl.show.explore_live(
        model, {"joy": fits["sentiment"]}, "my", strengths=(-1, 1), max_new_tokens=2
    )
    first = widget.html
    assert ">my</option>" in first and "render" in widget._esm
    widget.prompt = "the film"
    assert ">the film</option>" in widget.html and widget.said == ""
    widget.prompt = "xyzzy"
    assert "the tokenizer knows nothing" in widget.said and ">the film</option>" in widget.html
    with pytest.raises(ValueError, match="the tokenizer knows nothing"):
        sl.show.explore_live(model, {"joy": fits["sentiment"]}, "xyzzy")


def test_without_its_extra_the_widget_says_what_to_install(model, fits, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'steerlens\[widget\]'"):
        sl.show.explore_live(model, {"joy": fits["sentiment"]}, "my")
