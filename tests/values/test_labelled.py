"""Labelled texts from memory and from files; every bad input is named."""

import csv
import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.values.labelled import Labelled
from steerlens.values.readers import read_labelled, read_texts

HARD = ('He said "no", twice', "two\nlines", "a\ttab", "naïve — 🎬", "form\x0cfeed and \u2028 separator", " 'quoted' ,")
DATA = Labelled(HARD, (1.0, -1.0, 0.0, 0.5, -0.25, 1e-3))


def write(path: Path, data: Labelled, *, text: str = "text", label: str = "label") -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({text: t, label: y, "id": 1}) + "\n" for t, y in data), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("id", text, label), *((1, t, y) for t, y in data)])
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".CSV"])
def test_files_are_read_back_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    assert read_labelled(write(tmp_path / f"data{suffix.lower()}", DATA).rename(tmp_path / f"x{suffix}")) == DATA


@settings(max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_any_text_survives_a_file(suffix: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("texts") / f"data{suffix}"
    assert read_labelled(write(path, Labelled((text, "next"), (1.0, 0.0)))).texts == (text, "next")


def test_columns_have_the_names_that_were_asked_for_and_a_byte_order_mark_is_no_part_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", DATA, text="review", label="stars")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"id,review", b"review,id", 1))
    with pytest.raises(ValueError, match="label"):
        read_labelled(path, text="review")
    jsonl = write(tmp_path / "data.jsonl", DATA, text="review", label="stars")
    jsonl.write_bytes(b"\xef\xbb\xbf" + jsonl.read_bytes())
    assert read_labelled(jsonl, text="review", label="stars") == DATA


BAD_FILES = {
    "empty": ("x.jsonl", b"", "no rows"),
    "only a header": ("x.csv", b"text,label\n", "no rows"),
    "not UTF-8": ("x.jsonl", '{"text": "caf\u00e9", "label": 1}'.encode("latin1"), "byte 13 is not UTF-8"),
    "missing column": ("x.jsonl", b'{"text": "a", "label": 1}\n{"body": "a", "stars": 1}', r"line 2.*\['body', 'stars'\]"),
    "missing label column": ("x.csv", b"text,stars\ngood,1\n", r"line 2.*'label'.*\['stars', 'text'\]"),
    "short row": ("x.csv", b"text,label\ngood\n", "line 2.*'label'"),
    "bad JSON": ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2: not JSON"),
    "JSON list": ("x.jsonl", b"[1, 2]\n", "got list, expected an object"),
    "other suffix": ("x.xlsx", b"text,label\na,1", r"'\.xlsx', expected one of \.jsonl, \.csv, \.tsv"),
    "label in words": ("x.csv", b"text,label\na,good\n", "'good' is not a number"),
    "label is null": ("x.jsonl", b'{"text": "a", "label": null}', "'label'"),
    "label is a list": ("x.jsonl", b'{"text": "a", "label": [1]}', "not a number"),
    "label is NaN": ("x.jsonl", b'{"text": "a", "label": NaN}', "label nan"),
    "label is huge": ("x.jsonl", b'{"text": "a", "label": 1' + b"0" * 400 + b"}", "not a number"),
    "label outside": ("x.tsv", b"text\tlabel\na\t5\n", r"label 5.0, expected.*\[-1, 1\]"),
    "empty text": ("x.tsv", b"text\tlabel\na\t1\n  \t1\n", "line 3.*not empty"),
    "text is a number": ("x.jsonl", b'{"text": 3, "label": 1}', "expected a text"),
    "unclosed quote": ("x.csv", b'text,label\n"good,1\nbad,-1\n', "quote"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_raises_and_says_where(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_labelled(tmp_path / name)
    assert name in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_labelled(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    "texts, labels, message",
    [
        ((), (), "got none"),
        (("a", "b"), (1.0,), "got 1 for 2 texts"),
        (("a", " \n"), (1.0, 0.0), r"texts\[1\] is empty"),
        (("a", "b"), (1.0, float("nan")), r"labels\[1\]: got nan"),
        (("a",), (1.001,), r"labels\[0\]: got 1.001"),
        (("a",), (-float("inf"),), r"labels\[0\]: got -inf"),
    ],
)
def test_bad_texts_and_labels_are_refused(texts: tuple, labels: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labelled(texts, labels)


@settings(max_examples=30)
@given(n=st.integers(2, 40), share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_a_split_is_a_partition_that_the_seed_decides(n: int, share: float, seed: int) -> None:
    data = Labelled(tuple(f"text {i}" for i in range(n)), tuple(i / n for i in range(n)))
    if not 0 < round(share * n) < n:
        with pytest.raises(ValueError, match="empty"):
            data.split(share, seed=seed)
        return
    one, two = data.split(share, seed=seed)
    assert len(one) == round(share * n)
    assert sorted([*one, *two]) == sorted(data)
    assert data.split(share, seed=seed) == (one, two)


def test_another_seed_splits_otherwise() -> None:
    data = Labelled(tuple(f"text {i}" for i in range(30)), (0.0,) * 30)
    assert data.split(0.5, seed=0) != data.split(0.5, seed=1)


def test_labelled_texts_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DATA.texts = ()  # pyright: ignore[reportAttributeAccessIssue]


def test_texts_without_labels_come_from_lines_and_columns(tmp_path):
    lines = tmp_path / "a.txt"
    lines.write_text("one\r\n\n  \ntwo words\n", encoding="utf-8")
    assert read_texts(lines) == ["one", "two words"]
    table = tmp_path / "a.csv"
    table.write_text("text,stars\ngood,5\n,3\nbad,1\n", encoding="utf-8")
    assert read_texts(table) == ["good", "bad"]
    assert read_texts(table, text="stars") == ["5", "3", "1"]
    with pytest.raises(ValueError, match="no column 'body'"):
        read_texts(table, text="body")
    empty = tmp_path / "b.txt"
    empty.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match="no text"):
        read_texts(empty)
    with pytest.raises(ValueError, match=r"\.pdf.*\.txt"):
        read_texts(tmp_path / "a.pdf")


# prompts

PROMPTED = Labelled(HARD, DATA.labels, tuple(f'before "{i}",\nand after ' if i else "" for i in range(len(HARD))))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_prompts_are_read_from_the_column_that_is_named_and_from_no_other(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"data{suffix}", zip(PROMPTED.prompts, HARD, DATA.labels, strict=True)
    if suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"ask": p, "text": t, "label": y}) + "\n" for p, t, y in rows), encoding="utf-8"
        )
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="," if suffix == ".csv" else "\t").writerows([("ask", "text", "label"), *rows])
    assert read_labelled(path, prompt="ask") == PROMPTED
    assert read_labelled(path) == DATA != PROMPTED
    with pytest.raises(ValueError, match=r"no column 'prompt'; found \['ask', 'label', 'text'\]"):
        read_labelled(path, prompt="prompt")


def test_a_row_without_its_prompt_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": 1, "ask": ""}\n{"text": "b", "label": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: no column 'ask'"):
        read_labelled(path, prompt="ask")
    assert read_labelled(path).prompts == ()


@pytest.mark.parametrize("prompts", [("one",), ("one",) * 3])
def test_prompts_are_as_many_as_texts_or_none(prompts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"prompts: got {len(prompts)} for 2 texts, expected one a text or none"):
        Labelled(("a", "b"), (0.0, 0.0), prompts)
    assert Labelled(("a", "b"), (0.0, 0.0)).prompts == ()


def test_a_split_keeps_every_text_with_its_prompt() -> None:
    n = 30
    data = Labelled(tuple(f"text {i}" for i in range(n)), (0.5,) * n, tuple(f"prompt {i}" for i in range(n)))
    parts = data.split(0.7, seed=3)
    assert [len(part.prompts) for part in parts] == [21, 9]
    for part in parts:
        assert [p.removeprefix("prompt ") for p in part.prompts] == [t.removeprefix("text ") for t in part.texts]
    plain = Labelled(data.texts, data.labels).split(0.7, seed=3)
    assert [part.texts for part in plain] == [part.texts for part in parts]
    assert [part.prompts for part in plain] == [(), ()]


def test_prompts_are_no_part_of_the_pairs_of_texts_and_labels() -> None:
    assert list(PROMPTED) == list(DATA) and len(PROMPTED) == len(DATA)


def test_the_first_texts_keep_labels_and_prompts_and_are_no_more_than_there_are() -> None:
    data = Labelled(("a", "b", "c"), (1.0, 0.0, -1.0), ("x", "y", "z"))
    assert data.first(2) == Labelled(("a", "b"), (1.0, 0.0), ("x", "y"))
    assert data.first(5) == data and data.pick([2, 0]).labels == (-1.0, 1.0)
