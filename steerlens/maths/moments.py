"""The sums from which a steer's first Newton step and its natural metric follow; sums of parts add."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.head import Head, blocks, log_sum_exp, logits


class Moments(NamedTuple):
    """Weighted sums over positions, float64, with labels `y`, weights `w` and the base model's prediction `p`.

        weight = Σw    label = Σwy    label2 = Σwy²    cc = Σw cᵀc    p = Σw p    ee = Σw ēᵀē
        steer = Σwy cᵀ(e_next − ē)    background = Σw cᵀ(e_next − ē)    with  ē = Σ_v p_v e_v

    The last two are minus the gradient of the summed NLL at zero.
    """

    weight: Float[Tensor, ""]
    label: Float[Tensor, ""]
    label2: Float[Tensor, ""]
    cc: Float[Tensor, "d d"]
    p: Float[Tensor, " vocab"]
    ee: Float[Tensor, "d d"]
    steer: Float[Tensor, "d d"]
    background: Float[Tensor, "d d"]

    def plus(self, other: "Moments") -> "Moments":
        """The sums over both parts."""
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))


def moments(
    head: Head,
    c: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    label: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Moments:
    """The sums over some positions. Cost: the two products of one gradient."""
    parts = [(part, logits(part, c)) for _, part in blocks(head)]
    share = torch.stack([log_sum_exp(z) for _, z in parts]).softmax(0)[..., None]
    p = [torch.softmax(z, 1, out=z).mul_(of) for (_, z), of in zip(parts, share, strict=True)]
    mean = head.scale * sum(q @ part.W_U.mT for (part, _), q in zip(parts, p, strict=True))
    missing = head.scale * head.W_U.mT[target] - mean
    weighted = weight[:, None] * c
    return Moments(
        weight.sum().double(),
        (weight * label).sum().double(),
        (weight * label**2).sum().double(),
        (weighted.mT @ c).double(),
        torch.cat([weight @ q for q in p]).double(),
        ((weight[:, None] * mean).mT @ mean).double(),
        ((label[:, None] * weighted).mT @ missing).double(),
        (weighted.mT @ missing).double(),
    )


def second_moments(head: Head, sums: Moments) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """`C = E[cᵀc]` and `S = E_t[Cov_{p_t}(e)] = W_U diag(E p) W_Uᵀ − E[ēᵀē]`, float64."""
    W_U = head.scale * head.W_U.double()
    S = ((W_U * sums.p) @ W_U.mT - sums.ee) / sums.weight
    return sums.cc / sums.weight, (S + S.mT) / 2
