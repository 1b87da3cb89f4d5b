"""Steps in the metric of the next-token distribution: what the two rivals that follow it share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, logits, softcap_gradient
from steerlens.values.intervention import Strength
from steerlens.values.steer import per_row

CHUNK = 256
"""Positions whose distributions are held at once."""
ITERATIONS = 20
"""Steps of conjugate gradients at most, as in the authors' code of dual steering."""
DAMPING = 0.1
"""`α`, in units of the mean eigenvalue of the metric at the position: the authors' 1e-3 is absolute,
and embeddings of different models differ a hundredfold in size."""


def exact(head: UnembedWeights) -> UnembedWeights:
    """Return a read-out in float64: conjugate gradients make of what float32 rounds by the size of
    a batch a thousand times as much, and a text would depend on those beside it."""
    return head._replace(W_U=head.W_U.double(), b_U=head.b_U.double())


def solve_fisher(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    target: Float[Tensor, "n d"],
    *,
    damping: float = DAMPING,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "n d"]:
    """Return `(Cov_p(s e) + αI)⁻¹ target` at each position, by conjugate gradients.

    `Cov_p(s e)` is the Fisher metric of the softmax at `c` (`s`: slope of scale and soft cap): for
    a small step `x` of `c`, `KL(p ‖ p_x) = ½ xᵀ Cov_p(s e) x`. It is never formed; a step takes two
    products with `W_U`.

    Args:
        damping: `α`, in units of the mean eigenvalue.

    Example:
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2))            # Cov = ¼ [[1, −1], [−1, 1]]
        >>> x = solve_fisher(head, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), damping=0.0)
        >>> x.tolist()
        [[2.0, -2.0]]
    """
    z = logits(head, c)
    p, bend = z.softmax(1), softcap_gradient(head, z)
    mean_square = (p * bend**2) @ head.W_U.square().sum(0)
    mean = (p * bend) @ head.W_U.mT
    alpha = damping * (mean_square - mean.square().sum(1)).clamp_min(0) / c.shape[1]

    def curvature(x: Tensor) -> Tensor:
        moved = bend * (x @ head.W_U)
        moved = moved - (p * moved).sum(1, keepdim=True)
        return (p * bend * moved) @ head.W_U.mT + alpha[:, None] * x

    x, residual = torch.zeros_like(target), target.clone()
    direction, size = residual.clone(), residual.square().sum(1)
    enough = 1e-10 * size
    for _ in range(iterations):
        image = curvature(direction)
        along = torch.linalg.vecdot(direction, image)
        # a position that is solved, or whose distribution does not move at all, stays where it is
        going = (size > enough) & (along > 0)
        if not bool(going.any()):
            break
        length = torch.where(going, size / along.clamp_min(1e-38), 0.0)[:, None]
        x, residual = x + length * direction, residual - length * image
        smaller = residual.square().sum(1)
        turn = torch.where(going, smaller / size.clamp_min(1e-38), 0.0)[:, None]
        direction, size = residual + turn * direction, torch.where(going, smaller, 0.0)
    return x


def cheapest_step(
    head: UnembedWeights, c: Float[Tensor, "n d"], slope: Float[Tensor, "n d"]
) -> Float[Tensor, "n d"]:
    """Return the step of each state that raises `slope · c` by 1 and changes the prediction least.

        x = G⁻¹ slope / (slopeᵀ G⁻¹ slope)        of all x with slope · x = 1 the least ½ xᵀ G x

    Zero where the prediction does not depend on `slope · c` at all.
    """
    x = solve_fisher(head, c, slope)
    gained = torch.linalg.vecdot(slope, x)[:, None]
    return torch.where(gained > 0, x / gained.clamp_min(1e-38), 0.0)


def walk(
    c: Float[Tensor, "batch pos d"],
    strength: Strength,
    n_steps: int,
    step: Callable[[Float[Tensor, "n d"], Float[Tensor, "n 1"]], Float[Tensor, "n d"]],
) -> Float[Tensor, "batch pos d"]:
    """Return states moved by the strength in equal steps, each where the last one ended.

    Args:
        step: from states in float64, and the strength of each that a step has, to what the step
            adds.
    """
    wide = c.double()
    by = (per_row(strength, wide) / n_steps + torch.zeros_like(wide[..., :1])).reshape(-1, 1)
    flat = wide.reshape(-1, c.shape[-1]).clone()
    for rows in torch.nonzero(by[:, 0]).squeeze(1).split(CHUNK):  # at strength 0 nothing moves
        here = flat[rows]
        for _ in range(n_steps):
            here = here + step(here, by[rows])
        flat[rows] = here
    return flat.reshape(wide.shape).to(c.dtype)
