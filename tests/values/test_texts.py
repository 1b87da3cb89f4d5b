"""Whatever holds texts in an order is a list of texts, and what is none is named."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerlens.values.texts import as_texts

ROWS = ["good .", "", "😀 \u200d"]


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        pd.Series(ROWS, index=[5, 3, 1]),
        pd.Series(ROWS, dtype="category"),
        np.array(ROWS),
        np.array(ROWS, dtype=object),
        pd.Index(ROWS),
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_in_an_order_are_a_list_of_plain_strings(given: Any) -> None:
    found = as_texts(given)
    assert found == ROWS and {type(text) for text in found} == {str}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"film", "data: got one bytes, b'film'"),
        ({"text": ["a"], "label": [1]}, r"got a dict, whose keys .* data\['text'\]"),
        ({"body": ["a"]}, r"data\['body'\]"),
        (pd.DataFrame({"label": [1], "text": ["a"]}), r"got a DataFrame, .* data\['text'\]"),
        ({"a", "b"}, "a set, which has no order"),
        ([], "data: got none"),
        (3, "data: got int"),
        (["a", None], r"data\[1\] is missing \(None\)"),
        (["a", float("nan")], r"data\[1\] is missing \(nan\)"),
        (pd.Series(["a", "b", pd.NA]), r"data\[2\] is missing"),
        (["a", 5], r"data\[1\]: got int 5"),
        ([["a", "b"]], r"data\[0\]: got list"),
        (np.array([["a", "b"]]), r"data\[0\]: got list"),
        ([[5, 6]], r"data\[0\]: got list \[5, 6\].*tokenizer\.decode"),
        ([{"role": "user", "content": "a"}], r"data\[0\]: got dict.*apply_chat_template"),
        ([[{"role": "user", "content": "a"}]], r"data\[0\]: got list.*apply_chat_template"),
        ([{"text": "a", "label": 1}], r"data\[0\]: got dict.*from_dataset"),
        (["a", "cut \ud83d here"], r"data\[1\] holds half a character, '\\ud83d' at 4"),
        (["\ud83d\ude00"], r"data\[0\] holds half a character"),
        ([b"caf\xe9".decode(errors="surrogateescape")], "or is the byte 0xe9 of another encoding"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_name(
    unchecked: None, given: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        as_texts(given, "data")
