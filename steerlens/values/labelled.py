"""Labelled texts: what every fit starts from."""

import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, SupportsIndex, overload

import numpy as np
import torch

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_number, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.columns import Columns, Table, read_columns
from steerlens.values.copies import group_rows
from steerlens.values.tables import dataset_table, dict_table, frame_table
from steerlens.values.texts import as_list, label_fault, plain_labels, plain_texts

FEW = 7
"""Labels that are named one by one; of more, the range."""


@dataclass(frozen=True, init=False, repr=False)
class Labelled:
    """Hold texts with labels in [-1, 1]: the strength at which a steer should explain each text.

    `len`, `for text, label in data`, `data[3]`, `data[:100]` and `data + more` do what they do for
    lists.

    Args:
        texts: non-empty strings in any sequence: list, tuple, Series (by position), array, column.
        labels: one number in [-1, 1] per text, e.g. -1 rude, 0 plain, +1 courteous. Labels that are
            all truth values are understood as -1 (False) and +1 (True); the numbers 0 and 1 stay
            what they are, and 0 is neutral.
        prompts: what comes before each text, or nothing at all: it is read and never predicted. A
            space goes between where neither has one, but for behind a special token of a template.

    Raises:
        ValueError: no texts, another number of labels or prompts than texts, a text that is empty,
            missing or cut inside a character, a label that is NaN or outside [-1, 1]; the message
            names the row. Tables go to `from_pandas`, `from_dict` and `from_dataset`.

    Example:
        >>> data = Labelled(["good .", "very bad ."], [1, -1])
        >>> data
        Labelled(2 texts, labels -1 ×1, 1 ×1, median 2.5 words)
        >>> data[0]
        ('good .', 1.0)
    """

    texts: tuple[str, ...]
    labels: tuple[float, ...]
    prompts: tuple[str, ...]

    def __init__(
        self, texts: Iterable[Any], labels: Iterable[Any], prompts: Iterable[Any] = ()
    ) -> None:
        values = as_list("labels", labels)
        # a frozen value; whatever sequences came, these are plain tuples
        object.__setattr__(self, "texts", plain_texts("texts", texts))
        object.__setattr__(self, "prompts", plain_texts("prompts", prompts))
        n = len(self.texts)
        if not n:
            raise ValueError(
                "texts: got none, expected at least one; is the file or the filter empty?"
            )
        if n != len(values):
            raise ValueError(f"labels: got {len(values)} for {n} texts, expected one per text")
        if self.prompts and len(self.prompts) != n:
            raise ValueError(
                f"prompts: got {len(self.prompts)} for {n} texts, expected one per text or none"
            )
        for row, text in enumerate(self.texts):
            if not text.strip():
                raise ValueError(
                    f"texts[{row}] is empty; drop the row, an empty text says nothing about its label"
                )
        object.__setattr__(
            self, "labels", plain_labels(values, lambda row, y: label_fault(row, y, values))
        )

    @classmethod
    def from_dict(
        cls,
        columns: Mapping[Any, Any],
        *,
        text: Hashable = "text",
        label: Hashable = "label",
        prompt: Hashable | None = None,
        labels: Mapping[Any, Any] | None = None,
        scale: Sequence[float] | None = None,
        dropna: bool = False,
    ) -> "Labelled":
        """Take labelled texts out of a dictionary of columns.

        Args:
            columns: each column a sequence, all of one length.
            text, label, prompt: the names of the columns. Case and spaces around a name do not
                matter; without `text` and `label` the usual names (review, sentiment, …) are tried,
                with a warning.
            labels: the label, in [-1, 1], of each word or number in the column.
            scale: the two values that mean -1 and +1, e.g. (1, 5) for stars; what lies between
                follows linearly, `y = 2 (x - low) / (high - low) - 1`. (6, 1) for marks of which 1
                is best.
            dropna: leave out rows without text or label; a warning says how many.

        Raises:
            ValueError: a column that is not there, a row without text or label, a label without a
                meaning; the message names the row and the option that helps.

        Example:
            >>> stars = {"review": ["dull .", "so so .", "superb ."], "stars": [1, 3, 5]}
            >>> Labelled.from_dict(stars, text="review", label="stars", scale=(1, 5)).labels
            (-1.0, 0.0, 1.0)
            >>> words = {"text": ["dull .", "superb ."], "label": ["bad", "good"]}
            >>> Labelled.from_dict(words, labels={"bad": -1, "good": 1}).labels
            (-1.0, 1.0)
        """
        return cls._read(dict_table(columns), Columns(text, label, prompt, labels, scale, dropna))

    @classmethod
    def from_pandas(
        cls,
        df: Any,
        *,
        text: Hashable = "text",
        label: Hashable = "label",
        prompt: Hashable | None = None,
        labels: Mapping[Any, Any] | None = None,
        scale: Sequence[float] | None = None,
        dropna: bool = False,
    ) -> "Labelled":
        """Take labelled texts out of a DataFrame; rows by position, options as in `from_dict`.

        Example:
            >>> import pandas as pd
            >>> df = pd.DataFrame({"review": ["dull .", "superb .", None], "stars": [2, 5, 1]})
            >>> data = Labelled.from_pandas(df.dropna(), text="review", label="stars", scale=(1, 5))
            >>> data.labels
            (-0.5, 1.0)
        """
        return cls._read(frame_table(df), Columns(text, label, prompt, labels, scale, dropna))

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        text: Hashable = "text",
        label: Hashable = "label",
        prompt: Hashable | None = None,
        labels: Mapping[Any, Any] | None = None,
        scale: Sequence[float] | None = None,
        dropna: bool = False,
    ) -> "Labelled":
        """Take labelled texts out of one split of a Hugging Face dataset; options as in
        `from_dict`.

        The numbers of a `ClassLabel` are no strengths: `labels=` says what its classes mean, by name
        or by number (by name alone where names are other numbers). A class of -1 is a missing
        label.

        Example:
            >>> from datasets import load_dataset                                     # doctest: +SKIP
            >>> imdb = load_dataset("imdb", split="train")                            # doctest: +SKIP
            >>> data = Labelled.from_dataset(imdb, labels={"neg": -1, "pos": 1})      # doctest: +SKIP
        """
        columns = Columns(text, label, prompt, labels, scale, dropna)
        return cls._read(dataset_table(dataset, columns), columns)

    @classmethod
    def _read(cls, table: Table, columns: Columns) -> "Labelled":
        return cls(*read_columns(table, columns))

    def __repr__(self) -> str:
        return f"Labelled({self.understood()})"

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.texts, self.labels, strict=True)

    @overload
    def __getitem__(self, row: SupportsIndex) -> tuple[str, float]: ...
    @overload
    def __getitem__(self, row: slice) -> "Labelled": ...
    def __getitem__(self, row: Any) -> "tuple[str, float] | Labelled":
        if isinstance(row, slice):
            return self.pick(range(len(self))[row])
        i = self._index(row)
        return self.texts[i], self.labels[i]

    def __add__(self, other: "Labelled") -> "Labelled":
        if not isinstance(other, Labelled):
            return NotImplemented
        # no prompt and an empty prompt are the same
        prompts = [part.prompts or ("",) * len(part) for part in (self, other)]
        together = prompts[0] + prompts[1] if self.prompts or other.prompts else ()
        return Labelled(self.texts + other.texts, self.labels + other.labels, together)

    def __radd__(self, other: Any) -> "Labelled":
        # `sum` begins with the number 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def understood(self) -> str:
        """Say in a line what the texts and labels were understood as.

        Example:
            >>> Labelled(["good .", "bad ."], [1, -1], ["It was", ""]).understood()
            '2 texts, labels -1 ×1, 1 ×1, median 2 words, with prompts'
        """
        counts = Counter(self.labels)
        low, high = min(counts), max(counts)
        shown = ", ".join(f"{y + 0.0:g} ×{n:,}" for y, n in sorted(counts.items()))
        if len(counts) > FEW:
            shown = f"from {low:g} to {high:g}, mean {sum(self.labels) / len(self):.2g}"
        words = median(len(text.split()) for text in self.texts)
        again = len(self) - len(self.copies())
        note = f"; {again:,} of them are copies of another, which count once in a verdict"
        note *= again > 0
        if set(counts) == {0, 1}:
            note += "; 0 is read as neutral; for two classes use -1 and 1 (labels={0: -1, 1: 1})"
        elif low == 0 < high:
            note += f"; 0 is read as neutral; where it is the other end use scale=(0, {high:g})"
        return (
            f"{len(self):,} text{'s' * (len(self) > 1)}, labels {shown}, median {words:g} "
            f"word{'s' * (words != 1)}{', with prompts' * bool(self.prompts)}{note}"
        )

    def copies(self, *, by_label: bool = False) -> list[list[int]]:
        """Return the rows of each text behind the same prompt (of each of its labels)."""
        others = self.prompts or self.texts, self.labels if by_label else self.texts
        return group_rows(zip(self.texts, *others, strict=True))

    @torch_defaults()
    def split(self, share: float, *, seed: SupportsIndex) -> tuple["Labelled", "Labelled"]:
        """Split at random in two, the first with `share` of the texts; same seed, same parts.

        Copies of a text behind the same prompt are in one part, and count as one text.
        """
        expected = "a part of 1, e.g. 0.8"
        if not 0 <= as_number(share, "share", expected) <= 1:
            raise ValueError(f"share: got {share}, expected {expected}")
        groups = self.copies()
        cut = round(share * len(groups))
        if not 0 < cut < len(groups):
            different = " different" if len(groups) < len(self) else ""
            remedy = "take a share nearer to 0.5" if len(groups) > 1 else "take other texts"
            raise ValueError(
                f"share: {share} of {len(groups)}{different} texts leaves one part empty; {remedy}"
            )
        order = torch.randperm(len(groups), generator=generator(_whole("seed", seed))).tolist()
        first, second = (
            [i for k in part for i in groups[k]] for part in (order[:cut], order[cut:])
        )
        return self.pick(first), self.pick(second)

    def first(self, n: SupportsIndex) -> "Labelled":
        """Take the first n texts, or all where there are no more."""
        count = _whole("n", n)
        if count < 1:
            raise ValueError(f"n: got {n}, expected how many texts to take, 1 or more")
        return self.pick(range(min(count, len(self))))

    def pick(self, rows: Iterable[Any]) -> "Labelled":
        """Take some of the texts, in the order that is asked for.

        Example:
            >>> Labelled(["a", "b", "c"], [0, 0.5, 1]).pick([2, 0]).texts
            ('c', 'a')
        """
        given = rows if isinstance(rows, list | range) else as_list("rows", rows)
        at = [self._index(row) for row in given]
        if not at:
            raise ValueError("rows: got none, expected at least one text to take")
        prompts = [self.prompts[i] for i in at] if self.prompts else ()
        return Labelled([self.texts[i] for i in at], [self.labels[i] for i in at], prompts)

    def _index(self, row: Any) -> int:
        # a mask of truth values would be read as rows 0 and 1
        several = "; several rows are taken by pick([0, 2]), those of a mask by pick(numpy.flatnonzero(mask))"
        i = _whole("row", row, several)
        if not -len(self) <= i < len(self):
            raise IndexError(
                f"row: got {i}, expected one of the {len(self)} texts, 0 to {len(self) - 1}"
            )
        return i


def _whole(name: str, value: Any, more: str = "") -> int:
    """Return a whole number, of whatever library, as Python's own."""
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name}: got {brief(value)}, expected a whole number{more}")
