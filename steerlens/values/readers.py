"""Read texts from files."""

import gzip
import json
import zlib
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from steerlens.values.columns import Absent, Columns, Table, read_column, read_columns
from steerlens.values.csv_table import csv_table
from steerlens.values.encodings import check_text
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_path
from steerlens.values.tables import frame_table
from steerlens.values.texts import listed

SUFFIXES = (".jsonl", ".csv", ".tsv", ".json", ".parquet")
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|"}


def read_labelled(
    path: str | PathLike[str],
    *,
    text: Hashable = "text",
    label: Hashable = "label",
    prompt: Hashable | None = None,
    labels: Mapping[Any, Any] | None = None,
    scale: Sequence[float] | None = None,
    dropna: bool = False,
) -> Labelled:
    """Read labelled texts from a `.jsonl`, `.csv`, `.tsv`, `.json` or `.parquet` file in UTF-8.

    All but the last may be compressed, as `.csv.gz`.

    Args:
        path: the file. CSV and TSV have a header line, which says what separates the columns
            (comma, semicolon, tab or bar); JSONL has one object per line; JSON a list of objects or
            an object of columns.
        text, label, prompt, labels, scale, dropna: the columns and what the labels mean, see
            `Labelled.from_dict`.

    Raises:
        ValueError: another kind of file, bytes that are not UTF-8, a column that is not there (the
            message lists what was found), a row without text or label, a label without a meaning;
            each names the file and the line.
        FileNotFoundError: no such file.

    Example:
        >>> _ = Path("reviews.csv").write_text("review;stars\\ndull, dull;2\\nsuperb;5\\n")
        >>> read_labelled("reviews.csv", text="review", label="stars", scale=(1, 5))
        Labelled(2 texts, labels -0.5 ×1, 1 ×1, median 1.5 words)
    """
    columns = Columns(text, label, prompt, labels, scale, dropna)
    return Labelled(
        *read_columns(_table(path_of_table(path), [text, label, prompt], SUFFIXES), columns)
    )


def read_texts(path: str | PathLike[str], *, text: Hashable = "text") -> list[str]:
    """Read texts without labels: a `.txt` file with one per line, or a column of a table.

    Lines and rows without text are left out. Tables are the files that `read_labelled` reads.

    Raises:
        ValueError: as from `read_labelled`; no text at all.

    Example:
        >>> _ = Path("reviews.txt").write_text("so so .\\n\\nsuperb .\\n")
        >>> read_texts("reviews.txt")
        ['so so .', 'superb .']
    """
    path, kinds = path_of_table(path), (*SUFFIXES, ".txt")
    if kind_of(path, kinds) != ".txt":
        return read_column(_table(path, [text], kinds), text)
    found = [line.rstrip("\r") for line in _content(path).split("\n") if line.strip()]
    if not found:
        raise ValueError(
            f"{path}: no text; expected one per line, or a table with a column {text!r}"
        )
    return found


def path_of_table(path: Any) -> Path:
    """Return the path of a file; refuse addresses, and tables that are in memory."""
    if isinstance(path, str) and "://" in path:
        raise ValueError(
            f"path: got the address {path!r}, expected a file here; nothing is downloaded: get it first"
        )
    if isinstance(path, str | PathLike):
        return as_path(path)
    raise ValueError(
        f"path: got {type(path).__name__}, expected the name of a file; a table goes to Labelled.from_pandas, "
        "Labelled.from_dict or Labelled.from_dataset"
    )


def kind_of(path: Path, kinds: Sequence[str]) -> str:
    """Return a file's ending, without .gz, where it is one of those that are read."""
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder, expected a file; read each with read_labelled")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else path.suffix.lower()
    if kind not in kinds or (kind == ".parquet" and suffixes[-1] == ".gz"):
        raise ValueError(
            f"path: {path.name} ends in {path.suffix!r}, expected one of {', '.join(kinds)}; what pandas "
            "reads goes to Labelled.from_pandas"
        )
    return kind


def _table(path: Path, wanted: Sequence[Hashable], kinds: Sequence[str]) -> Table:
    kind = kind_of(path, kinds)
    if kind == ".parquet":
        return _parquet_table(path)
    content = _content(path)
    if kind == ".jsonl":
        return object_table(path, *_jsonl_rows(content, path))
    if kind == ".json":
        return _json_table(content, path)
    return csv_table(content, path, wanted, SEPARATORS[kind])


def _content(path: Path) -> str:
    """Return the text of a file, without its byte order mark."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be decompressed ({error}); write it again") from None
    check_text(content, path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); convert the file, e.g. "
            f"`iconv -f cp1252 -t utf-8 {path.name}`"
        ) from None


def _parquet_table(path: Path) -> Table:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return frame_table(pd.read_parquet(path), str(path))
    except ImportError:
        raise ValueError(
            f"{path}: pandas needs pyarrow to read .parquet; `pip install pyarrow`, or save it as .jsonl"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a parquet file ({error})") from None


def object_table(path: Path, rows: list[dict], where: list[str]) -> Table:
    """Return objects as a table; one may lack what others have."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def column(name: Hashable) -> list:
        return [row.get(name, Absent(tuple(row))) if name not in row else row[name] for row in rows]

    return Table(
        names,
        column,
        lambda row: f"{path}, {where[row]}",
        str(path),
        f"{path}, {where[0]}" if rows else "",
    )


def _jsonl_rows(content: str, path: Path) -> tuple[list[dict], list[str]]:
    rows, where = [], []
    for line, raw in enumerate(content.split("\n"), 1):
        if not raw.strip():
            continue
        where.append(f"line {line}")
        row = read_json(raw, path, where[-1])
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line}: got {type(row).__name__}, expected an object per line; a file "
                "that is one list is called .json"
            )
        rows.append(row)
    return rows, where


def _json_table(content: str, path: Path) -> Table:
    found = read_json(content, path, "") if content.strip() else []
    if isinstance(found, dict) and found and all(isinstance(x, dict) for x in found.values()):
        # as DataFrame.to_json writes it: each column an object of rows
        keys = {tuple(column) for column in found.values()}
        found = (
            {name: list(column.values()) for name, column in found.items()}
            if len(keys) == 1
            else found
        )
    if isinstance(found, dict):
        lists = {name: column for name, column in found.items() if isinstance(column, list)}
        if len({len(column) for column in lists.values()}) > 1 or not lists:
            raise ValueError(
                f"{path}: got an object with {listed(found)}, expected a list of objects, or an object "
                "whose values are columns of one length"
            )
        found = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    if not isinstance(found, list):
        raise ValueError(f"{path}: got {type(found).__name__}, expected a list of objects")
    for i, row in enumerate(found):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, [{i}]: got {type(row).__name__}, expected an object")
    return object_table(path, found, [f"[{i}]" for i in range(len(found))])


def read_json(raw: str, path: Path, where: str) -> Any:
    """Return what JSON says; an error has the place, and what is wrong with files of this kind."""
    try:
        return json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        at = where or (f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "")
        said = error.msg if isinstance(error, json.JSONDecodeError) else error
        more = ""
        if said == "Extra data" and not where:
            more = "; a file with an object per line is called .jsonl"
        elif where and raw.rstrip().endswith(","):
            more = "; lines of .jsonl end without a comma; in brackets, [...], they are .json"
        place = f"{path}, {at}" if at else str(path)
        raise ValueError(f"{place}: not JSON ({said}){more}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name is there twice: {[name for name, _ in pairs]}")
    return found
