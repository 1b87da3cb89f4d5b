"""Conjugate gradients against a direct solve, and the slope of what follows a read-out against
autograd."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths.logits import UnembedWeights, apply_softcap, softcap_gradient
from steerlens.maths.solvers import conjugate_gradient

A_ROWS, B_COLS = 4, 3


def problem(seed: int, rank: int = A_ROWS * B_COLS) -> tuple[Tensor, Tensor]:
    """A positive semidefinite matrix on flattened `V` and a slope."""
    r = torch.Generator().manual_seed(seed)
    n = A_ROWS * B_COLS
    half = torch.randn(n, rank, generator=r).double()
    return half @ half.mT / max(rank, 1), torch.randn(A_ROWS, B_COLS, generator=r).double()


def solve(
    A: Tensor, b: Tensor, ridge: float, tolerance: float = 1e-22, max_steps: int = 100
) -> tuple:
    return conjugate_gradient(
        lambda V: (A @ V.flatten()).reshape(V.shape), b, ridge, tolerance, max_steps
    )


def direct(A: Tensor, b: Tensor, ridge: float) -> Tensor:
    return torch.linalg.solve(A + ridge * torch.eye(len(A)).double(), b.flatten()).reshape(b.shape)


def objective(A: Tensor, b: Tensor, ridge: float, V: Tensor) -> float:
    v = V.flatten()
    return float(v @ A @ v / 2 - b.flatten() @ v + ridge * v @ v / 2)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), rank=st.integers(0, 12), ridge=st.sampled_from([1e-2, 0.3, 5.0]))
def test_the_solution_is_that_of_a_direct_solve(seed: int, rank: int, ridge: float) -> None:
    A, b = problem(seed, rank)
    V, gap, steps = solve(A, b, ridge)
    assert_close(V, direct(A, b, ridge), rtol=1e-7, atol=1e-8)
    assert 0 <= gap <= 1e-22 and steps <= 40


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), ridge=st.sampled_from([1e-2, 0.3]))
def test_the_gap_is_never_below_the_true_distance_to_the_minimum(seed: int, ridge: float) -> None:
    A, b = problem(seed)
    best = objective(A, b, ridge, direct(A, b, ridge))
    assert -best > 0.01
    for max_steps in range(8):
        V, gap, steps = solve(A, b, ridge, max_steps=max_steps)
        gradient = (A @ V.flatten()).reshape(V.shape) + ridge * V - b
        assert steps == max_steps
        assert gap == pytest.approx(float(gradient.square().sum()) / (2 * ridge), rel=1e-6)
        assert gap >= objective(A, b, ridge, V) - best > 0


def test_the_objective_falls_with_every_step_and_the_first_is_the_best_along_the_slope() -> None:
    A, b = problem(3)
    points = [solve(A, b, 0.1, max_steps=k)[0] for k in range(7)]
    values = [objective(A, b, 0.1, V) for V in points]
    assert values[0] == 0.0 and all(later < earlier for earlier, later in pairwise(values))
    length = float(
        b.flatten() @ b.flatten() / (b.flatten() @ (A + 0.1 * torch.eye(12).double()) @ b.flatten())
    )
    assert_close(points[1], length * b)


def test_a_looser_tolerance_stops_earlier_and_is_met() -> None:
    A, b = problem(1)
    steps = []
    for tolerance in (1.0, 1e-2, 1e-4, 1e-8):
        V, gap, taken = solve(A, b, 0.1, tolerance)
        assert gap <= tolerance
        assert (
            taken == 0 or solve(A, b, 0.1, tolerance, taken - 1)[1] > tolerance
        )  # and not a step before
        assert objective(A, b, 0.1, V) - objective(A, b, 0.1, direct(A, b, 0.1)) <= tolerance
        steps.append(taken)
    assert steps == sorted(steps) and len(set(steps)) == 4


@pytest.mark.parametrize("values", [[2.0], [0.0, 3.0], [0.0, 1.0, 5.0], [0.5, 1.0, 2.0, 4.0]])
def test_it_takes_no_more_steps_than_there_are_distinct_eigenvalues(values: list[float]) -> None:
    r = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(12, 12, generator=r).double())[0]
    A = Q @ torch.diag(torch.tensor(values * (12 // len(values))).double()) @ Q.mT
    b = torch.randn(A_ROWS, B_COLS, generator=r).double()
    V, _, steps = solve(A, b, 0.5, tolerance=1e-18)
    assert steps == len(values)
    assert_close(V, direct(A, b, 0.5))


def test_one_call_of_the_curvature_a_step() -> None:
    A, b = problem(2)
    calls: list[Tensor] = []

    def counted(V: Tensor) -> Tensor:
        calls.append(V)
        return (A @ V.flatten()).reshape(V.shape)

    steps = conjugate_gradient(counted, b, 0.1, 1e-6)[2]
    assert len(calls) == steps > 2


def test_a_slope_of_zero_gives_zero_in_no_step() -> None:
    def never(V: Tensor) -> Tensor:
        raise AssertionError("nothing to solve")

    for tolerance in (0.0, 1e-9):
        V, gap, steps = conjugate_gradient(never, torch.zeros(3, 2), 1.0, tolerance)
        assert (V.tolist(), gap, steps) == ([[0.0, 0.0]] * 3, 0.0, 0)


def test_the_slope_is_left_alone_and_its_dtype_kept() -> None:
    A, b = problem(4)
    before = b.clone()
    exact = solve(A, b, 0.1)[0]
    assert torch.equal(b, before)
    single = solve(A.float(), b.float(), 0.1, tolerance=1e-9)[0]
    assert single.dtype == torch.float32
    assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale, softcap", [(1.0, None), (0.25, None), (1.0, 2.0), (3.0, 1.5)])
def test_the_slope_of_post_is_that_of_autograd(scale: float, softcap: float | None) -> None:
    head = UnembedWeights(torch.eye(2).double(), torch.zeros(2).double(), scale, softcap)
    z = torch.linspace(-4, 4, 30).double().reshape(2, 5, 3).requires_grad_(True)
    derivative = torch.autograd.grad(apply_softcap(head, z).sum(), z)[0]
    found = softcap_gradient(head, apply_softcap(head, z.detach()))
    assert isinstance(found, float) == (softcap is None)
    assert_close(found * torch.ones_like(derivative), derivative, rtol=1e-10, atol=1e-12)
    if softcap is not None:
        assert derivative.min() < 0.1 * scale < derivative.max()
