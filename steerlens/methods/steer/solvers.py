"""The ways to solve the likelihood's own problem: an object each, which `fit_steer` knows by its
name."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerlens.maths.moments import Moments
from steerlens.maths.solvers import lbfgs
from steerlens.methods.steer.problem import (
    Problem,
    Weights,
    closed_form,
    sgd,
    stable_lr,
    sums_over,
)

SolverName = Literal["auto", "closed-form", "lbfgs"]


class Effort(NamedTuple):
    """What a solution cost, the learning rate where there is one, and what is known of its distance
    to the optimum."""

    passes: float
    lr: float | None = None
    objective: float | None = None
    optimality_gap: float | None = None
    gap_reason: str | None = None


class Solved(NamedTuple):
    """A point in whitened coordinates, and what it cost."""

    V: Float[Tensor, "2 d d"]
    effort: Effort


@runtime_checkable
class Solver(Protocol):
    """What a fit asks of a way to solve its problem."""

    name: ClassVar[SolverName]
    second_order: ClassVar[bool]
    """Whether a trial needs nothing but sums over a sample, so that all settings are searched for by
    trials."""

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Return a point that says whether a setting is good, and the passes it took."""
        ...

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Return the fit."""
        ...


@dataclass(frozen=True)
class ClosedForm:
    """One Newton step from zero, from sums."""

    name: ClassVar[SolverName] = "closed-form"
    second_order: ClassVar[bool] = True

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Take the step from sums that are there."""
        return closed_form(problem, sums), 0.0

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Take the step."""
        V = closed_form(problem, sums_over(problem.states, weights))
        reason = "solver='closed-form' is one Newton step; solver='lbfgs' gives a certificate"
        return Solved(V, Effort(1, gap_reason=reason))


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS from where averaged SGD ends, to a certified gap in nats per token."""

    tolerance: float
    name: ClassVar[SolverName] = "lbfgs"
    second_order: ClassVar[bool] = False

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Run averaged SGD."""
        return sgd(problem, lr, seed)

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Find the minimum, with its certificate where there is one."""
        start, passes = sgd(problem, lr, seed)
        on = problem.states.readout
        found = lbfgs(problem.objective, start, problem.ridge, self.tolerance, convex=on.convex)
        reason = None
        if found.optimality_gap is None and not on.convex:
            reason = f"the logits of {on.model_id!r} have a soft cap, under which the problem is not convex"
        elif found.optimality_gap is None:
            reason = "without a ridge on both matrices the objective has no lower bound"
        effort = Effort(
            passes + found.evaluations,
            stable_lr(problem, lr),
            objective=found.objective,
            optimality_gap=found.optimality_gap,
            gap_reason=reason,
        )
        return Solved(found.V, effort)


def solver_named(name: SolverName, tolerance: float) -> Solver | None:
    """Return the solver of a name; `tolerance` is that of `Lbfgs`.

    None for "auto": the steer is then what the evidence explains, see `explain`.
    """
    return {"auto": None, "closed-form": ClosedForm(), "lbfgs": Lbfgs(tolerance)}[name]
