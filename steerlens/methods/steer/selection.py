"""Choose what the likelihood's problem is solved with: ridges by the sample's halves, damping by
held-out NLL."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logit_stats import logit_stats
from steerlens.maths.logits import UnembedWeights, quickest
from steerlens.maths.moments import Moments
from steerlens.maths.solvers import cross_validated_gain
from steerlens.methods.steer.problem import (
    CHUNK,
    Problem,
    Weights,
    problem_of,
    text_weights,
)
from steerlens.methods.steer.solvers import Solver
from steerlens.values.metric import Metric
from steerlens.values.states import States


class Setting(NamedTuple):
    """What is chosen unless given. Ridges are in positions: they act as λ = ridge / n_positions,
    like that many positions of evidence for no steer at all, so that a choice made on a subsample
    holds for the whole."""

    damping: float
    ridge: float
    ridge_background: float
    lr: float = math.inf
    """No more than minibatches bear; see `stable_lr`."""

    penalty_background: float = 0.0
    """On singular values, in roots of a position: acts as penalty / √n_positions, as noise does."""


def make_problem(train: States, metric: Metric, weights: Weights, setting: Setting) -> Problem:
    """Return the problem of steer and background."""
    ridges = torch.tensor([setting.ridge, setting.ridge_background])
    mix = torch.stack([train.labels, torch.ones_like(train.labels)], 1)
    return problem_of(train, metric.damped(setting.damping), weights, mix, ridges)


DAMPING, FACTOR, CHANCE = 0.1, 10.0, 1e-3
"""Where the search for the damping starts, by what it is multiplied or divided as long as held-out
NLL falls, and nats per token below which a fall is chance: of some thousand positions a difference
between two fits is known to about that."""

RIDGES = tuple(78.125 * 4**k for k in range(7))
"""Ridges compared, in positions: 78 … 320,000."""

START = 20_000.0
"""Where the search for a closed form's ridges starts."""


class Fixed(NamedTuple):
    """The settings that are given, in the units of `Setting`; None: to be chosen."""

    damping: float | None = None
    ridges: tuple[float, float] | None = None
    lr: float = math.inf


def fixed_settings(
    ridge: float | tuple[float, float] | None,
    damping: float | None,
    lr: float | None,
    n_positions: int,
) -> Fixed:
    """Return the arguments of a fit as settings."""
    both = ridge if isinstance(ridge, tuple) or ridge is None else (ridge, ridge)
    return Fixed(
        damping,
        None if both is None else (both[0] * n_positions, both[1] * n_positions),
        math.inf if lr is None else lr,
    )


def choose(
    sample: States,
    halves: tuple[Moments, Moments],
    metric: Metric,
    tuning: States,
    weights: Weights,
    fixed: Fixed,
    solver: Solver,
    seed: int,
) -> tuple[Setting, tuple[dict[str, float], ...], float]:
    """Return the setting with the best held-out NLL among a few tried on a sample.

    Also what was tried, and the passes over the sample.

    For each damping both ridges follow from the sums of the sample's halves (`best_ridges`), so
    that only the damping is searched for by fits: there second order is not enough, as it knows
    nothing of how rare words curve. A closed form is all second order itself; its trials cost no
    fit, so its ridges are searched for in the same way.
    """
    sums = halves[0].plus(halves[1])
    trials: list[dict[str, float]] = []
    passes = 0.0

    def at(damping: float) -> Setting:
        ridges = fixed.ridges
        if ridges is None:
            start = solver.second_order
            ridges = (START, START) if start else best_ridges(halves, metric.damped(damping))
        return Setting(damping, *ridges, fixed.lr)

    def heldout_nll(setting: Setting) -> float:
        nonlocal passes
        problem = make_problem(sample, metric, weights, setting)
        V, cost = solver.trial(problem, sums, setting.lr, seed)
        passes += cost
        nll = tuning_nll(problem.metric, V, tuning)
        trials.append(
            {
                "damping": setting.damping, "ridge": setting.ridge,
                "ridge_background": setting.ridge_background, "heldout_nll": nll,
            }
        )  # fmt: skip
        return nll if math.isfinite(nll) else math.inf

    moves: list[Callable[[Setting, float], Setting]] = []
    if fixed.damping is None:
        moves.append(lambda setting, by: at(by * setting.damping))
    if fixed.ridges is None and solver.second_order:
        moves.append(lambda s, by: s._replace(ridge_background=by * s.ridge_background))
        moves.append(lambda s, by: s._replace(ridge=by * s.ridge))
    best = at(DAMPING if fixed.damping is None else fixed.damping)
    lowest = heldout_nll(best) if moves else math.inf
    for move in moves:
        for factor in (1 / FACTOR, FACTOR):
            improved = False
            while (nll := heldout_nll(trial := move(best, factor))) < lowest - CHANCE:
                best, lowest, improved = trial, nll, True
            if improved:
                break  # better this way, so not the other
    return best, tuple(trials), passes


def best_ridges(halves: tuple[Moments, Moments], metric: Metric) -> tuple[float, float]:
    """Return the ridges of steer and background, in positions.

    Under them each half of a sample says most about the other.

    See `cross_validated_gain`. With `C` and `S` in their eigenbases the curvature is diagonal;
    labels less their mean part the steer from the background, which explains what all texts share.
    """
    (c, U), (s, Q) = metric.spectra
    whiten = (metric.floored(c)[:, None] * metric.floored(s)).rsqrt()
    total = halves[0].plus(halves[1])
    mean = total.label / total.weight
    spread = total.label2 / total.weight - mean**2

    def slopes(sums: Moments) -> Float[Tensor, "2 d d"]:
        both = torch.stack([sums.steer - mean * sums.background, sums.background]) / sums.weight
        return (U.mT @ both @ Q) * whiten

    one, other = map(slopes, halves)
    curvature = c[:, None] * s * whiten**2

    def best(k: int, curvature: Tensor) -> float:
        n = float(total.weight) / 2
        return max(
            RIDGES, key=lambda ridge: cross_validated_gain(one[k], other[k], curvature, ridge / n)
        )

    return best(0, spread * curvature), best(1, curvature)


def tuning_nll(metric: Metric, V: Float[Tensor, "2 d d"], tuning: States) -> float:
    """Return the mean held-out NLL of a point; classes balanced as by default."""
    W, D = metric.unwhiten(V[0]), metric.unwhiten(V[1])
    return heldout_nll_along(tuning.readout.head, tuning, D, W, tuning.labels, (1.0,))[0]


LONGER, WORTH = (1.0, 1.2, 1.45, 1.75, 2.1), 2e-4
"""Multiples of the length that halves of the texts ask for, which the better steer of all may bear;
and nats per token that each further one has to bring."""


def longer(
    W: Float[Tensor, "d d"], D: Float[Tensor, "d d"], mean_label: float, tuning: States
) -> float:
    """Return the multiple of a steer, over its background at the mean label, that held-out texts
    ask for."""
    head = quickest(tuning.readout.head)
    nll = heldout_nll_along(head, tuning, D, W, tuning.labels - mean_label, LONGER)
    best = 0
    for k in range(1, len(LONGER)):
        if nll[k] > nll[best] - WORTH:
            break
        best = k
    return LONGER[best]


def heldout_nll_along(
    head: UnembedWeights,
    tuning: States,
    base: Float[Tensor, "d d"],
    step: Float[Tensor, "d d"],
    size: Float[Tensor, " n_texts"],
    multiples: Sequence[float],
) -> list[float]:
    """Return the mean NLL of texts at multiples of a step, `c + c·base + multiple · size · c·step`;
    classes balanced as by default.

    Logits are linear in the context before the cap, so two products serve all multiples; what a
    read-out in bfloat16 rounds is then the same for all of them.
    """
    device, mix = base.device, [[1.0, k] for k in multiples]
    size, weight = (t.to(device) for t in (size, text_weights(tuning, "labels")))
    total = torch.zeros(len(multiples), dtype=torch.float64, device=device)
    for c, target, text in tuning.chunks(CHUNK, device=device):
        terms = (c + c @ base, size[text][:, None] * (c @ step))
        total += (logit_stats(head, target, terms, mix).nll @ weight[text]).double()
    return (total / tuning.n_positions).tolist()
