"""The report: its folder is whole, its page is safe and self-contained, its numbers are JSON."""

import dataclasses
import json
import re
from html import escape

import pytest

import steerlens as sl
from steerlens.show.page import page
from steerlens.show.report import write_report
from steerlens.show.study import openings, study

FACTS = {
    "model": "<script>alert(1)</script>",
    "data": "a & b",
    "seed": 0,
    "threads": 1,
    "components": [{"component": 1, "share": 0.1, "stability": 0.9, "chance": 0.1, "top": "<b>", "bottom": "<i>"}],
    "seconds": 1.0,
    "versions": dict.fromkeys(("steerlens", "torch", "transformer-lens"), "<1>"),
}
EVIL = "<script>x</script> & \"quotes\" 'single'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    lines: list[str] = []
    write_report("toy-64", out, texts=80, seed=0, say=lines.append)
    assert lines[0] == "loading toy-64" and lines[-1] == "drawing"
    return out


def test_the_folder_is_whole_and_nothing_is_beside_it(folder):
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "figures", "steers"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert names == {
        f"{a}-{f}"
        for a in ("sentiment", "tone")
        for f in ("label_curve", "cost", "words", "spectrum", "written", "gap")
    } | {"transfer", "rivals"}
    for name in names:
        for ending in ("pdf", "png", "json"):
            assert (folder / "figures" / f"{name}.{ending}").stat().st_size > 100
    model = sl.load_model("toy-64")
    assert sl.load(folder / "steers" / "tone.safetensors", model).name == "tone"
    assert sl.load(folder / "steers" / "tone-background.safetensors", model).name == "tone background"


def test_the_page_needs_nothing_else(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/png;base64,[A-Za-z0-9+/=]+", html)
    assert len(pictures) == 14
    bare = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    for banned in ("http", "<script", "<link", "@import", "url(", "onload", "<iframe"):
        assert banned not in bare
    assert "prefers-color-scheme: dark" in bare and "@media print" in bare
    assert all(alt for alt in re.findall(r"<img alt='([^']*)'", bare))


def test_the_numbers_are_json_and_those_of_the_page(folder):
    def refuse(constant: str):
        raise AssertionError(constant)

    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert set(numbers["steers"]) == {"sentiment", "tone"}
    assert numbers["seed"] == 0 and numbers["threads"] >= 1 and numbers["versions"]["torch"]
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert numbers["transfer"]["target"] == "toy-128" and numbers["transfer"]["rules"][0]["share"] == 1
    for rule in numbers["transfer"]["rules"]:
        assert f"{rule['contrast']:.3f}".replace("-", "−") in html
    for steer in numbers["steers"].values():
        gap = next(row for row in steer["gap"] if row["grade"] == "all")
        assert f"{gap['base']:.4f}" in html and f"{gap['truth']:.4f}" in html
        assert len(steer["strengths"]) == 5 and steer["strengths"][2] == 0
        assert f"(p = {steer['fit']['verdict']['p']:.2g})" in html
        ends = [row["attribute"] for row in steer["real"]]
        assert ends[0] < 0 < ends[-1] and f"{ends[-1]:+.2f} of label" in html
        assert {row["strength"] for row in steer["texts"]} == set(steer["strengths"])


def test_what_models_and_data_say_is_escaped():
    model = sl.load_model("toy-64")
    data = sl.toy.corpus("tone", n=60, seed=0)
    one = study(model, data, sl.toy.corpus("tone", n=40, seed=1), name=EVIL, seed=0)
    texts = one.tables["texts"].assign(text=EVIL, prompt=lambda t: EVIL + t.prompt)
    words = one.tables["words"].assign(reads=EVIL, writes=EVIL, avoids=EVIL)
    evil = dataclasses.replace(one, tables=one.tables | {"texts": texts, "words": words})
    pictures = {f"{EVIL}-{name}": (b"png", 100.0) for name in ("label_curve", "cost", "words", "spectrum", "losses")}
    html = page([evil], pictures, FACTS)
    assert "<script" not in html and '"quotes"' not in html
    assert html.count("&lt;script&gt;x&lt;/script&gt;") > 10
    assert "&lt;script&gt;alert(1)" in html and "a &amp; b" in html


def test_any_labelled_texts_make_a_report(tmp_path):
    data = sl.toy.corpus("tone", n=60, seed=0)
    index = write_report("toy-64", tmp_path / "out", data=data, name="mine")
    assert index.is_file()
    assert (tmp_path / "out" / "figures" / "mine-losses.png").is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["steers"]["mine"]["n_test"] == 9


def test_rivals_are_shown_at_equal_cost_and_left_out_where_labels_have_one_sign(folder, tmp_path):
    found = json.loads((folder / "report.json").read_text())["rivals"]
    assert [row["name"] for row in found["table"]][:2] == ["steer", "steer, rank 4"] and len(found["table"]) == 6
    html = (folder / "index.html").read_text()
    for row in found["table"]:
        assert row["name"] in html and f"{row['parameters']:,}" in html
    prompt = found["prompt"]
    assert len(prompt["words"]) == prompt["rows"] == 8
    for pair in prompt["words"]:
        assert all(f">{escape(word.strip())}<" in html for word in pair)
    assert [row["what"] for row in prompt["readability"]] == ["prompt", "nearest words", "random words", "no prompt"]
    assert all(f"{row['nll']:.3f}" in html for row in prompt["readability"])
    plain = sl.toy.corpus("tone", n=60, seed=0)
    graded = sl.Labelled(plain.texts, tuple(abs(y) for y in plain.labels))
    index = write_report("toy-64", tmp_path / "out", data=graded, name="strength")
    assert "id='rivals'" in html and "id='rivals'" not in index.read_text()


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    def break_(*_):
        raise ValueError("broken")

    monkeypatch.setattr("steerlens.show.report._studies", lambda *_: [])
    monkeypatch.setattr("steerlens.show.report.page", break_)
    with pytest.raises(ValueError, match="broken"):
        write_report("toy-64", tmp_path / "out", data=sl.toy.corpus("tone", n=40, seed=0))
    assert list(tmp_path.iterdir()) == []


def test_only_a_report_is_overwritten(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("steerlens.show.report._studies", lambda *_: [])
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
