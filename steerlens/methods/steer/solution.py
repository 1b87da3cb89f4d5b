"""From chosen settings to a steer: solve, keep what held-out texts like, give it its unit."""

from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.methods.steer.background import fit_background
from steerlens.methods.steer.evidence import Asked, Explained, explain, mean_label
from steerlens.methods.steer.problem import Problem
from steerlens.methods.steer.selection import Setting, longer, make_problem
from steerlens.methods.steer.solvers import Solved, Solver
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer


class Found(NamedTuple):
    """A steer, the background of the length that labels ask for, and what is known of both."""

    D: Float[Tensor, "d d"]
    steer: Explained
    problem: Problem
    solved: Solved


def solve_both(
    train: States, metric: Metric, setting: Setting, whitening: float, asked: Asked, solver: Solver, tuning: States | None = None
) -> Found:  # fmt: skip
    """Fit steer and background under settings that are chosen.

    `tuning` are held-out texts that say how much of the background to keep, and how long the steer
    is to be.
    """
    problem = make_problem(train, metric, asked.weights, setting)
    if not solver.by_evidence:
        solved = solver.solve(problem, asked.weights, setting.lr, asked.seed)
        W, D = (problem.metric.unwhiten(V) for V in solved.V)
        W = W if asked.rank is None else Steer(W, train.readout).truncate(asked.rank, metric).W
        return Found(D, Explained(W, 0.0, 0.0), problem, solved)
    shared = fit_background(problem, solver, setting.lr, asked, tuning)
    D, solved, problem = shared.D, shared.solved, replace(problem, penalty=shared.penalty)
    steer = explain(train, metric.damped(whitening), D, asked)
    mean = mean_label(train, asked.weights)
    if tuning is not None and steer.strength:
        steer = steer._replace(
            strength=steer.strength * longer(steer.strength * steer.W, D, mean, tuning)
        )
    length = 1.0 if steer.strength is None else steer.strength
    return Found(D - mean * length * steer.W, steer, problem, solved)


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
