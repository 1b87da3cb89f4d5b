"""The ways to solve the problem of a steer: an object each, which `fit_steer` knows by its name."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, quickest
from steerlens.maths.moments import Moments
from steerlens.maths.solvers import lbfgs
from steerlens.methods.steer.problem import (
    Problem,
    Weights,
    closed_form,
    sgd,
    shrunk_sgd,
    stable_lr,
    sums_over,
)

SolverName = Literal["auto", "closed-form", "lbfgs"]


class Solved(NamedTuple):
    """A point in whitened coordinates, what it cost, what is known of its distance to the optimum,
    and the learning rate, where there is one."""

    V: Float[Tensor, "2 d d"]
    passes: float
    lr: float | None = None
    objective: float | None = None
    optimality_gap: float | None = None
    gap_reason: str | None = None


@runtime_checkable
class Solver(Protocol):
    """What a fit asks of a way to solve its problem."""

    name: ClassVar[SolverName]
    by_evidence: ClassVar[bool]
    """Whether only the background is used, which is then fitted without labels: the steer comes from
    its evidence, see `explain`."""
    second_order: ClassVar[bool]
    """Whether a trial needs nothing but sums over a sample, so that all settings are searched for by
    trials."""

    def head_for_sums(self, head: UnembedWeights) -> UnembedWeights:
        """Return the read-out with which the sums over a sample are taken."""
        ...

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Return a point that says whether a setting is good, and the passes it took."""
        ...

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Return the fit."""
        ...


@dataclass(frozen=True)
class Auto:
    """Averaged SGD for the background, its evidence for the steer."""

    name: ClassVar[SolverName] = "auto"
    by_evidence: ClassVar[bool] = True
    second_order: ClassVar[bool] = False

    def head_for_sums(self, head: UnembedWeights) -> UnembedWeights:
        """Return the quickest: the evidence needs coordinates only."""
        return quickest(head)

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Run averaged SGD."""
        return sgd(problem, lr, seed)

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Run averaged SGD under the penalty, of which the background is used."""
        V, passes, used = shrunk_sgd(problem, lr, seed)
        reason = "solver='auto' measures the cost on a sample; solver='lbfgs' gives a certificate"
        return Solved(V, passes, used, gap_reason=reason)


@dataclass(frozen=True)
class ClosedForm:
    """One Newton step from zero, from sums."""

    name: ClassVar[SolverName] = "closed-form"
    by_evidence: ClassVar[bool] = False
    second_order: ClassVar[bool] = True

    def head_for_sums(self, head: UnembedWeights) -> UnembedWeights:
        """Return the read-out as it is: the sums are the fit itself."""
        return head

    def trial(
        self, problem: Problem, sums: Moments, lr: float, seed: int
    ) -> tuple[Float[Tensor, "2 d d"], float]:
        """Take the step from sums that are there."""
        return closed_form(problem, sums), 0.0

    def solve(self, problem: Problem, weights: Weights, lr: float, seed: int) -> Solved:
        """Take the step."""
        V = closed_form(problem, sums_over(problem.states, weights))
        reason = "solver='closed-form' is one Newton step; solver='lbfgs' gives a certificate"
        return Solved(V, 1, gap_reason=reason)


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS from where averaged SGD ends, to a certified gap in nats per token."""

    tolerance: float
    name: ClassVar[SolverName] = "lbfgs"
    by_evidence: ClassVar[bool] = False
    second_order: ClassVar[bool] = False

    def head_for_sums(self, head: UnembedWeights) -> UnembedWeights:
        """Return the read-out as it is: the same everywhere."""
        return head

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
        return Solved(
            found.V,
            passes + found.evaluations,
            stable_lr(problem, lr),
            objective=found.objective,
            optimality_gap=found.optimality_gap,
            gap_reason=reason,
        )


def solver_named(name: SolverName, tolerance: float) -> Solver:
    """Return the solver of a name; `tolerance` is that of `Lbfgs`."""
    return {"auto": Auto(), "closed-form": ClosedForm(), "lbfgs": Lbfgs(tolerance)}[name]
