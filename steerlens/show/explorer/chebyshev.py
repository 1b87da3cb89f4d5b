"""Smooth functions of one strength or two, as few numbers that a page can evaluate."""

from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product

import numpy as np
from jaxtyping import Float
from numpy.polynomial.chebyshev import chebpts1, chebvander

Strengths = tuple[float, ...]
"""One strength per steer."""


@dataclass(frozen=True)
class Box:
    """All strengths between two ends, one axis per steer, and polynomials over them.

    A function that is smooth there, such as the logarithm of a sum of exponentials of the
    strengths, is given by its values at `n` Chebyshev nodes per axis:

        f(s) ≈ Σ_ij  a_ij T_i(x_1) T_j(x_2)        x = (2s − low − high) / (high − low) ∈ [−1, 1]

    with an error that falls geometrically in `n`. Coefficients are in row-major order.

    Example:
        >>> box = Box((-2.0,), (2.0,), 9)
        >>> a = box.coefficients(np.exp(box.nodes[:, 0]))
        >>> bool(abs((box.basis(np.array([[0.7]])) @ a).item() - np.exp(0.7)) < 1e-5)
        True
    """

    low: Strengths
    high: Strengths
    n: int

    @cached_property
    def nodes(self) -> Float[np.ndarray, "m axes"]:
        """The strengths at which a function has to be known."""
        low, high = np.array(self.low), np.array(self.high)
        points = np.array(list(product(chebpts1(self.n), repeat=len(self.low))))
        return (low + high + (high - low) * points) / 2

    def basis(self, strengths: Float[np.ndarray, "q axes"]) -> Float[np.ndarray, "q m"]:
        """Return the products of polynomials at some strengths."""
        low, high = np.array(self.low), np.array(self.high)
        x = (2 * strengths - low - high) / (high - low)
        each = [chebvander(x[:, k], self.n - 1) for k in range(len(self.low))]
        return reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(x), -1), each)

    def coefficients(self, values: Float[np.ndarray, "*batch m"]) -> Float[np.ndarray, "*batch m"]:
        """Return the coefficients of the functions with these values at the nodes."""
        return values @ np.linalg.inv(self.basis(self.nodes)).T

    def probes(self, n: int) -> Float[np.ndarray, "q axes"]:
        """Return the corners, the middle of strengths and `n` other places: where to see how good a
        polynomial is."""
        corners = product(*zip(self.low, self.high, strict=True))
        inside = np.random.default_rng(0).uniform(self.low, self.high, (n, len(self.low)))
        return np.array([*corners, (0.0,) * len(self.low), *inside])
