"""Find the columns of texts, labels and prompts in a table, and read them."""

import difflib
import math
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from steerlens.maths.brief import brief
from steerlens.values.meaning import (
    ends_of,
    mapped,
    meaning_of,
    no_label,
    numbers_of,
    parse,
    scaled,
)
from steerlens.values.texts import is_missing, listed, remedy, text_fault, to_number
from steerlens.values.warn import warn_user

SYNONYMS = {
    "text": ("texts", "sentence", "review", "content", "comment"),
    "label": ("labels", "sentiment", "score", "stars", "rating"),
}
GRADES = ("score", "stars", "rating")
"""Names of labels that say nothing about their scale: one star is the worst, not the best."""


class Table(NamedTuple):
    """The columns of a table, and how messages name it, its rows and where a column is missed."""

    names: list[Hashable]
    column: Callable[[Hashable], list[Any]]
    where: Callable[[int], str]
    source: str
    head: str


@dataclass(frozen=True)
class Absent:
    """What a row holds that has no such column, with the columns that it has."""

    found: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Which columns hold the texts, the labels and the prompts, and what the labels mean.

    Args:
        text, label, prompt: names of columns.
        labels: the label, in [-1, 1], of each word or number that the column holds.
        scale: the two values that mean -1 and +1; what lies between follows linearly.
        dropna: leave out rows without text or label.

    Raises:
        ValueError: no name, both `labels` and `scale`, or one that says nothing.
    """

    text: Hashable = "text"
    label: Hashable = "label"
    prompt: Hashable | None = None
    labels: Mapping[Any, Any] | None = None
    scale: Sequence[float] | None = None
    dropna: bool = False

    def __post_init__(self) -> None:
        for role, name in (("text", self.text), ("label", self.label)):
            if name is None:
                raise ValueError(f"{role}: got None, expected the name of a column")
        if self.labels is not None and self.scale is not None:
            raise ValueError("labels, scale: got both, expected one; labels= names each value")
        if self.labels is not None:
            meaning_of(self.labels)
        if self.scale is not None:
            ends_of(self.scale)

    @property
    def unexplained(self) -> bool:
        """Whether nothing says what the labels mean."""
        return self.labels is None and self.scale is None


class Found(NamedTuple):
    """Texts, labels and prompts, row by row."""

    texts: list[str]
    labels: tuple[float, ...]
    prompts: list[str]


def read_columns(table: Table, columns: Columns, *, part: bool = False) -> Found:
    """Read texts, labels and prompts out of a table, or of a part of one, of which no row may be
    left.

    Raises:
        ValueError: a column that is not there or there twice, no rows, a row without text or label,
            a label without a meaning; the message names the row and the option that helps.

    Warns:
        UserWarning: a column that was found by what such columns are often called; rows left out.
    """
    asked = {"text": columns.text, "label": columns.label, "prompt": columns.prompt}
    named = {
        role: _find(table, name, role, columns.unexplained)
        for role, name in asked.items()
        if name is not None and table.names
    }
    read = {role: table.column(name) for role, name in named.items()}
    n = len(read.get("text", ()))
    for role, values in read.items():
        if len(values) != n:
            raise ValueError(
                f"{table.source}: column {named[role]!r} has {len(values)} values, column {named['text']!r} "
                f"has {n}; expected as many"
            )
    meaning = None if columns.labels is None else meaning_of(columns.labels)
    raw = read.get("label", [])
    bare = [
        row
        for row in range(n)
        if _no_text(read["text"][row]) or _absent(raw[row]) or no_label(raw[row], meaning)
    ]
    rows = sorted(set(range(n)) - set(bare)) if columns.dropna else list(range(n))
    if not rows and not (part and n):
        left = f" left, all {n} are without text or label" if n else ""
        raise ValueError(
            f"{table.source}: no rows{left}; expected columns {columns.text!r} and {columns.label!r}"
        )
    if len(rows) < n:
        warn_user(
            f"{table.source}: {n - len(rows):,} of {n:,} rows are left out, without text or label"
        )
    for row in rows:
        for role, name in named.items():
            fault = _fault(
                role, name, read[role][row], role == "label" and no_label(read[role][row], meaning)
            )
            if fault:
                raise ValueError(f"{table.where(row)}: {fault}")
    if not rows:
        return Found([], (), [])
    texts, values = [read["text"][row] for row in rows], [raw[row] for row in rows]
    prompts = [read["prompt"][row] for row in rows] if "prompt" in read else []

    def where(row: int) -> str:
        return table.where(rows[row])

    if meaning is not None:
        return Found(texts, mapped(values, meaning, where), prompts)
    if columns.scale is not None:
        values = scaled(values, ends_of(columns.scale), where)
    return Found(texts, numbers_of(values, texts, where), prompts)


def read_column(table: Table, text: Hashable) -> list[str]:
    """Read the texts of a table, those rows left out that have none.

    Raises:
        ValueError: a column that is not there or there twice, no text at all, something that is no
            text.
    """
    values = table.column(_find(table, text, "text", False)) if table.names else []
    rows = [row for row, value in enumerate(values) if not _no_text(value)]
    if not rows:
        raise ValueError(f"{table.source}: no text; expected some in a column {text!r}")
    for row in rows:
        fault = text_fault(values[row])
        if fault:
            raise ValueError(f"{table.where(row)}: text{fault}")
    return [values[row] for row in rows]


def find_column(table: Table, asked: Hashable, role: str) -> Hashable:
    """Return the column of that name, of that name but for case and spaces, or, where the name is
    the default, the only one with a usual name of its kind.

    Raises:
        ValueError: none, or several.
    """
    alike = [
        [name for name in table.names if name == asked],
        [name for name in table.names if _spelt(name) == _spelt(asked)],
        [name for name in table.names if asked == role and _spelt(name) in SYNONYMS.get(role, ())],
    ]
    best = next(filter(None, alike), [])
    if len(best) == 1:
        return best[0]
    if best and best == alike[0]:
        raise ValueError(f"{table.head}: {len(best)} columns are called {brief(asked)}; rename one")
    close = best or difflib.get_close_matches(str(asked), [str(name) for name in table.names])
    hint = f"; did you mean {' or '.join(f'{role}={name!r}' for name in close)}?" if close else ""
    numbers = [
        isinstance(name, str) and math.isfinite(to_number(parse(name))) for name in table.names
    ]
    if any(numbers) and not all(numbers):
        hint += "; does the first line name the columns?"
    raise ValueError(f"{_missing(table, asked)}{hint}")


def _find(table: Table, asked: Hashable, role: str, unexplained: bool) -> Hashable:
    """Call `find_column`, say what it guessed, and guess no grade whose scale nobody gave."""
    name = find_column(table, asked, role)
    if _spelt(name) == _spelt(asked):
        return name
    if _spelt(name) in GRADES and unexplained:
        given = [parse(value) for value in table.column(name)]
        values = remedy([value for value in given if not no_label(value, None)])
        raise ValueError(
            f"{_missing(table, asked)}; {name!r} may be it, but does not say what its values mean: "
            f"pass label={name!r} and {values}"
        )
    warn_user(
        f"{table.source}: no column {brief(asked)}, so {name!r} is read as the {role}s; pass {role}={name!r} to confirm it"
    )
    return name


def _fault(role: str, name: Hashable, value: Any, no_label: bool) -> str | None:
    """Say what is wrong with one value, if its meaning is left aside."""
    drop = "drop the row, or pass dropna=True to leave out all rows without text or label"
    if isinstance(value, Absent):
        return f"no column {brief(name)}; found {listed(value.found)}"
    if role == "label":
        return f"no {brief(name)} (label {brief(value)}); {drop}" if no_label else None
    if role == "text" and _no_text(value):
        said = "empty" if isinstance(value, str) else f"missing ({brief(value)})"
        return f"text is {said}, expected one that is not empty; {drop}"
    if is_missing(value):
        return f"no {brief(name)} ({brief(value)}); write '' where nothing comes before a text"
    fault = text_fault(value)
    return fault and f"{role}{fault}"


def _no_text(value: Any) -> bool:
    return _absent(value) or is_missing(value) or (isinstance(value, str) and not value.strip())


def _absent(value: Any) -> bool:
    return isinstance(value, Absent)


def _spelt(name: Hashable) -> str:
    return unicodedata.normalize("NFC", str(name).strip()).casefold()


def _missing(table: Table, asked: Hashable) -> str:
    return f"{table.head}: no column {brief(asked)}; found {listed(table.names)}"
