"""Parts of a table with the types that pandas leaves open: what is selected is again a table, and
columns are read by name."""

import json
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from steerlens.values.arguments import check_kind


def check_made(given: Any, name: str, kind: type, about: str) -> None:
    """Raise where something else was given than what some function returns.

    Example:
        >>> check_made(3, "found", pd.DataFrame, "of compare(model, fits, test)")
        Traceback (most recent call last):
        ...
        ValueError: found: got int, expected a DataFrame, of compare(model, fits, test)
    """
    check_kind(given, name, kind, f"a {kind.__name__}, {about}")


def check_table(given: Any, columns: str, about: str, name: str = "table") -> None:
    """Raise where something else was given than a table with some rows and these columns.

    Example:
        >>> check_table(pd.DataFrame({"site": ["a"]}), "site value", "of steer_by_site")
        Traceback (most recent call last):
        ...
        ValueError: table: it has no column 'value', expected site, value, of steer_by_site
    """
    check_made(given, name, pd.DataFrame, about)
    for one in columns.split():
        if one not in given:
            raise ValueError(
                f"{name}: it has no column {one!r}, expected {', '.join(columns.split())}, {about}"
            )
    if not len(given):
        raise ValueError(f"{name}: it has no rows, so there is nothing to draw")


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """Return the column of this name, which a method of tables may have too, such as `size`.

    Example:
        >>> column(pd.DataFrame({"size": [1, 2]}), "size").tolist()
        [1, 2]
    """
    return cast(pd.Series, table[name])


def select(table: pd.DataFrame, which: pd.Series) -> pd.DataFrame:
    """Return the rows of a table that are marked.

    Args:
        which: true or false for each row.

    Example:
        >>> table = pd.DataFrame({"site": ["a", "b", "a"], "value": [1, 2, 3]})
        >>> select(table, table.site == "a").value.tolist()
        [1, 3]
    """
    return cast(pd.DataFrame, table[which])


def groups(
    table: pd.DataFrame, by: Hashable | Sequence[Hashable], *, sort: bool = False
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield what each group has in common, and its rows; the groups as they come, or sorted.

    Example:
        >>> table = pd.DataFrame({"site": ["b", "a", "b"], "value": [1, 2, 3]})
        >>> [(site, rows.value.tolist()) for site, rows in groups(table, "site")]
        [('b', [1, 3]), ('a', [2])]
    """
    yield from table.groupby(by, sort=sort)


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Yield each row as a named tuple, its `Index` first.

    Example:
        >>> table = pd.DataFrame({"site": ["a", "b"], "value": [1, 2]})
        >>> [f"{row.Index} {row.site} {row.value}" for row in rows_of(table)]
        ['0 a 1', '1 b 2']
    """
    yield from table.itertuples()


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as JSON's own types, one object per row.

    What is missing or not finite becomes null.

    Example:
        >>> records(pd.DataFrame({"site": ["a", "b"], "value": [1.5, np.nan]}))
        [{'site': 'a', 'value': 1.5}, {'site': 'b', 'value': None}]
    """
    finite = table.replace([np.inf, -np.inf], np.nan)
    return json.loads(cast(str, finite.to_json(orient="records", double_precision=10)))
