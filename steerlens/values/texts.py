"""Take plain texts and labels out of whatever sequence holds them."""

import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from steerlens.maths.brief import brief

PLAIN = (str, float, int, bool)


@runtime_checkable
class Array(Protocol):
    """Arrays, tensors, Series and their scalars."""

    def tolist(self) -> Any: ...


@runtime_checkable
class ArrowScalar(Protocol):
    """What a column of Arrow gives."""

    def as_py(self) -> Any: ...


def as_list(name: str, values: Any) -> list[Any]:
    """Return the items of a sequence by position, scalars of numpy and torch (Arrow's too) as
    Python's own.

    Raises:
        ValueError: a single string, a table or a mapping, a set, no sequence at all.

    Example:
        >>> import numpy as np
        >>> as_list("labels", np.array([1, -1]))
        [1, -1]
    """
    kind = type(values).__name__
    if isinstance(values, str | bytes):
        raise ValueError(
            f"{name}: got one {kind}, {brief(values)}, expected a list; put it in brackets, [...]"
        )
    if isinstance(values, Mapping | pd.DataFrame):
        column = "text" if "text" in values else next(iter(values), "text")
        raise ValueError(
            f"{name}: got a {kind}, whose keys would be read as texts; pass one column of it, e.g. {name}[{column!r}], or "
            "with its labels all of it to Labelled.from_dict, Labelled.from_pandas or Labelled.from_dataset"
        )
    if isinstance(values, set | frozenset):
        raise ValueError(f"{name}: got a {kind}, which has no order; pass a list")
    items = values.tolist() if isinstance(values, Array) else values
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ValueError(
            f"{name}: got {kind} {brief(items)}, expected a list, a tuple, an array or a Series"
        )
    return [item if type(item) in PLAIN else _plain(item) for item in items]


def plain_texts(name: str, values: Any) -> tuple[str, ...]:
    """Return texts as a tuple of plain strings; they may be empty.

    Raises:
        ValueError: as from `as_list`; an item that is missing, no string, or cut inside a
            character. The message names the row.

    Example:
        >>> plain_texts("texts", pd.Series(["good .", "bad ."])[::-1])
        ('bad .', 'good .')
    """
    texts = as_list(name, values)
    for row, text in enumerate(texts):
        fault = text_fault(text)
        if fault:
            raise ValueError(f"{name}[{row}]{fault}")
    # not str(text), which subclasses such as enumerations change
    return tuple(str.__str__(text) for text in texts)


def as_texts(texts: str | Iterable[str], name: str = "texts") -> list[str]:
    """Return texts as a list of plain strings; one string is one text, and one may be empty, as a
    prompt may be.

    Raises:
        ValueError: as from `plain_texts`; none at all.

    Example:
        >>> as_texts(pd.Series(["good .", "bad ."], index=[7, 9]))
        ['good .', 'bad .']
        >>> as_texts("good .")
        ['good .']
    """
    found = list(plain_texts(name, [texts] if isinstance(texts, str) else texts))
    if not found:
        raise ValueError(
            f"{name}: got none, expected at least one text; is the file or the filter empty?"
        )
    return found


def as_name(given: Any, name: str = "name") -> str:
    """Return a name, for tables, figures and files.

    Raises:
        ValueError: no text, or one cut inside a character.

    Example:
        >>> as_name("joy")
        'joy'
    """
    fault = "" if isinstance(given, str) else f": got {type(given).__name__} {brief(given)}"
    fault = fault or text_fault(given)
    if fault:
        raise ValueError(f"{name}{fault}, expected a text such as 'joy'")
    return given


def as_choice(given: Any, name: str, choices: Iterable[str]) -> str:
    """Return one of some words.

    Raises:
        ValueError: another; the message lists them.

    Example:
        >>> as_choice("+", "sign", ("both", "+", "-"))
        '+'
    """
    known = tuple(choices)
    if not isinstance(given, str) or given not in known:
        raise ValueError(
            f"{name}: got {brief(given)}, expected one of {', '.join(map(repr, known))}"
        )
    return given


def plain_labels(values: list[Any], complain: Callable[[int, Any], str]) -> tuple[float, ...]:
    """Return labels as floats in [-1, 1]; labels that are all false or true become -1 and +1.

    Args:
        values: from `as_list`.
        complain: the message about a row and its label.

    Raises:
        ValueError: a label that is no number in [-1, 1], truth values among numbers.

    Example:
        >>> plain_labels([True, False], lambda row, label: f"labels[{row}]: got {label}")
        (1.0, -1.0)
    """
    if all(isinstance(value, bool) for value in values):
        return tuple(1.0 if value else -1.0 for value in values)
    labels = tuple(map(to_number, values))
    wrong = [row for row, label in enumerate(labels) if not -1 <= label <= 1]  # NaN is wrong too
    if wrong:
        # among truth values it is the missing one that is to be named
        row = next((row for row in wrong if not isinstance(values[row], bool)), wrong[0])
        raise ValueError(complain(row, values[row]))
    return labels


def text_fault(text: Any) -> str | None:
    """Say what is wrong with a text, as the rest of a line that names it; nothing if it is fine."""
    if not isinstance(text, str):
        if is_missing(text):
            return (
                f" is missing ({text!r}); drop the row, Labelled.from_pandas(..., dropna=True) does"
            )
        return f": got {type(text).__name__} {brief(text)}, expected a text{_advice(text)}"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            # where Python keeps bytes of the command line and of files that it could not decode
            byte = f", or is the byte {ord(half) - 0xDC00:#x} of another encoding" * (
                "\udc80" <= half <= "\udcff"
            )
            return (
                f" holds half a character, {half!r} at {error.start}: it was cut inside an emoji{byte}; cut it elsewhere, "
                'read it in its encoding, or text.encode("utf-8", "replace").decode()'
            )
    return None


def _advice(given: Any) -> str:
    """Say how what was given instead of a text becomes one, as the rest of a line."""
    messages = given if isinstance(given, list | tuple) else [given]
    if messages and all(isinstance(m, Mapping) and "content" in m for m in messages):
        return (
            "; messages of a chat become one by tokenizer.apply_chat_template(messages, tokenize=False, "
            "add_generation_prompt=True)"
        )
    if isinstance(given, bytes):
        return '; decode it, text.decode("utf-8")'
    if isinstance(given, Mapping):
        return "; a table goes to Labelled.from_dataset, .from_pandas or .from_dict"
    if isinstance(given, list | tuple) and all(isinstance(token, int) for token in given):
        return "; ids of tokens become one by tokenizer.decode(ids)"
    return ""


def is_missing(value: Any) -> bool:
    """Tell None, NaN, NaT and pandas' NA from values."""
    if type(value) in PLAIN:
        return value != value
    return value is None or bool(pd.api.types.is_scalar(value) and pd.isna(value))


def to_number(value: Any) -> float:
    """Return a number as a float, and whatever is none as NaN."""
    if type(value) is not float and (
        isinstance(value, bool) or not isinstance(value, Real | Decimal)
    ):
        return float("nan")
    try:
        return float(value)
    except (OverflowError, ValueError):  # of a Decimal, a NaN that signals
        return float("nan")


def label_fault(row: int, label: Any, labels: list[Any]) -> str:
    """Say what is wrong with a label, with the next step; `labels` are all of them."""
    said = f"labels[{row}]: got {brief(label)}, expected a number in [-1, 1]; "
    if is_missing(label):
        return f"{said}drop the row, e.g. Labelled.from_pandas(..., dropna=True)"
    if isinstance(label, str):
        try:
            float(label)
        except ValueError:
            return f"{said}Labelled.from_dict takes {remedy(labels)}"
        return f"{said}it is text, so [float(y) for y in labels]"
    if isinstance(label, bool):
        return f"{said}truth values and numbers do not mix"
    if math.isfinite(to_number(label)):
        return f"{said}Labelled.from_dict takes {remedy(labels)}"
    return f"{said}convert or drop it"


def remedy(values: Iterable[Any]) -> str:
    """Name the option that makes labels of these values: `labels=` for words, `scale=` for numbers.

    Example:
        >>> remedy([1, 5, 2])
        'scale=(1, 5), or the true ends of their scale'
        >>> remedy(["good", "bad", "good"])
        "labels={'good': ..., 'bad': ...} with a number in [-1, 1] for each"
    """
    values = list(values)
    words = list(dict.fromkeys(value.strip() for value in values if isinstance(value, str)))
    if words and all(word.removesuffix("%").strip().isdigit() for word in words):
        return "numbers, e.g. 50 for '50%', and scale=(0, 100)"
    if words:
        more = f" and {len(words) - 10:,} more," if len(words) > 10 else ""
        shown = ", ".join(f"{brief(word)}: ..." for word in words[:10])
        return f"labels={{{shown}}}{more} with a number in [-1, 1] for each"
    numbers = [x for x in map(to_number, values) if abs(x) < float("inf")]
    if numbers and min(numbers) < max(numbers):
        return f"scale=({min(numbers):g}, {max(numbers):g}), or the true ends of their scale"
    return "scale=(lowest, highest), the ends of their scale"


def listed(names: Iterable[Any]) -> str:
    """Show names in order, twenty at most.

    Example:
        >>> listed(["text", "id"])
        "['id', 'text']"
    """
    shown = sorted(map(str, names))
    return f"{shown[:20]}" + (f" and {len(shown) - 20:,} more" if len(shown) > 20 else "")


def _plain(item: Any) -> Any:
    if isinstance(item, ArrowScalar):
        return item.as_py()
    return item.tolist() if isinstance(item, Array) else item
