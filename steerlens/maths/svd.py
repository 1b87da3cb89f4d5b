"""Singular values and powers of symmetric matrices."""

import torch
from jaxtyping import Float
from torch import Tensor


def truncate(M: Float[Tensor, "rows cols"], rank: int) -> Float[Tensor, "rows cols"]:
    """The nearest matrix of a rank in the Frobenius norm (Eckart and Young): `U_r diag(s_r) V_rᵀ`.

    Example:
        >>> truncate(torch.diag(torch.tensor([3.0, 1.0])), 1)
        tensor([[3., 0.],
                [0., 0.]])
    """
    U, s, Vh = torch.linalg.svd(M.double(), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ Vh[:rank]).to(M.dtype)


def symmetric_power(M: Float[Tensor, "d d"], power: float, floor: float = 0.0) -> Float[Tensor, "d d"]:
    """`(M + floor · I)^power` of a positive semidefinite matrix by its eigenvalues, in float64.

    Eigenvalues that rounding made negative count as 0 before the floor is added.

    Example:
        >>> symmetric_power(torch.diag(torch.tensor([3.0, 8.0])), 0.5, floor=1.0).diagonal()
        tensor([2., 3.], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(M.double())
    values = values.clamp_min(0) + floor
    return (vectors * values**power) @ vectors.mH
