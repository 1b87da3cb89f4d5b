"""Read labelled texts that do not fit into memory, some thousand rows at a time."""

import gzip
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from steerlens.values.columns import Columns, Table, find_column, read_columns
from steerlens.values.encodings import check_text
from steerlens.values.labelled import Labelled
from steerlens.values.meaning import parse
from steerlens.values.readers import kind_of, object_table, path_of_table, read_json
from steerlens.values.tables import Featured, dataset_table, frame_table

ROWS = 1024
"""Rows that are read at a time."""
SUFFIXES = (".jsonl", ".parquet")


def stream_labelled(
    source: str | PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    text: Hashable = "text",
    label: Hashable = "label",
    prompt: Hashable | None = None,
    labels: Mapping[Any, Any] | None = None,
    scale: Sequence[float] | None = None,
    dropna: bool = False,
) -> Iterator[Labelled]:
    """Yield labelled texts some rows at a time, from a file or from rows that come one by one.

    What `read_labelled` and `Labelled.from_dataset` do with a whole table is done with each 1,024
    rows. The order of the rows is kept. Texts sorted by label make parts that are no random
    samples, so shuffle them first: `shuf` for JSONL, `dataset.shuffle(seed=0, buffer_size=100_000)`
    for a stream.

    Args:
        source: a `.jsonl` (also `.jsonl.gz`) or `.parquet` file; or rows, such as a
            `datasets.IterableDataset`, `load_dataset(..., streaming=True)`.
        text, label, prompt, labels, scale, dropna: the columns and what the labels mean, see
            `Labelled.from_dict`.

    Raises:
        ValueError: as from `read_labelled`, when the row is reached.
        FileNotFoundError: no such file.

    Example:
        >>> rows = ({"review": f"film {k} .", "stars": 1 + k % 5} for k in range(3000))
        >>> parts = stream_labelled(rows, text="review", label="stars", scale=(1, 5))
        >>> [len(part) for part in parts]
        [1024, 1024, 952]
    """
    columns = Columns(text, label, prompt, labels, scale, dropna)
    return _parts(source, columns)


def _parts(source: Any, columns: Columns) -> Iterator[Labelled]:
    """Yield what is left of each part of the rows; of some nothing may be."""
    table, some, truths = None, False, None
    for table in _tables(source, columns):
        found = read_columns(table, columns, part=True)
        if not found.texts:
            continue
        some = True
        if columns.unexplained:
            before, truths = truths, _truths(table, columns)
            if before is not None and truths != before:
                kinds = ("numbers", "truth values")
                raise ValueError(
                    f"{table.where(0)}: labels are {kinds[truths]} from here on and were {kinds[before]} before: False is -1, "
                    "0 is neutral; write one kind, or say what each means, e.g. labels={True: 1, False: -1}"
                )
        yield Labelled(*found)
    if table is not None and not some:
        raise ValueError(
            f"{table.source}: no rows left, all are without text or label; expected columns {columns.text!r} and "
            f"{columns.label!r}"
        )


def _truths(table: Table, columns: Columns) -> bool:
    """Return whether the labels of a part are truth values."""
    raw = table.column(find_column(table, columns.label, "label"))
    return any(isinstance(parse(value), bool) for value in raw)


def _tables(source: Any, columns: Columns) -> Iterator[Table]:
    if isinstance(source, str | PathLike):
        path = path_of_table(source)
        kind = kind_of(path, SUFFIXES)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        yield from _jsonl(path) if kind == ".jsonl" else _parquet(path)
        return
    if isinstance(source, Labelled | Mapping) or not isinstance(source, Iterable):
        raise ValueError(
            f"source: got {type(source).__name__}, expected a file or rows that come one by one, each a dictionary; what is "
            "in memory goes to Labelled.from_dict, from_pandas or from_dataset"
        )
    features = source.features if isinstance(source, Featured) else None
    first = 0
    rows = iter(source)
    while held := list(islice(rows, ROWS)):
        for row in held:
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"source: its rows are {type(row).__name__}, expected dictionaries of columns; plain texts go to "
                    "steerlens.models.collect_parts as they are"
                )
        names = list(dict.fromkeys(name for row in held for name in row))
        table = dataset_table(_Rows(names, features or {}, held), columns)
        yield _counted(table, "source", first)
        first += len(held)


@dataclass(frozen=True)
class _Rows:
    """Rows as a dataset whose columns can be taken."""

    column_names: list[str]
    features: Mapping[str, Any]
    rows: list[Mapping[str, Any]]

    def __getitem__(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.rows]


def _counted(table: Table, source: str, first: int) -> Table:
    """Return a table whose messages count rows from the beginning of all."""
    return table._replace(
        where=lambda row: f"{source}, row {first + row}", source=source, head=source
    )


def _jsonl(path: Path) -> Iterator[Table]:
    numbered = enumerate(_lines(path), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    while held := list(islice(filled, ROWS)):
        where = [f"line {number}" for number, _ in held]
        rows = [read_json(line, path, at) for at, (_, line) in zip(where, held, strict=True)]
        for row, at in zip(rows, where, strict=True):
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, {at}: got {type(row).__name__}, expected an object per line"
                )
        yield object_table(path, rows, where)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file in UTF-8; a text may hold any line break but the file's own."""
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        number = 0
        try:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    check_text(raw, path)
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: is not UTF-8 ({error.reason}); convert the file, e.g. with iconv"
            ) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: cannot be decompressed ({error}); write it again") from None


def _parquet(path: Path) -> Iterator[Table]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(
            f"{path}: pyarrow reads .parquet; `pip install pyarrow`, or save it as .jsonl"
        ) from None
    try:
        file = ParquetFile(path)
    except (OSError, ArrowInvalid) as error:
        raise ValueError(f"{path}: not a parquet file ({error})") from None
    first = 0
    with file:
        batches = file.iter_batches(ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ArrowInvalid) as error:
                why = " ".join(str(error).split())
                raise ValueError(
                    f"{path}: damaged behind row {first} ({why}); copy or save it anew"
                ) from None
            if batch is None:
                return
            yield _counted(frame_table(batch.to_pandas()), str(path), first)
            first += batch.num_rows
