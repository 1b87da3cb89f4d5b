"""Maximise what a steer explains at the KL that it costs: a convex problem with few directions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import (
    UnembedWeights,
    apply_softcap,
    log_sum_exp,
    normalised,
    softcap_gradient,
)
from steerlens.maths.svd import svd
from steerlens.maths.tail import Tail

ROUNDING = 1e-3
"""By how much of itself a value may rise before a step was too long: near the minimum sums in
float32 rise by chance."""

ROOM, LEAST, MOST = 1 << 18, 64, 512
"""Logits that are held at once, which a cache bears; rows at least, since products of fewer are
slow, and at most."""

FAR = 80.0
"""Nats by which a move changes a logit from which on its exponential leaves float32."""


class Predicted(NamedTuple):
    """What is predicted at some positions without a move: each word's probability, and that of the
    words in the tail together."""

    p: Float[Tensor, "n words"]
    rest: Float[Tensor, " n"]

    def rows(self, part: slice) -> "Predicted":
        """Return the same of some of the positions."""
        return Predicted(self.p[part], self.rest[part])


def predicted(head: UnembedWeights, c: Float[Tensor, "n d"], tail: Tail | None = None) -> Predicted:
    """Return what is predicted at some positions; for read-outs without a soft cap.

    Example:
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2))
        >>> predicted(head, torch.zeros(1, 2)).p.tolist()
        [[0.5, 0.5]]
    """
    p = c.new_empty(len(c), head.W_U.shape[1])
    rest = c.new_zeros(len(c))
    for start in range(0, len(c), MOST):
        rows = slice(start, start + MOST)
        at = c[rows]
        z = torch.addmm(head.b_U, at.to(head.b_U), head.W_U).to(at)
        size, p[rows] = normalised(z if head.scale == 1.0 else z.mul_(head.scale))
        if tail is not None:
            rest[rows] = torch.sigmoid(tail.log_mass[rows] - size)
            p[rows] *= 1 - rest[rows, None]
    return Predicted(p, rest)


def even_kl(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    move: Float[Tensor, "n d"],
    tail: Tail | None = None,
    known: Predicted | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """Return the KL that a move of contexts costs, mean of both signs, and its gradient in the
    move.

        ½ KL(p_0 ‖ p_{+m}) + ½ KL(p_0 ‖ p_{−m}) = ½ (A(z + u) + A(z − u)) − A(z)
        ∂/∂m = ½ (p_{+m} − p_{−m}) W_Uᵀ         z = cW_U + b_U, u = mW_U, A = logΣexp

    Nats, one per row; convex in `m`. Under a soft cap, where logits are not linear in the move,
    both KL are taken as they are, with the cap's slope in the gradient; convex it then is near 0
    only. `tail`: what words that are not in the read-out add, see `two_tiers`.

    Example:
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2))
        >>> kl, slope = even_kl(head, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
        >>> round(kl.item(), 4), [round(x, 4) for x in slope[0].tolist()]  # log cosh 1, tanh 1 / 2
        (0.4338, [0.3808, -0.3808])
    """
    size = max(LEAST, min(MOST, ROOM // head.W_U.shape[1]))
    costs, slopes = [], []
    for start in range(0, len(c), size):
        rows = slice(start, start + size)
        at, m = c[rows], move[rows]
        u = (m.to(head.W_U) @ head.W_U).to(m)
        part = None if tail is None else tail.rows(rows)
        if known is not None and _size(u) * abs(head.scale) < FAR:
            cost, pull, rest = _tilted(head, known.rows(rows), u, part, m)
        else:
            z, rest = torch.addmm(head.b_U, at.to(head.b_U), head.W_U).to(at), 0
            if part is None:
                cost, pull = (_capped if head.softcap is not None else _linear)(head, z, u)
            else:
                cost, pull, rest = _lumped(head, z, u, part, m)
        costs.append(cost)
        slopes.append((pull.to(head.W_U) @ head.W_U.mT).to(m) + rest)
    return torch.cat(costs), torch.cat(slopes)


def _size(u: Float[Tensor, "n words"]) -> float:
    low, high = torch.aminmax(u)
    return max(-float(low), float(high))


def _tilted(
    head: UnembedWeights,
    known: Predicted,
    u: Float[Tensor, "n words"],
    tail: Tail | None,
    m: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n words"], Float[Tensor, "n d"] | int]:
    """Return what `_lumped` does, or `_linear`, from probabilities: `½ log E_p e^u + ½ log E_p
    e^{−u}`; `u` is overwritten."""
    grown = (u if head.scale == 1.0 else u.mul_(head.scale)).exp_()
    p, q = known.p * grown, known.p / grown
    plus, minus, rest = p.sum(1), q.sum(1), 0
    if tail is not None:
        up, up_slope, down, down_slope = tail.moved(m)
        up, down = (known.rest * (moved - tail.log_mass).exp() for moved in (up, down))
        plus, minus = plus + up, minus + down
        rest = ((up / plus)[:, None] * up_slope - (down / minus)[:, None] * down_slope) / 2
    half = head.scale / 2
    pull = p.mul_((half / plus)[:, None]).addcmul_(q, (half / minus)[:, None], value=-1)
    return (plus.log() + minus.log()) / 2, pull, rest


def _linear(
    head: UnembedWeights, z: Float[Tensor, "n vocab"], u: Float[Tensor, "n vocab"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n vocab"]]:
    """Return the even KL and its gradient in `u`; both inputs are overwritten."""
    if head.scale != 1.0:
        z, u = z.mul_(head.scale), u.mul_(head.scale)
    plain = log_sum_exp(z)
    (plus, p), (minus, q) = normalised(z + u), normalised(z.sub_(u))
    return (plus + minus) / 2 - plain, p.sub_(q).mul_(head.scale / 2)


def _lumped(
    head: UnembedWeights,
    z: Float[Tensor, "n words"],
    u: Float[Tensor, "n words"],
    tail: Tail,
    m: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n words"], Float[Tensor, "n d"]]:
    """Return the even KL, its gradient in `u`, and what the lump adds to that in the move; `z` and
    `u` are overwritten."""
    if head.scale != 1.0:
        z, u = z.mul_(head.scale), u.mul_(head.scale)
    plain = torch.logaddexp(log_sum_exp(z), tail.log_mass)
    (plus, p), (minus, q) = normalised(z + u), normalised(z.sub_(u))
    up, up_slope, down, down_slope = tail.moved(m)
    ahead, behind = torch.logaddexp(plus, up), torch.logaddexp(minus, down)
    p, q = p.mul_((plus - ahead).exp()[:, None]), q.mul_((minus - behind).exp()[:, None])
    rest = (up - ahead).exp()[:, None] * up_slope - (down - behind).exp()[:, None] * down_slope
    return (ahead + behind) / 2 - plain, p.sub_(q).mul_(head.scale / 2), rest / 2


def _capped(
    head: UnembedWeights, z: Float[Tensor, "n vocab"], u: Float[Tensor, "n vocab"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n vocab"]]:
    """Return the same under a soft cap: the logits are not odd in the move, so the plain ones stay
    in."""
    plain = apply_softcap(head, z)
    p = torch.softmax(plain, 1)
    cost, pull = -log_sum_exp(plain), torch.zeros_like(u)
    for sign in (1, -1):
        moved = apply_softcap(head, z + sign * u)
        cost += (log_sum_exp(moved) - torch.linalg.vecdot(p, moved - plain)) / 2
        pull += sign / 2 * softcap_gradient(head, moved) * (torch.softmax(moved, 1) - p)
    return cost, pull


def soft_threshold_singular_values(
    M: Float[Tensor, "rows cols"], threshold: float, rank: int | None = None
) -> Float[Tensor, "rows cols"]:
    """Lower all singular values by a threshold, those below it to 0, and keep at most `rank` of
    them.

    Without a rank it is the minimum of `½ |V − M|² + threshold · |V|_*`.

    Example:
        >>> soft_threshold_singular_values(torch.diag(torch.tensor([3.0, 1.0])), 2.0).diagonal().tolist()
        [1.0, 0.0]
    """
    return soft_thresholds(M, [threshold], rank)[0]


def soft_thresholds(
    M: Float[Tensor, "rows cols"], thresholds: Sequence[float], rank: int | None = None
) -> list[Float[Tensor, "rows cols"]]:
    """Return the same for several thresholds, from one SVD; from none where nothing is lowered."""
    if rank is None and not any(thresholds):
        return [M] * len(thresholds)
    U, s, Vh = svd(M)
    if rank is not None:
        s[rank:] = 0
    return [(U * (s - threshold).clamp_min(0)) @ Vh for threshold in thresholds]


def nuclear_descent(
    smooth: Callable[[Float[Tensor, "d d"]], tuple[float, Float[Tensor, "d d"]]],
    start: Float[Tensor, "d d"],
    threshold: float,
    curvature: float,
    *,
    rank: int | None = None,
    n_steps: int = 8,
) -> Float[Tensor, "d d"]:
    """Minimise `f(V) + threshold · |V|_*` by accelerated proximal steps (Beck and Teboulle 2009).

    The nuclear norm `|V|_*`, the sum of the singular values, leaves few directions: every step
    lowers all singular values by `threshold / curvature` and those below it vanish. Momentum is
    dropped where it points uphill (O'Donoghue and Candès 2015). A step that leaves `f` above its
    value at `start` shows that the curvature was taken too small; it is doubled and all begins
    anew.

    Args:
        smooth: value and gradient of the convex `f`; called once per step.
        curvature: of `f`, about its largest; one over the step.
        rank: at most so many directions are kept after each step; None: as many as there are.

    Example:
        >>> target = torch.diag(torch.tensor([3.0, 1.0]))
        >>> def f(V):
        ...     return float((V - target).square().sum() / 2), V - target
        >>> nuclear_descent(f, torch.zeros(2, 2), threshold=2.0, curvature=1.0).diag().round(decimals=4).tolist()
        [1.0, 0.0]
    """
    for _ in range(20):
        point = _descend(smooth, start, threshold, curvature, rank, n_steps)
        if point is not None:
            return point
        curvature *= 2
    raise ValueError("nuclear_descent: no step is small enough; does the gradient belong to f?")


def _descend(
    smooth: Callable[[Tensor], tuple[float, Tensor]],
    start: Tensor,
    threshold: float,
    curvature: float,
    rank: int | None,
    n_steps: int,
) -> Tensor | None:
    V, Y, inertia, first = start, start, 1.0, None
    for _ in range(n_steps):
        value, pull = smooth(Y)
        first = value if first is None else first
        rise = value - first - ROUNDING * max(abs(first), 1e-4)
        # what the penalty may give up for a smaller |V|_* is no sign of a step too long; that norm
        # costs as much as a step, and is hardly ever asked for
        if not rise <= 0 and not rise <= threshold * float(torch.linalg.matrix_norm(start, "nuc")):
            return None
        new = soft_threshold_singular_values(Y - pull / curvature, threshold / curvature, rank)
        if float(((Y - new) * (new - V)).sum()) > 0:
            inertia = 1.0
        following = (1 + (1 + 4 * inertia**2) ** 0.5) / 2
        Y, V, inertia = new + (inertia - 1) / following * (new - V), new, following
    return V
