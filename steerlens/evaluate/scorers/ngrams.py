"""Words and characters of a text as weighted counts, in numpy alone."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix

WORD = re.compile(r"(?u)\b\w\w+\b")
SPACES = re.compile(r"\s\s+")


class Grams(NamedTuple):
    """How a text is cut: n-grams of words or of characters within a word, n from `least` to
    `most`."""

    kind: str
    least: int
    most: int


def grams_of(text: str, cut: Grams) -> list[str]:
    """Return the n-grams of a text in lower case, as scikit-learn's `TfidfVectorizer` cuts them
    (`analyzer="word"` and `"char_wb"`).

    Example:
        >>> grams_of("so Very good", Grams("word", 1, 2))
        ['so', 'very', 'good', 'so very', 'very good']
    """
    text = text.lower()
    if cut.kind == "word":
        words = WORD.findall(text)
        return [
            " ".join(words[i : i + n])
            for n in range(cut.least, cut.most + 1)
            for i in range(len(words) - n + 1)
        ]
    found = []
    for word in SPACES.sub(" ", text).split():
        padded = f" {word} "
        for n in range(cut.least, cut.most + 1):
            found += [padded[i : i + n] for i in range(max(len(padded) - n, 0) + 1)]
            if n >= len(padded):
                break  # a short word counts once
    return found


def tfidf(
    texts: Sequence[str],
    cut: Grams,
    columns: Mapping[str, int],
    idf: Float[np.ndarray, " terms"],
) -> csr_matrix:
    """Return one row per text: `(1 + log count) · idf`, brought to length 1; terms that are not
    known do not count.

    Example:
        >>> tfidf(["so so good"], Grams("word", 1, 1), {"so": 0}, np.ones(1)).toarray()
        array([[1.]])
    """
    rows, places, values = [0], [], []
    for text in texts:
        counts: dict[int, int] = {}
        for gram in grams_of(text, cut):
            column = columns.get(gram)
            if column is not None:
                counts[column] = counts.get(column, 0) + 1
        at = np.fromiter(counts, int, len(counts))
        x = (1 + np.log(np.fromiter(counts.values(), float, len(counts)))) * idf[at]
        places.append(at)
        values.append(x / max(float(np.sqrt((x**2).sum())), 1e-300))
        rows.append(rows[-1] + len(at))
    flat = (
        np.concatenate([np.zeros(0, dtype), *parts])
        for dtype, parts in ((float, values), (int, places))
    )
    return csr_matrix((*flat, np.array(rows)), shape=(len(texts), len(idf)))
