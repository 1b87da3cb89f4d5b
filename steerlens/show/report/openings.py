"""Beginnings of texts, for a model to go on from."""

from collections import Counter

import regex

from steerlens.values.labelled import Labelled


def openings(data: Labelled, n: int) -> list[str]:
    """Return the commonest two words that texts begin with, no two with the same first word.

    Where no text has more than two, as in scripts without spaces, it is the first half of each.
    """
    pairs = [text.split()[:2] for text in data.texts if len(text.split()) > 2]
    pairs = pairs or [[_half(text)] for text in data.texts]
    common = Counter(map(tuple, pairs)).most_common()
    first: dict[str, str] = {}
    for pair, _ in sorted(common, key=lambda found: (-found[1], found[0])):
        first.setdefault(pair[0], " ".join(pair))
    return list(first.values())[:n]


def _half(text: str) -> str:
    """Return the first of two words, or the first half of the characters of one."""
    first, *second = text.split()
    letters = regex.findall(r"\X", first)
    return first if second else "".join(letters[: max(len(letters) // 2, 1)])
