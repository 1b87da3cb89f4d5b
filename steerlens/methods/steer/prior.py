"""What is likely of a steer before its texts are read: that it lives in few directions, or in
all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.evidence import nuclear_descent, soft_threshold_singular_values
from steerlens.maths.numbers import generator
from steerlens.methods.steer.cost import Cost
from steerlens.methods.steer.judge import Asked
from steerlens.values.metric import Metric


class Prior(NamedTuple):
    """In which coordinates, and under which penalties, a steer is the most likely one.

    A penalty on singular values leaves few directions; a ridge leaves all of them, each lowered
    in proportion. Damping says which contexts and which words are thought to matter: much of it
    those that vary most, little of it all alike.
    """

    read: float
    """Damping of the contexts' second moment, relative to its mean eigenvalue: the largest one may
    be that of a single direction, a hundred times all others."""
    write: float
    """The same, of the words' covariance."""
    share: float
    """The penalty on singular values, as a share of the largest one of the noise."""
    ridge: float
    """The ridge, relative to the cost's own curvature along the evidence."""


FEW = Prior(read=0.1, write=0.3, share=0.75, ridge=0.0)
ALL = Prior(read=20.0, write=0.2, share=0.0, ridge=3.0)

RESOLVED = 0.1
"""Length of a whitened matrix, at least, whose cost is measured: rounding hides that of a short
one."""

BOLDNESS = 0.6
"""The curvature that steps reckon with, as a part of the largest, which few directions have; see
`nuclear_descent`."""


class Coordinates(NamedTuple):
    """`V = C^{1/2} W S^{1/2}` under the damping of a prior, from the inverse roots."""

    read: Float[Tensor, "d d"]
    write: Float[Tensor, "d d"]

    def unwhiten(self, V: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return self.read @ V @ self.write

    def whiten_slope(self, G: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Return the slope in these coordinates of one in the plain ones."""
        return self.read @ G.to(self.read) @ self.write


def coordinates(metric: Metric, prior: Prior, damping: float | None = None) -> Coordinates:
    """Return a prior's coordinates; `damping`, where it is given, is that of both moments instead,
    relative to the largest eigenvalue."""
    if damping is not None:
        given = metric.damped(damping)
        return Coordinates(given.C_inverse_root, given.S_inverse_root)
    read, write = (
        part * float(values.mean() / values.max().clamp_min(1e-30))
        for part, (values, _) in zip((prior.read, prior.write), metric.spectra, strict=True)
    )
    return Coordinates(metric.damped(read).C_inverse_root, metric.damped(write).S_inverse_root)


class Evidence(NamedTuple):
    """What some texts say of a steer: the mean slope of their likelihood, and as much noise as is
    in it."""

    slope: Float[Tensor, "d d"]
    noise: Float[Tensor, "d d"]


class Objective(NamedTuple):
    """The smooth part: cost, and half the ridge times the square, less evidence, in whitened
    coordinates."""

    cost: Cost
    whitened: Coordinates
    evidence: Float[Tensor, "d d"]
    ridge: float

    def __call__(self, V: Float[Tensor, "d d"]) -> tuple[float, Float[Tensor, "d d"]]:
        kl, slope = self.cost(self.whitened.unwhiten(V))
        value = kl - float((V * self.evidence).sum()) + self.ridge / 2 * float(V.square().sum())
        return value, self.whitened.whiten_slope(slope) - self.evidence + self.ridge * V


def curvature_along(cost: Cost, whitened: Coordinates, V: Float[Tensor, "d d"]) -> float:
    """Return `2 cost / |V|²`, at a length whose cost rounding does not hide, and is measured."""
    size = float(V.square().sum())
    longer = max(1.0, RESOLVED / max(size, 1e-30) ** 0.5)
    part, kl = cost.measured(whitened.unwhiten(longer * V))
    return 2 * kl / max((part * longer) ** 2 * size, 1e-30)


def largest_curvature(cost: Cost, whitened: Coordinates) -> float:
    """Return that of the cost at zero, by power iteration."""
    V, size = torch.randn(whitened.read.shape, generator=generator(0)).to(whitened.read), 0.0
    for _ in range(8):
        V = V / V.norm() * 1e-2
        V = whitened.whiten_slope(cost(whitened.unwhiten(V))[1]) / 1e-2
        size = float(V.norm())
    return size


class Search(NamedTuple):
    """What is the same in all fits of a prior to parts of the texts."""

    prior: Prior
    whitened: Coordinates
    cost: Cost
    steepest: float
    """The cost's largest curvature."""
    ridge: float
    rank: int | None


def search_under(prior: Prior, whitened: Coordinates, cost: Cost, asked: Asked) -> Search:
    """Return what all fits under a prior share; the cost's curvature is measured once."""
    steepest = largest_curvature(cost.at(0, 256), whitened)
    return Search(prior, whitened, cost, steepest, asked.ridge, asked.rank)


def most_likely(
    evidence: Evidence, search: Search, *plan: tuple[int, int]
) -> tuple[Float[Tensor, "d d"], float]:
    """Return the steer that a prior holds for the most likely one, of any length, and by how much
    its singular values were lowered.

    Start from the minimum under a cost that is the same in all directions, and descend on more and
    more positions of the true one.

    Args:
        plan: positions and steps of each descent.
    """
    prior, whitened, cost, rank = search.prior, search.whitened, search.cost, search.rank
    slope, threshold = whitened.whiten_slope(evidence.slope), 0.0
    if prior.share:
        noise = float(torch.linalg.matrix_norm(whitened.whiten_slope(evidence.noise), 2))
        # none so large that no direction is left
        threshold = min(prior.share * noise, 0.9 * float(torch.linalg.matrix_norm(slope, 2)))
    V = soft_threshold_singular_values(slope, threshold, rank)
    isotropic = curvature_along(cost.at(0, plan[0][0]), whitened, V)
    ridge = search.ridge + prior.ridge * isotropic
    V = V / max(isotropic + ridge, 1e-30)
    curvature = BOLDNESS * search.steepest + ridge
    for n_positions, n_steps in plan:
        smooth = Objective(cost.at(0, n_positions), whitened, slope, ridge)
        V = nuclear_descent(smooth, V, threshold, curvature, rank=rank, n_steps=n_steps)
    return whitened.unwhiten(V), threshold
