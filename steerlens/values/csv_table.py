"""Tables in files of fields with a separator between them, as spreadsheets write them."""

import csv
import io
import re
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from steerlens.values.columns import Table

SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
"""What Excel puts first, or wants to find there."""

_FIELD_LIMIT = threading.Lock()


def csv_table(content: str, path: Path, wanted: Sequence[Hashable], separators: str) -> Table:
    """Read what a .csv holds, with the separator that its first line names or that its header shows
    beside the wanted columns."""
    said = SEP_LINE.match(content)
    start = said.end() if said else 0
    with _long_fields(len(content)):
        separator = said[1] if said else _separator(content, wanted, separators)
        header, rows = _csv_rows(content[start:], path, separator, skipped=1 if said else 0)
    lines = [line for line, _ in rows]

    def column(name: Hashable) -> list:
        i = header.index(str(name))
        return [row[i] if i < len(row) else None for _, row in rows]

    head = f"{path}, line {lines[0]}" if rows else str(path)
    return Table(list(header), column, lambda row: f"{path}, line {lines[row]}", str(path), head)


def _csv_rows(
    content: str, path: Path, separator: str, skipped: int
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the rows with the lines where they begin."""
    rows, fault = _quoted(content, separator, skipped)
    if fault:
        # tables with tabs mostly know no quotes: a text that begins with one is a text
        plain = _unquoted(content, skipped) if separator == "\t" else None
        if plain is None:
            raise ValueError(
                f"{path}, {fault}; a field with quotes or line breaks is put in double quotes, each quote in it doubled"
            )
        rows = plain
    header = rows[0][1] if rows else []
    for at, row in rows[1:]:
        if any(row[len(header) :]):
            raise ValueError(
                f"{path}, line {at}: {len(row)} fields where the header has {len(header)}; a text with "
                f"{separator!r} in it is put in double quotes"
            )
    return header, rows[1:]


def _quoted(content: str, separator: str, skipped: int) -> tuple[list[tuple[int, list[str]]], str]:
    """Return the rows, quotes taken for what holds a field together, and what speaks against that,
    nothing where nothing does."""
    # a text may hold any line break that is not the file's own; an unclosed quote would swallow the
    # rows after it
    source = io.StringIO(content, newline="")
    spaced = _is_spaced(content, separator)
    reader = csv.reader(source, delimiter=separator, strict=True, skipinitialspace=spaced)
    lines = content.split("\n") if separator == "\t" else []
    tabs, rows, line = -1, [], 1
    try:
        for row in reader:
            if row:
                rows.append((line + skipped, row))
                tabs = len(row) - 1 if tabs < 0 else tabs
            if lines and tabs > 0 and reader.line_num > line:
                here = lines[line - 1 : reader.line_num]
                if {x.count("\t") for x in here} == {tabs}:
                    said = f"a quote at the beginning of a field holds {len(here)} lines together, each of which is a whole row"
                    return rows, f"line {line + skipped}: {said}"
            line = reader.line_num + 1
    except csv.Error as error:
        return rows, f"line {line + skipped}: {error}"
    return rows, ""


def _is_spaced(content: str, separator: str) -> bool:
    """Return whether a space stands between a separator and a quote that opens a field, as people
    type it: the quotes would be letters of the text."""
    sep = re.escape(separator)
    return separator != "\t" and re.search(rf'{sep} +"[^"\s{sep}]', content) is not None


def _unquoted(content: str, skipped: int) -> list[tuple[int, list[str]]] | None:
    """Return the lines cut at their tabs; None where they are not all of as many fields."""
    lines = enumerate(content.split("\n"), 1 + skipped)
    rows = [(at, line.removesuffix("\r").split("\t")) for at, line in lines if line.strip("\r\n")]
    return rows if len({len(row) for _, row in rows}) == 1 and len(rows[0][1]) > 1 else None


def _separator(content: str, wanted: Sequence[Hashable], separators: str) -> str:
    """Return what separates the header's names: most of those that are wanted, then most of all."""
    asked = [str(name).strip().casefold() for name in wanted if name is not None]

    def worth(separator: str) -> tuple[int, int]:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        header = [name.strip().casefold() for name in next(filter(None, rows), [])]
        return sum(name in header for name in asked), len(header)

    return max(separators, key=worth)


@contextmanager
def _long_fields(longest: int) -> Iterator[None]:
    """Let fields be as long as the file; the limit is the csv module's own, for all of the
    process."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, longest))
        try:
            yield
        finally:
            csv.field_size_limit(before)
