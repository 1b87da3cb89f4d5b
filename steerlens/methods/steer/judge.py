"""Ask each half of the texts what the other half's steers are worth to it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from steerlens.evaluate.verdict import copies_as_one
from steerlens.maths.stats import permute_labels, ratio_error, ratio_interval
from steerlens.methods.steer.problem import CHUNK, Weights
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.verdict import Verdict

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of a steer is fitted as few directions, the rest as all."""

USUAL = 0.25
"""The mix that is left for another only as far as that one's margin is larger by more than the
difference's standard error: halves of few texts may like any of them by chance. A mean of both is
worth nearly what the better one is, where that is all directions, and more than all of them where
it is few."""

COMPARED = 0.03
"""Damping of the coordinates in which the halves' steers have a cosine: what small directions hold
is not known."""


class Asked(NamedTuple):
    """How a steer is to be fitted: at most `rank` directions, and how much of it as few directions
    (None: as halves of the texts say)."""

    weights: Weights = "labels"
    rank: int | None = None
    ridge: float = 0.0
    few: float | None = None
    damping: float | None = None
    """Of the coordinates; None: as each prior has it."""
    kl: float = 0.05
    """At which the halves' margins are stated, nats per token."""
    seed: int = 0


class Half(NamedTuple):
    """Half of the texts: the evidence of it; those texts of it that judge, and what each of their
    positions asks for.

    `path`: the matrices that it gives under each mix, of equal cost.
    """

    slope: Float[Tensor, "d d"]
    judges: States
    pulls: list[BFloat16[Tensor, "chunk d"]]
    path: Sequence[Float[Tensor, "d d"]] = ()


def mixes_of(rank: int | None) -> Sequence[float]:
    """Return the mixes to try: of a rank that is asked for no mean has as few directions as its
    parts."""
    return MIXES if rank is None else (MIXES[0], MIXES[-1])


def judge_halves(
    halves: Sequence[Half], metric: Metric, asked: Asked
) -> tuple[list[float], int, Verdict | None]:
    """Return each mix's margin, the mix to take, and the verdict, from what each half says of the
    other's steers.

    The p-value allows for the mix's choice (the largest of all mixes' values is compared),
    and is twice the smaller one of both halves: what they say of each other is nearly the same
    thing said twice, so margins, intervals and standard errors are means of both.
    """
    mixes = mixes_of(asked.rank)
    n_mixes = len(mixes)
    # of mixes that are as good by their error, the one nearest to the usual
    by_habit = sorted(range(n_mixes), key=lambda k: abs(mixes[k] - USUAL))
    if any(len(half.judges.labels[half.judges.keep].unique()) < 2 for half in halves):
        return [0.0] * n_mixes, by_habit[0], None  # too few texts to say anything of each other
    gains, tokens, varied, ps = [], [], [], []
    for k, (here, there) in enumerate((halves, halves[::-1])):
        worth, labels, lengths = worth_per_text(there, here.path)
        found = permute_labels(worth, labels, seed=asked.seed + k)
        gains.append(2 * found.gains)
        tokens.append(lengths)
        varied.append((labels - labels.mean()) ** 2 * lengths)
        ps.append(found.p)
    margins = [
        float(sum(g[k].sum() / n.sum() for g, n in zip(gains, tokens, strict=True))) / 2
        for k in range(n_mixes)
    ]
    top = max(range(n_mixes), key=lambda k: margins[k])
    errors = [
        sum(ratio_error(g[top] - g[k], n) for g, n in zip(gains, tokens, strict=True)) / 2
        for k in range(n_mixes)
    ]
    best = next(k for k in by_habit if margins[top] - margins[k] <= errors[k])
    ratios = [
        ratio_interval(g[best], n, variance=v, seed=asked.seed)
        for g, n, v in zip(gains, tokens, varied, strict=True)
    ]
    margin, low, high = (sum(ends) / 2 for ends in zip(*ratios, strict=True))
    compared = metric.damped(COMPARED)
    one, other = (compared.whiten(half.path[best]) for half in halves)
    agreement = float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-30))
    n_texts = sum(map(len, tokens))
    return (
        margins,
        best,
        Verdict(margin, low, high, min(1.0, 2 * min(ps)), asked.kl, n_texts, "halves", agreement),
    )


def worth_per_text(
    half: Half, path: Sequence[Float[Tensor, "d d"]]
) -> tuple[Float[np.ndarray, "ways n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return of each distinct text what matrices explain per unit of label, its label, and
    its tokens."""
    states = half.judges
    total = torch.zeros(len(path), len(states.labels), dtype=torch.float64)
    for (c, _, text), pull in zip(
        states.chunks(CHUNK, device=half.slope.device), half.pulls, strict=True
    ):
        worth = torch.stack([torch.linalg.vecdot(c @ W, pull.float()) for W in path])
        total.index_add_(1, text.cpu(), worth.double().cpu())
    labels, tokens = states.labels.double(), states.lengths.double() * states.keep
    if states.copy_of is not None:
        total, labels, tokens = copies_as_one(states.copy_of, total, labels, tokens)
    there = tokens > 0
    return total[:, there].numpy(), labels[there].numpy(), tokens[there].numpy()
