"""Edits of hidden states inside a subspace, by the formulas of ReFT."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Variant = Literal["loreft", "noreft", "direft", "nodireft", "consreft", "lobireft", "r1"]
Activation = Literal["relu", "gelu", "silu", "tanh"]
ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


class Form(NamedTuple):
    """What the variants differ in: whether the rows of `R` are orthonormal, whether the edit reads
    the state by a matrix `A`, and whether it replaces what the subspace holds or adds to it."""

    orthonormal: bool
    reads: bool
    replaces: bool


FORMS: dict[str, Form] = {
    "loreft": Form(orthonormal=True, reads=True, replaces=True),
    "noreft": Form(orthonormal=False, reads=True, replaces=True),
    "direft": Form(orthonormal=True, reads=True, replaces=False),
    "nodireft": Form(orthonormal=False, reads=True, replaces=False),
    "consreft": Form(orthonormal=True, reads=False, replaces=True),
    "lobireft": Form(orthonormal=True, reads=False, replaces=False),
    "r1": Form(orthonormal=True, reads=False, replaces=False),
}


def change(
    h: Float[Tensor, "*batch d"],
    R: Float[Tensor, "rank d"],
    A: Float[Tensor, "rank d"] | None,
    b: Float[Tensor, " rank"],
    replaces: bool,
    activation: Activation | None = None,
    rows: Float[Tensor, "*#batch rank"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """Return what an edit adds to a hidden state at strength 1: `(φ(hAᵀ + b) − hRᵀ) R`.

    The terms that a form has not are left out.

    `rows` weighs the rows of the subspace. Each makes its own change: leaving rows out of the sum
    is leaving them out of the subspace.

    Example:
        >>> R = torch.tensor([[1.0, 0.0]])
        >>> change(torch.tensor([3.0, 4.0]), R, None, torch.tensor([5.0]), replaces=True)
        tensor([2., 0.])
    """
    target = b if A is None else h @ A.mT + b
    if activation is not None:
        target = ACTIVATIONS[activation](target)
    if replaces:
        target = target - h @ R.mT
    if rows is not None:
        target = target * rows
    return (target @ R).expand_as(h)


def top_mean(
    h: Float[Tensor, "batch pos d"],
    v: Float[Tensor, " d"],
    real: Float[Tensor, "batch pos"],
    k: int,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the mean of the `k` largest `ReLU(h·v)` of each row, and the sum of the others per
    token of the row.

    This is ReFT-r1, whose training keeps the second small.

    Where a row has fewer tokens than `k` the mean is over those.
    """
    latent = torch.relu(h @ v) * real
    n = real.sum(1)
    largest = latent.topk(min(k, latent.shape[1]), dim=1).values.sum(1)
    return largest / n.clamp(1, k), (latent.sum(1) - largest) / n.clamp_min(1)
