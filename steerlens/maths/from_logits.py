"""Read a context vector off its logits: what a linear map of it needs, without the vector itself.

Logits are `z = c W_U + b`, up to a constant per row that no probability depends on. Where `W_U`,
its mean column taken out, has full row rank, `c` is a linear function of `z`, and so is `cA`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.maths.numbers import generator

COLUMNS = 8_192
"""Columns of `W_U` that are held in float64 at once."""
RANK = 1e-10
"""Eigenvalues of a Gram matrix below this part of the largest count as 0; float64 rounds at 1e-16."""


class Gram(NamedTuple):
    """`Σ (e − ē)(e − ē)ᵀ` over columns `e` of `W_U`, their mean `ē`, and its inverse; float64."""

    G: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]
    inverse: Float[Tensor, "d d"]


def gram(W_U: Float[Tensor, "d vocab"]) -> Gram:
    """Return the Gram matrix of the columns of `W_U`, their mean taken out."""
    n = W_U.shape[1]
    mean = sum((part.sum(1) for part in _columns(W_U)), torch.zeros(())) / n
    G = sum((_square(part - mean[:, None]) for part in _columns(W_U)), 0 * mean)
    return Gram(G, mean, inverse_of_gram(G))


def _columns(W_U: Float[Tensor, "d vocab"]) -> Iterator[Float[Tensor, "d some"]]:
    return (part.double() for part in W_U.split(COLUMNS, dim=1))


def _square(X: Float[Tensor, "d some"]) -> Float[Tensor, "d d"]:
    return X @ X.mT


def inverse_of_gram(G: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return the Moore-Penrose inverse of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(G)
    kept = values > RANK * values[-1]
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].mT


def reading(
    W_U: Float[Tensor, "d vocab"], A: Float[Tensor, "d rank"], of: Gram
) -> tuple[Float[Tensor, "vocab rank"], float]:
    """Return `P` with `z P = c A` for every `c`, and by how much it misses.

        P = (W_U − ē 1ᵀ)⁺ A        1ᵀ P = 0        miss = |(W_U − ē 1ᵀ) P − A| / |A|

    Of all such `P` it has the least norm, so it lets the least noise through. It is refined once:
    the Gram matrix squares the condition of `W_U`. `P` is float64. A miss beyond rounding says that
    `A` reads what no logit shows.
    """
    A = A.double()

    def lift(x: Tensor) -> Tensor:
        return torch.cat([(part - of.mean[:, None]).mT @ x for part in _columns(W_U)])

    def lower(P: Tensor) -> Tensor:
        parts = zip(_columns(W_U), P.split(COLUMNS), strict=True)
        return sum(((part - of.mean[:, None]) @ rows for part, rows in parts), 0 * A)

    P = lift(of.inverse @ A)
    P = P + lift(of.inverse @ (A - lower(P)))
    return P, float((lower(P) - A).norm() / A.norm().clamp_min(1e-300))


def writing(
    B: Float[Tensor, "rank d"], W_U: Float[Tensor, "d vocab"]
) -> Float[Tensor, "rank vocab"]:
    """Return `Q = B W_U`, float32, summed in float64."""
    return torch.cat([(B.double() @ part).float() for part in _columns(W_U)], dim=1)


def witnesses(
    W_U: Float[Tensor, "d vocab"], of: Gram, n: int, *, seed: int = 0
) -> Float[Tensor, "vocab n"]:
    """Return `n` unit directions that the logits of this read-out never have.

        (c W_U + const) · v = 0 for every c

    Seeded and random otherwise. What somebody else did to the logits (a penalty, another model, a
    head in fewer bits) shows in them. None where there are no more words than dimensions.
    """
    d, vocab = W_U.shape
    if vocab <= d + 1:
        return torch.zeros(vocab, 0, dtype=torch.float64)
    random = torch.randn(vocab, n, dtype=torch.float64, generator=generator(seed)).to(W_U.device)
    random = random - random.mean(0)
    for _ in range(2):  # twice is enough: the second takes out what rounding left in
        P, _ = reading(W_U, _product(W_U, random, of), of)
        random = random - P
    return random / random.norm(dim=0)


def _product(
    W_U: Float[Tensor, "d vocab"], x: Float[Tensor, "vocab n"], of: Gram
) -> Float[Tensor, "d n"]:
    parts = zip(_columns(W_U), x.split(COLUMNS), strict=True)
    return torch.stack([(part - of.mean[:, None]) @ rows for part, rows in parts]).sum(0)


def gain(P: Float[Tensor, "vocab rank"], Q: Float[Tensor, "rank vocab"]) -> float:
    """Return `‖PQ‖₂`: by how much noise on logits can grow on its way through `z P Q`.

    Example:
        >>> gain(torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0, 2.0]]))
        6.0
    """
    return _largest(P.double().mT @ P.double(), Q.double() @ Q.double().mT)


def _largest(M: Float[Tensor, "r r"], N: Float[Tensor, "r r"]) -> float:
    """Return `‖XY‖₂` from `M = XᵀX` and `N = YYᵀ`: `√λ_max(M N)`; 0 where there is nothing."""
    if not len(M):
        return 0.0
    return float(torch.linalg.eigvals(M @ N).abs().max().sqrt())


class Seen(NamedTuple):
    """What some columns of `W_U` tell of `c`: the inverse of their Gram matrix, how much of what
    `A` reads they miss, and the largest gain on noise of the reading from them alone."""

    inverse: Float[Tensor, "d d"]
    miss: float
    gain: float


def seen_only(
    W_U: Float[Tensor, "d vocab"],
    of: Gram,
    seen: Bool[Tensor, " vocab"],
    A: Float[Tensor, "d rank"],
    Q: Float[Tensor, "rank vocab"],
) -> Seen:
    """Return what the columns that are seen tell, by taking the others out of the Gram matrix.

        G_F = G + V ē ēᵀ − W_M W_Mᵀ − |F| ē_F ē_Fᵀ        ‖P_F Q‖² = λ_max(Aᵀ G_F⁺ A · Q Qᵀ)

    Of few seen columns it is summed from them, of few hidden ones from the whole.
    """
    n, n_seen, A = len(seen), int(seen.sum()), A.double()
    part = W_U[:, seen if 2 * n_seen < n else ~seen].double()
    sums, squares = part.sum(1), _square(part)
    if 2 * n_seen >= n:
        sums, squares = n * of.mean - sums, of.G + n * torch.outer(of.mean, of.mean) - squares
    G = squares - torch.outer(sums, sums) / max(n_seen, 1)
    inverse = inverse_of_gram((G + G.mT) / 2)
    miss = float((G @ (inverse @ A) - A).norm() / A.norm().clamp_min(1e-300))
    wide = Q.double()
    return Seen(inverse, miss, _largest(A.mT @ inverse @ A, wide @ wide.mT))


def context_of(
    z: Float[Tensor, "rows vocab"],
    seen: Bool[Tensor, " vocab"],
    W_U: Float[Tensor, "d vocab"],
    inverse: Float[Tensor, "d d"],
) -> tuple[Float[Tensor, "rows d"], Float[Tensor, "rows vocab"]]:
    """Return `c` from the columns that are seen, and the rows with their holes filled.

        c = (z_F − z̄_F) W_Fᵀ G_F⁺        filled with c W_U + const

    in float64: the Gram matrix squares the condition of `W_U`.
    """
    wide = torch.where(seen, z.double(), 0.0)
    centred = torch.where(seen, wide - wide.sum(1, keepdim=True) / seen.sum(), 0.0)
    parts = zip(_columns(W_U), centred.split(COLUMNS, dim=1), strict=True)
    c = torch.stack([some @ part.mT for part, some in parts]).sum(0) @ inverse
    whole = torch.cat([c @ part for part in _columns(W_U)], dim=1)
    shift = torch.where(seen, wide - whole, 0.0).sum(1, keepdim=True) / seen.sum()
    return c, torch.where(seen, wide, whole + shift)
