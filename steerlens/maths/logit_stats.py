"""What several sets of logits say of the same targets, from the products that they share."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, apply_softcap, blocks, log_sum_exp

Mix = Sequence[Sequence[float | Float[Tensor, " n"]]]
"""A row per set of logits, a column per term: its coefficient, one for all positions or one each."""


class LogitStats(NamedTuple):
    """Of several sets of logits: the NLL of the target, and KL(first ‖ other) for the last few;
    nats, one per row."""

    nll: Float[Tensor, "ways n"]
    kl: Float[Tensor, "others n"]


def logit_stats(
    head: UnembedWeights,
    target: Int[Tensor, " n"],
    terms: Sequence[Float[Tensor, "n d"]],
    mix: Mix,
    others: int = 0,
) -> LogitStats:
    """Return what several sets of logits say of the target, and of each other.

        z_w = b_U + Σ_k mix_wk · terms_k W_U        before the scale and the soft cap
        −log p(target) = logΣexp z − z_target        KL(p ‖ q) = Σ p (z − z′) + logΣexp z′ − logΣexp z

    A product with `W_U` per term serves all sets. Logits of the whole vocabulary are never held.

    Args:
        terms: what the unembedding is applied to; each in its own dtype once it is a product.
        mix: coefficients, see `Mix`; of a 0 nothing is computed.
        others: how many of the last sets are held against the first.

    Example:
        >>> head = UnembedWeights(torch.eye(2), torch.zeros(2))
        >>> c, step = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> found = logit_stats(head, torch.tensor([0]), (c, step), [[1.0, 0.0], [1.0, 2.0]], others=1)
        >>> [round(nll, 4) for nll in found.nll.flatten().tolist()]
        [0.6931, 0.1269]
    """
    sizes, at_target, gaps = [], [], []
    for start, part in blocks(head):
        zs = [apply_softcap(part, z) for z in mixed_logits(part, terms, mix)]
        column = target - start
        inside = (column >= 0) & (column < part.W_U.shape[1])
        column = torch.where(inside, column, 0)[:, None]
        sizes.append(torch.stack([log_sum_exp(z) for z in zs]))
        at_target.append(
            torch.stack([torch.where(inside, z.gather(1, column).squeeze(1), 0) for z in zs])
        )
        if others:
            p = torch.softmax(zs[0], 1)
            gaps.append(torch.stack([torch.linalg.vecdot(p, zs[0] - z) for z in zs[-others:]]))
    total = torch.stack(sizes).logsumexp(0)
    nll = total - torch.stack(at_target).sum(0)
    if not others:
        return LogitStats(nll, nll[:0])
    # of the first set's probability in each part
    share = torch.stack(sizes)[:, 0].softmax(0)[:, None]
    return LogitStats(nll, (share * torch.stack(gaps)).sum(0) + total[-others:] - total[0])


class _Step(NamedTuple):
    """One term that is added to a sum, which is named by the steps that led to it."""

    before: tuple
    term: int
    coefficient: float | Tensor


def mixed_logits(
    part: UnembedWeights, terms: Sequence[Float[Tensor, "n d"]], mix: Mix
) -> list[Float[Tensor, "n words"]]:
    """Return the sets of logits that a mix of terms makes, before the scale and the soft cap.

    Sums with which several sets begin are made once. Products are in the read-out's dtype, which may
    be bfloat16, sums in that of the terms.
    """
    steps, ends = _steps(mix)
    uses = Counter(step.term for step in steps.values())
    products: dict[int, Tensor] = {}
    first = part.b_U.to(terms[0].dtype)
    sums: dict[tuple, Tensor] = {(): first.expand(len(terms[0]), -1)}
    for name, (before, k, coefficient) in steps.items():
        z, term = sums[before], terms[k]
        plain = not isinstance(coefficient, Tensor) and coefficient == 1.0
        if plain and uses[k] == 1 and term.dtype == part.W_U.dtype:
            sums[name] = torch.addmm(z, term, part.W_U)  # the product alone is never held
            continue
        if k not in products:
            products[k] = (term.to(part.W_U.dtype) @ part.W_U).to(term.dtype)
        if isinstance(coefficient, Tensor):
            sums[name] = torch.addcmul(z, coefficient[:, None], products[k])
        else:
            sums[name] = torch.add(z, products[k], alpha=coefficient)
    return [sums[end] for end in ends]


def _steps(mix: Mix) -> tuple[dict[tuple, _Step], list[tuple]]:
    """Return every sum on the way to the sets of a mix, once and in order, and where each set
    ends."""
    steps: dict[tuple, _Step] = {}
    ends: list[tuple] = []
    for row in mix:
        at: tuple = ()
        for k, coefficient in enumerate(row):
            rows = isinstance(coefficient, Tensor)
            if rows or coefficient:  # of a 0 nothing is computed
                name = (*at, (k, id(coefficient) if rows else float(coefficient)))
                steps.setdefault(name, _Step(at, k, coefficient))
                at = name
        ends.append(at)
    return steps, ends
