"""Labelled texts out of tables in memory: what is asked for, what is guessed, what is refused."""

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.values.labelled import Labelled

TEXTS = ("dull", "fine", "superb")
STARS = pd.DataFrame({"review": TEXTS, "stars": [1, 3, 5]})
NAMED: dict[str, Any] = {"text": "review", "label": "stars"}


class Standin:
    """What `from_dataset` uses of a dataset."""

    def __init__(self, columns: dict, **names: list[str]) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {
            name: type("ClassLabel", (), {"names": found})() for name, found in names.items()
        }

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), st.floats(-1, 1)),
        min_size=1, max_size=5,
    ),
    prompted=st.booleans(),
)  # fmt: skip
def test_any_rows_survive_any_table(rows: list, prompted: bool) -> None:
    texts, labels = zip(*rows, strict=True)
    columns = {"text": texts, "label": labels, "ask": [f"{i}:" for i in range(len(rows))]}
    asked = "ask" if prompted else None
    data = Labelled(texts, labels, columns["ask"] if prompted else ())
    assert Labelled.from_dict(columns, prompt=asked) == data
    assert Labelled.from_pandas(pd.DataFrame(columns), prompt=asked) == data
    assert Labelled.from_dataset(Standin(columns), prompt=asked) == data
    shuffled = pd.DataFrame(columns).sample(frac=1, random_state=0)
    assert sorted(Labelled.from_pandas(shuffled)) == sorted(data)


@settings(max_examples=40)
@given(low=st.integers(-9, 9), width=st.integers(1, 100), share=st.floats(0, 1))
def test_a_scale_is_linear_and_may_run_down(low: int, width: int, share: float) -> None:
    high, x = low + width, low + round(share * width)
    columns = {"text": ["a", "b", "c"], "label": [low, x, high]}
    up, down = (
        Labelled.from_dict(columns, scale=ends).labels for ends in ((low, high), (high, low))
    )
    assert up == pytest.approx((-1, 2 * (x - low) / width - 1, 1)) and down == pytest.approx(
        [-y for y in up]
    )


@pytest.mark.parametrize(
    "hold", [list, np.array, pd.Series, pd.Categorical, lambda x: pd.array(x, dtype="Int64")]
)
def test_numbers_mean_what_is_said_whatever_holds_them(unchecked: None, hold: Callable) -> None:
    columns = {"text": TEXTS, "label": hold([1, 3, 5])}
    assert Labelled.from_dict(columns, scale=(1, 5)).labels == (-1, 0, 1)
    for keys in ((1, 3, 5), ("1", " 3", "5.0"), (1.0, np.int64(3), "5")):
        assert Labelled.from_dict(
            columns, labels=dict(zip(keys, (-1, 0.5, 1), strict=True))
        ).labels == (-1, 0.5, 1)
    assert Labelled.from_dict(
        {"text": TEXTS, "label": torch.tensor([1, 3, 5])}, scale=[1, 5]
    ).labels == (-1, 0, 1)
    assert Labelled.from_dict(
        {"text": TEXTS, "label": ["1", "3", "5"]}, scale=np.array([1, 5])
    ).labels == (-1, 0, 1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rounding_moves_no_label_off_the_ends_and_the_middle_of_its_scale(dtype: str) -> None:
    values = np.array([0.1, 0.2, 0.3], dtype=dtype)
    for scale, sign in (((0.1, 0.3), 1), ((0.3, 0.1), -1)):
        found = Labelled.from_dict({"text": TEXTS, "label": values}, scale=scale).labels
        assert found == (-sign, 0, sign)
    with pytest.raises(ValueError, match="outside scale"):
        Labelled.from_dict({"text": TEXTS, "label": values}, scale=(0.1, 0.2999))


def test_accents_are_the_same_however_they_are_spelled() -> None:
    one, two = (unicodedata.normalize(form, "étoilé") for form in ("NFC", "NFD"))
    df = pd.DataFrame({"text": TEXTS, one: [one, two, "nul"]})
    for name in (one, two):
        assert Labelled.from_pandas(df, label=name, labels={two: 1, "nul": -1}).labels == (1, 1, -1)


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
def test_words_mean_what_is_said(dtype: str) -> None:
    df = pd.DataFrame({"text": TEXTS, "label": pd.Series(["bad", "none", "good"], dtype=dtype)})
    # a word that files use where nothing is, unless it is given a meaning
    assert Labelled.from_pandas(df, labels={"bad": -1, "none": 0, "good": 1}).labels == (-1, 0, 1)
    with pytest.warns(UserWarning, match="df: 1 of 3 rows are left out"):
        assert Labelled.from_pandas(
            df, labels={"bad": False, "good": True}, dropna=True
        ).labels == (-1, 1)


def test_truth_values_of_a_column_are_two_sides() -> None:
    for values in (
        [True, False],
        ["True", "False"],
        [" true", "FALSE"],
        pd.array([True, False], dtype="boolean"),
    ):
        assert Labelled.from_dict({"text": ["a", "b"], "label": values}).labels == (1, -1)


GAPS = pd.DataFrame(
    {"text": ["a", None, "c", " ", "e"], "label": [1, -1, np.nan, 1, 0]}, index=[7, 3, 3, 9, 1]
)


def test_rows_without_text_or_label_are_dropped_when_asked_and_counted() -> None:
    with pytest.warns(UserWarning, match="3 of 5 rows are left out"):
        assert Labelled.from_pandas(GAPS, dropna=True) == Labelled(("a", "e"), (1, 0))
    assert Labelled.from_pandas(GAPS.iloc[[0, 4]], dropna=True) == Labelled(("a", "e"), (1, 0))
    with pytest.raises(ValueError, match="no rows left, all 3 are without"):
        Labelled.from_pandas(GAPS.iloc[1:4], dropna=True)


def test_columns_are_found_by_name_then_by_spelling_then_by_custom() -> None:
    named = {"text": TEXTS, "Text ": ["x"] * 3, "label": [1, 0, -1]}
    assert Labelled.from_dict(named).texts == TEXTS
    assert Labelled.from_dict({"TEXT ": TEXTS, " Label": [1, 0, -1]}).texts == TEXTS
    assert Labelled.from_pandas(pd.DataFrame([["a", 1], ["b", 0]]), text=0, label=1).texts == (
        "a",
        "b",
    )
    with pytest.warns(UserWarning, match="to confirm it") as said:
        assert Labelled.from_pandas(STARS, scale=(1, 5)).labels == (-1, 0, 1)
    assert [str(w.message).split("; ")[1] for w in said] == [
        "pass text='review' to confirm it", "pass label='stars' to confirm it",
    ]  # fmt: skip


BAD_TABLES: dict[str, tuple[Any, dict, str]] = {
    "a grade without its scale": (STARS, {"text": "review"}, r"no column 'label'.*label='stars' and scale=\(1, 5\)"),
    "another word": (STARS, {"text": "reviw"}, r"'reviw'; found \['review', 'stars'\]; did you mean text='review'"),
    "two that may be it": ({"review": ["a"], "comment": ["b"], "label": [1]}, {}, "text='review' or text='comment'"),
    "two of a name": (pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"]), {}, "2 columns are called 'text'"),
    "two of a spelling": ({"Text": ["a"], "TEXT": ["b"], "label": [1]}, {}, "text='Text' or text='TEXT'"),
    "no name": (STARS, {**NAMED, "label": None}, "label: got None, expected the name"),
    "no rows": (STARS[:0], NAMED, "df: no rows; expected columns 'review' and 'stars'"),
    "no columns": ({}, {}, "no rows"),
    "numbers beyond": (STARS, NAMED, r"df, row 1: .*'fine' with label 3.0, .*scale=\(1, 5\)"),
    "one number beyond": ({"text": ["a"], "label": [7]}, {}, r"label 7.0, .*scale=\(lowest, highest\)"),
    "beyond the scale": (STARS, {**NAMED, "scale": (1, 4)}, r"row 2: label 5 lies outside scale=\(1, 4\); .*from 1 to 5"),
    "infinite": ({"text": ["a", "b"], "label": [1, np.inf]}, {"scale": (1, 5)}, "row 1: label inf lies outside"),
    "no scale": (STARS, {**NAMED, "scale": (3, 3)}, r"scale: got \(3, 3\), expected the values"),
    "a number as scale": (STARS, {**NAMED, "scale": 5}, "scale: got 5, expected the values"),
    "both": (STARS, {**NAMED, "scale": (1, 5), "labels": {1: 1}}, "labels, scale: got both"),
    "a list of labels": (STARS, {**NAMED, "labels": [1, 2, 3]}, r"labels: got \[1, 2, 3\], expected a number for each"),
    "no labels": (STARS, {**NAMED, "labels": {}}, r"labels: got \{\}"),
    "labels beyond": (STARS, {**NAMED, "labels": {1: -1, 3: 0, 5: 2}}, r"labels\[5\]: got 2, expected"),
    "labels left as they were shown": (STARS, {**NAMED, "labels": {1: ...}}, r"labels\[1\]: got Ellipsis"),
    "two labels for one": (STARS, {**NAMED, "labels": {1: -1, "1": 1}}, "labels: '1' is there twice"),
    "one is not there": (STARS, {**NAMED, "labels": {1: -1, 5: 1}}, "df, row 1: label 3 is not in labels="),
    "words": ({"text": ["a", "b"], "label": ["g", "b"]}, {}, r"'g' is not a number.*labels=\{'g': \.\.\., 'b': \.\.\.\}"),
    "many words": ({"text": ["a"] * 30, "label": [f"w{i}" for i in range(30)]}, {}, "'w9': ...} and 20 more"),
    "another case": ({"text": ["a"], "label": ["Good"]}, {"labels": {"good": 1}}, "'Good' is not in labels=, which has 'good'"),
    "lists": ({"text": [["a"]], "label": [1]}, {}, r"row 0: text: got list \['a'\], expected a text"),
    "labels in lists": ({"text": ["a"], "label": [[1]]}, {}, r"label \[1\] is not a number"),
    "missing text": (GAPS, {}, r"df, row 1 \(index 3\): text is missing .*dropna=True"),
    "missing label": (GAPS.iloc[[0, 2]], {}, r"df, row 1 \(index 3\): no 'label' \(label nan\); .*dropna=True"),
    "missing prompt": ({"text": ["a"], "label": [1], "p": [None]}, {"prompt": "p"}, "no 'p' .*write ''"),
    "half an emoji": ({"text": ["a \ud83d"], "label": [1]}, {}, "row 0: text holds half a character"),
    "uneven": ({"text": ["a", "b"], "label": [1]}, {}, "column 'label' has 1 values, column 'text' has 2"),
    "a text for a column": ({"text": "abc", "label": [1]}, {}, "column 'text': got one str"),
    "a number for a column": ({"text": ["a"], "label": 1}, {}, "column 'label': got int 1, expected a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_cannot_be_read_is_refused_with_the_next_step(unchecked: None, case: str) -> None:
    table, options, message = BAD_TABLES[case]
    read = Labelled.from_pandas if isinstance(table, pd.DataFrame) else Labelled.from_dict
    with pytest.raises(ValueError, match=message):
        read(table, **options)


@pytest.mark.parametrize(
    "read, value, message",
    [
        (Labelled.from_dict, STARS, "got DataFrame, .*Labelled.from_pandas"),
        (Labelled.from_dict, [{"text": "a"}], r"got list, .*pandas\.DataFrame\(rows\)"),
        (Labelled.from_pandas, {"text": ["a"]}, "got dict, .*Labelled.from_dict"),
        (Labelled.from_pandas, STARS.review, r"got Series, .*Labelled\(texts, labels\)"),
        (Labelled.from_pandas, "x.csv", "got str, .*read_labelled"),
        (Labelled.from_pandas, Standin({"text": ["a"]}), "got Standin, .*Labelled.from_dataset"),
        (Labelled.from_dataset, STARS, "got DataFrame, .*Labelled.from_pandas"),
        (Labelled.from_dataset, {"train": 1, "test": 2}, r"'train', 'test', expected one split, e.g. dataset\['train'\]"),
        (Labelled.from_dataset, iter([]), "got list_iterator, expected a datasets.Dataset"),
    ],
)  # fmt: skip
def test_the_wrong_door_names_the_right_one(
    unchecked: None, read: Callable, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(value)


def test_the_numbers_of_classes_are_no_labels_until_it_is_said_what_they_mean() -> None:
    ds = Standin({"text": TEXTS, "label": [0, 1, 1]}, label=["neg", "pos"])
    with pytest.raises(
        ValueError, match=r"'neg' is not a number.*labels=\{'neg': \.\.\., 'pos': \.\.\.\}"
    ):
        Labelled.from_dataset(ds)
    for options in (
        {"labels": {"neg": -1, "pos": 1}},
        {"labels": {0: -1, 1: 1}},
        {"scale": (0, 1)},
    ):
        assert Labelled.from_dataset(ds, **options).labels == (-1, 1, 1)
    unlabelled = Standin({"text": TEXTS, "label": [0, -1, 1]}, label=["neg", "pos"])
    for options in (
        {"labels": {"neg": -1, "pos": 1}},
        {"labels": {0: -1, 1: 1}},
        {"scale": (0, 1)},
    ):
        with pytest.raises(ValueError, match="row 1: no 'label'"):
            Labelled.from_dataset(unlabelled, **options)
        with pytest.warns(UserWarning, match="1 of 3"):
            assert Labelled.from_dataset(unlabelled, **options, dropna=True).labels == (-1, 1)


def test_classes_that_are_named_by_other_numbers_are_spoken_of_by_name() -> None:
    turned = Standin({"text": TEXTS, "label": [0, 1, 1]}, label=["1", "0"])
    stars = Standin({"text": TEXTS, "label": [0, 3, 3]}, label=["1", "2", "3", "4", "5"])
    assert Labelled.from_dataset(turned, labels={"1": 1, "0": -1}).labels == (1, -1, -1)
    assert Labelled.from_dataset(stars, labels={"1": -1, "4": 0.5}).labels == (-1, 0.5, 0.5)
    assert Labelled.from_dataset(turned).labels == (1, 0, 0)
    said = r"column 'label': its classes 0 … 1 are named \['1', '0'\], .*labels=\{'1': \.\.\., '0'"
    for options in ({"labels": {1: 1, 0: -1}}, {"scale": (0, 1)}):
        with pytest.raises(ValueError, match=said):
            Labelled.from_dataset(turned, **options)
    for options in ({"labels": {0: -1, 3: 0.5}}, {"scale": (1, 5)}):
        with pytest.raises(ValueError, match=r"its classes 0 … 4 are named \['1', '2'"):
            Labelled.from_dataset(stars, **options)
    same = Standin({"text": TEXTS, "label": [0, 1, 1]}, label=["0", "1"])
    for options in ({"labels": {0: -1, 1: 1}}, {"labels": {"0": -1, "1": 1}}, {"scale": (0, 1)}):
        assert Labelled.from_dataset(same, **options).labels == (-1, 1, 1)


@pytest.mark.parametrize("form", [None, "torch", "numpy", "pandas", "arrow"])
def test_datasets_of_hugging_face_are_read_in_every_format(form: str | None) -> None:
    datasets = pytest.importorskip("datasets")
    features = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["neg", "pos"]),
    }
    ds = datasets.Dataset.from_dict(
        {"text": TEXTS, "label": [0, 1, 1]}, features=datasets.Features(features)
    )
    ds = ds.with_format(form)
    assert Labelled.from_dataset(ds, labels={"neg": -1, "pos": 1}) == Labelled(TEXTS, (-1, 1, 1))
    assert Labelled(ds["text"], [-1, 1, 1]).texts == TEXTS
    with pytest.raises(ValueError, match=r"DatasetDict with 'train', .*dataset\['train'\]"):
        Labelled.from_dataset(datasets.DatasetDict({"train": ds}))


def test_a_column_that_became_the_index_is_found_there() -> None:
    df = pd.DataFrame({"text": ["good .", "bad ."], "label": [1, -1]})
    with pytest.raises(ValueError, match=r"index 'text': df\.reset_index\(\).*no column 'text'"):
        Labelled.from_pandas(df.set_index("text"))
    assert len(Labelled.from_pandas(df.set_index("text").reset_index())) == 2
