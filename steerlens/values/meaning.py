"""Say what the labels of a column mean, as numbers in [-1, 1]."""

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from steerlens.maths.brief import brief
from steerlens.values.texts import as_list, is_missing, plain_labels, remedy, to_number

NO_LABEL = ("", "nan", "na", "n/a", "null", "none")
"""How files write that there is no label."""

DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""One point two or one thousand two hundred: `1,200` is not guessed."""

SLIP = 1e-6
"""How far float32 may put a label beside the end or the middle of its scale, where the ends are -1 and +1."""

Where = Callable[[int], str]
"""Names a row in messages."""


def parse(value: Any) -> Any:
    """Return text that spells a number or a truth value as such, and anything else as it is.

    Example:
        >>> [parse(x) for x in ("1", "-0,5", "−2", "True", "5 stars", "1,200", "1_5")]
        [1.0, -0.5, -2.0, True, '5 stars', '1,200', '1_5']
    """
    if not isinstance(value, str):
        return value
    text = value.strip().replace("\u2212", "-")  # a minus sign that is no hyphen
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if DECIMAL_COMMA.fullmatch(text) and not THOUSANDS.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return value if "_" in text else float(text)  # Python alone reads 1_5 as 15
    except ValueError:
        return value


def meaning_of(labels: Any) -> dict[Hashable, float]:
    """Return the label of each value, where `1`, `1.0`, `"1"` and `True` are one value.

    Raises:
        ValueError: no mapping, a label outside [-1, 1], one value with two labels.

    Example:
        >>> meaning_of({"bad ": -1, "1": 1})
        {'bad': -1.0, 1.0: 1.0}
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(
            f"labels: got {brief(labels)}, expected a number for each value, e.g. {{'bad': -1, 'good': 1}}"
        )
    keys = list(labels)
    numbers = plain_labels(
        as_list("labels", labels.values()),
        lambda i, value: f"labels[{keys[i]!r}]: got {brief(value)}, expected a number in [-1, 1]",
    )
    meaning: dict[Hashable, float] = {}
    for key, number in zip(keys, numbers, strict=True):
        if meaning.setdefault(same(key), number) != number:
            raise ValueError(f"labels: {key!r} is there twice, with two labels")
    return meaning


def ends_of(scale: Any) -> tuple[float, float]:
    """Return the two values that mean -1 and +1.

    Raises:
        ValueError: not two different numbers.

    Example:
        >>> ends_of([1, 5])
        (1.0, 5.0)
    """
    try:
        low, high = map(to_number, as_list("scale", scale))
    except ValueError:
        low = high = 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low != high):
        raise ValueError(
            f"scale: got {brief(scale)}, expected the values that mean -1 and +1, e.g. (1, 5)"
        )
    return low, high


def no_label(value: Any, meaning: Mapping[Hashable, float] | None) -> bool:
    """Tell whether a value is none, unless it has a meaning."""
    if isinstance(value, str):
        return value.strip().casefold() in NO_LABEL and same(value) not in (meaning or ())
    return is_missing(value)


def mapped(
    values: Sequence[Any], meaning: Mapping[Hashable, float], where: Where
) -> tuple[float, ...]:
    """Return the label of every value.

    Raises:
        ValueError: a value without one.
    """
    unknown = [row for row, value in enumerate(values) if same(value) not in meaning]
    if unknown:
        first, *others = dict.fromkeys(brief(values[row]) for row in unknown)
        known = ", ".join(map(repr, list(meaning)[:10]))
        more = f", and {', '.join(others[:9])}" if others else ""
        raise ValueError(
            f"{where(unknown[0])}: label {first} is not in labels=, which has {known}; add it{more}"
        )
    return tuple(meaning[same(value)] for value in values)


def scaled(values: Sequence[Any], scale: tuple[float, float], where: Where) -> list[Any]:
    """Return `2 (x - low) / (high - low) - 1` for every number, and what is none as it is.

    Raises:
        ValueError: a number that is not between the two.

    Example:
        >>> scaled([1, "2", 5], (1, 5), lambda row: f"row {row}")
        [-1.0, -0.5, 1.0]
    """
    low, high = scale
    parsed = [parse(value) for value in values]
    numbers = [float(value) if isinstance(value, bool) else to_number(value) for value in parsed]
    labels: list[Any] = list(parsed)
    for row, x in enumerate(numbers):
        if math.isnan(x):
            continue
        y = 2 * (x - low) / (high - low) - 1
        if not abs(y) <= 1 + SLIP:
            raise ValueError(
                f"{where(row)}: label {x:g} lies outside scale=({low:g}, {high:g}); the labels run from "
                f"{min(y for y in numbers if y == y):g} to {max(y for y in numbers if y == y):g}"
            )
        # what rounding moved off the middle would be no neutral text any more
        labels[row] = next((end for end in (-1.0, 0.0, 1.0) if abs(y - end) <= SLIP), y)
    return labels


def numbers_of(values: Sequence[Any], texts: Sequence[str], where: Where) -> tuple[float, ...]:
    """Return values that are labels as they stand.

    Raises:
        ValueError: a value that is no number in [-1, 1]; the message names the option that helps.
    """
    parsed = [parse(value) for value in values]
    words = [value for value in parsed if isinstance(value, str)]

    def complain(row: int, value: Any) -> str:
        said = f"{where(row)}: label {brief(value)} is not a number in [-1, 1]; "
        if isinstance(value, bool):
            return f"{said}truth values and numbers do not mix"
        if isinstance(value, str):
            return f"{said}pass {remedy(words)}"
        if math.isnan(to_number(value)):
            return f"{said}convert or drop it"
        return (
            f"{where(row)}: got text {texts[row][:40]!r} with label {float(value)}, expected a text that is "
            f"not empty and a label in [-1, 1]; pass {remedy(words or parsed)}"
        )

    return plain_labels(parsed, complain)


def same(value: Any) -> Hashable:
    """Return what all values of one meaning share; an accent may be a part of its letter or a
    character behind it, as files of macOS have it."""
    parsed = parse(value)
    if isinstance(parsed, str):
        return unicodedata.normalize("NFC", parsed.strip())
    return parsed if isinstance(parsed, Hashable) else repr(parsed)
