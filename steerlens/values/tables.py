"""Tables in memory: dictionaries of columns, DataFrames, datasets of Hugging Face."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from steerlens.maths.brief import brief
from steerlens.values.columns import Columns, Table
from steerlens.values.meaning import parse
from steerlens.values.texts import as_list, is_missing


@runtime_checkable
class Dataset(Protocol):
    """What is used of a `datasets.Dataset`; one that streams has no columns to take."""

    column_names: Any

    def __getitem__(self, name: str) -> Any: ...


@runtime_checkable
class Featured(Protocol):
    """A dataset that knows what its columns hold."""

    features: Any


@runtime_checkable
class ClassLabel(Protocol):
    """A feature whose numbers stand for names; -1 stands for none."""

    names: Any


def dict_table(columns: Any) -> Table:
    """Return a dictionary of columns as a table."""
    if not isinstance(columns, Mapping):
        raise ValueError(
            f"columns: got {type(columns).__name__}, expected a dictionary of columns, {{'text': [...], "
            f"'label': [...]}}; {_where_to(columns)}"
        )
    return Table(
        list(columns),
        lambda name: as_list(f"column {name!r}", columns[name]),
        _row("columns"),
        *["columns"] * 2,
    )


def frame_table(df: Any, source: str = "df") -> Table:
    """Return a DataFrame as a table; rows are taken by position."""
    if not isinstance(df, pd.DataFrame):
        raise ValueError(
            f"df: got {type(df).__name__}, expected a pandas DataFrame; {_where_to(df)}"
        )
    plain = df.index.equals(pd.RangeIndex(len(df)))

    def where(row: int) -> str:
        return f"{source}, row {row}" + (
            "" if plain else f" (index {df.index[row : row + 1].tolist()[0]!r})"
        )

    named = [name for name in df.index.names if name is not None]
    index = (
        f" (index {', '.join(map(repr, named))}: df.reset_index() makes columns)" if named else ""
    )
    return Table(
        list(df.columns),
        lambda name: as_list(f"column {name!r}", df[name]),
        where,
        source,
        f"{source}{index}",
    )


def dataset_table(dataset: Any, columns: Columns) -> Table:
    """Return a dataset as a table; classes are their names, unless `columns` speaks of their
    numbers."""
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        raise ValueError(
            f"dataset: got {type(dataset).__name__} with {splits}, expected one split, e.g. "
            f"dataset[{next(iter(dataset), 'train')!r}]; a dictionary of columns goes to Labelled.from_dict"
        )
    if isinstance(dataset, pd.DataFrame | str) or not isinstance(dataset, Dataset):
        raise ValueError(
            f"dataset: got {type(dataset).__name__}, expected a datasets.Dataset; {_where_to(dataset)}"
        )

    def column(name: Hashable) -> list:
        values = as_list(f"column {name!r}", dataset[str(name)])
        features = dataset.features if isinstance(dataset, Featured) else None
        feature = (features or {}).get(name)
        if not isinstance(feature, ClassLabel):
            return values
        classes = [None if is_missing(value) or value < 0 else int(value) for value in values]
        if _by_number(name, feature.names, columns):
            return classes
        return [None if i is None else feature.names[i] for i in classes]

    return Table(list(dataset.column_names), column, _row("dataset"), *["dataset"] * 2)


def _by_number(column: Hashable, names: Sequence[str], columns: Columns) -> bool:
    """Return whether `columns` speaks of the numbers of classes, not of their names.

    Raises:
        ValueError: it speaks of numbers, and classes have others for names.
    """
    keys = columns.labels or ()
    if columns.scale is None and (
        not keys
        or any(
            isinstance(key, str) and (key in names or isinstance(parse(key), str)) for key in keys
        )
    ):
        return False
    own = [parse(name) for name in names]
    if any(not isinstance(name, str) and name != i for i, name in enumerate(own)):
        raise ValueError(
            f"column {column!r}: its classes 0 … {len(names) - 1} are named {brief(list(names))}, which are numbers too; say "
            f"by name what they mean, as text: labels={{{names[0]!r}: ..., {names[-1]!r}: ...}}"
        )
    return True


def _row(source: str):
    return lambda row: f"{source}, row {row}"


def _where_to(value: Any) -> str:
    """Name the next step for whoever came to the wrong door."""
    if isinstance(value, pd.DataFrame):
        return "pass it to Labelled.from_pandas"
    if isinstance(value, pd.Series):
        return "pass texts and labels to Labelled(texts, labels)"
    if isinstance(value, Mapping):
        return "pass it to Labelled.from_dict"
    if isinstance(value, str):
        return "a file is read by read_labelled"
    if isinstance(value, list | tuple):
        return "a list of rows goes through Labelled.from_pandas(pandas.DataFrame(rows))"
    if isinstance(value, Dataset):
        return "pass it to Labelled.from_dataset"
    return "a stream is made a list first, pandas.DataFrame(list(rows)); polars has .to_pandas()"
