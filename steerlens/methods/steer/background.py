"""Fit what all texts share, without their labels: as many directions as stand out of the noise."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import quickest
from steerlens.maths.moments import Moments
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import Problem
from steerlens.methods.steer.selection import heldout_nll_along
from steerlens.methods.steer.solvers import Solved, Solver
from steerlens.values.metric import Metric
from steerlens.values.states import States

SHARE = 0.5
"""The penalty tried first, as a share of the noise; half of it next, where held-out texts like all
of what was found."""

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of a background, tried on held-out texts: of few texts it learns what they alone share."""


class Background(NamedTuple):
    """The map, the penalty of the fit that it is from, and what is known of that.

    `D` is the fraction of it that held-out texts like best.
    """

    D: Float[Tensor, "d d"]
    penalty: float
    solved: Solved


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


def fit_background(
    problem: Problem, solver: Solver, lr: float, asked: Asked, tuning: States | None
) -> Background:
    """Fit the background of all texts, whatever their labels.

        minimise  mean w · CE + μ |V|_* + λ/2 |V|²        V = C^{1/2} D S^{1/2}

    What texts of a kind share lives in few directions and the noise of few texts in all, so that
    `μ` is a share of the noise, which falls as one over the root of the positions. On held-out
    texts half of it is tried too, from there, where they ask for all of what was found.

    Args:
        problem: with the first penalty.
        tuning: held-out texts; None: the penalty is as given, and all of the map is kept.
    """
    # what knew the labels would take from the evidence of the steer, or add to it
    problem = replace(problem, labels=torch.zeros_like(problem.labels))
    best, passes, lowest = None, 0.0, float("inf")
    for penalty in (problem.penalty, problem.penalty / 2):
        problem = replace(problem, penalty=penalty)
        solved = solver.solve(problem, asked.weights, lr, asked.seed)
        problem = replace(problem, start=solved.V)
        D = problem.metric.unwhiten(solved.V[1])
        passes += solved.passes
        if tuning is None:
            return Background(D, penalty, solved)
        nll, fraction = fraction_of(D, tuning)
        if nll < lowest:
            best, lowest = Background(fraction * D, penalty, solved), nll
        if fraction < 1 or penalty == 0:
            break
    assert best is not None
    return best._replace(solved=best.solved._replace(passes=passes))


def fraction_of(D: Float[Tensor, "d d"], tuning: States) -> tuple[float, float]:
    """Return the NLL of held-out texts under the fraction of a background that they like best, and
    that fraction."""
    every = torch.ones_like(tuning.labels)
    head = quickest(tuning.readout.head)
    nll = heldout_nll_along(head, tuning, torch.zeros_like(D), D, every, FRACTIONS)
    return min(zip(nll, FRACTIONS, strict=True))
