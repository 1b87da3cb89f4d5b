"""Solvers against closed forms and tighter solves."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths.logits import UnembedWeights, nll_and_gradient
from steerlens.maths.solvers import averaged_sgd, cross_validated_gain, lbfgs, newton_step

D, V, N = 4, 12, 60
RIDGE = torch.tensor([0.05, 0.2])[:, None, None].double()
Objective = Callable[[Tensor], tuple[float, Tensor]]


def likelihood(seed: int = 0) -> Objective:
    """Mean NLL of a steer and a background plus their ridge: what the fit minimises, small and in
    float64."""
    r = torch.Generator().manual_seed(seed)
    head = UnembedWeights(torch.randn(D, V, generator=r).double(), torch.zeros(V).double())
    c, y = (
        torch.randn(N, D, generator=r).double(),
        torch.randn(N, 1, generator=r).double().clamp(-1, 1),
    )
    target, weight = torch.randint(V, (N,), generator=r), torch.full((N,), 1 / N).double()

    def objective(V: Tensor) -> tuple[float, Tensor]:
        loss, slope = nll_and_gradient(head, c + y * (c @ V[0]) + c @ V[1], target, weight)
        penalty = float((RIDGE * V.square()).sum()) / 2
        return float(loss) + penalty, torch.stack([(y * c).mT @ slope, c.mT @ slope]) + RIDGE * V

    return objective


ZERO = torch.zeros(2, D, D).double()


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.95))
def test_the_objective_of_the_fit_is_convex_along_chords(seed: int, share: float) -> None:
    r = torch.Generator().manual_seed(seed)
    a, b = 2 * torch.randn(2, 2, D, D, generator=r).double()
    value = likelihood(seed)
    assert (
        value((1 - share) * a + share * b)[0]
        <= (1 - share) * value(a)[0] + share * value(b)[0] + 1e-9
    )


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_the_certified_gap_is_never_below_the_true_one(tolerance: float) -> None:
    objective = likelihood()
    optimum = lbfgs(objective, ZERO, RIDGE, 1e-13)
    found = lbfgs(objective, ZERO, RIDGE, tolerance)
    assert (
        found.objective is not None
        and optimum.objective is not None
        and found.optimality_gap is not None
    )
    assert found.optimality_gap <= tolerance
    assert found.optimality_gap >= found.objective - optimum.objective >= -1e-13
    assert found.objective == pytest.approx(objective(found.V)[0], abs=1e-12)


def test_the_solution_is_stationary_and_half_way_to_it_is_not() -> None:
    objective = likelihood()
    solution = lbfgs(objective, ZERO, RIDGE, 1e-12)
    assert objective(solution.V)[1].norm() < 1e-5
    assert objective(solution.V / 2)[1].norm() > 1e-2
    assert solution.optimality_gap is not None and solution.optimality_gap < 1e-11


def test_lbfgs_reaches_the_same_point_from_anywhere() -> None:
    objective = likelihood()
    start = 3 * torch.randn(2, D, D, generator=torch.Generator().manual_seed(1)).double()
    here, there = (lbfgs(objective, s, RIDGE, 1e-13).V for s in (ZERO, start))
    assert (start - here).norm() > 1
    assert_close(here, there, rtol=0.0, atol=1e-4)


def test_lbfgs_counts_every_evaluation() -> None:
    objective, calls = likelihood(), []

    def counted(V: Tensor) -> tuple[float, Tensor]:
        calls.append(1)
        return objective(V)

    assert lbfgs(counted, ZERO, RIDGE, 1e-6).evaluations == len(calls) > 2


@pytest.mark.parametrize(
    "ridge, convex",
    [(torch.zeros(2, 1, 1).double(), True), (RIDGE, False)],
    ids=["no ridge", "not convex"],
)
def test_there_is_no_certificate_without_strong_convexity(ridge: Tensor, convex: bool) -> None:
    found = lbfgs(likelihood(), ZERO, ridge, 1e-6, max_evaluations=30, convex=convex)
    assert found.optimality_gap is None
    assert found.objective is not None and found.objective < likelihood()(ZERO)[0]


def test_lbfgs_stops_at_its_budget_with_an_honest_gap() -> None:
    found = lbfgs(likelihood(), ZERO, RIDGE, 1e-13, max_evaluations=3)
    optimum = lbfgs(likelihood(), ZERO, RIDGE, 1e-13)
    assert found.evaluations < optimum.evaluations
    assert found.optimality_gap is not None and found.optimality_gap > 1e-13
    assert found.objective is not None and optimum.objective is not None
    assert found.optimality_gap >= found.objective - optimum.objective


def test_the_start_is_left_alone() -> None:
    start = torch.ones(2, D, D).double()
    lbfgs(likelihood(), start, RIDGE, 1e-3)
    averaged_sgd([lambda V: V] * 5, start, 0.5, 5)
    assert torch.equal(start, torch.ones(2, D, D).double())


@settings(max_examples=25)
@given(
    label=st.floats(-0.9, 0.9),
    extra=st.floats(0.01, 0.5),
    ridges=st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)),
)
def test_newton_step_solves_its_system(
    label: float, extra: float, ridges: tuple[float, float]
) -> None:
    gradient = torch.randn(2, D, D, generator=torch.Generator().manual_seed(0)).double()
    label2 = label**2 + extra  # E y² > (E y)²
    V = newton_step(
        gradient, label, label2, torch.tensor(ridges, dtype=torch.float64)[:, None, None]
    )
    left = torch.stack(
        [(label2 + ridges[0]) * V[0] + label * V[1], label * V[0] + (1 + ridges[1]) * V[1]]
    )
    assert_close(left, -gradient, rtol=1e-9, atol=1e-9)


def test_newton_step_of_balanced_signs_is_the_closed_form_of_the_paper_trail() -> None:
    gradient = torch.randn(2, D, D, generator=torch.Generator().manual_seed(1)).double()
    V = newton_step(gradient, 0.0, 1.0, torch.tensor([0.5, 0.0])[:, None, None])
    assert_close(V, -gradient / torch.tensor([1.5, 1.0])[:, None, None].double())


def quadratic(noise: float, n: int) -> tuple[list[Callable[[Tensor], Tensor]], Tensor]:
    """Noisy gradients of ½|V − optimum|² in whitened coordinates."""
    r = torch.Generator().manual_seed(0)
    optimum = torch.randn(2, D, D, generator=r)
    noises = noise * torch.randn(n, 2, D, D, generator=r)
    return [lambda V, e=e: V - optimum + e for e in noises], optimum


def test_averaged_sgd_finds_the_minimum_of_a_quadratic() -> None:
    gradients, optimum = quadratic(0.0, 400)
    found = averaged_sgd(gradients, torch.zeros(2, D, D), 0.2, 400)
    assert optimum.norm() > 1
    assert (found - optimum).norm() < 1e-5 * optimum.norm()


def test_averaging_takes_out_noise_of_the_minibatches() -> None:
    gradients, optimum = quadratic(1.0, 400)
    found = averaged_sgd(gradients, torch.zeros(2, D, D), 0.3, 400)
    last = torch.zeros(2, D, D)
    for k, gradient in enumerate(gradients):
        last = last - 0.3 * 10 ** (-k / 400) * gradient(last)
    assert (found - optimum).norm() < 0.75 * (last - optimum).norm()


def test_averaged_sgd_of_no_or_one_step() -> None:
    start = torch.ones(2, D, D)
    assert torch.equal(averaged_sgd([], start, 0.1, 0), start)
    assert_close(averaged_sgd([lambda V: V], start, 0.1, 1), 0.9 * start)


@given(seed=st.integers(0, 99), size=st.floats(0.01, 10.0))
def test_a_crossed_gain_is_that_of_the_quadratic_it_speaks_of(seed: int, size: float) -> None:
    random = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, 3, 4, generator=random, dtype=torch.float64)
    curvature, ridge = torch.rand(3, 4, generator=random, dtype=torch.float64), size
    by_hand = []
    for here, there in ((one, other), (other, one)):
        v = torch.linalg.solve(
            torch.diag(curvature.flatten()) + ridge * torch.eye(12).double(), here.flatten()
        )
        by_hand.append(v @ there.flatten() - v @ torch.diag(curvature.flatten()) @ v / 2)
    assert cross_validated_gain(one, other, curvature, ridge) == pytest.approx(
        float(sum(by_hand)) / 2, rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("noise", [0.03, 0.3, 3.0])
def test_crossed_gains_ask_for_the_ridge_that_the_noise_asks_for(noise: float) -> None:
    # a signal of variance 1 and noise of variance σ² want λ = σ² where the curvature is 1
    random = torch.Generator().manual_seed(0)
    signal, *rest = torch.randn(3, 200, 200, generator=random, dtype=torch.float64)
    one, other = (signal + noise**0.5 * e for e in rest)
    gains = {
        ridge: cross_validated_gain(one, other, torch.ones(200, 200).double(), ridge)
        for ridge in (0.003, 0.03, 0.3, 3.0, 30.0)
    }
    assert max(gains, key=lambda ridge: gains[ridge]) == noise
    assert gains[noise] > 1.2 * min(gains.values())  # it matters
