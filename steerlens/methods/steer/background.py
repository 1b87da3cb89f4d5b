"""Fit what all texts share, without their labels: as many directions as stand out of the noise."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.evidence import soft_thresholds
from steerlens.maths.logits import quickest
from steerlens.maths.moments import Moments
from steerlens.maths.solvers import averaged_sgd
from steerlens.maths.tail import SEEN, word_chances
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import (
    Problem,
    batch_size,
    copies_once,
    problem_of,
    stable_lr,
)
from steerlens.methods.steer.selection import DAMPING, Fixed, Setting, heldout_nll_along
from steerlens.values.metric import Metric
from steerlens.values.states import States

SHARE, PARTS = 0.5, (1.0, 0.5, 0.25, 0.125, 0.0625)
"""The penalty tried first, as a share of the noise, and what parts of it are tried in turn, as long
as held-out texts like all of what was found, and better than what was found before."""

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of a background, tried on held-out texts: of few texts it learns what they alone share."""


class Background(NamedTuple):
    """The map, the penalty of the fit that it is from, its learning rate, and the passes over the
    texts in all.

    `D` is the fraction of it that held-out texts like best.
    """

    D: Float[Tensor, "d d"]
    penalty: float
    lr: float
    passes: float


def noise_of(halves: tuple[Moments, Moments], metric: Metric) -> float:
    """Return the largest singular value of the noise in the gradient of the background, per root of
    a position.

        σ = √n |G₁ − G₂|₂ / 2        G the mean of cᵀ(e_next − E_p e), whitened

    Half the difference of two halves has the noise of the mean of both, and nothing of what they
    share. A sum of `m` positions has `σ / √m`.
    """
    one, other = (half.background / half.weight for half in halves)
    white = metric.whiten_slope(one - other)
    n = float(halves[0].weight + halves[1].weight)
    return float(torch.linalg.matrix_norm(white, 2)) / 2 * n**0.5


def background_setting(halves: tuple[Moments, Moments], metric: Metric, fixed: Fixed) -> Setting:
    """Return the settings of the background, which no trial would make better: it is cut to fit.

    Penalties on singular values stand for ridges, unless those are asked for.
    """
    damping = DAMPING if fixed.damping is None else fixed.damping
    ridges = (0.0, 0.0) if fixed.ridges is None else fixed.ridges
    noise = noise_of(halves, metric.damped(damping))
    return Setting(damping, *ridges, fixed.lr, SHARE * noise)


def background_problem(train: States, metric: Metric, asked: Asked, setting: Setting) -> Problem:
    """Return the problem of a background alone: what knew the labels would take from the evidence
    of the steer, or add to it, and so would texts that are there as many copies of their label."""
    ones = torch.ones_like(train.labels)[:, None]
    ridge = torch.tensor([setting.ridge_background])
    problem = problem_of(train, metric.damped(setting.damping), asked.weights, ones, ridge)
    return replace(problem, weights=copies_once(train, problem.weights))


def fit_background(
    problem: Problem, penalty: float, lr: float, seed: int, tuning: States | None
) -> Background:
    """Fit the background of all texts, whatever their labels.

        minimise  mean w · CE + μ |V|_* + λ/2 |V|²        V = C^{1/2} D S^{1/2}

    What texts of a kind share lives in few directions and the noise of few texts in all, so that
    `μ` is a share of the noise, which falls as one over the root of the positions. Half of it, a
    quarter and so on are tried too, each from where the last one ended, as long as held-out texts ask
    for all of what is found and gain by it.

    Args:
        problem: of one matrix.
        penalty: the first one, `μ`.
        lr: of the descent, lowered where minibatches would diverge.
        seed: of the order of the minibatches.
        tuning: held-out texts; None: the penalty is as given, and all of the map is kept.
    """
    lr, V = stable_lr(problem, lr, minibatch(problem.states.n_positions)), None
    best, passes, lowest = None, 0.0, float("inf")
    for stage, part in enumerate(PARTS):
        threshold = part * penalty
        V, cost = shrunk_sgd(problem, threshold, lr, seed + stage, V)
        passes += cost
        D = problem.metric.unwhiten(V[0])
        found = Background(D, threshold, lr, passes)
        if tuning is None:
            return found
        nll, fraction = fraction_of(D, tuning)
        if nll >= lowest:
            break
        best, lowest = found._replace(D=fraction * D), nll
        if fraction < 1 or penalty == 0:
            break
    assert best is not None
    return best._replace(passes=passes)


FEWEST, AGAIN = 51_200, 2
"""Positions that a descent reads at least: a penalty bounds what few texts can teach, so that they
may be read until it does. And passes at least of one that goes on from another, by shorter steps."""

IN_SOFTMAX = 8_192
"""Words in the softmax of a step, about, where a vocabulary has twice as many."""


def minibatch(n_positions: int) -> int:
    """Return the positions per step."""
    return max(256, batch_size(n_positions))


def shrunk_sgd(
    problem: Problem, penalty: float, lr: float, seed: int, start: Float[Tensor, "k d d"] | None
) -> tuple[Float[Tensor, "k d d"], float]:
    """Return what averaged SGD finds under a penalty on singular values, and its passes.

    Passes are whole: what one that breaks off leaves out would be noise that is taken for signal.
    From where another descent ended (`start`) it goes on with a quarter of the step. Of a large
    vocabulary each step's softmax has the likely words and some of the others, drawn anew, without
    bias (`maths.tail.draw_words`): what that adds to the noise of a minibatch is small.
    """
    n, d = problem.states.n_positions, problem.states.d_model
    size, passes = minibatch(n), math.ceil(FEWEST / n)
    if start is None:
        start = torch.zeros(len(problem.ridge), d, d, device=problem.ridge.device)
    else:
        lr, passes = lr / 4, max(passes, AGAIN)

    def shrink(V: Float[Tensor, "k d d"], lengths: Sequence[float]) -> list[Float[Tensor, "k d d"]]:
        each = [soft_thresholds(one, [length * penalty for length in lengths]) for one in V]
        return [torch.stack(some) for some in zip(*each, strict=True)]

    steps = problem.batches(size, passes, seed, _chances(problem.states, seed))
    return averaged_sgd(steps, start, lr, passes * math.ceil(n / size), shrink), passes


def _chances(states: States, seed: int) -> Float[Tensor, " vocab"] | None:
    """Return each word's chance to be in the softmax of a step, from what is likely on some
    positions; None: every word is."""
    head = states.readout.head
    if head.W_U.shape[1] < 2 * IN_SOFTMAX or head.softcap is not None:
        return None
    some = next(states.chunks(SEEN, seed=seed, device=head.W_U.device))
    return word_chances(quickest(head), some.hidden, IN_SOFTMAX)


def fraction_of(D: Float[Tensor, "d d"], tuning: States) -> tuple[float, float]:
    """Return the NLL of held-out texts under the fraction of a background that they like best, and
    that fraction."""
    every = torch.ones_like(tuning.labels)
    head = quickest(tuning.readout.head)
    nll = heldout_nll_along(head, tuning, torch.zeros_like(D), D, every, FRACTIONS)
    return min(zip(nll, FRACTIONS, strict=True))
