"""Texts cut into parts of about one size, the same ones each time."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import NamedTuple

import pandas as pd
import torch

from steerlens.maths.numbers import as_count, generator
from steerlens.values.labelled import Labelled

PART_BYTES = 1 << 16
"""UTF-8 bytes of text per part: some 16,000 tokens of English."""
NOT_IN_ORDER = (str, bytes, Mapping, set, frozenset, pd.DataFrame)
"""What can be iterated, but not as texts in an order."""
EXPECTED = (
    "expected labelled texts (steerlens.Labelled), or an iterator of texts or of labelled texts; rows of a file or of a "
    "dataset go through steerlens.models.stream_labelled"
)


class Part(NamedTuple):
    """Some of the texts.

    Args:
        number: of the part.
        rows: where its texts stand among all, from 0.
        data: the texts with their labels and prompts.
    """

    number: int
    rows: tuple[int, ...]
    data: Labelled

    @property
    def digest(self) -> str:
        """A fingerprint of its rows, texts, labels and prompts."""
        data = self.data
        said = json.dumps([self.rows, data.texts, data.labels, data.prompts])
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def in_parts(
    data: Labelled | Iterable[str | Labelled], *, part_bytes: int = PART_BYTES, seed: int = 0
) -> Iterator[Part]:
    """Yield texts in parts of at most `part_bytes` bytes of UTF-8, and of one text at least.

    Where a part ends depends on texts alone, not on a tokenizer, so that parts can be cut where no
    model is.

    Args:
        data: labelled texts, which are put in a random order first. Or an iterator of plain texts
            (labels 0) or of labelled texts one after another (`stream_labelled`), read once and
            kept in their order: no more than a part is in memory.
        part_bytes: most bytes of texts and prompts.
        seed: of the random order.

    Raises:
        ValueError: no texts, or something else than texts.

    Example:
        >>> data = Labelled(["good .", "very bad .", "so so ."], [1, -1, 0])
        >>> [(part.number, part.rows) for part in in_parts(data, part_bytes=16)]
        [(0, (2, 0)), (1, (1,))]
    """
    part_bytes = as_count(part_bytes, "part_bytes", "a number of bytes, e.g. 65536")
    number, size, held = 0, 0, []
    for row in _rows(data, seed):
        more = _size(row.text) + _size(row.prompt)
        if held and size + more > part_bytes:
            yield _part(number, held)
            number, size, held = number + 1, 0, []
        size += more
        held.append(row)
    if not held:
        raise ValueError("data: got no texts; is the file or the filter empty?")
    yield _part(number, held)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))  # half a character is named by `Labelled`


class _Row(NamedTuple):
    number: int
    text: str
    label: float
    prompt: str


def _rows(data: Labelled | Iterable[str | Labelled], seed: int) -> Iterator[_Row]:
    if isinstance(data, Labelled):
        prompts = data.prompts or ("",) * len(data)
        for row in torch.randperm(len(data), generator=generator(seed)).tolist():
            yield _Row(row, data.texts[row], data.labels[row], prompts[row])
    elif isinstance(data, NOT_IN_ORDER) or not isinstance(data, Iterable):
        raise ValueError(f"data: got {type(data).__name__}, {EXPECTED}")
    else:
        given = chain.from_iterable(map(_given, data))
        yield from (_Row(number, *row) for number, row in enumerate(given))


def _given(item: str | Labelled) -> Iterator[tuple[str, float, str]]:
    """Yield what an iterator gave as rows."""
    if isinstance(item, Labelled):
        yield from zip(item.texts, item.labels, item.prompts or repeat(""), strict=False)
    elif isinstance(item, str):
        yield item, 0.0, ""
    else:
        raise ValueError(f"data: got an iterator of {type(item).__name__}, {EXPECTED}")


def _part(number: int, held: list[_Row]) -> Part:
    rows, texts, labels, prompts = zip(*held, strict=True)
    # no prompt and an empty prompt are the same
    return Part(number, rows, Labelled(texts, labels, prompts if any(prompts) else ()))
