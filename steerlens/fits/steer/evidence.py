"""Fit the steer that explains most for what it costs, and ask each half of the texts about the other's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.fits.steer.problem import CHUNK, Weights, text_weights
from steerlens.maths.evidence import even_kl, nuclear_descent
from steerlens.maths.head import Head, nll_gradient
from steerlens.maths.numbers import generator
from steerlens.values.intervals import bootstrap_ratio, permute_labels, ratio_error
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.verdict import Verdict

WHITENING = 0.03
"""Damping of the coordinates in which singular values are lowered."""

SHARES = (0.7, 0.4, 0.2, 0.08, 0.0)
"""Penalties tried, as shares of the one under which no direction is left: few directions first, all of them last."""

USUAL = SHARES.index(0.2)
"""The penalty unless another one's margin is larger by more than its standard error."""

POSITIONS = 12_288
"""Positions on which the cost is measured at the end, at most. It knows no next token, but a matrix of many
directions finds those that are cheap on the sample alone: with 4,096 the margin on toy-128 is 3 % less."""

TRIED_ON, METER = 1_024, 1_024
"""Positions on which it is measured while the penalty is chosen, and further ones that say what a matrix costs.

On those it was fitted on a matrix costs too little, one of many directions most so.
"""

STEPS = 8, 8
"""Steps of descent from one penalty to the next while it is chosen, and at the end."""

JUDGED_ON = 65_536
"""Positions of each half, at most, whose texts judge the other half's steers one by one."""


class Explained(NamedTuple):
    """A steer of any length, and how its penalty was chosen.

    At the multiple `strength` it explains the texts best; None where the penalty was given.
    """

    W: Float[Tensor, "d d"]
    share: float
    threshold: float
    strength: float | None = None
    verdict: Verdict | None = None
    trials: tuple[dict[str, float], ...] = ()


class Asked(NamedTuple):
    """How a steer is to be fitted: at most `rank` directions, a penalty that is given as a share or that the halves choose."""

    weights: Weights = "labels"
    rank: int | None = None
    ridge: float = 0.0
    share: float | None = None
    kl: float = 0.05
    """At which the halves' margins are stated, nats per token."""
    seed: int = 0


class _Cost(NamedTuple):
    """The mean even KL of a whitened matrix over a sample of positions, and what it needs."""

    head: Head
    over: Float[Tensor, "n d"]
    white: Float[Tensor, "n d"]
    size: Float[Tensor, "n 1"]
    label2: float
    write: Float[Tensor, "d d"]

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        kl, pull = even_kl(self.head, self.over, self.size * (self.white @ V @ self.write))
        # positions are drawn in proportion to weight · label², which the mean therefore divides by
        part = self.white.mT @ ((pull / self.size) @ self.write)
        weight = self.label2 / len(self.over)
        return float((kl / self.size.squeeze(1).square()).double().sum()) * weight, part * weight

    def of_cost(self, kl: float, V: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Return the multiple of a matrix that costs `kl`, to a hundredth or so."""
        for _ in range(2):
            V = V * (kl / max(self(V)[0], 1e-12)) ** 0.5  # nearly a square
        return V

    def at(self, start: int, stop: int | None) -> "_Cost":
        part = slice(start, stop)
        return self._replace(over=self.over[part], white=self.white[part], size=self.size[part])


class _Half(NamedTuple):
    """Half of the texts, the evidence of it, and the matrices that it gives under each penalty, of equal cost."""

    states: States
    slope: Float[Tensor, "d d"]
    path: list[Float[Tensor, "d d"]]


def explain(states: States, metric: Metric, base: Float[Tensor, "d d"], asked: Asked) -> Explained:
    """Fit the steer over a background that is known, at the least cost for what it explains.

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + λ/2 |V|² + μ |V|_*
        V = C^{1/2} W S^{1/2}        G = E y cᵀ(e_next − E_p e)

    with `p` the model over its background and `y` the label less its mean. `½ (KL + KL)` is the even
    part of the steered log-normaliser: to third order, `2 ⟨W, G⟩` is the sign margin, so the minimum
    has the largest margin for its KL, which is what steers are compared at. `G` is a sum of one
    pass; the cost knows no next token, so a sample of positions is enough: noise is in `G` alone.

    Where a style lives in few directions, the nuclear norm `|V|_*` keeps those and drops the noise,
    which is spread over all; where it does not, a penalty of zero keeps all. Each half of the texts
    gives a `G`, and the penalty is that under which `W` from either half explains most of the other
    at equal KL. The sum of both has less noise by √2, and so has its penalty.

    Args:
        states: of the texts that are trained on.
        metric: damped as the coordinates of `V` are to be.
        base: the background, at the mean label.
    """
    device = base.device
    labels, weight = states.labels.to(device), text_weights(states, asked.weights).to(device)
    labels = labels - mean_label(states, asked.weights)
    sampled = _cost(states, labels, weight, base, metric, asked.seed)
    cost, meter, rough = sampled.at(METER, None), sampled.at(0, METER), sampled.at(METER, METER + TRIED_ON)
    curvature = 1.2 * (_curvature(rough.at(0, 256), states.d_model) + asked.ridge)  # too small a one is noticed
    parts = states.split(0.5, seed=asked.seed)
    slopes = [_evidence(part, labels, base, metric, asked.weights) for part in parts]
    n = [part.n_positions for part in parts]
    whole = _Objective(cost, (n[0] * slopes[0] + n[1] * slopes[1]) / sum(n), asked.ridge)

    def end(starts: Sequence[Float[Tensor, "d d"]], threshold: float) -> Float[Tensor, "d d"]:
        point = nuclear_descent(
            whole, torch.stack(list(starts)).mean(0), threshold, curvature, rank=asked.rank, n_steps=STEPS[1]
        )
        return metric.unwhiten(meter.of_cost(asked.kl, point))

    top = sum(float(torch.linalg.matrix_norm(slope, 2)) for slope in slopes) / 2  # a penalty that leaves nothing
    # no more than would leave something of both halves' sum, whose noise is less by √2
    most = 0.99 * float(torch.linalg.matrix_norm(whole.evidence, 2))
    if asked.share is not None:
        threshold = min(asked.share * top / 2**0.5, most)
        few = nuclear_descent(
            whole._replace(cost=rough),
            torch.zeros_like(whole.evidence),
            (threshold + most) / 2,
            curvature,
            rank=asked.rank,
        )
        return Explained(end([few], threshold), asked.share, threshold)
    paths, halves = [], []
    for part, slope in zip(parts, slopes, strict=True):
        smooth, path = _Objective(rough, slope, asked.ridge), [torch.zeros_like(slope)]
        for share in SHARES:  # each from the last: from few directions to more
            path.append(nuclear_descent(smooth, path[-1], share * top, curvature, rank=asked.rank, n_steps=STEPS[0]))
        paths.append(path[1:])
        halves.append(_Half(part, slope, [meter.of_cost(asked.kl, V) for V in path[1:]]))
    margins, best, verdict = _judge(halves, base, metric, asked)
    threshold = min(SHARES[best] * top / 2**0.5, most)
    trials = tuple({"penalty": share, "margin": margin} for share, margin in zip(SHARES, margins, strict=True))
    W = end([path[best] for path in paths], threshold)
    # to second order the other half likes best the multiple s with s · 2 KL = ⟨W, G⟩; halves that contradict
    # each other leave nothing to explain
    gain = sum(float((a.path[best] * b.slope).sum()) for a, b in (halves, halves[::-1])) / 2
    return Explained(W, SHARES[best], threshold, max(gain / (2 * asked.kl), 0.0), verdict, trials)


def mean_label(states: States, weights: Weights) -> float:
    """Return the mean label of the positions, weighted as a fit weighs them."""
    share = text_weights(states, weights).double() * states.lengths
    # weights are in float32, so that balanced labels have a mean of some 1e-9
    return round(float((share * states.labels).sum() / share.sum()), 6)


class _Objective(NamedTuple):
    """The smooth part: cost, and half the ridge times the square, less evidence."""

    cost: _Cost
    evidence: Float[Tensor, "d d"]
    ridge: float

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        kl, pull = self.cost(V)
        value = kl - float((V * self.evidence).sum()) + self.ridge / 2 * float(V.square().sum())
        return value, pull - self.evidence + self.ridge * V


def _judge(
    halves: Sequence[_Half], base: Float[Tensor, "d d"], metric: Metric, asked: Asked
) -> tuple[list[float], int, Verdict | None]:
    """Return each penalty's margin, the penalty to take, and the verdict, from what each half says of the other's steers.

    The p-value allows for the penalty's choice (the largest of all penalties' values is compared), and is twice the
    smaller one of both halves: what they say of each other is nearly the same thing said twice, so margins, intervals
    and standard errors are means of both.
    """
    found = []
    if any(len(half.states.labels[half.states.keep].unique()) < 2 for half in halves):
        return [0.0] * len(SHARES), USUAL, None  # too few texts to say anything of each other
    for k, (here, there) in enumerate((halves, halves[::-1])):
        states = there.states.sample(JUDGED_ON, seed=asked.seed)
        found.append(permute_labels(*_per_text(states, here.path, base, metric), seed=asked.seed + k))
    gains = [2 * f.gains for f in found]
    margins = [
        float(sum(g[k].sum() / f.units.sum() for g, f in zip(gains, found, strict=True))) / 2
        for k in range(len(SHARES))
    ]
    best = max(range(len(SHARES)), key=lambda k: margins[k])
    error = sum(ratio_error(g[best] - g[USUAL], f.units) for g, f in zip(gains, found, strict=True)) / 2
    if margins[best] - margins[USUAL] <= error:
        best = USUAL
    ratios = [bootstrap_ratio(g[best], f.units, seed=asked.seed) for g, f in zip(gains, found, strict=True)]
    margin, low, high = (sum(ends) / 2 for ends in zip(*ratios, strict=True))
    one, other = (half.path[best] for half in halves)
    agreement = float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-30))
    n = sum(half.states.n_texts for half in halves)
    p = min(1.0, 2 * min(f.p for f in found))
    return margins, best, Verdict(margin, low, high, p, asked.kl, n, "halves", agreement)


def _per_text(
    states: States, path: Sequence[Float[Tensor, "d d"]], base: Float[Tensor, "d d"], metric: Metric
) -> tuple[Float[np.ndarray, "ways n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return of each distinct text what whitened matrices explain per unit of label, its label, and its tokens: one pass."""
    head, device = states.readout.head, base.device
    total = torch.zeros(len(path), len(states.labels), dtype=torch.float64)
    for c, target, text in states.chunks(CHUNK, device=device):
        pull = -nll_gradient(head, c + c @ base, target, torch.ones(len(c), device=device)) @ metric.S_inverse_root
        white = c @ metric.C_inverse_root
        total.index_add_(1, text.cpu(), torch.stack([((white @ V) * pull).sum(1) for V in path]).double().cpu())
    labels, lengths, keep = states.labels.double(), states.lengths.double(), states.keep
    if states.copy_of is not None:
        # copies are one text, with the mean of their labels: labels in random order must not part them
        of = states.copy_of[keep]
        n = torch.zeros_like(labels).index_add_(0, of, torch.ones(len(of), dtype=labels.dtype))
        total = torch.zeros_like(total).index_add_(1, of, total[:, keep])
        labels, lengths = (torch.zeros_like(x).index_add_(0, of, x[keep]) for x in (labels, lengths))
        labels, keep = labels / n.clamp_min(1), n > 0
    return total[:, keep].numpy(), labels[keep].numpy(), lengths[keep].numpy()


def _cost(states: States, labels: Tensor, weight: Tensor, base: Tensor, metric: Metric, seed: int) -> _Cost:
    """Return the cost on positions drawn in proportion to weight · label²."""
    device = base.device
    chunks = list(states.sample(2 * POSITIONS, seed=seed).chunks(CHUNK, device=device))
    text = torch.cat([chunk.text for chunk in chunks])
    c = torch.cat([chunk.hidden for chunk in chunks])
    share = weight[text] * labels[text].square()
    n = METER + max(POSITIONS if len(share) > POSITIONS else len(share), TRIED_ON)
    drawn = torch.multinomial(share.cpu(), n, replacement=True, generator=generator(seed))
    drawn = drawn.to(device)
    label2 = float(share.mean())
    c, size = c[drawn], labels[text[drawn]].abs()[:, None]
    return _Cost(states.readout.head, c + c @ base, c @ metric.C_inverse_root, size, label2, metric.S_inverse_root)


def _evidence(states: States, labels: Tensor, base: Tensor, metric: Metric, weights: Weights) -> Float[Tensor, "d d"]:
    """Return `G` of some texts over the background, whitened: one pass."""
    head, device = states.readout.head, labels.device
    weight = text_weights(states, weights).to(device)
    total = torch.zeros(states.d_model, states.d_model, dtype=torch.float64, device=device)
    for c, target, text in states.chunks(CHUNK, device=device):
        pull = nll_gradient(head, c + c @ base, target, weight[text] * labels[text])
        total -= (c.mT @ pull).double()
    white = metric.C_inverse_root.double() @ total @ metric.S_inverse_root.double()
    return (white / states.n_positions).float()


def _curvature(cost: _Cost, d: int) -> float:
    """Return the largest curvature of the cost at zero, by power iteration."""
    V = torch.randn(d, d, generator=generator(0)).to(cost.white)
    size = 0.0
    for _ in range(8):
        V = V / V.norm() * 1e-2
        V = cost(V)[1] / 1e-2
        size = float(V.norm())
    return size
