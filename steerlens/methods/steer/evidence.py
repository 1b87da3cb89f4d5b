"""Fit the steer that explains most for what it costs, and ask each half of the texts about the
other's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.evidence import even_kl, nuclear_descent, soft_threshold_singular_values
from steerlens.maths.logits import UnembedWeights, nll_gradient, quickest
from steerlens.maths.numbers import generator
from steerlens.maths.tail import Tail, two_tiers
from steerlens.methods.steer.judge import SHARES, Asked, Half, judge_halves
from steerlens.methods.steer.problem import CHUNK, Weights, text_weights
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.verdict import Verdict

JUDGED_ON = 65_536
"""Positions of each half, at most, whose texts judge the other half's steers one by one."""


WHITENING = 0.03
"""Damping of the coordinates in which singular values are lowered."""

TRIAL, ROUGHLY = (1_024, 3), (2_048, 8)
"""Positions on which the cost is measured, at most, and steps of descent on them: while the penalty
is chosen, and before the end.

The cost knows no next token, but a matrix of many directions finds those that are cheap on the
sample alone.
"""

FINALLY, FEWEST, MOST = 8_192, 3, 8
"""Positions of the last sample, and how many steps are taken on it: they read no more than a pass
over all texts does. More of them fit few texts' many directions to the sample."""

SPARSE = 25
"""One position of so many is in the last sample at least: more evidence bears more directions,
which need more of them."""

METER = 512
"""Further positions that say what a matrix costs.

On those it was fitted on a matrix costs too little, one of many directions most so.
"""

LIKELY = 8_192
"""Words of a vocabulary of twice that at least whose share of the cost is taken one by one."""

RESOLVED = 0.1
"""Length of a whitened matrix, at least, whose cost is measured."""

BOLDNESS = 0.6
"""The curvature that steps reckon with, as a part of the largest, which few directions have; see
`nuclear_descent`."""


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


class _Cost(NamedTuple):
    """The mean even KL of a whitened matrix over a sample of positions, and what it needs."""

    head: UnembedWeights
    over: Float[Tensor, "n d"]
    white: Float[Tensor, "n d"]
    size: Float[Tensor, "n 1"]
    label2: float
    write: Float[Tensor, "d d"]
    tail: Tail | None = None
    """What unlikely words of a large vocabulary add, as one lump."""

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        move = self.size * (self.white @ V @ self.write)
        kl, pull = even_kl(self.head, self.over, move, self.tail)
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
        rows = slice(start, stop)
        return self._replace(
            over=self.over[rows],
            white=self.white[rows],
            size=self.size[rows],
            tail=self.tail and self.tail.rows(rows),
        )


def explain(states: States, metric: Metric, base: Float[Tensor, "d d"], asked: Asked) -> Explained:
    """Fit the steer over a background that is known, at the least cost for what it explains.

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + λ/2 |V|² + μ |V|_*
        V = C^{1/2} W S^{1/2}        G = E y cᵀ(e_next − E_p e)

    with `p` the model over its background and `y` the label less its mean. `½ (KL + KL)` is the
    even part of the steered log-normaliser: to third order, `2 ⟨W, G⟩` is the sign margin, so the
    minimum has the largest margin for its KL, which is what steers are compared at. `G` is a sum of
    one pass; the cost knows no next token, so a sample of positions is enough: noise is in `G`
    alone.

    Where a style lives in few directions, the nuclear norm `|V|_*` keeps those and drops the noise,
    which is spread over all; where it does not, a penalty of zero keeps all. Each half of the texts
    gives a `G`. Half of their difference is as much noise as their mean holds; μ is a share of its
    largest singular value, that under which `W` from either half explains most of the other at
    equal KL. A half has more noise by √2, and so has its penalty.

    Args:
        states: of the texts that are trained on.
        metric: damped as the coordinates of `V` are to be.
        base: the background, at the mean label.
    """
    device = base.device
    labels, weight = states.labels.to(device), text_weights(states, asked.weights).to(device)
    labels = labels - mean_label(states, asked.weights)
    sampled = _cost(states, labels, weight, base, metric, asked.seed)
    cost, meter = sampled.at(METER, None), sampled.at(0, METER)
    curvature = BOLDNESS * (_curvature(cost.at(0, 256), states.d_model) + asked.ridge)
    parts = states.split(0.5, seed=asked.seed)
    halves = [_evidence(part, labels, base, metric, asked) for part in parts]
    n = [part.n_positions for part in parts]
    evidence = (n[0] * halves[0].slope + n[1] * halves[1].slope) / sum(n)
    # what halves contradict each other in is noise alone, as much as is in their mean
    noise = float(torch.linalg.matrix_norm(halves[0].slope - halves[1].slope, 2)) / 2

    def fit(
        slope: Float[Tensor, "d d"], threshold: float, *plan: tuple[int, int]
    ) -> Float[Tensor, "d d"]:
        """Start from the minimum under a cost that is the same in all directions, and descend on
        more and more positions."""
        V = _Objective(cost.at(0, plan[0][0]), slope, asked.ridge).isotropic(threshold, asked.rank)
        for sampled, n_steps in plan:
            smooth = _Objective(cost.at(0, sampled), slope, asked.ridge)
            V = nuclear_descent(smooth, V, threshold, curvature, rank=asked.rank, n_steps=n_steps)
        return meter.of_cost(asked.kl, V)

    def end(share: float) -> tuple[Float[Tensor, "d d"], float]:
        (threshold,) = _thresholds(evidence, noise, [share])
        last = _last(states), max(FEWEST, min(MOST, states.n_positions // FINALLY))
        return metric.unwhiten(fit(evidence, threshold, ROUGHLY, last)), threshold

    if asked.share is not None:
        W, threshold = end(asked.share)
        return Explained(W, asked.share, threshold)
    tried = [_thresholds(half.slope, 2**0.5 * noise, SHARES) for half in halves]
    halves = [
        half._replace(path=[fit(half.slope, threshold, TRIAL) for threshold in thresholds])
        for half, thresholds in zip(halves, tried, strict=True)
    ]
    margins, best, verdict = judge_halves(halves, metric, asked)
    W, threshold = end(SHARES[best])
    trials = tuple(
        {"penalty": share, "margin": margin} for share, margin in zip(SHARES, margins, strict=True)
    )
    # to second order the other half likes best the multiple s with s · 2 KL = ⟨W, G⟩; halves that
    # contradict each other leave nothing to explain
    gain = sum(float((a.path[best] * b.slope).sum()) for a, b in (halves, halves[::-1])) / 2
    return Explained(W, SHARES[best], threshold, max(gain / (2 * asked.kl), 0.0), verdict, trials)


def _thresholds(slope: Float[Tensor, "d d"], noise: float, shares: Sequence[float]) -> list[float]:
    """Return penalties of so much of the noise, none so large that no direction is left."""
    most = 0.9 * float(torch.linalg.matrix_norm(slope, 2))
    return [min(share * noise, most) for share in shares]


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

    def isotropic(self, threshold: float, rank: int | None) -> Float[Tensor, "d d"]:
        """Return the minimum for a cost that is the same in all directions, as long as this cost
        has it."""
        V = soft_threshold_singular_values(self.evidence, threshold, rank)
        # what V gains, ⟨V, evidence⟩ − threshold · |V|_*, since all it keeps was lowered by the
        # threshold; along a ray the cost is nearly a square, and rounding hides that of a short V
        gain = float(V.square().sum())
        longer = max(1.0, RESOLVED / max(gain, 1e-30) ** 0.5)
        cost = self.cost(V * longer)[0] / longer**2
        return V * (gain / max(2 * cost + self.ridge * gain, 1e-30))

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        kl, pull = self.cost(V)
        value = kl - float((V * self.evidence).sum()) + self.ridge / 2 * float(V.square().sum())
        return value, pull - self.evidence + self.ridge * V


def _cost(
    states: States, labels: Tensor, weight: Tensor, base: Tensor, metric: Metric, seed: int
) -> _Cost:
    """Return the cost on positions drawn in proportion to weight · label²."""
    device = base.device
    chunks = list(states.sample(2 * _last(states), seed=seed).chunks(CHUNK, device=device))
    text = torch.cat([chunk.text for chunk in chunks])
    c = torch.cat([chunk.hidden for chunk in chunks])
    share = weight[text] * labels[text].square()
    n = METER + max(min(len(share), _last(states)), TRIAL[0])
    drawn = torch.multinomial(share.cpu(), n, replacement=True, generator=generator(seed))
    drawn = drawn.to(device)
    label2 = float(share.mean())
    c, size = c[drawn], labels[text[drawn]].abs()[:, None]
    # what rounding does to a sum over positions is far below the sum's noise
    over = c + c @ base
    head, tail = two_tiers(quickest(states.readout.head), over, LIKELY)
    white, write = c @ metric.C_inverse_root, metric.S_inverse_root
    return _Cost(head, over, white, size, label2, write, tail)


def _evidence(
    states: States,
    labels: Float[Tensor, " n_texts"],
    base: Float[Tensor, "d d"],
    metric: Metric,
    asked: Asked,
) -> Half:
    """Return `G` of some texts over the background, whitened, and what it is a sum of, where that
    judges: one pass."""
    head, device = quickest(states.readout.head), labels.device
    weight = labels * text_weights(states, asked.weights).to(device)
    judges = states.sample(JUDGED_ON, seed=asked.seed)
    total = torch.zeros(states.d_model, states.d_model, dtype=torch.float64, device=device)
    pulls = []
    for part, judging in ((judges, True), (states.select(~judges.keep), False)):
        for c, target, text in part.chunks(CHUNK, device=device):
            pull = -nll_gradient(head, c + c @ base, target, torch.ones(len(c), device=device))
            total += (c.mT @ (weight[text, None] * pull)).double()
            if judging and asked.share is None:  # a penalty that is given needs no judges
                pulls.append(pull.bfloat16())
    slope = metric.whiten_slope(total) / states.n_positions
    return Half(slope.float(), judges, pulls)


def _last(states: States) -> int:
    """Return on how many positions the last steps are, at most."""
    return max(FINALLY, states.n_positions // SPARSE)


def _curvature(cost: _Cost, d: int) -> float:
    """Return the largest curvature of the cost at zero, by power iteration."""
    V = torch.randn(d, d, generator=generator(0)).to(cost.white)
    size = 0.0
    for _ in range(8):
        V = V / V.norm() * 1e-2
        V = cost(V)[1] / 1e-2
        size = float(V.norm())
    return size
