"""Where the rows of a prompt start, and what is believed of them before any text is seen."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import generator

DRAWS = 1_000
"""Most rounds of proposals, as many as rows or 64, of the published exclusion rule."""


@runtime_checkable
class Prior(Protocol):
    """A distribution of rows `[n, d]`: same seed, same rows."""

    @property
    def name(self) -> str: ...

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True, eq=False)
class Gaussian:
    """`N(mean, root rootᵀ)`: the isotropic prior, or one fitted to embeddings or states
    (`fit_gaussian`).

    Args:
        mean: `[d]`.
        root: `[d, d]`, a square root of the covariance, invertible for `log_prob`.

    Example:
        >>> isotropic(3, std=0.02).sample(5, seed=0).shape
        torch.Size([5, 3])
    """

    mean: Float[Tensor, " d"]
    root: Float[Tensor, "d d"]
    name: str = "gaussian"

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        return self.mean + _normal(n, len(self.mean), seed).to(self.mean) @ self.root.mT

    def distance(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the Mahalanobis distance from the mean; `√d` is typical of the prior's samples."""
        return torch.linalg.solve(self.root.double(), (rows - self.mean).double().mT).norm(dim=0)

    def log_prob(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the log-density in nats, differentiable in the rows."""
        d = len(self.mean)
        log_det = torch.linalg.slogdet(self.root.double())[1]
        return -0.5 * self.distance(rows) ** 2 - log_det - 0.5 * d * math.log(2 * math.pi)


def isotropic(d: int, std: float = 0.02) -> Gaussian:
    """Return `N(0, std² I)`."""
    if not std > 0:
        raise ValueError(f"std: got {std}, expected a number > 0")
    return Gaussian(torch.zeros(d), std * torch.eye(d), f"isotropic {std:g}")


def fit_gaussian(
    vectors: Float[Tensor, "m d"], *, shrink: float = 0.01, name: str = "fitted gaussian"
) -> Gaussian:
    """Return the Gaussian of given vectors, e.g. token embeddings, or a layer's states over a text.

    Args:
        vectors: at least two.
        shrink: the covariance is mixed with this share of a multiple of the identity with the same
            trace, so that it can be inverted where there are fewer vectors than dimensions.

    Example:
        >>> fit_gaussian(torch.eye(3)).mean.shape
        torch.Size([3])
    """
    if len(vectors) < 2 or not 0 < shrink <= 1:
        raise ValueError(
            f"vectors, shrink: got {len(vectors)} vectors and {shrink}, expected at least 2, and a share in (0, 1]"
        )
    wide = vectors.double()
    covariance = torch.cov(wide.mT)
    d = wide.shape[1]
    if not float(covariance.trace()) > 0:
        raise ValueError(
            "vectors: all are the same, so they have no covariance; use isotropic(d, std)"
        )
    mixed = (1 - shrink) * covariance + shrink * covariance.trace() / d * torch.eye(
        d, dtype=torch.float64
    )
    return Gaussian(wide.mean(0).float(), torch.linalg.cholesky(mixed).float(), name)


@dataclass(frozen=True)
class Xavier:
    """`N(0, 2 / (n + d))` for `n` rows of width `d`, the default of many libraries for a parameter
    `[n, d]`."""

    d: int
    name: str = "xavier"

    def _std(self, n: int) -> float:
        return math.sqrt(2 / (n + self.d))

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        return self._std(n) * _normal(n, self.d, seed)

    def log_prob(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the log-density in nats of rows that were drawn together."""
        std = self._std(len(rows))
        return -0.5 * (rows / std).double().square().sum(1) - self.d * math.log(
            std * math.sqrt(2 * math.pi)
        )


@dataclass(frozen=True, eq=False)
class Exclusion:
    """Rows outside of where a Gaussian has its samples.

    `rule="radius"`: a random direction of the Gaussian, at `factor` times the typical distance
    `√d`. `rule="published"`: a draw from the Gaussian with its covariance widened by `c^(2/d)`,
    accepted with probability `max(0, 1 − p(x)/p_wide(x))` (Sedov et al., arXiv 2412.18582, section
    3.3, c = 5). In many dimensions that excludes next to nothing: at d = 2048 the accepted draws
    lie at 1.02 times the typical distance, which is why the other rule is the default.
    """

    inner: Gaussian
    rule: str = "radius"
    factor: float = 2.0
    c: float = 5.0
    name: str = "exclusion"

    def __post_init__(self) -> None:
        if self.rule not in ("radius", "published"):
            raise ValueError(f"rule: got {self.rule!r}, expected 'radius' or 'published'")
        if not (self.factor > 1 and self.c > 1):
            raise ValueError(f"factor, c: got {self.factor} and {self.c}, expected numbers > 1")

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        d = len(self.inner.mean)
        if self.rule == "radius":
            u = _normal(n, d, seed).to(self.inner.mean)
            return (
                self.inner.mean
                + self.factor
                * math.sqrt(d)
                * (u / u.norm(dim=1, keepdim=True))
                @ self.inner.root.mT
            )
        random, width, found = generator(seed), self.c ** (1 / d), 0
        kept: list[Tensor] = []
        for _ in range(DRAWS):
            u = width * torch.randn(max(n, 64), d, generator=random, dtype=torch.float64)
            # ratio of the densities at root·u + mean; the widened one is lower by c at the middle
            ratio = self.c * torch.exp(-0.5 * u.square().sum(1) * (1 - 1 / width**2))
            kept.append(u[torch.rand(len(u), generator=random, dtype=torch.float64) < 1 - ratio])
            found += len(kept[-1])
            if found >= n:
                return (
                    self.inner.mean + torch.cat(kept)[:n].to(self.inner.mean) @ self.inner.root.mT
                )
        raise ValueError(
            f"c: of {DRAWS * max(n, 64)} draws {found} were accepted, {n} are needed; take a larger c, or rule='radius'"
        )


@dataclass(frozen=True)
class Interpolation:
    """`αx + (1 − α)y` with `x` and `y` of two priors and `α` uniform on [0, 1]: between two
    domains."""

    first: Prior
    second: Prior
    name: str = "interpolation"

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        x, y = self.first.sample(n, seed), self.second.sample(n, seed + 1)
        alpha = torch.rand(n, 1, generator=generator(seed + 2)).to(x)
        return alpha * x + (1 - alpha) * y


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Rows drawn from given vectors without replacement while there are some: token embeddings, all
    or the most frequent."""

    vectors: Float[Tensor, "m d"]
    name: str = "vocabulary"

    def __post_init__(self) -> None:
        _check_some(self.vectors)

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        random = generator(seed)
        rounds = -(-n // len(self.vectors))
        order = torch.cat(
            [torch.randperm(len(self.vectors), generator=random) for _ in range(rounds)]
        )
        return self.vectors[order[:n]]


@dataclass(frozen=True, eq=False)
class FixedRows:
    """The same rows each time: the embeddings of class-label words or of a text; where more are
    asked for they are repeated."""

    vectors: Float[Tensor, "m d"]
    name: str = "given"

    def __post_init__(self) -> None:
        _check_some(self.vectors)

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        return self.vectors[torch.arange(n) % len(self.vectors)]


@dataclass(frozen=True, eq=False)
class FixedThenPrior:
    """Given rows first; where more are asked for, the rest is drawn from another prior."""

    vectors: Float[Tensor, "m d"]
    rest: Prior
    name: str = "filled"

    def __post_init__(self) -> None:
        _check_some(self.vectors)

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        more = n - len(self.vectors)
        return (
            torch.cat([self.vectors, self.rest.sample(more, seed).to(self.vectors)])
            if more > 0
            else self.vectors[:n]
        )


def total_log_prob(prior: object, rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the log-density of some rows, nats.

    Raises:
        ValueError: the prior has none.
    """
    density = getattr(prior, "log_prob", None)
    if density is None:
        name = getattr(prior, "name", type(prior).__name__)
        raise ValueError(
            f"prior: {name!r} has no density, so it can start a fit and not be a term of its loss; use a Gaussian"
        )
    return density(rows).sum()


def _check_some(vectors: Float[Tensor, "m d"]) -> None:
    if not len(vectors):
        raise ValueError("vectors: got none, expected at least one")


def _normal(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    return torch.randn(n, d, generator=generator(seed))
