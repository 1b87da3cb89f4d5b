"""Losses of a steer and its background on states, four ways, from one pass."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logit_stats import Mix, logit_stats
from steerlens.maths.logits import UnembedWeights
from steerlens.maths.numbers import decimal
from steerlens.values.losses import Losses, Measured
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground

CHUNK = 256


class Ways(NamedTuple):
    """Some positions, and of what terms their logits are made, six ways: plain, with the
    background, at the text's own label and at its opposite (both over the background), and at
    strengths +1 and -1 without it; see `logit_stats`."""

    target: Int[Tensor, " n"]
    text: Int[Tensor, " n"]
    terms: Sequence[Float[Tensor, "n d"]]
    mix: Mix


def tally(
    head: UnembedWeights,
    ways: Iterable[Ways],
    labels: Float[Tensor, " n_texts"],
    n: Int[Tensor, " n_texts"],
) -> Measured:
    """Return the mean NLL in nats per token, four ways, and KL, every position weighing the same.

    `n` is the number of positions of each text.
    """
    sums = torch.zeros(len(labels), 4, dtype=torch.float64)
    kl = torch.zeros(2, dtype=torch.float64)
    for way in ways:
        found = logit_stats(head, way.target, way.terms, way.mix, others=2)
        sums.index_add_(0, way.text.cpu(), found.nll[:4].mT.double().cpu())
        kl += found.kl.sum(1).double().cpu()
    by_label = {}
    for label in labels[n > 0].unique().tolist():
        rows = (n > 0) & (labels == label)
        by_label[decimal(label)] = Losses(*(sums[rows].sum(0) / n[rows].sum()).tolist())
    up, down = (kl / n.sum()).tolist()
    return Measured(Losses(*(sums.sum(0) / n.sum()).tolist()), by_label, (up, down), sums)


def measure(
    states: States,
    steer: Steer,
    background: Steer,
    *,
    strength: float = 1.0,
    mean_label: float = 0.0,
) -> Measured:
    """Return the mean NLL in nats per token: base, background, steered and flipped.

    Every position weighs the same.

    A label `y` asks for `y · strength`, flipped for `(2 · mean_label − y) · strength`. Three
    products with `W_U` per chunk serve all six distributions.
    """
    head = states.readout.head

    def ways() -> Iterator[Ways]:
        for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
            right = strength * states.labels[text.cpu()].to(c)
            wrong = 2 * strength * mean_label - right
            yield Ways(
                target, text, (c, c @ background.W, c @ steer.W),
                [
                    [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, right], [1.0, 1.0, wrong],
                    [1.0, 0.0, 1.0], [1.0, 0.0, -1.0],
                ],
            )  # fmt: skip

    return tally(head, ways(), states.labels, states.lengths * states.keep)


def sign_margins(
    states: States, steers: Sequence[Steer], background: Steer
) -> Float[Tensor, "n_steers n_texts"]:
    """Return each text's summed NLL with the steer's sign turned, less that with the right sign.

    One pass for all steers.
    """
    head, n = states.readout.head, len(steers)
    total = torch.zeros(n, len(states.labels), dtype=torch.float64)
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y = states.labels[text.cpu()].to(c)[:, None]
        terms = [c + c @ background.W, *(y * (c @ steer.W) for steer in steers)]
        told = logit_stats(head, target, terms, [*one_by_one(n, -1.0), *one_by_one(n, 1.0)])
        wrong, right = told.nll.double().cpu().chunk(2)
        total.index_add_(1, text.cpu(), wrong - right)
    return total


def one_by_one(n: int, coefficient: float) -> list[list[float]]:
    """Return the mix of `n` sets of logits that have the first term and one of `n` others each."""
    return [[1.0, *(coefficient * (i == j) for j in range(n))] for i in range(n)]


def kl_at_strengths(
    states: States, steer: Steer | SteerWithBackground, strengths: Sequence[float]
) -> Float[Tensor, " n_strengths"]:
    """Return KL(p_0 ‖ p_s) at each strength, mean over the positions, nats per token.

    A background belongs to p_0 too.
    """
    head = states.readout.head
    over = steer.background if isinstance(steer, SteerWithBackground) else None
    line = steer.steer if isinstance(steer, SteerWithBackground) else steer
    mix = [[1.0, 0.0], *([1.0, float(s)] for s in strengths)]
    total = torch.zeros(len(strengths), dtype=torch.float64)
    for c, target, _ in states.chunks(CHUNK, device=head.W_U.device):
        terms = (c if over is None else c + c @ over.W, c @ line.W)
        told = logit_stats(head, target, terms, mix, others=len(strengths))
        total += told.kl.double().sum(1).cpu()
    # below some 1e-7 it is a difference of sums in float32, and may come out below 0
    return (total / states.n_positions).clamp_min(0)
