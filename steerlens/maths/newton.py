"""The likelihood of tokens along a line of logits, and where it is highest."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, apply_softcap


class LogProbDerivatives(NamedTuple):
    """Log-probability of each token, its slope in the strength, and its information (nats, per
    unit, per unit²)."""

    log_prob: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    information: Float[Tensor, " n"]


def log_prob_along(
    head: UnembedWeights,
    z: Float[Tensor, "n vocab"],
    u: Float[Tensor, "n vocab"],
    s: Float[Tensor, " n"],
    target: Int[Tensor, " n"],
) -> LogProbDerivatives:
    """Return the log-probabilities of the targets at logits `apply_softcap(z + s u)`, with
    derivatives in `s`.

        slope = g_x − E_p g        information = Var_p g        g = ∂ cap(z + s u) / ∂s

    The information is minus the second derivative where the logits are linear in `s`; under a soft
    cap it is its expectation (Fisher's), which is never negative.

    Example:
        >>> head, z, u = UnembedWeights(torch.eye(2), torch.zeros(2)), torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])
        >>> [x.item() for x in log_prob_along(head, z, u, torch.zeros(1), torch.tensor([0]))[1:]]
        [1.0, 1.0]
    """
    logits = apply_softcap(head, z + s[:, None] * u)
    log_p = torch.log_softmax(logits, 1)
    g = head.scale * u
    if head.softcap is not None:
        g = g * (1 - (logits / head.softcap) ** 2)
    at = target[:, None]
    p = log_p.exp()
    mean = (p * g).sum(1)
    # around the mean: a difference of squares would lose everything where the variance is small
    variance = (p * (g - mean[:, None]) ** 2).sum(1)
    return LogProbDerivatives(
        log_p.gather(1, at).squeeze(1), g.gather(1, at).squeeze(1) - mean, variance
    )


def maximize_concave(
    derivatives: Callable[[Float[Tensor, " n"]], tuple[Float[Tensor, " n"], Float[Tensor, " n"]]],
    n: int,
    limit: float,
    tolerance: float = 1e-6,
    max_steps: int = 60,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Find the top of `n` concave functions of one number each, within ±limit.

    It takes Newton steps kept inside a bracket. A step that leaves the bracket, or in a closed
    bracket is more than half as long as the one before, is replaced by the bracket's middle: wrong
    curvatures make Newton swing around the top, and bisection is the worst case.

    Args:
        derivatives: from points to slopes and to minus second derivatives (or any positive stand-in
            for them).
        limit: no point is further from 0.
        tolerance: of a point, where the steps end; after `max_steps` they do so anyway.

    Returns:
        The points, and whether the top lies beyond the limit (the point is then the limit).

    Example:
        >>> top, beyond = maximize_concave(lambda s: (torch.tensor([3.0, 99.0]) - s, torch.ones(2)), 2, limit=8.0)
        >>> top.tolist(), beyond.tolist()
        ([3.0, 8.0], [False, True])
    """
    # infinite until a point there was looked at: the limits themselves are tried once
    low, high = (
        torch.full((n,), -torch.inf, dtype=torch.float64),
        torch.full((n,), torch.inf, dtype=torch.float64),
    )
    s, beyond = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.bool)
    moved = torch.full((n,), torch.inf, dtype=torch.float64)
    for _ in range(max_steps):
        slope, curvature = (x.double() for x in derivatives(s))
        beyond = ((s >= limit) & (slope > 0)) | ((s <= -limit) & (slope < 0))
        low, high = torch.where(slope > 0, s, low), torch.where(slope < 0, s, high)
        target = (s + slope / curvature.clamp_min(1e-12)).clamp(-limit, limit)
        middle = (low.clamp_min(-limit) + high.clamp_max(limit)) / 2
        shrinking = (
            ((target - s).abs() <= (moved / 2).clamp_min(tolerance)) | low.isinf() | high.isinf()
        )
        trusted = (target > low) & (target < high) & shrinking
        new = torch.where((slope == 0) | beyond, s, torch.where(trusted, target, middle))
        moved = (new - s).abs()
        s = new
        if bool((moved <= tolerance).all()):
            break
    return s, beyond
