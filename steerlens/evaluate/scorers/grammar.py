"""The toy world's own judge: what the exact grammar says of a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from steerlens.evaluate.scorers.card import Card, Heldout, heldout
from steerlens.maths.brief import brief
from steerlens.toy import corpus, default_grammar
from steerlens.values.labelled import Labelled

HELDOUT, SEED = 300, 20_011


@dataclass(frozen=True)
class Oracle:
    """The grammar's posterior mean of a grade, put between 0 and 1; made by `oracle`."""

    attribute: Literal["sentiment", "tone"]
    sign: Literal[1, -1]
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        if not texts:
            return np.zeros(0)
        mean = default_grammar().posteriors([text.strip() for text in texts]).mean(self.attribute)
        return np.clip((1 + self.sign * mean) / 2, 0.0, 1.0)


def oracle(attribute: Literal["sentiment", "tone"], *, sign: Literal[1, -1] = 1) -> Oracle:
    """Make the scorer that knows the toy world's grammar.

        score = (1 + sign · E[grade | text]) / 2

    The expectation is exact for texts that the grammar can begin, and a bag of words else; an empty
    text has one half. No scorer of these texts can be better, and still a short text may not show
    its grade: the card says how often.

    Args:
        attribute: "sentiment" or "tone".
        sign: -1: how negative, how rude.

    Raises:
        ValueError: another attribute, another sign.

    Example:
        >>> rude = oracle("tone", sign=-1)
        >>> rude.card.heldout.auc > 0.8
        True
    """
    words = {"sentiment": ("positive", "negative"), "tone": ("courteous", "rude")}
    if attribute not in words or sign not in (1, -1):
        raise ValueError(
            f"attribute, sign: got {brief(attribute)} and {sign}, expected 'sentiment' or 'tone', and 1 "
            "or -1"
        )
    card = Card(f"the grammar's {attribute}", f"how {words[attribute][sign < 0]}", None)
    found = Oracle(attribute, sign, card)
    return replace(found, card=replace(card, heldout=_judged(found)))


def _judged(scorer: Oracle) -> Heldout:
    data = corpus(scorer.attribute, n=HELDOUT, seed=SEED)
    turned = Labelled(data.texts, [scorer.sign * y for y in data.labels])
    return heldout(scorer, turned, on="toy world")
