"""Texts are cut into the same parts each time, none lost and none there twice."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlens.values.labelled import Labelled
from steerlens.values.parts import in_parts
from steerlens.values.readers import read_labelled
from steerlens.values.streams import stream_labelled

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip)


@given(texts=st.lists(WORDS, min_size=1, max_size=40), size=st.integers(1, 60), whole=st.booleans())
def test_parts_hold_every_text_once_and_are_no_larger_than_asked(
    texts: list[str], size: int, whole: bool
) -> None:
    labels = [(row % 5 - 2) / 2 for row in range(len(texts))]
    data = Labelled(texts, labels, texts[::-1])
    parts = list(
        in_parts(
            data if whole else iter([data[:3], *([data[3:]] if texts[3:] else [])]), part_bytes=size
        )
    )
    assert [part.number for part in parts] == list(range(len(parts)))
    rows = [row for part in parts for row in part.rows]
    assert sorted(rows) == list(range(len(texts))) and (whole or rows == sorted(rows))
    for part in parts:
        assert part.data == data.pick(part.rows)
        held = sum(len(text.encode()) for text in part.data.texts + part.data.prompts)
        assert held <= size or len(part.rows) == 1
    again = list(in_parts(data, part_bytes=size))
    assert not whole or [part.digest for part in again] == [part.digest for part in parts]


def test_a_part_is_named_by_all_that_is_in_it() -> None:
    def digest(texts=("a", "b"), labels=(1, 0), prompts=(), seed=0):
        (part,) = in_parts(Labelled(texts, labels, prompts), seed=seed)
        return part.digest

    other = [
        digest(), digest(("b", "a")), digest(labels=(0, 1)), digest(prompts=("x", "y")), digest(("ab", "c")), digest(("a", "bc")),
        *(digest(seed=seed) for seed in range(1, 4)),
    ]  # fmt: skip
    assert (
        len(set(other[:6])) == 6 and len(set(other[6:])) <= 2
    )  # of two texts there are two orders


def test_plain_texts_have_label_0_and_what_is_no_text_is_named(unchecked: None) -> None:
    (part,) = in_parts(["good .", "bad ."])
    assert part.data == Labelled(["good .", "bad ."], [0, 0]) and part.rows == (0, 1)
    for wrong, message in (
        ("good .", "got str"), (3, "got int"), ([{"text": "a"}], "an iterator of dict.*stream_labelled"), ([], "no texts"),
        (["cut \ud83d"], "half a character"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            list(in_parts(wrong))
    with pytest.raises(ValueError, match="part_bytes: got 0"):
        list(in_parts(["a"], part_bytes=0))


FRAME = pd.DataFrame(
    {
        "review": [f"film {k} – “{'very ' * (k % 4)}good” ." for k in range(2500)],
        "stars": [1 + k % 5 for k in range(2500)],
    }
)
OPTIONS = {"text": "review", "label": "stars", "scale": (1, 5)}


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        FRAME.to_parquet(path)
        return path
    lines = "\n\n".join(json.dumps(row) for row in FRAME.to_dict("records")).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_a_streamed_file_is_the_file_that_is_read_whole(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    parts = list(stream_labelled(path, **OPTIONS))
    assert [len(part) for part in parts] == [1024, 1024, 452]
    assert sum(parts[1:], parts[0]) == read_labelled(path, **OPTIONS)


@pytest.mark.filterwarnings("ignore:.*left out, without text or label")
def test_a_part_of_a_stream_may_hold_no_label_at_all() -> None:
    rows = [{"text": f"film {k}", "label": 1 if k < 5 or k > 4_000 else None} for k in range(4_010)]
    parts = list(stream_labelled(rows, dropna=True))
    assert [len(part) for part in parts] == [5, 9]
    assert sum(parts, start=parts[0].pick([0])) == parts[0].pick([0]) + Labelled.from_pandas(
        pd.DataFrame(rows), dropna=True
    )
    with pytest.raises(ValueError, match="source: no rows left, all are without text or label"):
        list(stream_labelled(rows[5:3_000], dropna=True))
    with pytest.raises(ValueError, match=r"row 5: no 'label'"):
        list(stream_labelled(rows))


@pytest.mark.parametrize(("first", "then"), [(True, 0), (0, True), ("false", "0")])
def test_truth_values_and_numbers_do_not_mix_in_a_stream_either(first: Any, then: Any) -> None:
    rows = [{"text": f"film {k}", "label": first if k < 1024 else then} for k in range(1_100)]
    kinds = "numbers.*truth values" if then is not True else "truth values.*numbers"
    with pytest.raises(ValueError, match=f"source, row 1024: labels are {kinds}.*labels="):
        list(stream_labelled(rows))
    meaning = {True: 1, False: -1}
    assert len(list(stream_labelled(rows, labels=meaning))) == 2
    same = [row | {"label": first} for row in rows]
    assert {y for part in stream_labelled(same) for y in part.labels} <= {-1.0, 0.0, 1.0}


def test_rows_of_a_stream_are_read_as_they_come() -> None:
    read = 0

    def rows():
        nonlocal read
        for row in FRAME.to_dict("records"):
            read += 1
            yield row

    parts = stream_labelled(rows(), **OPTIONS)
    first = next(parts)
    assert read == len(first) == 1024
    assert sum(parts, first) == Labelled.from_pandas(FRAME, **OPTIONS)


def test_classes_of_a_streamed_dataset_are_their_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    made = datasets.Dataset.from_dict({"text": ["dull", "fine"], "label": [0, 1]}, features)
    (part,) = stream_labelled(made.to_iterable_dataset(), labels={"neg": -1, "pos": 1})
    assert part == Labelled(["dull", "fine"], [-1, 1])
    with pytest.raises(ValueError, match="neg"):
        list(stream_labelled(made.to_iterable_dataset()))


def test_a_bad_row_is_named_from_the_beginning_of_all(tmp_path: Path) -> None:
    lines = write(tmp_path / "x.jsonl").read_text().split("\n")
    for bad, message in (
        ("{", "not JSON"),
        ('{"review": "a"}', "no column 'stars'"),
        ("3", "got int, expected an object"),
    ):
        lines[4001] = bad
        (tmp_path / "bad.jsonl").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=rf"bad\.jsonl, line 4002: .*{message}"):
            list(stream_labelled(tmp_path / "bad.jsonl", **OPTIONS))
    rows = [*FRAME.to_dict("records"), {"review": None, "stars": 1}]
    with pytest.raises(ValueError, match="source, row 2500: text is missing"):
        list(stream_labelled(rows, **OPTIONS))
    FRAME.assign(stars=[*[3] * 2000, 9, *[3] * 499]).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet, row 2000"):
        list(stream_labelled(tmp_path / "bad.parquet", **OPTIONS))


def test_what_cannot_be_streamed_is_named(tmp_path: Path, unchecked: None) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 9)[:-9])
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "caf\xe9", "label": 1}\n')
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(b"{}\n" * 9))
    (tmp_path / "wide.jsonl").write_bytes("{}\n".encode("utf-16"))
    for name, message in (
        ("x.parquet", "not a parquet file"), ("x.jsonl.gz", "cannot be decompressed"), ("x.jsonl", "line 1: is not UTF-8"),
        ("packed.jsonl", "no text but gzip"), ("wide.jsonl", "UTF-16"),
        ("x.csv", r"ends in '\.csv', expected one of \.jsonl, \.parquet"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            list(stream_labelled(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(stream_labelled(tmp_path / "no.jsonl"))
    for source, message in (
        ({"text": ["a"]}, "got dict.*Labelled.from_dict"), (["a"], "its rows are str.*collect_parts"), (3, "got int"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            list(stream_labelled(source))


def test_a_parquet_file_that_is_damaged_further_on_is_named_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    FRAME.to_parquet(path, row_group_size=500, compression=None)
    content = bytearray(path.read_bytes())
    at = content.index(FRAME.review[2400].encode())
    content[at - 99 : at] = bytes(99)
    path.write_bytes(content)
    parts = stream_labelled(path, **OPTIONS)
    assert len(next(parts)) == 1024
    with pytest.raises(ValueError, match=r"x\.parquet: damaged behind row 1024 \("):
        list(parts)


def test_a_streamed_file_is_cut_as_its_rows_are(tmp_path: Path) -> None:
    whole = Labelled.from_pandas(FRAME, **OPTIONS)
    one, two = (
        [part.digest for part in in_parts(stream, part_bytes=5000)]
        for stream in (stream_labelled(write(tmp_path / "x.jsonl"), **OPTIONS), iter([whole]))
    )
    assert one == two and len(one) > 10
