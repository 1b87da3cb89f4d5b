"""Copies of a text, which count as one where texts are drawn, parted or put in another order."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


def group_rows(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return the rows of each key, by its first row.

    Example:
        >>> group_rows(["good .", "bad .", "good ."])
        [[0, 2], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def sum_rows(
    x: Float[np.ndarray, "*ways n"], groups: Sequence[Sequence[int]]
) -> Float[np.ndarray, "*ways groups"]:
    """Return the sum over each group's rows.

    Example:
        >>> sum_rows(np.array([1.0, 2.0, 3.0]), [[0, 2], [1]]).tolist()
        [4.0, 2.0]
    """
    return np.stack([x[..., rows].sum(-1) for rows in groups], -1)


@runtime_checkable
class Copied(Protocol):
    """Labelled texts, read or not, that know which of them are the same."""

    @property
    def labels(self) -> Any: ...

    def copies(self, *, by_label: bool = False) -> list[list[int]]: ...


def by_distinct_text(
    x: Float[np.ndarray, "*ways n"], data: Copied
) -> tuple[Float[np.ndarray, "*ways distinct"], Float[np.ndarray, " distinct"]]:
    """Return what is said of each text, summed over its copies, and its label; a text with two
    labels is two.

    Example:
        >>> from steerlens import Labelled
        >>> data = Labelled(["good .", "bad .", "good ."], [1, -1, 1])
        >>> [found.tolist() for found in by_distinct_text(np.array([1.0, 2.0, 3.0]), data)]
        [[4.0, 2.0], [1.0, -1.0]]
    """
    groups = data.copies(by_label=True)
    return sum_rows(x, groups), np.array([float(data.labels[first]) for first, *_ in groups])


def exchange(
    labels: Sequence[float], groups: Sequence[Sequence[int]], order: Sequence[int]
) -> list[float]:
    """Return the labels with those of group `order[k]` in the place of group k's, over and over
    where that has fewer; rows of no group keep theirs.

    So copies of a text stay together: parted, they would have a label each way, and what is fitted
    to them would be weaker than chance.

    Example:
        >>> exchange([1, -1, 1], [[0, 2], [1]], [1, 0])
        [-1, 1, -1]
    """
    found = list(labels)
    for rows, source in zip(groups, order, strict=True):
        theirs = groups[source]
        for k, row in enumerate(rows):
            found[row] = labels[theirs[k % len(theirs)]]
    return found
