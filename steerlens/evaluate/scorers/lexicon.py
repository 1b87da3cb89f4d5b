"""VADER, a sentiment lexicon with rules, where it is installed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from steerlens.evaluate.scorers.card import Card, heldout
from steerlens.values.labelled import Labelled


@dataclass(frozen=True, eq=False)
class Vader:
    """VADER's compound score put between 0 and 1; made by `vader`."""

    analyzer: Any
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        compound = [self.analyzer.polarity_scores(text)["compound"] for text in texts]
        return (1 + np.array(compound, dtype=float)) / 2


def vader(*, data: Labelled | None = None) -> Vader:
    """Make the scorer `(1 + compound) / 2` of VADER, how positive a text is.

    It needs the package vaderSentiment: `pip install steerlens[vader]`.

    Source: Hutto and Gilbert (ICWSM 2014).

    Args:
        data: held-out texts (+1: positive) for the card.

    Raises:
        ValueError: vaderSentiment is not installed.

    Example:
        >>> vader().scores(["A superb film."])                                    # doctest: +SKIP
        array([0.81245])
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # pyright: ignore
    except ImportError:
        raise ValueError(
            "vader: the package vaderSentiment is not installed; pip install 'steerlens[vader]'"
        ) from None
    found = Vader(SentimentIntensityAnalyzer(), Card("VADER", "how positive", None))
    if data is None:
        return found
    return replace(found, card=replace(found.card, heldout=heldout(found, data, on="texts given")))
