"""A large vocabulary in two tiers: likely words one by one, the others as one lump or by some that
are drawn."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, blocks, logits, normalised
from steerlens.maths.moments import second_moment

ROWS, SEEN = 512, 1_024
"""Positions per product, and positions on which the likely words are found, at most."""


class Tail(NamedTuple):
    """What the words that are left out add to the normaliser of some positions, to second order.

        log Σ_{v left out} exp(z_v + m·e_v) ≈ log_mass + m·mean + ½ m cov mᵀ

    for a move `m` of the context. Mass and mean are those of each position, so the slope at zero is
    exact; the covariance is the mean over positions, weighted by their mass.
    """

    log_mass: Float[Tensor, " n"]
    mean: Float[Tensor, "n d"]
    cov: Float[Tensor, "d d"]

    def rows(self, part: slice) -> "Tail":
        """Return the same of some of the positions."""
        return self._replace(log_mass=self.log_mass[part], mean=self.mean[part])

    def moved(
        self, m: Float[Tensor, "n d"]
    ) -> tuple[
        Float[Tensor, " n"], Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, "n d"]
    ]:
        """Return the lump's log-mass and its gradient in the move, at `m` and at `−m`."""
        along, bend = torch.linalg.vecdot(m, self.mean), m @ self.cov
        even = self.log_mass + torch.linalg.vecdot(m, bend) / 2
        return even + along, self.mean + bend, even - along, self.mean - bend


def two_tiers(
    head: UnembedWeights, c: Float[Tensor, "n d"], n_words: int
) -> tuple[UnembedWeights, Tail | None]:
    """Return the read-out of the `n_words` likeliest words at some positions, and the tail.

    A steer changes the log-probabilities of all words, but the KL that it costs is a mean under the
    model's own prediction, where most words weigh nothing. Of SmolLM2's 49,152 words 8,192 carry
    0.93 of the probability on film reviews.

    The whole read-out and no tail where the vocabulary is not at least twice as large, and under a
    soft cap, where logits are not linear in the move. Cost: two products with `W_U` per position,
    once.

    Example:
        >>> head = UnembedWeights(torch.eye(4), torch.tensor([2.0, 1.0, 0.0, 0.0]))
        >>> likely, tail = two_tiers(head, torch.zeros(1, 4), 2)
        >>> likely.b_U.tolist(), round(tail.log_mass.item(), 4)          # log 2
        ([2.0, 1.0], 0.6931)
    """
    vocab = head.W_U.shape[1]
    if vocab < 2 * n_words or head.softcap is not None:
        return head, None
    # sorted: neighbours in memory are read together
    ids = _mass(head, c[:SEEN]).argsort(descending=True)[:n_words].sort().values
    W_U = head.W_U.mT.index_select(0, ids).mT.contiguous()
    likely = head._replace(W_U=W_U, b_U=head.b_U.index_select(0, ids))
    # marked, not taken out: the rest is nearly all of a matrix that is too large to stand twice
    rare = torch.ones(vocab, dtype=head.W_U.dtype, device=c.device).index_fill_(0, ids, 0)
    lumps = [_lump(head, rare, at) for at in _parts(head, c)]
    log_mass, mean, mass = (torch.cat([lump[k] for lump in lumps]) for k in range(3))
    # of what words add to a logit, in float64: a covariance is a difference
    second = head.scale**2 * second_moment(head, torch.stack([lump[3] for lump in lumps]).sum(0))
    cov = (second - (mass[:, None] * mean).mT.double() @ mean.double()) / mass.sum()
    return likely, Tail(log_mass, mean, ((cov + cov.mT) / 2).to(mean))


FLOOR = 0.01
"""Of all chances, what is the same for every word: none is left out for ever."""


def word_chances(
    head: UnembedWeights, c: Float[Tensor, "n d"], n_words: int
) -> Float[Tensor, " vocab"]:
    """Return each word's chance to be drawn, `min(1, κ q)`, of which the sum is `n_words`.

    `q` is the word's mean probability at some positions: likely words are drawn for certain, others
    the more often the likelier they are.

    Example:
        >>> head = UnembedWeights(torch.eye(3), torch.tensor([9.0, 1.0, 1.0]))
        >>> word_chances(head, torch.zeros(1, 3), 2).tolist()
        [1.0, 0.5, 0.5]
    """
    mass = _mass(head, c).double()
    q = (1 - FLOOR) * mass / mass.sum() + FLOOR / len(mass)
    # κ is where the sum is right: with the k likeliest certain, κ = (n_words − k) / Σ of the others
    largest, order = q.sort(descending=True)
    rest = q.sum() - largest.cumsum(0) + largest
    k = torch.arange(len(q), device=q.device)
    certain = int(((n_words - k) * largest > rest).sum())
    chances = (q * (n_words - certain) / rest[certain]).clamp_max(1)
    chances[order[:certain]] = 1
    return chances.float()


def draw_words(
    head: UnembedWeights,
    chances: Float[Tensor, " vocab"],
    target: Int[Tensor, " n"],
    random: torch.Generator,
) -> tuple[UnembedWeights, Int[Tensor, " n"]]:
    """Return the read-out of words drawn by their chances, and the targets in it.

    A word of chance `π` stands for `1/π` of its kind, so that `Σ exp z` over the drawn is right on
    average, at every position and wherever the context is moved (Horvitz and Thompson 1952): its
    logit is raised by `−log π`. Targets are always drawn, since a model that knows what comes next
    gives it nearly all of the probability. Draws are systematic: a word of chance 1 is always
    there, and the number of the others is nearly the same each time.
    """
    chances = chances.clone().index_fill_(0, target, 1.0)
    u = torch.rand((), generator=random, dtype=torch.float64).to(chances.device)
    steps = (chances.double().cumsum(0) + u).floor()
    # sums of ones are exact in float64, so that a certain word is never lost by rounding
    drawn = steps.diff(prepend=torch.zeros_like(steps[:1])) > 0
    ids = drawn.logical_or_(chances >= 1).nonzero().squeeze(1)
    raised = chances.index_select(0, ids).log().neg_().div_(head.scale).to(head.b_U)
    some = head._replace(
        W_U=head.W_U.mT.index_select(0, ids).mT, b_U=head.b_U.index_select(0, ids) + raised
    )
    return some, torch.searchsorted(ids, target)


def _mass(head: UnembedWeights, c: Float[Tensor, "n d"]) -> Float[Tensor, " vocab"]:
    """Return each word's sum of probability over some positions."""
    each = [
        torch.softmax(logits(head, at), 1).sum(0, dtype=torch.float32) for at in _parts(head, c)
    ]
    return torch.stack(each).sum(0)


def _parts(head: UnembedWeights, c: Float[Tensor, "n d"]) -> list[Float[Tensor, "rows d"]]:
    return list(c.to(head.W_U).split(ROWS))


def _lump(
    head: UnembedWeights, rare: Float[Tensor, " vocab"], c: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " vocab"]]:
    """Return the rare words' log-mass, the mean of what they add to a logit, their share of all
    probability, and each word's sum of that over the positions; `rare` is 0 at the other words."""
    parts = blocks(head)
    told = [normalised(logits(part, c)) for _, part in parts]
    sizes = torch.stack([size for size, _ in told])
    whole = sizes.logsumexp(0)
    mean, share, sums = torch.zeros(c.shape, device=c.device), torch.zeros_like(whole), []
    for (start, part), (_, p), of in zip(parts, told, (sizes - whole).exp(), strict=True):
        p *= rare[start : start + p.shape[1]]
        mean += of[:, None] * (p @ part.W_U.mT).float()
        share += of * p.sum(1, dtype=of.dtype)
        sums.append((of.to(p) @ p).float())
    share = share.clamp_min(1e-30)
    return whole + share.log(), head.scale * mean / share[:, None], share, torch.cat(sums)
