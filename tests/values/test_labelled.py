"""Labelled texts from whatever holds them in memory; every bad input is named."""

import copy
import enum
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.values.labelled import Labelled

HARD = (
    'He said "no", twice',
    "two\nlines",
    "a\ttab",
    "naïve — 🎬",
    "form\x0cfeed and \u2028 separator",
    " 'quoted' ,",
)
DATA = Labelled(HARD, (1.0, -1.0, 0.0, 0.5, -0.25, 1e-3))


@pytest.mark.parametrize(
    "texts, labels, message",
    [
        ((), (), "got none"),
        (("a", float("nan")), (1, 0), r"texts\[1\] is missing \(nan\); drop the row"),
        (("a", None), (1, 0), r"texts\[1\] is missing \(None\)"),
        (("a", pd.NA), (1, 0), r"texts\[1\] is missing \(<NA>\)"),
        (("a", 3), (1, 0), r"texts\[1\]: got int 3, expected a text"),
        (("a", b"b"), (1, 0), r"texts\[1\]: got bytes b'b', .*decode"),
        ((["a"], ["b"]), (1, 0), r"texts\[0\]: got list \['a'\]"),
        (({"text": "a"},), (1,), r"texts\[0\]: got dict .*Labelled\.from_dataset"),
        (
            ("a", "cut \ud83d here"),
            (1, 0),
            r"texts\[1\] holds half a character, '\\ud83d' at 4: .*encode",
        ),
        ("good", (1,), "texts: got one str, 'good', expected a list"),
        ({"good": 1}, (1,), r"texts: got a dict, whose keys .*Labelled\.from_dict"),
        (pd.DataFrame({"text": ["a"]}), (1,), r"texts: got a DataFrame, .*Labelled\.from_pandas"),
        ({"a"}, (1,), "texts: got a set, which has no order"),
        (("a",), 1.0, "labels: got float 1.0, expected a list"),
        (("a",), np.float64(1), "labels: got float64 1.0, expected a list"),
        (("a",), [[1.0]], r"labels\[0\]: got \[1.0\], expected a number"),
        (("a", "b"), (1, None), r"labels\[1\]: got None, .*dropna=True"),
        (("a", "b"), pd.Series([True, None], dtype="boolean"), r"labels\[1\]: got <NA>"),
        (("a", "b"), (True, 0.5), r"labels\[0\]: got True, .*do not mix"),
        (("a", "b"), ("1", "0"), r"labels\[0\]: got '1', .*\[float\(y\) for y in labels\]"),
        (
            ("a", "b"),
            ("good", "bad"),
            r"labels\[0\]: got 'good', .*labels=\{'good': \.\.\., 'bad': \.\.\.\}",
        ),
        (("a", "b"), (5, 1), r"labels\[0\]: got 5, .*scale=\(1, 5\)"),
        (("a",), (10**400,), r"labels\[0\]: got 1000"),
        (("a",), (1j,), r"labels\[0\]: got 1j"),
        (("a", "b"), (1.0,), "got 1 for 2 texts"),
        (("a", " \n"), (1.0, 0.0), r"texts\[1\] is empty"),
        (("a", "b"), (1.0, float("nan")), r"labels\[1\]: got nan"),
        (("a",), (1.001,), r"labels\[0\]: got 1.001"),
        (("a",), (-float("inf"),), r"labels\[0\]: got -inf"),
    ],
)
def test_bad_texts_and_labels_are_refused(
    unchecked: None, texts: Any, labels: Any, message: str
) -> None:
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


def test_copies_of_a_text_are_in_one_part() -> None:
    n = 40
    once = Labelled([f"text {i}" for i in range(n)], [i / n for i in range(n)])
    # as it was before copies counted as one
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3)).tolist()
    parts = once.split(0.7, seed=3)
    assert parts == (once.pick(order[:28]), once.pick(order[28:]))
    rows = torch.randint(n, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    many = (once + once.pick(rows)).split(0.7, seed=3)
    assert [set(part) for part in many] == [set(part) for part in parts]
    assert len(many[0]) + len(many[1]) == n + 200
    # behind another prompt it is another text
    asked = Labelled(["yes", "no"] * 20, [1, -1] * 20, [f"question {i}" for i in range(40)])
    assert [len(part) for part in asked.split(0.7, seed=3)] == [28, 12]
    with pytest.raises(ValueError, match="0.5 of 1 different texts leaves one part empty; take ot"):
        Labelled(["a"] * 9, [0] * 9).split(0.5, seed=0)


def test_labelled_texts_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DATA.texts = ()  # pyright: ignore[reportAttributeAccessIssue]


# what holds texts and labels

TEXTS, LABELS = ("good film", "bad film", "so so"), (1.0, -1.0, 0.5)
DTYPES = ("object", "str", "string", "category")


class Word(str, enum.Enum):  # noqa: UP042 (whose `str` is not its text)
    GOOD = "good film"


@pytest.mark.parametrize(
    "hold",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pd.Index,
        iter,
        lambda x: np.array(x, object),
        lambda x: dict.fromkeys(x).keys(),
    ],
)
def test_any_sequence_gives_the_same_plain_values(hold: Callable) -> None:
    data = Labelled(hold(TEXTS), hold(LABELS), hold(TEXTS))
    assert data == Labelled(TEXTS, LABELS, TEXTS)
    assert {type(x) for x in (*data.texts, *data.prompts)} == {str} and {
        type(y) for y in data.labels
    } == {float}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_series_is_read_by_position(dtype: str) -> None:
    order = [2, 0, 1]
    texts, labels = pd.Series(TEXTS, dtype=dtype)[order], pd.Series(LABELS)[order]
    assert Labelled(texts, labels) == Labelled(TEXTS, LABELS).pick(order)
    assert Labelled(texts[texts != "bad film"], [1, 0]).texts == ("so so", "good film")


def test_scalars_of_any_library_are_numbers_and_texts() -> None:
    one = [
        torch.tensor(1.0, requires_grad=True),
        np.float16(0.5),
        Decimal("-0.5"),
        np.int64(-1),
        np.array(0.25),
    ]
    assert Labelled([np.str_("a")] * 5, one).labels == (1.0, 0.5, -0.5, -1.0, 0.25)
    assert Labelled(["a"] * 2, torch.tensor([1, -1])).labels == (1.0, -1.0)
    assert [type(x) for x in Labelled([Word.GOOD, np.str_("b")], [1, 0]).texts] == [str, str]
    assert Labelled([Word.GOOD], [1]).texts == ("good film",)


@pytest.mark.parametrize(
    "hold", [list, np.array, torch.tensor, lambda x: pd.Series(x, dtype="boolean")]
)
def test_truth_values_are_two_sides_and_numbers_stay(hold: Callable) -> None:
    assert Labelled(["a", "b"], hold([True, False])).labels == (1.0, -1.0)
    assert Labelled(["a", "b"], hold([1, 0]) if hold in (list, np.array) else [1, 0]).labels == (
        1.0,
        0.0,
    )


# the value

DATA3 = Labelled(TEXTS, LABELS, ("p", "", "q"))


def test_a_line_says_what_was_understood() -> None:
    assert (
        repr(Labelled([f"a {k}" for k in range(1500)], [-1, 1] * 750))
        == "Labelled(1,500 texts, labels -1 ×750, 1 ×750, median 2 words)"
    )
    copies = "; 2 of them are copies of another, which count once in a verdict"
    assert Labelled(["a", "b", "a", "a"], [1, -1, 1, 1]).understood().endswith(copies)
    assert copies not in Labelled(["a", "a", "a"], [1, -1, 1], ["x", "y", "z"]).understood()
    assert str(Labelled(["a"], [0.5])) == "Labelled(1 text, labels 0.5 ×1, median 1 word)"
    assert Labelled(list("abcdefghijk"), np.linspace(-1, 0.5, 11)).understood() == (
        "11 texts, labels from -1 to 0.5, mean -0.25, median 1 word"
    )
    two = Labelled(["a", "b c"], [0, 1], ["x", "y"]).understood()
    assert two == (
        "2 texts, labels 0 ×1, 1 ×1, median 1.5 words, with prompts; 0 is read as neutral; for two classes use "
        "-1 and 1 (labels={0: -1, 1: 1})"
    )
    assert "scale=(0, 0.5)" in repr(Labelled(["a", "b"], [0, 0.5]))
    assert "neutral" not in repr(Labelled(["a", "b", "c"], [0, 1, -1])) + repr(Labelled(["a"], [0]))


def test_rows_slices_and_sums_are_those_of_lists() -> None:
    assert DATA3[0] == ("good film", 1.0) == DATA3[np.int64(-3)] == next(iter(DATA3))
    assert DATA3[1:] == DATA3.pick(np.array([1, 2])) == DATA3.pick(range(1, 3))
    assert DATA3[:1] + DATA3[1:] == DATA3 == sum([DATA3[:2], DATA3[2:]])
    assert (DATA3[:1] + Labelled(["b"], [0])).prompts == ("p", "")
    assert (Labelled(["a"], [1]) + Labelled(["b"], [0])).prompts == ()
    assert copy.deepcopy(DATA3) == DATA3 == replace(replace(DATA3, labels=[0, 0, 0]), labels=LABELS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DATA3[3], "row: got 3, expected one of the 3 texts"),
        (lambda: DATA3[[0, 1]], r"row: got \[0, 1\], .*pick\(\[0, 2\]\)"),
        (lambda: DATA3.pick([True, False, True]), r"row: got True, .*flatnonzero\(mask\)"),
        (lambda: DATA3.pick(np.array([True, False, True])), r"row: got .*True.*flatnonzero"),
        (lambda: DATA3.pick(["0"]), "row: got '0', expected a whole number"),
        (lambda: DATA3.first(0), "n: got 0, expected how many"),
        (lambda: DATA3.first(1.5), "n: got 1.5, expected a whole number"),
        (lambda: DATA3.split(0.5, seed=None), "seed: got None, expected a whole number"),
        (lambda: DATA3.split(80, seed=0), "share: got 80, expected a part of 1"),
        (lambda: DATA3.split(float("nan"), seed=0), "share: got nan, expected a part of 1"),
    ],
)
def test_rows_that_are_none_are_refused(unchecked: None, call: Callable, message: str) -> None:
    with pytest.raises((ValueError, IndexError), match=message):
        call()


def test_whole_numbers_of_numpy_and_torch_are_whole_numbers() -> None:
    data = Labelled([f"text {i}" for i in range(20)], [0] * 20)
    for seed in (np.int64(3), np.uint8(3), torch.tensor(3)):
        assert data.split(0.5, seed=seed) == data.split(0.5, seed=3)
    assert data.first(np.int32(4)) == data[:4]


# prompts

PROMPTED = Labelled(
    HARD, DATA.labels, tuple(f'before "{i}",\nand after ' if i else "" for i in range(len(HARD)))
)


@pytest.mark.parametrize("prompts", [("one",), ("one",) * 3])
def test_prompts_are_as_many_as_texts_or_none(prompts: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=f"prompts: got {len(prompts)} for 2 texts, expected one per text or none"
    ):
        Labelled(("a", "b"), (0.0, 0.0), prompts)
    assert Labelled(("a", "b"), (0.0, 0.0)).prompts == ()


def test_a_split_keeps_every_text_with_its_prompt() -> None:
    n = 30
    data = Labelled(
        tuple(f"text {i}" for i in range(n)), (0.5,) * n, tuple(f"prompt {i}" for i in range(n))
    )
    parts = data.split(0.7, seed=3)
    assert [len(part.prompts) for part in parts] == [21, 9]
    for part in parts:
        assert [p.removeprefix("prompt ") for p in part.prompts] == [
            t.removeprefix("text ") for t in part.texts
        ]
    plain = Labelled(data.texts, data.labels).split(0.7, seed=3)
    assert [part.texts for part in plain] == [part.texts for part in parts]
    assert [part.prompts for part in plain] == [(), ()]


def test_prompts_are_no_part_of_the_pairs_of_texts_and_labels() -> None:
    assert list(PROMPTED) == list(DATA) and len(PROMPTED) == len(DATA)


def test_the_first_texts_keep_labels_and_prompts_and_are_no_more_than_there_are() -> None:
    data = Labelled(("a", "b", "c"), (1.0, 0.0, -1.0), ("x", "y", "z"))
    assert data.first(2) == Labelled(("a", "b"), (1.0, 0.0), ("x", "y"))
    assert data.first(5) == data and data.pick([2, 0]).labels == (-1.0, 1.0)
