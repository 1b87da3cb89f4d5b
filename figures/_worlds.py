"""Labelled texts of a model's own world: the toy's grammar, or SST-5 where it lies beside the
repository."""

from collections.abc import Callable
from typing import Any, NamedTuple

from _setting import SHARED

import numpy as np

import steerlens as sl

ASIDE, TESTED = 20_000, 1_000
"""The seed by which new texts are set aside, and how many: the first of them are those that
`benchmarks/quality.py --fresh` judges on."""


class World(NamedTuple):
    """A model, labelled texts by number and seed, and new texts by number."""

    model: Any
    texts: Callable[[int, int], sl.Labelled]
    new: Callable[[int], sl.Labelled]


def world(model: str, attribute: str = "sentiment") -> World:
    """Return the world of a toy model, or of "reviews-192", whose attribute is SST-5's grade.

    Raises:
        SystemExit: reviews-192 or its texts are not there.
    """
    if model.startswith("toy"):
        return World(
            sl.load_model(model),
            lambda n, seed: sl.toy.corpus(attribute, n=n, seed=seed),
            lambda n: sl.toy.corpus(attribute, n=n, seed=ASIDE),
        )
    folder, file = SHARED / "lms" / model, SHARED / "data/sst5_train.jsonl"
    if not (folder.exists() and file.exists()):
        raise SystemExit(f"skipped: {model} or SST-5 is not beside the repository")
    data = sl.read_labelled(file)
    order = np.random.default_rng(ASIDE).permutation(len(data))
    test, train = data.pick(order[:TESTED].tolist()), data.pick(order[TESTED:].tolist())

    def texts(n: int, seed: int) -> sl.Labelled:
        return train.pick(np.random.default_rng(seed).permutation(len(train))[:n].tolist())

    return World(sl.load_model(folder), texts, test.first)
