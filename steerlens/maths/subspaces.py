"""Angles between subspaces, and what chance gives."""

import torch
from jaxtyping import Float
from torch import Tensor


def basis(rows: Float[Tensor, "k d"]) -> Float[Tensor, "r d"]:
    """Return orthonormal rows that span what the given rows span.

    They are fewer where, to their own precision, the given rows depend on one another.
    """
    _, S, Vh = torch.linalg.svd(rows.double(), full_matrices=False)
    rounding = (
        max(rows.shape, default=0) * torch.finfo(rows.dtype).eps * float(S.max() if len(S) else 0)
    )
    return Vh[: int((rounding < S).sum())]


def principal_cosines(a: Float[Tensor, "k d"], b: Float[Tensor, "l d"]) -> Float[Tensor, " m"]:
    """Return the cosines of the principal angles between the spans of two sets of rows.

    Largest first, `min` of their dimensions.

        cos θ_i = σ_i(Q_a Q_bᵀ)

    Source: Björck and Golub, Mathematics of Computation 27 (1973).

    Example:
        >>> principal_cosines(torch.eye(3)[:2], torch.eye(3)[1:]).tolist()
        [1.0, 0.0]
    """
    return torch.linalg.svdvals(basis(a) @ basis(b).mT).clamp(0, 1)


def overlap(a: Float[Tensor, "k d"], b: Float[Tensor, "l d"]) -> float:
    """Return the projection kernel of two spans as a share: `‖Q_a Q_bᵀ‖² / min(k, l)`.

    It is 1 where one holds the other, 0 where they are orthogonal. Two random spans have
    `max(k, l) / d` in the mean.
    """
    cosines = principal_cosines(a, b)
    return float(cosines.square().mean()) if len(cosines) else 0.0


def canonical_correlations(x: Float[Tensor, "n k"], y: Float[Tensor, "n l"]) -> Float[Tensor, " m"]:
    """Return the canonical correlations of two sets of numbers read at the same places, largest
    first.

    They say what one says of the other, whatever the coordinates of either.
    """
    a, b = ((t.double() - t.double().mean(0)).mT.to(t.dtype) for t in (x, y))
    return principal_cosines(a, b)
