"""Labelled texts of the toy world."""

import reprlib
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from steerlens.toy.condition import Condition
from steerlens.toy.world import default_grammar

if TYPE_CHECKING:
    from steerlens.values.labelled import Labelled

Attribute = Literal["sentiment", "tone"]
"""A factor of the default grammar whose levels are numbers."""


def corpus(attribute: Attribute, n: int = 2000, seed: int = 0) -> "Labelled":
    """Draw `n` texts labelled with their grade of `attribute` (-1 … 1).

    Every grade comes equally often, and the other factors are uniform.

    Example:
        >>> from steerlens.toy import corpus
        >>> sorted(set(corpus("tone", n=30, seed=0).labels))
        [-1.0, 0.0, 1.0]
    """
    # Imported here so that the grammar can be used without the rest of the package.
    from steerlens.maths.numbers import as_count, as_numpy_seed
    from steerlens.values.labelled import Labelled

    if attribute not in ("sentiment", "tone"):
        raise ValueError(
            f"attribute: got {reprlib.repr(attribute)}, expected 'sentiment' or 'tone', whose levels are numbers"
        )
    n = as_count(n, "n", "how many texts to draw, 1 or more")
    seed = as_numpy_seed(seed)
    grammar = default_grammar()
    grades = grammar.axes[attribute]
    seeds = np.random.SeedSequence(seed).generate_state(len(grades) + 1)
    # Grade i gets the texts i, i + len(grades), …: counts differ by at most one.
    drawn = []
    for i, (grade, grade_seed) in enumerate(zip(grades, seeds, strict=False)):
        share = len(range(i, n, len(grades)))
        condition = replace(Condition(), **{attribute: grade})
        drawn += [(text, grade) for text in grammar.sample(share, condition, seed=int(grade_seed))]
    order = np.random.default_rng(seeds[-1]).permutation(n)
    return Labelled(
        texts=tuple(drawn[i][0] for i in order), labels=tuple(drawn[i][1] for i in order)
    )
