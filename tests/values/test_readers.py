"""Texts from files; every bad file is named, with the line and the option that helps."""

import csv
import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.values.labelled import Labelled
from steerlens.values.readers import read_labelled, read_texts

HARD = (
    'He said "no", twice',
    "two\nlines",
    "a\ttab",
    "naïve — 🎬",
    "form\x0cfeed and \u2028 separator",
    " 'quoted' ,",
)
DATA = Labelled(HARD, (1.0, -1.0, 0.0, 0.5, -0.25, 1e-3))


def write(path: Path, data: Labelled, *, text: str = "text", label: str = "label") -> Path:
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({text: t, label: y, "id": 1}) + "\n" for t, y in data),
            encoding="utf-8",
        )
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("id", text, label), *((1, t, y) for t, y in data)])
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".CSV"])
def test_files_are_read_back_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    assert (
        read_labelled(
            write(tmp_path / f"data{suffix.lower()}", DATA).rename(tmp_path / f"x{suffix}")
        )
        == DATA
    )


@settings(max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_any_text_survives_a_file(
    suffix: str, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("texts") / f"data{suffix}"
    assert read_labelled(write(path, Labelled((text, "next"), (1.0, 0.0)))).texts == (text, "next")


def test_columns_have_the_names_that_were_asked_for_and_a_byte_order_mark_is_no_part_of_them(
    tmp_path: Path,
) -> None:
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
    "line with a comma": ("x.csv", b"text,label\ngood,1\nbad, really,-1\n", "line 3: 3 fields .* 2; .*double quotes"),
    "no header": ("x.csv", b"good,1\nbad,-1\n", "does the first line name the columns"),
    "two columns of a name": ("x.csv", b"text,text,label\na,b,1\n", "2 columns are called 'text'"),
    "labels in words": ("x.csv", b"text,label\na,good\nb,bad\n", r"line 2: .*labels=\{'good': \.\.\., 'bad': \.\.\.\}"),
    "stars in words": ("x.csv", b"text,label\na,5 stars\n", r"line 2: .*labels=\{'5 stars': \.\.\.\}"),
    "percent": ("x.csv", b"text,label\na,50%\n", r"line 2: .*scale=\(0, 100\)"),
    "stars": ("x.csv", b"text,label\na,1\nb,5\n", r"line 3: .*scale=\(1, 5\)"),
    "stars under their name": ("x.csv", b"text,stars\na,1\nb,1\nc,4\n", r"no column 'label'.*label='stars' and scale=\(1, 4\)"),
    "a thousand or one": ("x.csv", b"text;label\na;1,000\n", "'1,000' is not a number"),
    "true among numbers": ("x.jsonl", b'{"text": "a", "label": true}\n{"text": "b", "label": 0.5}', "do not mix"),
    "label is missing": ("x.csv", b"text,label\na,1\nb,NA\n", "line 3: no 'label'.*dropna=True"),
    "UTF-16": ("x.csv", "text,label\na,1".encode("utf-16"), "UTF-16.*iconv"),
    "UTF-16 without a mark": ("x.csv", "text,label\na,1".encode("utf-16-le"), "UTF-16"),
    "UTF-32": ("x.csv", "text,label\na,1".encode("utf-32"), "UTF-32; .*iconv -f utf-32"),
    "UTF-32 without a mark": ("x.csv", "text,label\na,1".encode("utf-32-be"), "UTF-32"),
    "gzip by another name": ("x.csv", gzip.compress(b"text,label\na,1"), r"holds no text but gzip.*\.gz"),
    "parquet by another name": ("x.jsonl", b"PAR1\x15\x00\xff", r"no text but parquet.*\.parquet"),
    "Excel by another name": ("x.csv", b"PK\x03\x04\x14\x00\x06\x00\xb4", "Excel.*from_pandas"),
    "a pickle by another name": ("x.json", b"\x80\x04\x95\x0c\x00", "a pickle"),
    "half an emoji": ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b \\ud83d", "label": 1}', "line 2: .*half a.*encode"),
    "half an emoji in JSON": ("x.json", b'[{"text": "a \\ud83d", "label": 1}]', r"x\.json, \[0\]: text holds half"),
    "a list as JSONL": ("x.jsonl", b'[{"text": "a", "label": 1}]', "expected an object per line.*json"),
    "JSONL as JSON": ("x.json", b'{"text": "a", "label": 1}\n{"text": "b", "label": 1}', "line 2: not JSON.*jsonl"),
    "JSON of one object": ("x.json", b'{"text": "a", "label": 1}', r"\['label', 'text'\], expected a list of objects"),
    "JSON of numbers": ("x.json", b"[1]", r"\[0\]: got int, expected an object"),
    "JSON of uneven columns": ("x.json", b'{"text": ["a", "b"], "label": [1]}', "columns of one length"),
    "empty JSON": ("x.json", b"", "no rows"),
    "a name twice": ("x.jsonl", b'{"text": "a", "text": "b", "label": 1}', "line 1: .*a name is there twice"),
    "too many digits": ("x.jsonl", b'{"text": "a", "label": 1' + b"0" * 5000 + b"}", "line 1: not JSON"),
    "too deep": ("x.jsonl", b"[" * 100_000, "line 1: not JSON"),
    "JSON too deep": ("x.json", b"[" * 100_000, r"x\.json: not JSON"),
    "no gzip": ("x.csv.gz", b"text,label", "cannot be decompressed"),
    "cut gzip": ("x.csv.gz", gzip.compress(b"text,label\na,1")[:-6], "cannot be decompressed"),
    "no parquet": ("x.parquet", b"text", "not a parquet file"),
    "unclosed quote early": ("x.csv", b'text,label\n"a,1\nb,1\nc,1\n', "line 2: unexpected end"),
    "unclosed quote": ("x.csv", b'text,label\n"good,1\nbad,-1\n', "quote"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_raises_and_says_where(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_labelled(tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_file_that_is_not_there_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_labelled(tmp_path / f"nowhere{suffix}")


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

PROMPTED = Labelled(
    HARD, DATA.labels, tuple(f'before "{i}",\nand after ' if i else "" for i in range(len(HARD)))
)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_prompts_are_read_from_the_column_that_is_named_and_from_no_other(
    suffix: str, tmp_path: Path
) -> None:
    path, rows = tmp_path / f"data{suffix}", zip(PROMPTED.prompts, HARD, DATA.labels, strict=True)
    if suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"ask": p, "text": t, "label": y}) + "\n" for p, t, y in rows),
            encoding="utf-8",
        )
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="," if suffix == ".csv" else "\t").writerows(
                [("ask", "text", "label"), *rows]
            )
    assert read_labelled(path, prompt="ask") == PROMPTED
    assert read_labelled(path) == DATA != PROMPTED
    with pytest.raises(ValueError, match=r"no column 'prompt'; found \['ask', 'label', 'text'\]"):
        read_labelled(path, prompt="prompt")


def test_a_row_without_its_prompt_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"text": "a", "label": 1, "ask": ""}\n{"text": "b", "label": 1}\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: no column 'ask'"):
        read_labelled(path, prompt="ask")
    assert read_labelled(path).prompts == ()


# what separates columns, and the rest of what files do

UNQUOTED = {
    "swallowed rows": ['"so good', "fine", "great", 'bad"', "ok"],
    "a quote that ends inside": ['"so" good', "fine"],
    "a quote that does not end": ["fine", '"so good', "ok"],
    "quotes of its own": ['"', '""', 'a "b" c', "d"],
}


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("texts", UNQUOTED.values(), ids=UNQUOTED)
def test_tables_with_tabs_and_without_quoting_lose_no_row(
    texts: list[str], end: str, label_first: bool, tmp_path: Path
) -> None:
    rows = [("text", "label"), *((text, str((-1) ** k)) for k, text in enumerate(texts))]
    rows = [row[::-1] for row in rows] if label_first else rows
    path = tmp_path / "x.tsv"
    path.write_bytes("".join("\t".join(row) + end for row in rows).encode())
    found = read_labelled(path)
    assert found.texts == tuple(texts)
    assert found.labels == tuple(float((-1) ** k) for k in range(len(texts)))


def test_a_space_between_separator_and_quote_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "typed.csv"
    path.write_text('label, text\n1, "superb, they say"\n-1, "dull ""film"""\n0, so so\n')
    read = read_labelled(path)
    assert read.texts == ("superb, they say", 'dull "film"', "so so")
    # texts that only look like it keep what they are
    path.write_text('label,text\n1,"they say, ""superb"" it is"\n-1,"they say, "\n0, so so\n')
    assert read_labelled(path).texts == ('they say, "superb" it is', "they say, ", " so so")


def test_one_column_may_hold_line_breaks_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('text\n"two\nlines"\none\n', encoding="utf-8")
    assert read_texts(tmp_path / "x.tsv") == ["two\nlines", "one"]


def test_a_quote_that_swallowed_rows_is_named_where_the_lines_do_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('text\tlabel\n"so good\t1\nbad"\t-1\n"two\nlines"\t1\n', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"x\.tsv, line 2: a quote .* holds 2 lines together.*doubl"
    ):
        read_labelled(path)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
"""Line breaks, quotes and every separator among them."""
ANY_LABEL = st.floats(-1, 1)


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(ANY_TEXT, ANY_LABEL), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t|"),
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_header_says_what_separates(
    suffix: str, rows: list, separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, written = tmp_path_factory.mktemp("texts") / f"data{suffix}", io.StringIO(newline="")
    csv.writer(written, delimiter=separator).writerows(
        [("n", "text", "label"), *((1, t, y) for t, y in rows)]
    )
    path.write_bytes(written.getvalue().encode())
    assert list(read_labelled(path)) == rows


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_LABEL), min_size=1, max_size=4))
@pytest.mark.parametrize(
    "suffix", [".jsonl", ".json", ".json of columns", ".json of pandas", ".jsonl.gz"]
)
def test_any_rows_survive_json(
    suffix: str, rows: list, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("texts") / f"data{suffix.split()[0]}"
    df = pd.DataFrame(rows, columns=["text", "label"])
    written = {
        ".jsonl": "\n".join(json.dumps({"text": t, "label": y}) for t, y in rows),
        ".json": json.dumps(
            [{"text": t, "label": y} for t, y in rows], ensure_ascii=False, indent=1
        ),
        ".json of columns": json.dumps(df.to_dict("list")),
        ".json of pandas": json.dumps(df.to_dict("dict")),
    }[suffix.removesuffix(".gz")].encode()
    path.write_bytes(gzip.compress(written) if suffix.endswith(".gz") else written)
    assert list(read_labelled(path)) == rows


SEPARATED = {
    "commas in texts": ("text;label\ngood, very;1\nbad, so, so;-1\n", ("good, very", "bad, so, so"), (1, -1)),
    "semicolons in texts": ("text,label\ngood; very,1\nbad; so; so,-1\n", ("good; very", "bad; so; so"), (1, -1)),
    "in a name too": ('text;label;"a, b, c, d"\ngood;1;x\n', ("good",), (1,)),
    "Excel": ("\ufeffsep=;\r\ntext;label\r\na;0,5\r\n\r\nb;-1,0\r\n", ("a", "b"), (0.5, -1)),
    "old line ends": ("text,label\ra,1\rb,-1\r", ("a", "b"), (1, -1)),
    "an index": (",text,label\n0,a,1\n1,b,-1\n", ("a", "b"), (1, -1)),
    "names with spaces": (" Text ,LABEL\na, 1\n", ("a",), (1,)),
    "separators at the end": ("text,label\na,1,,\nb,-1,\n", ("a", "b"), (1, -1)),
    "truth values": ("text,label\na,True\nb,false\n", ("a", "b"), (1, -1)),
}  # fmt: skip


@pytest.mark.parametrize("case", SEPARATED)
def test_files_of_other_programs_are_read(case: str, tmp_path: Path) -> None:
    content, texts, labels = SEPARATED[case]
    (tmp_path / "x.csv").write_bytes(content.encode())
    assert read_labelled(tmp_path / "x.csv") == Labelled(texts, labels)


def test_a_line_is_named_where_its_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('sep=,\ntext,label\n"two\nlines",1\n\nbad,5\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.csv, line 6: got text 'bad'"):
        read_labelled(path)


def test_long_fields_are_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    limit, long = csv.field_size_limit(), "word " * 40_000
    paths = [write(tmp_path / f"{i}.csv", Labelled((long, "short"), (1, -1))) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert [data.texts[0] for data in pool.map(read_labelled, paths)] == [long] * 4
    assert csv.field_size_limit() == limit
    (tmp_path / "bad.csv").write_text('text,label\n"' + long, encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: unexpected end"):
        read_labelled(tmp_path / "bad.csv")
    assert csv.field_size_limit() == limit


def test_labels_are_scaled_mapped_and_dropped_with_their_count(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("review,stars\ndull,1\nfine,3\nsuperb,5\n,4\nnone,\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 5: text is empty, .*dropna=True"):
        read_labelled(path, text="review", label="stars", scale=(1, 5))
    with pytest.warns(UserWarning, match=r"x\.csv: 2 of 5 rows are left out"):
        data = read_labelled(path, text="review", label="stars", scale=(1, 5), dropna=True)
    assert data == Labelled(("dull", "fine", "superb"), (-1, 0, 1))
    with pytest.warns(UserWarning, match="2 of 5 rows"):
        mapped = read_labelled(
            path, text="review", label="stars", labels={1: -1, "3": 0, 5.0: 1}, dropna=True
        )
    assert mapped == data


def test_a_name_that_was_guessed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("Review;Sentiment\ndull;neg\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="to confirm it") as said:
        assert read_labelled(path, labels={"neg": -1}).labels == (-1,)
    assert "text='Review'" in str(said[0].message) and "label='Sentiment'" in str(said[1].message)
    with pytest.warns(UserWarning, match="text='Review'"):
        assert read_texts(path) == ["dull"]
    with pytest.raises(ValueError, match="did you mean text='Review'"):
        read_labelled(path, text="reviews", label="sentiment", labels={"neg": -1})


def test_parquet_is_read_where_pandas_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    pd.DataFrame({"text": HARD, "label": DATA.labels}).to_parquet(path)
    assert read_labelled(path) == DATA and read_texts(path) == list(HARD)
    with pytest.raises(ValueError, match=r"x\.parquet: no column 'words'"):
        read_texts(path, text="words")

    def without_an_engine(*_: object) -> None:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", without_an_engine)
    with pytest.raises(ValueError, match="needs pyarrow"):
        read_labelled(path)


@pytest.mark.parametrize("kind", [".txt", ".txt.gz", ".tsv", ".json"])
def test_texts_come_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    content = {
        ".tsv": "text\ngood, very\n\nbad; so\n",
        ".json": '[{"text": "good, very"}, {"text": null}, {"text": "bad; so"}]',
    }
    written = content.get(kind, "good, very\n\nbad; so").encode()
    path = tmp_path / f"x{kind}"
    path.write_bytes(gzip.compress(written) if kind.endswith("gz") else written)
    assert read_texts(path) == ["good, very", "bad; so"]


@pytest.mark.parametrize(
    "text, message", [("3", "got int 3, expected a text"), ('"\\ud83d"', "half a character")]
)
def test_texts_without_labels_are_texts(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text": ' + text + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.jsonl, line 2: text.*{message}"):
        read_texts(tmp_path / "x.jsonl")


@pytest.mark.parametrize("value", [pd.DataFrame({"text": ["a"]}), ["a"], io.StringIO("text,label")])
def test_what_is_no_file_is_shown_its_way(unchecked: None, value: object) -> None:
    for read in (read_labelled, read_texts):
        with pytest.raises(
            ValueError, match=r"path: got .*, expected the name of a file; .*Labelled\.from_pandas"
        ):
            read(value)  # pyright: ignore[reportArgumentType]


def test_messages_stay_short_where_columns_are_many(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(
        pd.DataFrame({"text": ["a"] * 500, "label": [1] * 500}).to_json(orient="index"),
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="480 more") as raised:
        read_labelled(path)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "path, said",
    [
        ("https://example.org/reviews.csv", "path: got the address .*nothing is downloaded"),
        (".", "path: . is a folder"),
    ],
)
def test_what_is_no_file_here_is_said_to_be_none(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_labelled(path)


def test_commas_between_the_lines_of_jsonl_are_named(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "good", "label": 1},\n{"text": "bad", "label": -1}\n')
    with pytest.raises(ValueError, match="line 1: not JSON .*end without a comma"):
        read_labelled(path)
