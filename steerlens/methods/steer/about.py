"""Fit a condition on what a text is about: a plane between context vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.maths.svd import spectrum
from steerlens.values.conditions import About
from steerlens.values.states import States, check_states

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Added to the covariance, relative to its largest eigenvalue; held-out texts choose."""
CHUNK = 1 << 14


class AboutFit(NamedTuple):
    """A condition, and how well it tells.

    Args:
        value: for `steer.when`.
        accuracy: share of the positions of held-out texts that lie on their text's side, mean of
            both classes; chance is 0.5. Early in a text nothing can be known.
        positions: held-out positions.
        ridge: that was chosen, relative to the largest eigenvalue of the covariance.
    """

    value: About
    accuracy: float
    positions: int
    ridge: float


def fit_about(states: States, *, seed: int = 0, name: str = "it") -> AboutFit:
    """Fit the plane that parts the context vectors of texts with labels above 0 from the others'.

        vector = (Σ + λI)⁻¹ (μ₁ − μ₀)        threshold = vector · (μ₀ + μ₁)/2

    Fisher's linear discriminant, a closed form from sums of one pass: `Σ` is the covariance within
    the two classes, which weigh the same. A tenth of the texts chooses the ridge `λ`, and another
    tenth, which chose nothing, gives the accuracy.

    Source: Fisher, Annals of Eugenics 7 (1936).

    Args:
        states: of labelled texts, from `steerlens.collect`: 1 for texts about it, -1 or 0 for
            others.
        seed: of the texts that are held out.
        name: what the texts with labels above 0 are about.

    Raises:
        ValueError: fewer than ten texts, or held-out texts of one class alone.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> films, food = (sl.toy.grammar.sample(100, sl.toy.Condition(topic=t)) for t in ("films", "food"))
        >>> data = sl.Labelled([*films, *food], [1] * 100 + [-1] * 100)
        >>> fit_about(sl.collect(model, data, progress=False), name="films").accuracy > 0.6
        True
    """
    check_states(states)
    if states.n_texts < 10:
        raise ValueError(f"states: got {states.n_texts} texts, expected at least 10")
    train, rest = states.split(0.8, seed=seed)
    tuning, test = rest.split(0.5, seed=seed)
    means, within = _classes(train)
    values, vectors = spectrum(within)
    scores = []
    for ridge in RIDGES:
        scale = values.clamp_min(0) + ridge * values.max().clamp_min(1e-30)
        vector = vectors @ ((vectors.mT @ (means[1] - means[0])) / scale)
        vector = vector / vector.norm().clamp_min(1e-30)
        threshold = float(vector @ means.mean(0))
        found = About(vector.float(), threshold, states.readout, name)
        scores.append((_accuracy(tuning, found), ridge, found))
    _, ridge, best = max(scores, key=lambda score: score[0])
    return AboutFit(best, _accuracy(test, best), test.n_positions, ridge)


def _side(states: States, text: Tensor) -> Bool[Tensor, " n"]:
    return states.labels[text] > 0


def _classes(states: States) -> tuple[Float[Tensor, "2 d"], Float[Tensor, "d d"]]:
    """Return the means of both classes and the covariance within, each class half of it."""
    d = states.d_model
    sums, n = torch.zeros(2, d, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    squares = torch.zeros(2, d, d, dtype=torch.float64)
    for c, _, text in states.chunks(CHUNK):
        for k, rows in enumerate((~_side(states, text), _side(states, text))):
            some = c[rows].double()
            sums[k] += some.sum(0)
            squares[k] += some.mT @ some
            n[k] += len(some)
    if not bool((n > 0).all()):
        raise ValueError(
            "states: all texts lie on one side; labels above 0 are about it, others are not, and both are needed"
        )
    means = sums / n[:, None]
    within = squares / n[:, None, None] - means[:, :, None] * means[:, None, :]
    return means, within.mean(0)


def _accuracy(states: States, about: About) -> float:
    right, n = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for c, _, text in states.chunks(CHUNK):
        side = _side(states, text)
        hits = ((c @ about.vector > about.threshold) == side).double()
        right.index_add_(0, side.long(), hits)
        n.index_add_(0, side.long(), torch.ones_like(hits))
    if not bool((n > 0).all()):
        raise ValueError(
            "states: the held-out texts lie on one side; collect more texts, or take another seed"
        )
    return float((right / n).mean())
