"""The report: its folder is whole, its page is safe and self-contained, its numbers are JSON."""

import dataclasses
import json
import math
import random
import re
from html import escape
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import Markup

import steerlens as sl
from steerlens.evaluate.verbs import Sampling
from steerlens.show.numbers import fixed, interval
from steerlens.show.report import compared, writing
from steerlens.show.report.build import write_report
from steerlens.show.report.openings import openings
from steerlens.show.report.page import page, replication
from steerlens.show.report.study import Study, study
from steerlens.values.training import Training
from tests.show.browser import assert_inert, browser, find_browser

FACTS = {
    "model": "<script>alert(1)</script>",
    "data": "a & b",
    "seed": 0,
    "threads": 1,
    "components": [
        {
            "component": 1,
            "share": 0.1,
            "stability": 0.9,
            "chance": 0.1,
            "top": "<b>",
            "bottom": "<i>",
        }
    ],
    "seconds": 1.0,
    "versions": dict.fromkeys(("steerlens", "torch", "transformer-lens"), "<1>"),
}
ATTACK = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>"
EVIL = "<script>x</script> & \"quotes\" 'single'"


def numbers(folder: Path) -> dict:
    def refuse(constant: str):
        raise AssertionError(constant)

    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # a table is one however many texts it is of
        patch.setattr(writing, "PROMPTS", 10)
        patch.setattr(writing, "GIVEN", 30)
        patch.setattr(writing, "SAMPLING", Sampling(samples=2, max_new_tokens=10))
        patch.setattr(compared, "TRAINING", Training(epochs=1))
        patch.setattr(compared, "RIVAL_TESTS", 40)
        write_report("toy-64", out, texts=120, seed=0, say=lines.append)
    assert lines[0] == "loading toy-64" and lines[-1] == "drawing"
    return out


def test_the_folder_is_whole_and_nothing_is_beside_it(folder):
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "report.json",
        "figures",
        "steers",
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    names = {path.stem for path in (folder / "figures").iterdir()}
    for steer in numbers(folder)["steers"]:
        mine = {name.removeprefix(f"{steer}-") for name in names if name.startswith(f"{steer}-")}
        assert mine >= {"label_curve", "cost", "written", "gap"} or mine == {"losses"}
    assert {"sentiment-gap", "transfer", "rivals", "writing"} <= names
    for name in names:
        for ending in ("pdf", "png", "json"):
            assert (folder / "figures" / f"{name}.{ending}").stat().st_size > 100
    model = sl.load_model("toy-64")
    assert sl.load(folder / "steers" / "tone.safetensors", model).name == "tone"
    assert (
        sl.load(folder / "steers" / "tone-background.safetensors", model).name == "tone background"
    )


def test_the_page_needs_nothing_else(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert html.count("<svg") == len(list((folder / "figures").glob("*.png")))
    for banned in ("http", "<script", "<link", "@import", "<img", "onload", "<iframe"):
        assert banned not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert all(alt for alt in re.findall(r"<svg role='img' aria-label='([^']*)'", html))
    assert len(html) < 1_000_000


def test_links_lead_somewhere_and_terms_are_explained(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    links = re.findall(r'<a [^>]*href="#([^"]+)"', html)
    assert set(links) <= set(ids) and {
        "term-sign-margin",
        "term-natural-metric",
        "term-background",
    } <= set(links)


def test_no_number_of_the_page_is_a_negative_zero_or_has_a_hyphen_for_a_minus(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    words = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert not re.findall(r"[−-]0(?:\.0+)?(?![\d.e])", words)
    assert not re.findall(r"(?<![\w.])-\d[\d.]*", words)


def test_the_page_opens_with_verdicts_and_ends_with_settings_and_terms(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    order = ["better than shuffled labels?", "directions replicate?", "<h3>The same beginnings", "<h3>What it reads and writes",
             ">On another model</h2>", ">Settings and time</h2>", "The fit of sentiment", "Glossary</h2>"]  # fmt: skip
    places = [html.index(part) for part in order]
    assert places == sorted(places)


def test_the_numbers_are_json_and_those_of_the_page(folder):
    found = numbers(folder)
    assert set(found["steers"]) == {"sentiment", "tone"}
    assert found["seed"] == 0 and found["threads"] >= 1 and found["versions"]["torch"]
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert found["transfer"]["target"] == "toy-128" and found["transfer"]["rules"][0]["share"] == 1
    for rule in found["transfer"]["rules"]:
        assert f'<td class="n">{fixed(rule["sign_margin"])}</td>' in html
    for name, steer in found["steers"].items():
        if not steer["fit"]["verdict"]["p"] <= 0.05:
            assert name == "tone"  # of 120 texts
            continue
        gap = next(row for row in steer["gap"] if row["grade"] == "all")
        assert f"{gap['base']:.4f}" in html and f"{gap['truth']:.4f}" in html
        assert len(steer["strengths"]) == 5 and steer["strengths"][2] == 0
        assert f"(p = {steer['fit']['verdict']['p']:.2g};" in html
        ends = [row["attribute"] for row in steer["real"]]
        assert ends[0] < 0 < ends[-1] and f"{ends[-1]:+.2f} of label" in html
        assert {row["strength"] for row in steer["texts"]} == set(steer["strengths"])


@pytest.fixture(scope="module")
def one() -> Study:
    train, test = (sl.toy.corpus("tone", n=n, seed=seed) for n, seed in ((60, 0), (40, 1)))
    return study(sl.load_model("toy-64"), train, test, name=EVIL, seed=0)


def with_report(one: Study, report: sl.Report) -> Study:
    return dataclasses.replace(one, fit=dataclasses.replace(one.fit, report=report))


@pytest.mark.parametrize(
    "kl, strength, said", [((0.0, 0.0), 1.0, "length is 0"), ((0.05, 0.05), 0.0, "asks for is 0")]
)
def test_a_steer_of_length_or_strength_zero_is_in_doubt(
    one: Study, kl: tuple[float, float], strength: float, said: str
):
    untested = dataclasses.replace(one.fit.report, verdict=None)
    assert with_report(one, untested).doubt is None
    nothing = with_report(one, dataclasses.replace(untested, kl=kl, strength=strength))
    html = page([nothing], {f"{EVIL}-losses": Markup("<svg></svg>")}, FACTS)
    assert said in html[: html.index("<h2")] and "Which words of a text" not in html


def hostile_page(one: Study, evil: str = EVIL) -> str:
    """A report of which everything that others wrote is an attack."""
    texts = one.tables["texts"].assign(text=evil, prompt=lambda t: evil + t.prompt)
    words = one.tables["words"].assign(reads=evil, writes=evil, avoids=evil)
    marked = dataclasses.replace(
        one.highlights[0][1], tokens=pd.DataFrame({"token": [evil], "evidence": [1.0]})
    )
    marked = dataclasses.replace(marked, spans=marked.spans.head(0))
    # what is not believed would be left out
    report = dataclasses.replace(one.fit.report, verdict=None)
    study = dataclasses.replace(
        with_report(one, report),
        tables=one.tables | {"texts": texts, "words": words},
        highlights=((1.0, marked),),
    )
    pictures = {
        f"{EVIL}-{name}": Markup("<svg></svg>") for name in ("label_curve", "cost", "losses")
    }
    return page([study], pictures, FACTS | {"model": evil, "data": evil})


def test_what_models_and_data_say_is_escaped(one: Study):
    html = hostile_page(one)
    assert "<script" not in html and '"quotes"' not in html
    assert html.count("&lt;script&gt;x&lt;/script&gt;") > 10


def test_a_report_of_attacks_does_nothing_in_a_browser(one: Study, tmp_path: Path):
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: install one, or name it with STEERLENS_CHROMIUM")
    file = tmp_path / "index.html"
    file.write_text(hostile_page(one, ATTACK), encoding="utf-8")
    with browser(path) as opened:
        assert_inert(opened, file, ATTACK)


def test_a_steer_that_is_no_better_than_noise_is_said_so_first_and_shows_no_words(tmp_path):
    texts = sl.toy.corpus("tone", n=60, seed=0)
    order = random.Random(1).sample(range(60), 60)
    shuffled = sl.Labelled(texts.texts, tuple(texts.labels[k] for k in order))
    index = write_report("toy-64", tmp_path / "out", data=shuffled, name="mine")
    html = index.read_text(encoding="utf-8")
    verdict = numbers(index.parent)["steers"]["mine"]["fit"]["verdict"]
    assert verdict["p"] > 0.05
    assert html.index("No: it is no better than labels in random order") < html.index("<h2")
    for part in (
        "same beginnings",
        "What it reads and writes",
        "Which words of a text",
        "Beside other methods",
    ):
        assert part not in html
    assert {path.stem for path in (index.parent / "figures").iterdir()} == {"mine-losses"}
    assert "Likelihood of new texts" in html and f"(p = {verdict['p']:.2g};" in html


@pytest.mark.parametrize(
    "kept, said",
    [
        ((0.8, 0.2), "Direction 1 does (kept 0.80 ± 0.05); direction 2 does in part (kept 0.20"),
        (
            (math.nan, -0.001),
            "Direction 1 does not (nothing to keep); direction 2 does not (kept 0.00",
        ),
    ],
)
def test_replication_is_told_direction_by_direction(kept: tuple[float, float], said: str):
    words = pd.DataFrame(
        {
            "direction": [1, 1, 2, 2],
            "gain": 1.0,
            "kept": [k for k in kept for _ in "+-"],
            "spread": 0.05,
        }
    )
    assert replication(words).startswith(said)
    assert "too few texts" in replication(words.drop(columns="kept"))


def test_any_labelled_texts_make_a_report(tmp_path):
    data = sl.toy.corpus("tone", n=60, seed=0)
    index = write_report("toy-64", tmp_path / "out", data=data, name="mine")
    assert index.is_file()
    assert (tmp_path / "out" / "figures" / "mine-losses.png").is_file()
    assert numbers(tmp_path / "out")["steers"]["mine"]["n_test"] == 9


def test_rivals_are_shown_at_equal_cost_and_left_out_where_labels_have_one_sign(folder, tmp_path):
    found = numbers(folder)["rivals"]
    assert [row["name"] for row in found["table"]][:2] == ["steer", "steer, rank 4"] and len(
        found["table"]
    ) == 6
    html = (folder / "index.html").read_text()
    for row in found["table"]:
        assert row["name"] in html and f"{row['parameters']:,}" in html
    prompt = found["prompt"]
    assert len(prompt["words"]) == prompt["rows"] == 8
    for pair in prompt["words"]:
        assert all(f">{escape(word.strip())}<" in html for word in pair)
    assert [row["what"] for row in prompt["readability"]] == [
        "prompt",
        "nearest words",
        "random words",
        "no prompt",
    ]
    assert all(f"{row['nll']:.3f}" in html for row in prompt["readability"])
    plain = sl.toy.corpus("tone", n=60, seed=0)
    graded = sl.Labelled(plain.texts, tuple(abs(y) for y in plain.labels))
    index = write_report("toy-64", tmp_path / "out", data=graded, name="strength")
    for section in ("rivals", "writing"):
        assert f'id="{section}"' in html and f'id="{section}"' not in index.read_text()


def test_what_is_written_stands_beside_rivals_and_controls_at_one_cost(folder):
    found = numbers(folder)["writing"]
    rows = {row["method"]: row for row in found["table"]}
    assert list(rows) == [
        "base", "steer", "logit bias", "mean difference", "random direction", "shuffled labels (steer)"
    ]  # fmt: skip
    spent = [row for row in rows.values() if row["note"] == "" and row["kl"]]
    assert rows["steer"] in spent and all(abs(row["given_kl"] / 0.1 - 1) < 0.05 for row in spent)
    html = (folder / "index.html").read_text()
    assert 'id="writing"' in html and str(Markup.escape(found["judge"])) in html
    for row in list(rows.values())[1:]:
        assert interval(row["gain"], row["gain_low"], row["gain_high"]) in html
    assert "distinct word pairs per word" in html  # the figure


@pytest.fixture
def no_studies(monkeypatch) -> None:
    """A report of nothing, for what does not depend on what is fitted."""
    monkeypatch.setattr("steerlens.show.report.build.fit_studies", lambda *_: [])


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch, no_studies):
    def break_(*_):
        raise ValueError("broken")

    monkeypatch.setattr("steerlens.show.report.build.page", break_)
    with pytest.raises(ValueError, match="broken"):
        write_report("toy-64", tmp_path / "out", data=sl.toy.corpus("tone", n=40, seed=0))
    assert list(tmp_path.iterdir()) == []


def test_only_a_report_is_overwritten(tmp_path, folder, no_studies):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="exists and is not empty|holds no report"):
            write_report("toy-64", mine, overwrite=overwrite)
    assert (mine / "thesis.tex").read_text() == "years of work"
    before = (folder / "report.json").stat().st_ino
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_report("toy-64", folder)
    write_report("toy-64", folder, data=sl.toy.corpus("tone", n=40, seed=0), overwrite=True)
    assert (folder / "report.json").stat().st_ino != before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_beginnings_are_the_commonest_with_different_first_words():
    texts = ("the film was bad", "the film is good", "the plot is good", "it was good .", "a b")
    assert openings(sl.Labelled(texts, (0.0,) * 5), 3) == ["the film", "it was"]


def test_short_texts_and_scripts_without_spaces_have_beginnings_too():
    short = ("good film", "good plot", "bad film", "dull")
    assert openings(sl.Labelled(short, (0.0,) * 4), 3) == ["good", "bad", "du"]
    chinese = ("电影很好看", "电影不好看", "好", "👩‍👩‍👧👍🏽")
    assert openings(sl.Labelled(chinese, (0.0,) * 4), 3) == ["电影", "好", "👩‍👩‍👧"]
