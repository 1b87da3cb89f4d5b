"""What a steer costs: the mean even KL over a sample of positions."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.evidence import Predicted, even_kl, predicted
from steerlens.maths.logits import UnembedWeights, quickest
from steerlens.maths.numbers import generator
from steerlens.maths.tail import Tail, two_tiers
from steerlens.methods.steer.problem import CHUNK
from steerlens.values.states import States

LIKELY = 8_192
"""Words of a vocabulary of twice that at least whose share of the cost is taken one by one."""

MEASURED = 10.0
"""Nats per token, at most, that are believed: of a longer matrix the lump that stands for unlikely
words grows as no sum of words does, and at a single position past all numbers."""

HELD = 1 << 27
"""Probabilities that are kept, at most, while a matrix is looked for: half a gigabyte."""


class Cost(NamedTuple):
    """The mean even KL of a matrix over a sample of positions, drawn in proportion to weight ·
    label², and what it needs."""

    head: UnembedWeights
    over: Float[Tensor, "n d"]
    """The contexts over the background, and below without it."""
    c: Float[Tensor, "n d"]
    size: Float[Tensor, "n 1"]
    label2: float
    tail: Tail | None = None
    """What unlikely words of a large vocabulary add, as one lump."""
    known: Predicted | None = None
    """What is predicted at `over`, where that can be kept."""

    def __call__(self, W: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        """Return the cost in nats per token, and its slope in the matrix."""
        kl, pull = even_kl(self.head, self.over, self.size * (self.c @ W), self.tail, self.known)
        # the mean divides by what positions are drawn in proportion to
        weight = self.label2 / len(self.over)
        value = float((kl / self.size.squeeze(1).square()).double().sum()) * weight
        return value, self.c.mT @ (pull / self.size) * weight

    def of_cost(self, kl: float, W: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Return the multiple of a matrix that costs `kl`, to a hundredth or so."""
        part, cost = self.measured(W)
        W = W * part * (kl / max(cost, 1e-12)) ** 0.5
        return W * (kl / max(self(W)[0], 1e-12)) ** 0.5  # twice: it is nearly a square

    def measured(self, W: Float[Tensor, "d d"]) -> tuple[float, float]:
        """Return the part of a matrix, all of it or a half, a quarter, …, whose cost is one that is
        measured, and that cost."""
        for halved in range(100):
            cost = self(0.5**halved * W)[0]
            if cost <= MEASURED:
                return 0.5**halved, cost
        raise ValueError("states: no multiple of a steer has a finite cost; do they hold NaN?")

    def at(self, start: int, stop: int | None) -> "Cost":
        rows = slice(start, stop)
        return self._replace(
            over=self.over[rows],
            c=self.c[rows],
            size=self.size[rows],
            tail=self.tail and self.tail.rows(rows),
            known=self.known and self.known.rows(rows),
        )


def sample_cost(
    states: States,
    labels: Float[Tensor, " n_texts"],
    weight: Float[Tensor, " n_texts"],
    base: Float[Tensor, "d d"],
    n: tuple[int, int],
    seed: int,
) -> Cost:
    """Return the cost on positions of some texts, drawn in proportion to weight · label².

    Args:
        n: positions at least, and at most where the texts hold so many.
    """
    least, most = n
    device = base.device
    chunks = list(states.sample(2 * most, seed=seed).chunks(CHUNK, device=device))
    text = torch.cat([chunk.text for chunk in chunks])
    c = torch.cat([chunk.hidden for chunk in chunks])
    share = weight[text] * labels[text].square()
    n_drawn = max(min(len(share), most), least)
    drawn = torch.multinomial(share.cpu(), n_drawn, replacement=True, generator=generator(seed))
    drawn = drawn.to(device)
    label2 = float(share.mean())
    c, size = c[drawn], labels[text[drawn]].abs()[:, None]
    # what rounding does to a sum over positions is far below the sum's noise
    over = c + c @ base
    head, tail = two_tiers(quickest(states.readout.head), over, LIKELY)
    kept = head.softcap is None and len(over) * head.W_U.shape[1] <= HELD
    known = predicted(head, over, tail) if kept else None
    return Cost(head, over, c, size, label2, tail, known)
