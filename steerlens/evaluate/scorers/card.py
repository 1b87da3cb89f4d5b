"""What a scorer is and how good it is on texts that it has not seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.stats import auc_interval, share_interval
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.labelled import Labelled


class Heldout(NamedTuple):
    """How well a scorer tells two kinds of texts apart: the share on the right side of one half and
    the chance that a text of the high kind scores higher, with their 95 % intervals over texts."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    auc: float
    auc_low: float
    auc_high: float
    texts: int
    on: str


@dataclass(frozen=True)
class Card:
    """What a scorer is, what its 1 means, and its accuracy on held-out texts.

    Example:
        >>> print(Card("word list", "how toxic", heldout=None))
        word list: how toxic; its accuracy is not known
    """

    name: str
    measures: str
    heldout: Heldout | None
    made_from: str = ""

    def __str__(self) -> str:
        if self.heldout is None:
            return f"{self.name}: {self.measures}; its accuracy is not known"
        h = self.heldout
        return (
            f"{self.name}: {self.measures}; AUC {h.auc:.3f} [{h.auc_low:.3f}, {h.auc_high:.3f}], "
            f"accuracy {h.accuracy:.3f} on {h.texts:,} held-out texts ({h.on})"
        )


@runtime_checkable
class Scorer(Protocol):
    """A frozen value that says of each text how much of something it has, from 0 to 1.

    `scores(texts)` gives one number per text, the same whatever other texts are asked for; `card`
    says what 1 means and how right it is. One half is where the two kinds part.
    """

    @property
    def card(self) -> Card: ...

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]: ...


def ask(scorer: Scorer, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return a scorer's scores, if they are what they should be.

    Raises:
        ValueError: another number of scores than texts, a score that is NaN or outside [0, 1]; the
            message names the scorer and the text.

    Example:
        >>> from steerlens.evaluate.scorers import function_scorer
        >>> ask(function_scorer(lambda texts: [len(t) / 10 for t in texts], "long"), ["good"])
        array([0.4])
    """
    name = scorer.card.name
    found = as_scores(scorer.scores(list(texts)), name)
    if found.shape != (len(texts),):
        raise ValueError(
            f"scorer: {name!r} gave an array of shape {found.shape} for {len(texts)} texts, "
            "expected one score per text"
        )
    wrong = np.flatnonzero(~((found >= 0) & (found <= 1)))  # NaN is wrong too
    if len(wrong):
        k = int(wrong[0])
        raise ValueError(
            f"scorer: {name!r} gave {found[k]} for texts[{k}], {texts[k]!r}, expected a number in "
            "[0, 1]; mend the scorer, or leave the text out"
        )
    return found


def as_scores(given: Any, name: str) -> Float[np.ndarray, "*shape"]:
    """Return what a scorer gave as numbers.

    Raises:
        ValueError: it holds something else; the message names the scorer.

    Example:
        >>> as_scores((x / 2 for x in [1, 2]), "half")
        array([0.5, 1. ])
    """
    if isinstance(given, Tensor):  # of any device, half precision or a gradient
        given = given.detach().double().cpu().numpy()
    try:
        return np.asarray(list(given) if isinstance(given, Iterator) else given, dtype=float)
    except (TypeError, ValueError):
        first = given[0] if isinstance(given, Sequence) and len(given) else given
        raise ValueError(
            f"scorer: {name!r} gave {brief(first)}, expected one number in [0, 1] per text, e.g. "
            "[found['score'] for found in …]"
        ) from None


@torch_defaults()
def heldout(scorer: Scorer, data: Labelled, *, on: str) -> Heldout:
    """Return how well a scorer tells texts of positive labels from those of negative ones.

    Args:
        data: texts that the scorer was not made from; +1 is what scores high. Texts with label 0
            do not count, copies once.
        on: what these texts are, in a word or two, for the card.

    Raises:
        ValueError: a sign is missing.

    Example:
        >>> from steerlens.evaluate.scorers import word_list
        >>> data = Labelled(["a fine film", "a bad film"], [1, -1])
        >>> heldout(word_list(["fine"], measures="praise"), data, on="two texts").accuracy
        1.0
    """
    labels = np.array(data.labels)
    rows = [first for first, *_ in data.copies(by_label=True) if labels[first]]
    y = labels[rows] > 0
    if not len(rows) or y.all() or not y.any():
        raise ValueError(
            f"data: labels of both signs are needed, got {sorted(set(data.labels))}; "
            "add texts of the other kind"
        )
    p = ask(scorer, [data.texts[k] for k in rows])
    return Heldout(*told_apart(p, y), len(y), on)


def told_apart(
    p: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]
) -> tuple[float, float, float, float, float, float]:
    """Return the accuracy of scores at one half, which itself counts as low, and the area under
    their curve, each with its 95 % interval: the first fields of `Heldout`.

    Example:
        >>> told_apart(np.array([0.9, 0.2]), np.array([True, False]))[::3]
        (1.0, 1.0)
    """
    right, area = float(((p > 0.5) == y).mean()), float(roc_auc_score(y, p))
    ends = auc_interval(area, int(y.sum()), int((~y).sum()))
    return right, *share_interval(right, len(y)), area, *ends
