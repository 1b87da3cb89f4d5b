"""Intervals."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import t


def mean_interval(x: Sequence[float] | Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent numbers, e.g. one a seed, and the ends of its t interval; NaN ends for a single number.

        x̄ ± t_{n−1} s / √n

    Example:
        >>> mean_interval([1.0, 2.0, 3.0])[0]
        2.0
    """
    x = np.asarray(x, dtype=float)
    if not len(x):
        raise ValueError("x: got no numbers, expected at least one")
    if len(x) == 1:
        return float(x[0]), math.nan, math.nan
    half = float(t.ppf(0.5 + level / 2, len(x) - 1)) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def bootstrap_ratio(
    top: Float[np.ndarray, " n"], bottom: Float[np.ndarray, " n"], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """`Σ top / Σ bottom` over independent units (texts), and its 95 % interval by drawing units with replacement.

    Example:
        >>> bootstrap_ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        (0.5, 0.5, 0.5)
    """
    pick = np.random.default_rng(seed).integers(0, len(top), (draws, len(top)))
    low, high = np.quantile(top[pick].sum(1) / bottom[pick].sum(1), [0.025, 0.975])
    return float(top.sum() / bottom.sum()), float(low), float(high)
