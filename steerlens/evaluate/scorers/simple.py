"""Scorers that learn nothing: a word list, and any function."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import regex
from jaxtyping import Float

from steerlens.evaluate.scorers.card import Card, as_scores, heldout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import plain_texts

WORD = regex.compile(
    r"(?V1)[\p{L}\p{N}][\p{L}\p{M}\p{N}\u200c\u200d]*(?:['’-][\p{L}\p{N}][\p{L}\p{M}\p{N}\u200c\u200d]*)*"
)
"""Letters with their marks (accents, vowel signs), digits, and `'` and `-` inside."""


@dataclass(frozen=True)
class WordList:
    """The share of high words among a text's listed words; made by `word_list`."""

    high: frozenset[str]
    low: frozenset[str]
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        return np.array([self._score(text) for text in texts])

    def _score(self, text: str) -> float:
        words = WORD.findall(_folded(text))
        up, down = (sum(word in side for word in words) for side in (self.high, self.low))
        if not self.low:
            return float(up > 0)
        return up / (up + down) if up + down else 0.5


def word_list(
    high: Iterable[str],
    low: Iterable[str] = (),
    *,
    measures: str,
    name: str = "word list",
    data: Labelled | None = None,
) -> WordList:
    """Make a scorer of a list of words, or of two.

        one list: 1 where a text has a listed word, else 0
        two lists: #high / (#high + #low), and one half where a text has neither

    Case does not matter; a word is letters (with their accents and vowel signs) and digits, with
    `'` and `-` inside. A list sees no
    negation and no sense: of offensive words it told toxic texts with an AUC of 0.64
    (RealToxicityPrompts) where a trained classifier had 0.88.

    Args:
        high, low: words; entries of several words never match and are refused.
        measures: what 1 means, e.g. "how toxic".
        name: for tables.
        data: held-out texts (+1: high) for the card.

    Raises:
        ValueError: no word, one text instead of a list, or an entry that is not one word.

    Example:
        >>> scorer = word_list(["superb"], ["awful"], measures="how positive")
        >>> scorer.scores(["Superb !", "awful .", "so so ."]).tolist()
        [1.0, 0.0, 0.5]
    """
    sides = [
        frozenset(map(_folded, plain_texts(name, sorted(s) if isinstance(s, Set) else s)))
        for name, s in (("high", high), ("low", low))
    ]
    odd = sorted(word for side in sides for word in side if not WORD.fullmatch(word))
    if odd or not sides[0]:
        got = f"{odd[0]!r}" if odd else "none"
        raise ValueError(f"words: got {got}, expected single words, at least one")
    counts = f"{len(sides[0])} words" + (f" against {len(sides[1])}" if sides[1] else "")
    found = WordList(sides[0], sides[1], Card(name, measures, None, counts))
    return found if data is None else replace(found, card=_with(found, data))


def _folded(text: str) -> str:
    """Return a text in lower case, its letters and accents composed."""
    return unicodedata.normalize("NFC", text.lower())


@dataclass(frozen=True)
class FunctionScorer:
    """A function from texts to scores; made by `function_scorer`."""

    function: Callable[[Sequence[str]], Iterable[float]]
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        return as_scores(self.function(texts), self.card.name)


def function_scorer(
    function: Callable[[Sequence[str]], Iterable[float]],
    name: str,
    *,
    measures: str = "",
    data: Labelled | None = None,
) -> FunctionScorer:
    """Make a scorer of any function from a list of texts to one number in [0, 1] each.

    Args:
        data: held-out texts (+1: high) for the card; None: its accuracy is not known, and every
            table says so.

    Example:
        >>> function_scorer(lambda texts: [0.5] * len(texts), "coin").scores(["a", "b"])
        array([0.5, 0.5])
    """
    found = FunctionScorer(function, Card(name, measures or f"what {name!r} says", None))
    return found if data is None else replace(found, card=_with(found, data))


def _with(scorer: WordList | FunctionScorer, data: Labelled) -> Card:
    return replace(scorer.card, heldout=heldout(scorer, data, on="texts given"))
