"""Scorers that learn nothing: a word list, and any function."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from steerlens.evaluate.scorers.card import Card, heldout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import plain_texts

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class WordList:
    """The share of high words among a text's listed words; made by `word_list`."""

    high: frozenset[str]
    low: frozenset[str]
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        return np.array([self._score(text) for text in texts])

    def _score(self, text: str) -> float:
        words = WORD.findall(text.lower())
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

    Case does not matter; a word is letters and digits, with `'` and `-` inside. A list sees no
    negation and no sense: of offensive words it told toxic texts with an AUC of 0.64
    (RealToxicityPrompts) where a trained classifier had 0.88.

    Args:
        high, low: words; entries of several words never match and are refused.
        measures: what 1 means, e.g. "how toxic".
        data: held-out texts (+1: high) for the card.

    Raises:
        ValueError: no word, or an entry that is not one word.

    Example:
        >>> scorer = word_list(["superb"], ["awful"], measures="how positive")
        >>> scorer.scores(["Superb !", "awful .", "so so ."]).tolist()
        [1.0, 0.0, 0.5]
    """
    sides = [frozenset(word.lower() for word in plain_texts("words", list(s))) for s in (high, low)]
    odd = sorted(word for side in sides for word in side if not WORD.fullmatch(word))
    if odd or not sides[0]:
        got = f"{odd[0]!r}" if odd else "none"
        raise ValueError(f"words: got {got}, expected single words, at least one")
    counts = f"{len(sides[0])} words" + (f" against {len(sides[1])}" if sides[1] else "")
    found = WordList(sides[0], sides[1], Card(name, measures, None, counts))
    return found if data is None else replace(found, card=_with(found, data))


@dataclass(frozen=True)
class FunctionScorer:
    """A function from texts to scores; made by `function_scorer`."""

    function: Callable[[Sequence[str]], Iterable[float]]
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        return np.asarray(self.function(texts), dtype=float)


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
