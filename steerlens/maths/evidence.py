"""Maximise what a steer explains at the KL that it costs: a convex problem with few directions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.head import Head, log_sum_exp
from steerlens.maths.svd import svd

ROOM = 1 << 21
"""Logits that are held at once: larger arrays are handed out and cleared by the system each time."""


def even_kl(
    head: Head, c: Float[Tensor, "n d"], move: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """Return the KL that a move of contexts costs, mean of both signs, and its gradient in the move.

        ½ KL(p_0 ‖ p_{+m}) + ½ KL(p_0 ‖ p_{−m}) = ½ (A(z + u) + A(z − u)) − A(z)
        ∂/∂m = ½ (p_{+m} − p_{−m}) W_Uᵀ         z = cW_U + b_U, u = mW_U, A = logΣexp

    Nats, one per row; convex in `m`. No soft cap: under one the logits are not linear in the move.

    Example:
        >>> head = Head(torch.eye(2), torch.zeros(2))
        >>> kl, slope = even_kl(head, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
        >>> round(kl.item(), 4), [round(x, 4) for x in slope[0].tolist()]  # log cosh 1, tanh 1 / 2
        (0.4338, [0.3808, -0.3808])
    """
    W_U, b_U = head.scale * head.W_U, head.scale * head.b_U
    size = max(1, ROOM // W_U.shape[1])
    costs, slopes = [], []
    for at, m in zip(c.split(size), move.split(size), strict=True):
        z, u = at @ W_U + b_U, m @ W_U
        (plus, p), (minus, q) = _normalised(z + u), _normalised(z - u)
        costs.append((plus + minus) / 2 - log_sum_exp(z))
        slopes.append(p.sub_(q) @ W_U.mT / 2)
    return torch.cat(costs), torch.cat(slopes)


def _normalised(z: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n vocab"]]:
    """Return `logΣexp z` and `softmax z` by one exponential each; `z` is overwritten."""
    top = z.amax(1)
    p = torch.softmax(z, 1, out=z)
    return top - p.amax(1).log(), p


class Point(NamedTuple):
    """A matrix, the smooth part of the objective there, and the rank that the threshold left."""

    V: Float[Tensor, "d d"]
    value: float
    rank: int


def nuclear_descent(
    smooth: Callable[[Float[Tensor, "d d"]], tuple[float, Float[Tensor, "d d"]]],
    start: Float[Tensor, "d d"],
    threshold: float,
    curvature: float,
    *,
    rank: int | None = None,
    n_steps: int = 8,
) -> Point:
    """Minimise `f(V) + threshold · |V|_*` by accelerated proximal steps (Beck and Teboulle 2009).

    The nuclear norm `|V|_*`, the sum of the singular values, leaves few directions: every step
    lowers all singular values by `threshold / curvature` and those below it vanish. Momentum is
    dropped where it points uphill (O'Donoghue and Candès 2015). A step that leaves `f` above its
    value at `start` shows that the curvature was taken too small; it is doubled and all begins anew.

    Args:
        smooth: value and gradient of the convex `f`.
        curvature: of `f`, about its largest; one over the step.
        rank: at most so many directions are kept after each step; None: as many as there are.

    Example:
        >>> target = torch.diag(torch.tensor([3.0, 1.0]))
        >>> def f(V):
        ...     return float((V - target).square().sum() / 2), V - target
        >>> point = nuclear_descent(f, torch.zeros(2, 2), threshold=2.0, curvature=1.0)
        >>> point.V.diag().round(decimals=4).tolist(), point.rank
        ([1.0, 0.0], 1)
    """
    first, _ = smooth(start)
    for _ in range(20):
        point = _descend(smooth, start, first, threshold, curvature, rank, n_steps)
        if point is not None:
            return point
        curvature *= 2
    raise ValueError("nuclear_descent: no step is small enough; does the gradient belong to f?")


def _descend(
    smooth: Callable[[Tensor], tuple[float, Tensor]],
    start: Tensor,
    first: float,
    threshold: float,
    curvature: float,
    rank: int | None,
    n_steps: int,
) -> Point | None:
    V, Y, inertia, left, value = start, start, 1.0, 0, first
    size = float(torch.linalg.matrix_norm(start, "nuc"))
    for _ in range(n_steps):
        value, slope = smooth(Y)
        # what the penalty may give up for a smaller |V|_* is no sign of a step too long
        if not value <= first + threshold * size + 1e-9:
            return None
        U, s, Vh = svd(Y - slope / curvature)
        s = (s - threshold / curvature).clamp_min(0)
        if rank is not None:
            s[rank:] = 0
        left = int((s > 0).sum())
        new = (U * s) @ Vh
        if float(((Y - new) * (new - V)).sum()) > 0:
            inertia = 1.0
        following = (1 + (1 + 4 * inertia**2) ** 0.5) / 2
        Y, V, inertia = new + (inertia - 1) / following * (new - V), new, following
    return Point(V, smooth(V)[0], left)
