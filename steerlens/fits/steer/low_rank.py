"""Fit a steer of few directions: evidence against cost, the penalty chosen by halves of the texts."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.fits.steer.problem import CHUNK, Problem, Weights, text_weights
from steerlens.maths.evidence import even_kl, nuclear_descent
from steerlens.maths.head import nll_gradient
from steerlens.values.metric import Metric
from steerlens.values.states import States

WHITENING = 0.01
"""Damping of the coordinates in which singular values are lowered."""

SHARES = (0.7, 0.5, 0.35, 0.25, 0.17)
"""Penalties tried, as shares of the one under which no direction is left, until two in turn are worse than the best."""

POSITIONS = 4_096
"""Positions on which the cost is measured. It knows no next token, so few say as much as all."""


class LowRank(NamedTuple):
    """Steer and background, unwhitened, and how they were chosen.

    `evidence` is what halves of the texts say of each other: ⟨W, G⟩ / √KL, nats per token at a KL of 1.
    """

    W: Float[Tensor, "d d"]
    D: Float[Tensor, "d d"]
    threshold: float
    scale: float
    trials: tuple[dict[str, float], ...]


class _Cost(NamedTuple):
    """The mean even KL of a whitened matrix over a sample of positions, and what it needs."""

    states: States
    over: Float[Tensor, "n d"]
    white: Float[Tensor, "n d"]
    size: Float[Tensor, "n 1"]
    label2: float
    write: Float[Tensor, "d d"]

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        kl, slope = even_kl(self.states.readout.head, self.over, self.size * (self.white @ V @ self.write))
        # positions are drawn in proportion to weight · label², which the mean therefore divides by
        part = self.white.mT @ ((slope / self.size) @ self.write)
        weight = self.label2 / len(self.over)
        return float((kl / self.size.squeeze(1).square()).double().sum()) * weight, part * weight


def low_rank(problem: Problem, V: Float[Tensor, "2 d d"], weights: Weights, rank: int | None, seed: int) -> LowRank:
    """Fit the steer anew over a background that is known, at the least cost for what it explains.

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + μ |C^{1/2} W S^{1/2}|_*
        G = E y cᵀ(e_next − E_p e)

    with `p` the model over its background and `y` the label less its mean. `½ (KL + KL)` is the even
    part of the steered log-normaliser: to third order, `2 ⟨W, G⟩` is the sign margin, so the minimum
    has the largest margin for its KL, which is what steers are compared at. `G` is a sum of one
    pass; the cost knows no next token, so a sample of positions is enough: noise is in `G` alone.

    Each half of the texts gives a `G`; the penalty is that under which `W` from either half explains
    most of the other at equal KL, and the scale that by which it explains the other best. The sum of
    both has less noise by √2, and so has its penalty.

    Args:
        problem: of the texts that are trained on.
        V: a solution of it, whose background is used, at the mean label.
        rank: at most so many directions.
    """
    states = problem.states
    mean = float((problem.weights * states.lengths.to(problem.weights) * problem.labels).sum()) / states.n_positions
    base = problem.metric.unwhiten(V[1]) + mean * problem.metric.unwhiten(V[0])
    metric = problem.metric.damped(WHITENING)
    labels = problem.labels - mean
    cost = _cost(problem, labels, base, metric, seed)
    halves = states.split(0.5, seed=seed)
    slopes = [_evidence(half, labels, base, metric, weights) for half in halves]
    curvature = 1.2 * _curvature(cost, states.d_model)
    top = sum(float(torch.linalg.matrix_norm(slope, 2)) for slope in slopes) / 2  # a penalty that leaves nothing
    share, scale, trials = _choose(cost, slopes, top, curvature, rank)
    n = [half.n_positions for half in halves]
    both = (n[0] * slopes[0] + n[1] * slopes[1]) / sum(n)
    threshold = share * top / 2**0.5
    point = torch.zeros_like(both)
    for lower in (2 * threshold, threshold):  # the path from few directions to more
        point = nuclear_descent(_objective(cost, both), point, lower, curvature, rank=rank).V
    W = scale * metric.unwhiten(point)
    return LowRank(W, base - mean * W, threshold, scale, trials)


def _choose(
    cost: _Cost, slopes: list[Tensor], top: float, curvature: float, rank: int | None
) -> tuple[float, float, tuple[dict[str, float], ...]]:
    """Return the share and the scale under which each half explains most of the other, and what was tried."""
    points = [torch.zeros_like(slope) for slope in slopes]
    found: list[tuple[float, float, float]] = []
    for share in SHARES:
        gains, scales = [], []
        for k, slope in enumerate(slopes):
            points[k] = nuclear_descent(_objective(cost, slope), points[k], share * top, curvature, rank=rank).V
            kl, there = cost(points[k])[0], float((points[k] * slopes[1 - k]).sum())
            gains.append(there / max(kl, 1e-12) ** 0.5)
            # to second order the other half likes best the multiple s with s · 2 KL = ⟨W, G⟩
            scales.append(there / max(2 * kl, 1e-12))
        found.append((sum(gains) / 2, share, sum(scales) / 2))
        best = max(found)
        if len(found) - found.index(best) > 2:
            break
    trials = tuple({"penalty": share, "evidence": gain, "scale": scale} for gain, share, scale in found)
    # halves that contradict each other leave no direction to scale
    return best[1], max(best[2], 0.0), trials


def _objective(cost: _Cost, evidence: Float[Tensor, "d d"]) -> Callable[[Tensor], tuple[float, Tensor]]:
    """Return the smooth part of the objective: cost less evidence."""

    def smooth(V: Tensor) -> tuple[float, Tensor]:
        kl, slope = cost(V)
        return kl - float((V * evidence).sum()), slope - evidence

    return smooth


def _cost(problem: Problem, labels: Tensor, base: Tensor, metric: Metric, seed: int) -> _Cost:
    """Return the cost on positions drawn in proportion to weight · label²."""
    states, device = problem.states, problem.labels.device
    chunks = list(states.sample(4 * POSITIONS, seed=seed).chunks(CHUNK, device=device))
    text = torch.cat([chunk.text for chunk in chunks])
    c = torch.cat([chunk.hidden for chunk in chunks])
    share = problem.weights[text] * labels[text].square()
    drawn = torch.multinomial(share.cpu(), POSITIONS, replacement=True, generator=torch.Generator().manual_seed(seed))
    drawn = drawn.to(device)
    label2 = float(share.mean())
    c, size = c[drawn], labels[text[drawn]].abs()[:, None]
    return _Cost(states, c + c @ base, c @ metric.C_inverse_root, size, label2, metric.S_inverse_root)


def _evidence(states: States, labels: Tensor, base: Tensor, metric: Metric, weights: Weights) -> Float[Tensor, "d d"]:
    """Return `G` of some texts over the background, whitened: one pass."""
    head, device = states.readout.head, labels.device
    weight = text_weights(states, weights).to(device)
    total = torch.zeros(states.d_model, states.d_model, dtype=torch.float64, device=device)
    for c, target, text in states.chunks(CHUNK, device=device):
        slope = nll_gradient(head, c + c @ base, target, weight[text] * labels[text])
        total -= (c.mT @ slope).double()
    white = metric.C_inverse_root.double() @ total @ metric.S_inverse_root.double()
    return (white / states.n_positions).float()


def _curvature(cost: _Cost, d: int) -> float:
    """Return the largest curvature of the cost at zero, by power iteration."""
    V = torch.randn(d, d, generator=torch.Generator().manual_seed(0)).to(cost.white)
    size = 0.0
    for _ in range(8):
        V = V / V.norm() * 1e-2
        V = cost(V)[1] / 1e-2
        size = float(V.norm())
    return size
