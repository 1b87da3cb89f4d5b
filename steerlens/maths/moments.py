"""The sums from which a steer's first Newton step and its natural metric follow; sums of parts
add."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logits import (
    UnembedWeights,
    apply_softcap,
    blocks,
    log_sum_exp,
    logits,
    softcap_gradient,
)


class Moments(NamedTuple):
    """Weighted sums over positions, float64, with labels `y`, weights `w` and the base model's
    prediction `p`.

        weight = Σw    label = Σwy    label2 = Σwy²    cc = Σw cᵀc    p = Σw p s²    ee = Σw ēᵀē
        steer = Σwy cᵀ(s_next e_next − ē)    background = Σw cᵀ(s_next e_next − ē)
        with  ē = Σ_v p_v s_v e_v

    `e_v` is the column of `W_U` and `s_v` the slope of scale and soft cap at the logit of the word
    there: what a small step `δ` of the context adds to a logit is `s_v δ · e_v`. Without a soft cap
    `s` is the scale everywhere. `steer` and `background` are minus the gradient of the summed NLL
    at zero.
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
        """Return the sums over both parts."""
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))


def moments(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    label: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Moments:
    """Return the sums over some positions. Cost: the two products of one gradient, in the dtype of
    the read-out."""
    at = c.to(head.W_U)
    parts = [(part, logits(part, at)) for _, part in blocks(head)]
    share = torch.stack([log_sum_exp(z).to(c) for _, z in parts]).softmax(0)
    mean, mass = torch.zeros_like(c), []
    for (part, z), of in zip(parts, share, strict=True):
        bend = softcap_gradient(part, z)
        p = torch.softmax(z, 1, out=z)
        if isinstance(bend, Tensor):
            p = p.mul_(bend)
            mean += of[:, None] * (p @ part.W_U.mT).to(c)
            mass.append(((weight * of).to(p) @ p.mul_(bend)).to(c))
        else:  # on rows of d numbers instead of vocab
            mean += bend * of[:, None] * (p @ part.W_U.mT).to(c)
            mass.append(bend**2 * ((weight * of).to(p) @ p).to(c))
    e = head.W_U.mT[target].to(c)
    bend = softcap_gradient(head, apply_softcap(head, (c * e).sum(1) + head.b_U[target]))
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


def second_moments(
    head: UnembedWeights, sums: Moments
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Turn sums into `C = E[cᵀc]` and the mean covariance of what words add to a logit, float64.

        S = E_t[Cov_{p_t}(s e)] = W_U diag(E[p s²]) W_Uᵀ − E[ēᵀē]

    with the slope `s` of scale and soft cap at each word and position; see `Moments`.

    Example:
        >>> import torch
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2), scale=2.0)   # two words of probability ½
        >>> sums = moments(head, torch.zeros(1, 2), torch.tensor([0]), torch.ones(1), torch.ones(1))
        >>> second_moments(head, sums)[1].tolist()                    # 2² · (½ − ¼)
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    S = (second_moment(head, sums.p) - sums.ee) / sums.weight
    return sums.cc / sums.weight, (S + S.mT) / 2


def second_moment(head: UnembedWeights, p: Float[Tensor, " vocab"]) -> Float[Tensor, "d d"]:
    """Return `W_U diag(p) W_Uᵀ`, float64; a large `W_U` never stands there whole in float64.

    Example:
        >>> import torch
        >>> second_moment(UnembedWeights(torch.eye(2), torch.zeros(2)), torch.tensor([0.5, 0.25])).tolist()
        [[0.5, 0.0], [0.0, 0.25]]
    """
    d = head.W_U.shape[0]
    total = torch.zeros(d, d, dtype=torch.float64, device=head.W_U.device)
    for start, part in blocks(head):
        W = part.W_U.double()
        total += (W * p[start : start + W.shape[1]]) @ W.mT
    return total


class Costs(NamedTuple):
    """Weighted sums over positions, float64, of what directions cost at strength 1, second order.

    With the readings `u_i = c · probe_i`, the shifts `v_i = s · (write_i W_U)` of the logits (`s`
    the slope of scale and soft cap) and the base model's prediction `p`, at a position, in nats,

        total = ½ Var_p(Σ_i u_i v_i)
        alone_i = ½ u_i² Var_p(v_i)        part_i = ½ Σ_j u_i u_j Cov_p(v_i, v_j)

    so `part` is `alone` and half of each cross term, and `part.sum() = total`.
    """

    weight: Float[Tensor, ""]
    total: Float[Tensor, ""]
    alone: Float[Tensor, " rank"]
    part: Float[Tensor, " rank"]

    def plus(self, other: "Costs") -> "Costs":
        """Return the sums over both parts."""
        return Costs(*(a + b for a, b in zip(self, other, strict=True)))


def costs(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    probes: Float[Tensor, "rank d"],
    writes: Float[Tensor, "rank d"],
    weight: Float[Tensor, " n"],
) -> Costs:
    """Sum what `W = Σ_i probe_iᵀ write_i` costs at some positions, to second order, in nats.

        KL(p ‖ p_ε) = ε² ½ Var_p(s · c W e) + O(ε³)        for strength ε

    Gains belong to `writes`. Exact as the strength goes to 0: no mean is factorised. Cost: five
    products with `W_U` per position where the rank is that of the model, four where it is small.

    Example:
        >>> import torch
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2))                 # two words of probability ½
        >>> one = torch.tensor([[1.0, 0.0]])                          # reads and writes the first
        >>> found = costs(head, torch.tensor([[2.0, 2.0]]), one, one, torch.ones(1))
        >>> float(found.total), found.part.tolist()                   # ½ · 2² · ¼
        (0.5, [0.5])
    """
    u = c @ probes.mT
    step = u @ writes
    sizes, firsts, squares, crosses, means, others = [], [], [], [], [], []
    for _, part in blocks(head):
        z = logits(part, c)
        bend = softcap_gradient(part, z)
        shift = bend * (step @ part.W_U)
        sizes.append(log_sum_exp(z))
        p = torch.softmax(z, 1, out=z)
        bent = p * bend
        means.append(torch.linalg.vecdot(p, shift))
        others.append(torch.linalg.vecdot(p * shift, shift))
        firsts.append(bent @ part.W_U.mT)
        crosses.append((bent * shift) @ part.W_U.mT)
        squares.append((bent * bend) @ (writes @ part.W_U).square_().mT)
    share = torch.stack(sizes).softmax(0)

    def over(parts: list[Tensor]) -> Tensor:
        of = share if parts[0].ndim == 1 else share[..., None]
        return (of * torch.stack(parts)).sum(0).double()

    mean, first = over(means), over(firsts)
    v, half = writes.double().mT, weight.double() / 2
    variance = over(squares) - (first @ v).square()
    covariance = (over(crosses) - mean[:, None] * first) @ v  # of each shift with that of the whole
    return Costs(
        weight.double().sum(),
        half @ (over(others) - mean.square()),
        half @ (u.double().square() * variance),
        half @ (u.double() * covariance),
    )
