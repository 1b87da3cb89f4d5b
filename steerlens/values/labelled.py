"""Labelled texts: what every fit starts from."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Labelled:
    """Texts with labels in [-1, 1]; the label is the strength at which a steer should explain its text.

    Args:
        texts: non-empty strings.
        labels: one number in [-1, 1] a text, e.g. -1 rude, 0 plain, +1 courteous.
        prompts: what comes before each text, or nothing at all: it is read and never predicted. A space goes between where
            neither has one.

    Raises:
        ValueError: no texts, another number of labels or prompts than texts, an empty text, a label that is NaN or outside
            [-1, 1]; the message names the row.

    Example:
        >>> data = Labelled(("good .", "bad ."), (1.0, -1.0))
        >>> len(data)
        2
    """

    texts: tuple[str, ...]
    labels: tuple[float, ...]
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts: got none, expected at least one; is the file or the filter empty?")
        if len(self.texts) != len(self.labels):
            raise ValueError(f"labels: got {len(self.labels)} for {len(self.texts)} texts, expected one a text")
        if self.prompts and len(self.prompts) != len(self.texts):
            raise ValueError(
                f"prompts: got {len(self.prompts)} for {len(self.texts)} texts, expected one a text or none"
            )
        for row, (text, label) in enumerate(zip(self.texts, self.labels, strict=True)):
            if not text.strip():
                raise ValueError(f"texts[{row}] is empty; drop the row, an empty text says nothing about its label")
            if not (math.isfinite(label) and -1 <= label <= 1):
                raise ValueError(
                    f"labels[{row}]: got {label}, expected a number in [-1, 1]; rescale them, e.g. stars 1…5 by (x - 3) / 2"
                )

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.texts, self.labels, strict=True)

    def split(self, share: float, *, seed: int) -> tuple["Labelled", "Labelled"]:
        """Two random parts, the first with `share` of the texts; same seed, same parts."""
        cut = round(share * len(self))
        if not 0 < cut < len(self):
            raise ValueError(f"share: {share} of {len(self)} texts leaves one part empty; take a share nearer to 0.5")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return self.pick(order[:cut]), self.pick(order[cut:])

    def first(self, n: int) -> "Labelled":
        """The first n texts, or all where there are no more."""
        return self.pick(range(min(n, len(self))))

    def pick(self, rows: Sequence[int]) -> "Labelled":
        """Some of the texts, in the order that is asked for."""
        prompts = tuple(self.prompts[i] for i in rows) if self.prompts else ()
        return Labelled(tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows), prompts)


def read_labelled(path: str | Path, *, text: str = "text", label: str = "label", prompt: str | None = None) -> Labelled:
    """Labelled texts from a `.jsonl`, `.csv` or `.tsv` file in UTF-8.

    Args:
        path: the file; CSV and TSV have a header line, JSONL one object a line.
        text, label: the names of the two columns.
        prompt: the name of a third, with what comes before each text; see `Labelled`.

    Raises:
        ValueError: another kind of file, bytes that are not UTF-8, a missing column (the message lists what was
            found), a label that is not a number; each names the file and the line.

    Example:
        >>> data = read_labelled("reviews.jsonl")                                     # doctest: +SKIP
    """
    path = Path(path)
    texts, labels, prompts = [], [], []
    columns = [text, label, *([] if prompt is None else [prompt])]
    for line, row in _rows(path):
        missing = [name for name in columns if row.get(name) is None]
        if missing:
            raise ValueError(f"{path}, line {line}: no column {missing[0]!r}; found {sorted(map(str, row))}")
        try:
            value = float(row[label])
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{path}, line {line}: label {row[label]!r} is not a number in [-1, 1]") from None
        if not (isinstance(row[text], str) and row[text].strip() and math.isfinite(value) and -1 <= value <= 1):
            raise ValueError(
                f"{path}, line {line}: got text {str(row[text])[:40]!r} with label {value}, expected a text that is "
                "not empty and a label in [-1, 1]; drop or rescale the row"
            )
        texts.append(row[text])
        labels.append(value)
        prompts += [] if prompt is None else [str(row[prompt])]
    if not texts:
        raise ValueError(f"{path}: no rows; expected columns {text!r} and {label!r}")
    return Labelled(tuple(texts), tuple(labels), tuple(prompts))


def read_texts(path: str | Path, *, text: str = "text") -> list[str]:
    """Texts without labels: a `.txt` file with a text a line, or a column of the files that `read_labelled` reads.

    Lines and rows without text are left out.

    Raises:
        ValueError: as from `read_labelled`; no text at all.

    Example:
        >>> texts = read_texts("reviews.txt")                                         # doctest: +SKIP
    """
    path = Path(path)
    found = []
    for line, row in _rows(path, lines=text):
        if text not in row:
            raise ValueError(f"{path}, line {line}: no column {text!r}; found {sorted(map(str, row))}")
        if isinstance(row[text], str) and row[text].strip():
            found.append(row[text])
    if not found:
        raise ValueError(f"{path}: no text; expected a text a line, or a column {text!r}")
    return found


def _rows(path: Path, lines: str | None = None) -> Iterator[tuple[int, dict]]:
    """Line numbers and rows of a file; of a `.txt` file too, if `lines` names the column that its lines are."""
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".tsv": _tsv_rows}
    kinds = [*readers, *([".txt"] if lines else [])]
    kind = path.suffix.lower()
    if kind not in kinds:
        raise ValueError(f"path: {path.name} ends in {path.suffix!r}, expected one of {', '.join(kinds)}")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); convert the file, e.g. "
            f"`iconv -f latin1 -t utf-8 {path.name}`"
        ) from None
    if kind == ".txt":
        yield from ((number, {lines: line.rstrip("\r")}) for number, line in enumerate(content.split("\n"), 1))
    else:
        yield from readers[kind](content, path)


def _jsonl_rows(content: str, path: Path) -> Iterator[tuple[int, dict]]:
    for line, raw in enumerate(content.split("\n"), 1):
        if raw.strip():
            try:
                row = json.loads(raw)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}: not JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {line}: got {type(row).__name__}, expected an object a line")
            yield line, row


def _csv_rows(content: str, path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict]]:
    # a text may hold any line break that is not the file's own; an unclosed quote would swallow the rows after it
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; a field with quotes or line breaks is put in double quotes, each "
            "quote in it doubled"
        ) from None


def _tsv_rows(content: str, path: Path) -> Iterator[tuple[int, dict]]:
    return _csv_rows(content, path, delimiter="\t")
