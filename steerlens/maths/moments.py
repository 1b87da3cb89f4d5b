"""The sums from which a steer's first Newton step and its natural metric follow; sums of parts add."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.head import Head, blocks, log_sum_exp, logits, post, slope


class Moments(NamedTuple):
    """Weighted sums over positions, float64, with labels `y`, weights `w` and the base model's prediction `p`.

        weight = Σw    label = Σwy    label2 = Σwy²    cc = Σw cᵀc    p = Σw p s²    ee = Σw ēᵀē
        steer = Σwy cᵀ(s_next e_next − ē)    background = Σw cᵀ(s_next e_next − ē)    with  ē = Σ_v p_v s_v e_v

    `e_v` is the column of `W_U` and `s_v` the slope of scale and soft cap at the logit of the word there: what a small
    step `δ` of the context adds to a logit is `s_v δ · e_v`. Without a soft cap `s` is the scale everywhere. The last two
    sums are minus the gradient of the summed NLL at zero.
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
    mean, mass = torch.zeros_like(c), []
    for (part, z), of in zip(parts, share, strict=True):
        bend = slope(part, z)
        p = torch.softmax(z, 1, out=z).mul_(of)
        if isinstance(bend, Tensor):
            p = p.mul_(bend)
            mean += p @ part.W_U.mT
            mass.append(weight @ p.mul_(bend))
        else:  # on rows of d numbers instead of vocab
            mean += bend * (p @ part.W_U.mT)
            mass.append(bend**2 * (weight @ p))
    e = head.W_U.mT[target]
    bend = slope(head, post(head, (c * e).sum(1) + head.b_U[target]))
    missing = (bend[:, None] if isinstance(bend, Tensor) else bend) * e - mean
    weighted = weight[:, None] * c
    return Moments(
        weight.sum().double(),
        (weight * label).sum().double(),
        (weight * label**2).sum().double(),
        (weighted.mT @ c).double(),
        torch.cat(mass).double(),
        ((weight[:, None] * mean).mT @ mean).double(),
        ((label[:, None] * weighted).mT @ missing).double(),
        (weighted.mT @ missing).double(),
    )


def second_moments(head: Head, sums: Moments) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Turn sums into `C = E[cᵀc]` and the mean covariance of what words add to a logit, float64.

        S = E_t[Cov_{p_t}(s e)] = W_U diag(E[p s²]) W_Uᵀ − E[ēᵀē]

    with the slope `s` of scale and soft cap at each word and position; see `Moments`.

    Example:
        >>> import torch
        >>> head = Head(torch.eye(2), torch.zeros(2), scale=2.0)            # two words, each with probability ½
        >>> sums = moments(head, torch.zeros(1, 2), torch.tensor([0]), torch.ones(1), torch.ones(1))
        >>> second_moments(head, sums)[1].tolist()                          # 2² · (½ − ¼)
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    W_U = head.W_U.double()
    S = ((W_U * sums.p) @ W_U.mT - sums.ee) / sums.weight
    return sums.cc / sums.weight, (S + S.mT) / 2
