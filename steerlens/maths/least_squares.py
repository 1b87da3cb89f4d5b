"""Least squares between two point clouds, from sums that add: no descent, and held-out error for
free."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator

FOLDS = 5
FEWEST = 2 * FOLDS
"""Rows to choose a ridge from: two per fold."""
CHUNK = 8192
RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried where the ridge is to be chosen, in units of the mean eigenvalue of `XᵀX`."""
DEPENDENT = 1e-12
"""Eigenvalues of `XᵀX` below this share of the largest count as 0: float64 does not resolve
them."""


FIRM = 1e-10
"""Smallest square on the diagonal of a Cholesky factor of `XᵀX`, relative to the largest, beside
which the factor is as good as the eigenvectors and a third of their work."""


class Regression(NamedTuple):
    """`Y ≈ X M`: the map, its ridge, rank and condition of `X`, and `R²` on rows that the map was
    not fitted on."""

    M: Float[Tensor, "d_x d_y"]
    ridge: float
    rank: int
    condition: float
    r2: float


class Sums(NamedTuple):
    """Sums over rows, float64; those of parts add."""

    weight: Float[Tensor, ""]
    y: Float[Tensor, " d_y"]
    yy: Float[Tensor, ""]
    xx: Float[Tensor, "d_x d_x"]
    xy: Float[Tensor, "d_x d_y"]

    def plus(self, other: "Sums", sign: float = 1.0) -> "Sums":
        """Return the sums over both parts, or with sign −1 what is left without the other."""
        return Sums(*(a + sign * b for a, b in zip(self, other, strict=True)))


def regress(
    X: Float[Tensor, "n d_x"],
    Y: Float[Tensor, "n d_y"],
    weight: Float[Tensor, " n"] | None = None,
    *,
    ridge: float | None = 0.0,
    seed: int = 0,
) -> Regression:
    """Fit the linear map that takes one cloud nearest to the other.

        M = argmin Σ_i w_i ‖y_i − x_i M‖² + ρ ‖M‖² = (XᵀwX + ρ I)⁺ XᵀwY        ρ = ridge · tr(XᵀwX) / d_x

    Rows fall into five random folds and each fold's products are summed once: the map from the
    other four is judged on it, so `r2 = 1 − Σ w ‖y − xM‖² / Σ w ‖y − ȳ‖²` is of rows that were not
    fitted, and a choice among ridges costs no further pass. With fewer rows than two per fold there
    is no held-out `r2` (NaN), and a ridge must be given. Where `X` has dependent columns the
    smallest map is taken.

    Args:
        X, Y: matching rows.
        weight: of each row, not negative; None for equal.
        ridge: relative to the mean eigenvalue; None: the best of a few by held-out error.
        seed: of the folds.

    Example:
        >>> X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> found = regress(X, X @ torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()))
        >>> found.M.diagonal().round(decimals=6).tolist(), found.rank, round(found.r2, 6)
        ([1.0, 2.0, 3.0], 3, 1.0)
    """
    n = len(X)
    if n == 0 or (ridge is None and n < FEWEST):
        raise ValueError(
            f"X: got {n} rows, expected at least {FEWEST} to choose a ridge, and 1 with a given one"
        )
    w = None if weight is None else weight.double().to(X.device)
    fold = torch.randperm(n, generator=generator(seed)).to(X.device) % FOLDS
    parts = [_sums(X, Y, w, (fold == k).nonzero().squeeze(1)) for k in range(min(FOLDS, n))]
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    ridges = RIDGES if ridge is None else (ridge,)
    errors = torch.zeros(len(ridges), dtype=torch.float64)
    spread = torch.zeros((), dtype=torch.float64)
    folds = parts if n >= FEWEST else []
    for part in folds:
        rest = total.plus(part, -1.0)
        errors += torch.stack([_error(part, M) for M in _maps(rest, ridges)]).cpu()
        # about the mean of the rows that were fitted: what a constant would achieve
        mean = rest.y / rest.weight
        spread += (part.yy - 2 * mean @ part.y + part.weight * mean @ mean).cpu()
    best = int(errors.argmin())
    values, vectors = torch.linalg.eigh(total.xx)
    M = vectors @ _solved(total.xy, values, vectors, ridges[best])
    real = values > DEPENDENT * values[-1]
    condition = (
        float((values[-1] / values[real].min()).sqrt()) if bool(real.any()) else float("nan")
    )
    r2 = 1 - float(errors[best] / spread) if folds and spread > 0 else float("nan")
    return Regression(M, ridges[best], int(real.sum()), condition, r2)


def procrustes(
    X: Float[Tensor, "n d_x"], Y: Float[Tensor, "n d_y"], weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "d_x d_y"]:
    """Return the partial isometry along which two clouds agree best: `argmax Σ w ⟨xM, y⟩ = U Vᵀ`.

    `U`, `V` are the singular vectors of `XᵀwY` (Schönemann 1966). With `d_x = d_y` it is
    orthogonal, otherwise its smaller side is; for `d_x ≤ d_y` it is also the nearest,
    `argmin Σ w ‖y − xM‖²`.

    Example:
        >>> X = torch.eye(2, dtype=torch.float64)
        >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> bool(torch.allclose(procrustes(X, X @ turn), turn))
        True
    """
    weighted = X.double() if weight is None else weight.double().to(X.device)[:, None] * X.double()
    U, _, Vh = torch.linalg.svd(weighted.mT @ Y.double(), full_matrices=False)
    return U @ Vh


def pseudo_inverse(M: Float[Tensor, "rows cols"]) -> Float[Tensor, "cols rows"]:
    """Return `M⁺`, in float64; singular values below 1e-10 of the largest count as 0."""
    return torch.linalg.pinv(M.double(), rtol=1e-10)


def _sums(
    X: Float[Tensor, "n d_x"],
    Y: Float[Tensor, "n d_y"],
    w: Float[Tensor, " n"] | None,
    rows: Int[Tensor, " some"],
) -> Sums:
    total: Sums | None = None
    for pick in rows.split(CHUNK) if len(rows) else [rows]:
        x, y = X[pick].double(), Y[pick].double()
        root = (
            torch.ones(len(pick), dtype=torch.float64, device=x.device)
            if w is None
            else w[pick].sqrt()
        )
        if w is not None:
            x, y = root[:, None] * x, root[:, None] * y
        part = Sums(root @ root, root @ y, torch.linalg.vector_norm(y) ** 2, gram(x), x.mT @ y)
        total = part if total is None else total.plus(part)
    assert total is not None
    return total


def gram(X: Float[Tensor, "n d"], blocks: int = 4) -> Float[Tensor, "d d"]:
    """Return `XᵀX`, computing the upper blocks alone and mirroring the others: 5/8 of the product's
    work."""
    parts = X.tensor_split(blocks, dim=1)
    upper = [[a.mT @ b for b in parts[i:]] for i, a in enumerate(parts)]
    return torch.cat(
        [
            torch.cat([upper[j][i - j].mT if j < i else upper[i][j - i] for j in range(blocks)], 1)
            for i in range(blocks)
        ]
    )


def _maps(sums: Sums, ridges: tuple[float, ...]) -> list[Float[Tensor, "d_x d_y"]]:
    """Return the map for each ridge: of one alone by a Cholesky factor, where that is exact."""
    if len(ridges) == 1:
        A = sums.xx.clone()
        diagonal = A.diagonal()
        diagonal += ridges[0] * diagonal.mean()
        factor, failed = torch.linalg.cholesky_ex(A)
        pivots = factor.diagonal().square()
        if not bool(failed) and bool(pivots.min() > FIRM * pivots.max()):
            return [torch.cholesky_solve(sums.xy, factor)]
    values, vectors = torch.linalg.eigh(sums.xx)
    return [vectors @ _solved(sums.xy, values, vectors, ridge) for ridge in ridges]


def _solved(
    xy: Float[Tensor, "d_x d_y"],
    values: Float[Tensor, " d_x"],
    vectors: Float[Tensor, "d_x d_x"],
    ridge: float,
) -> Float[Tensor, "d_x d_y"]:
    """Return the map in the eigenbasis of `XᵀX`."""
    real = values > DEPENDENT * values[-1]
    inverse = torch.where(real, 1 / (values + ridge * values.mean()).clamp_min(1e-300), 0)
    return inverse[:, None] * (vectors.mT @ xy)


def _error(part: Sums, M: Float[Tensor, "d_x d_y"]) -> Float[Tensor, ""]:
    """Return `Σ w ‖y − xM‖²` of some rows, from their sums alone."""
    return part.yy - 2 * (M * part.xy).sum() + (M * (part.xx @ M)).sum()
