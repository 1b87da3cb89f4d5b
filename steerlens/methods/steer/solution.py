"""From chosen settings to a steer: solve, keep what held-out texts like, give it its unit."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.methods.steer.background import background_problem, fit_background
from steerlens.methods.steer.evidence import Explained, explain
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import blind, mean_label
from steerlens.methods.steer.selection import Setting, longer, make_problem
from steerlens.methods.steer.solvers import Effort, Solver
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer


class Found(NamedTuple):
    """A steer, the background of the length that labels ask for, and what is known of both.

    `mean_label` is that of the texts as the background weighs them, around which labels are
    flipped. `ridges` are those of steer and background; `penalty`: on the background's singular
    values, where it has one.
    """

    D: Float[Tensor, "d d"]
    steer: Explained
    mean_label: float
    effort: Effort
    ridges: tuple[float, float]
    penalty: float | None = None


def by_likelihood(
    train: States, metric: Metric, setting: Setting, asked: Asked, solver: Solver
) -> Found:
    """Solve the likelihood's own problem of steer and background."""
    problem = make_problem(train, metric, asked.weights, setting)
    solved = solver.solve(problem, asked.weights, setting.lr, asked.seed)
    W, D = (problem.metric.unwhiten(V) for V in solved.V)
    W = W if asked.rank is None else Steer(W, train.readout).truncate(asked.rank, metric).W
    steer, background = problem.ridge.flatten().tolist()
    mean = mean_label(train, problem.weights)
    return Found(D, Explained(W, 0.0, 0.0), mean, solved.effort, (steer, background))


def by_evidence(
    train: States, metric: Metric, setting: Setting, asked: Asked, tuning: States | None = None
) -> Found:
    """Fit a background without labels, and the steer that explains most over it.

    `tuning` are held-out texts that say how much of the background to keep, and how long the steer
    is to be.
    """
    problem = background_problem(blind(train), metric, asked, setting)
    penalty = setting.penalty_background / train.n_positions**0.5
    unlabelled = None if tuning is None else blind(tuning)
    shared = fit_background(problem, penalty, setting.lr, asked.seed, unlabelled)
    D, mean = shared.D, mean_label(train, problem.weights)
    steer = explain(train, metric, D, asked)
    if tuning is not None and steer.strength:
        steer = steer._replace(
            strength=steer.strength * longer(steer.strength * steer.W, D, mean, tuning)
        )
    length = 1.0 if steer.strength is None else steer.strength
    reason = "solver='auto' measures the cost on a sample; solver='lbfgs' gives a certificate"
    effort = Effort(shared.passes, shared.lr, gap_reason=reason)
    ridges = (asked.ridge, float(problem.ridge))
    return Found(D - mean * length * steer.W, steer, mean, effort, ridges, shared.penalty)


def of_unit_cost(found: Explained, train: States, asked: Asked, name: str) -> tuple[Steer, float]:
    """Return the steer that costs what strength 1 is to cost, and the multiple of it that was
    found."""
    # halves that contradict each other leave a strength of 0, but a direction all the same
    direction = found.W
    unit = strength_at_kl(
        Steer(direction, train.readout, name), train.sample(8_192, seed=asked.seed), kl=asked.kl
    )
    length = 1.0 if found.strength is None else found.strength
    return Steer(unit * direction, train.readout, name), length / unit
