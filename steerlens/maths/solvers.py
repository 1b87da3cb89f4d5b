"""Minimise a convex function of matrices in coordinates where it is nearly isotropic."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Solution(NamedTuple):
    """A point, the objective there, the certified distance to the optimum (None if unknown),
    evaluations of the objective."""

    V: Float[Tensor, "2 a b"]
    objective: float | None
    optimality_gap: float | None
    evaluations: int


Shrink = Callable[[Float[Tensor, "k a b"], Sequence[float]], Sequence[Float[Tensor, "k a b"]]]
"""From a point and some lengths to the proximal points of a penalty, times each of the lengths."""

SELDOM = 8
"""Steps of which one is followed by the proximal step of a penalty."""


def averaged_sgd(
    gradients: Iterable[Callable[[Float[Tensor, "k a b"]], Float[Tensor, "k a b"]]],
    start: Float[Tensor, "k a b"],
    lr: float,
    n_steps: int,
    shrink: Shrink | None = None,
) -> Float[Tensor, "k a b"]:
    """Run stochastic gradient descent, the step falling tenfold, averaged over the second half of
    the path.

    In whitened coordinates the Hessian is near the identity, so one pass with a constant-size step
    goes most of the way and the average takes out the noise of the minibatches (Polyak and Juditsky
    1992).

    Args:
        gradients: one per step: a function from the point to the gradient on that step's minibatch.
        shrink: what gives the proximal points of a penalty; taken every eighth step for all eight,
            as it may cost more than they do.

    Example:
        >>> pull = lambda V: V - 3.0
        >>> shrink = lambda V, lengths: [(V - size).clamp_min(0) for size in lengths]     # of the penalty |V|
        >>> found = averaged_sgd([pull] * 400, torch.zeros(2, 1, 1), 0.05, 400, shrink)
        >>> bool((found - 2).abs().max() < 0.1)
        True
    """
    V, mean, averaged, walked = start.clone(), torch.zeros_like(start), 0, 0.0
    for k, gradient in enumerate(gradients):
        step = lr * 10 ** (-k / max(n_steps, 1))
        V.sub_(gradient(V), alpha=step)
        walked += step
        point: Tensor | None = V
        if shrink is not None and (k + 1) % SELDOM == 0:
            # half-way: V is as much too far before as it is too near after
            (point, V), walked = shrink(V, (walked / 2, walked)), 0.0
        elif shrink is not None:
            point = None
        if k >= n_steps // 2 and point is not None:
            averaged += 1
            mean.lerp_(point, 1 / averaged)
    return mean if averaged else V


FINE = 1e-6
"""Nats below which a certificate is taken in float64."""


def lbfgs(
    objective: Callable[[Float[Tensor, "2 a b"]], tuple[float, Float[Tensor, "2 a b"]]],
    start: Float[Tensor, "2 a b"],
    ridge: Float[Tensor, "2 1 1"],
    tolerance: float,
    max_evaluations: int = 300,
    convex: bool = True,
) -> Solution:
    """Run L-BFGS until the certificate says that the objective is within `tolerance` of its
    minimum.

    The objective contains `ridge/2 · |V|²`, so it is strongly convex and no point is better than
    this one by more than

        gap = Σ |g_k|² / (2 ridge_k)

    (minimise the quadratic lower bound at the current point). `objective(V)` returns value and
    gradient, in the dtype of `V`; below 1e-6 the certificate and the objective are those of a last
    pass in float64. Without convexity there is no certificate and the same number is only a
    stopping rule.
    """
    V = start.clone().requires_grad_(True)
    # max_eval bounds the line search; its default of 1 would end it after the first trial
    optimiser = torch.optim.LBFGS(
        [V],
        max_iter=1,
        max_eval=26,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )
    evaluations = 0
    recent: list[tuple[Tensor, float, Tensor]] = []

    def evaluate() -> tuple[float, Tensor]:
        """Return the objective at V and its gradient.

        torch asks again for points that it has just seen, and each costs a pass over the data.
        """
        nonlocal evaluations
        for point, value, gradient in recent:
            if torch.equal(point, V):
                return value, gradient
        value, gradient = objective(V.detach())
        evaluations += 1
        recent[:] = [*recent[-3:], (V.detach().clone(), value, gradient.clone())]
        return value, gradient

    def closure() -> Float[Tensor, ""]:
        value, gradient = evaluate()
        V.grad = gradient.clone()
        return torch.tensor(value, dtype=torch.float64)

    best = (math.inf, math.inf, V.detach().clone())
    while True:
        value, gradient = evaluate()
        gap = (
            float((gradient.double().square() / (2 * ridge)).sum())
            if bool((ridge > 0).all())
            else math.inf
        )
        stalled = value >= best[0] - 1e-12 and gap >= best[1]
        if value < best[0] or gap < best[1]:
            best = (value, gap, V.detach().clone())
        if gap <= tolerance or stalled or evaluations >= max_evaluations:
            break
        optimiser.step(closure)
    value, gap, point = best
    if convex and gap < FINE and point.dtype != torch.float64:
        # sums in float32 are off by some 1e-7, which is more than such a gap claims
        value, gradient = objective(point.double())
        evaluations += 1
        gap = float((gradient.double().square() / (2 * ridge.double())).sum())
    return Solution(point, value, gap if convex and math.isfinite(gap) else None, evaluations)


def conjugate_gradient(
    curvature: Callable[[Float[Tensor, "a b"]], Float[Tensor, "a b"]],
    slope: Float[Tensor, "a b"],
    ridge: float,
    tolerance: float,
    max_steps: int = 100,
) -> tuple[Float[Tensor, "a b"], float, int]:
    """Find the minimum of `½ ⟨V, A V⟩ − ⟨slope, V⟩ + ridge/2 |V|²`, `A` positive semidefinite.

    It runs conjugate gradients from zero (Hestenes and Stiefel). No point is better than the last
    by more than `gap = |gradient|² / (2 ridge)`; it stops when that is below `tolerance`.

    Args:
        curvature: `V ↦ A V`; one call per step.
        ridge: positive.

    Returns:
        The point, its gap, and the steps taken.

    Example:
        >>> A = torch.tensor([[3.0], [1.0]])
        >>> V, gap, steps = conjugate_gradient(lambda V: A * V, torch.ones(2, 1), ridge=1.0, tolerance=1e-9)
        >>> V.flatten().tolist(), steps
        ([0.25, 0.5], 2)
    """
    V, residual = torch.zeros_like(slope), slope.clone()
    direction, size = residual.clone(), float(residual.double().square().sum())
    for step in range(max_steps):
        if size / (2 * ridge) <= tolerance:
            return V, size / (2 * ridge), step
        image = curvature(direction) + ridge * direction
        length = size / float((direction.double() * image.double()).sum())
        V += length * direction
        residual -= length * image
        smaller = float(residual.double().square().sum())
        direction = residual + smaller / size * direction
        size = smaller
    return V, size / (2 * ridge), max_steps


def newton_step(
    gradient: Float[Tensor, "2 a b"], label: float, label2: float, ridge: Float[Tensor, "2 1 1"]
) -> Float[Tensor, "2 a b"]:
    """Return the first Newton step from zero in whitened coordinates, for steer and background
    together.

    There the Hessian is `[[E y², E y], [E y, 1]] ⊗ I` to leading order, so two numbers are solved
    for at once:

        V = ([[E y², E y], [E y, 1]] + diag(ridge))⁻¹ (−gradient)

    With balanced labels (`E y = 0`) and `y = ±1` this is `W = C⁻¹ G S⁻¹ / (1 + λ)`.
    """
    H = torch.tensor([[label2, label], [label, 1.0]], dtype=torch.float64) + torch.diag(
        ridge.flatten().double().cpu()
    )
    return torch.einsum("ij,jab->iab", torch.linalg.inv(H).to(gradient), -gradient)


def cross_validated_gain(
    one: Float[Tensor, "a b"],
    other: Float[Tensor, "a b"],
    curvature: Float[Tensor, "a b"],
    ridge: float,
) -> float:
    """Return what the Newton step from each half of a sample gains on the other half.

    The mean of both, to second order:

        v = g₁ / (κ + λ)        gain = ⟨v, g₂⟩ − ½ ⟨v, κ v⟩

    The noise of the halves is independent, so only what both have in common counts: too small a
    ridge carries noise over, too large a one leaves the signal, and the best is told without a step
    of descent.

    Args:
        one, other: minus the gradient at zero of the mean loss of each half, in coordinates where
            the curvature is diagonal.
        curvature: `κ ≥ 0`.
        ridge: `λ > 0`.

    Example:
        >>> g, one = torch.tensor([[1.0]]), torch.ones(1, 1)
        >>> cross_validated_gain(g, g, one, ridge=1.0)  # half the step of the minimum, so three quarters of ½
        0.375
    """
    gain = 0.0
    for here, there in ((one, other), (other, one)):
        v = here / (curvature + ridge)
        gain += float((v * (there - curvature * v / 2)).sum()) / 2
    return gain
