"""Singular values, cheaply where a matrix has low rank, and powers of symmetric matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import generator

SMALL = 512
"""Below this size a full SVD is a matter of milliseconds."""


def svd(
    M: Float[Tensor, "rows cols"],
) -> tuple[Float[Tensor, "rows k"], Float[Tensor, " k"], Float[Tensor, "k cols"]]:
    """Return `U`, `s` and `Vᵀ` of `M = U diag(s) Vᵀ`, the largest first.

    Here `k = min(rows, cols)`, or less where the rest is 0. A large matrix of low rank, whose
    factors need not be known, costs a few products instead of a full SVD: with `Q` an orthonormal
    basis of `M Ω` for a random `Ω` of r columns,

        M = Q (Qᵀ M) = (Q U') diag(s) Vᵀ        from the SVD of the r × cols matrix Qᵀ M

    as soon as `|M − Q Qᵀ M| ≤ 1e-6 |M|`, which is checked, r doubling until it holds; if r would
    pass a quarter of the size, the full SVD it is. `Ω` is seeded. Where
    `|Qᵀ M|² = |M|² − |M − Q Qᵀ M|²` already says that much is left, the product `Q Qᵀ M` is not taken.

    Example:
        >>> U, s, Vh = svd(torch.diag(torch.tensor([3.0, 1.0])))
        >>> s.tolist()
        [3.0, 1.0]
    """
    size = min(M.shape)
    random = generator(0)
    r, whole = 32, float(M.norm())
    while size > SMALL and r <= size // 4:
        Q = torch.linalg.qr(M @ torch.randn(M.shape[1], r, generator=random).to(M)).Q
        small = Q.mT @ M
        caught = float(small.norm()) >= (1 - 1e-4) * whole
        if caught and float(torch.addmm(M, Q, small, alpha=-1).norm()) <= 1e-6 * whole:
            U, s, Vh = torch.linalg.svd(small, full_matrices=False)
            return Q @ U, s, Vh
        r *= 2
    return torch.linalg.svd(M, full_matrices=False)


def truncate(M: Float[Tensor, "rows cols"], rank: int) -> Float[Tensor, "rows cols"]:
    """Return the nearest matrix of a rank in the Frobenius norm (Eckart and Young):
    `U_r diag(s_r) V_rᵀ`.

    Example:
        >>> truncate(torch.diag(torch.tensor([3.0, 1.0])), 1)
        tensor([[3., 0.],
                [0., 0.]])
    """
    U, s, Vh = svd(M.double())
    return ((U[:, :rank] * s[:rank]) @ Vh[:rank]).to(M.dtype)


def spectrum(M: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return the eigenvalues and eigenvectors of a positive semidefinite matrix, float64.

    What rounding made negative is 0.
    """
    values, vectors = torch.linalg.eigh(M.double())
    return values.clamp_min(0), vectors


def symmetric_power(
    M: Float[Tensor, "d d"], power: float, floor: float = 0.0
) -> Float[Tensor, "d d"]:
    """Return `(M + floor · I)^power` of a positive semidefinite matrix by its eigenvalues, in
    float64.

    Example:
        >>> symmetric_power(torch.diag(torch.tensor([3.0, 8.0])), 0.5, floor=1.0).diagonal()
        tensor([2., 3.], dtype=torch.float64)
    """
    values, vectors = spectrum(M)
    return (vectors * (values + floor) ** power) @ vectors.mT
