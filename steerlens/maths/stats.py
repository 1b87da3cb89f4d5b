"""Intervals, and how often chance does as well."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import root_scalar
from scipy.stats import binomtest, norm, spearmanr, t

from steerlens.maths.numbers import numpy_generator


def mean_interval(
    x: Sequence[float] | Float[np.ndarray, " n"], level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of independent numbers, e.g. one per seed, and the ends of its t interval.

    The ends are NaN for a single number.

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


def rank_correlation(
    x: Float[np.ndarray, " n"] | Sequence[float], y: Float[np.ndarray, " n"] | Sequence[float]
) -> float:
    """Return Spearman's rank correlation; NaN, with scipy's warning, where one of them is constant.

    Example:
        >>> rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 7.0])
        1.0
    """
    found: Any = spearmanr(x, y)  # whose stubs do not say what it is
    return float(found.statistic)


def bootstrap_ratio(
    top: Float[np.ndarray, " n"],
    bottom: Float[np.ndarray, " n"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return `Σ top / Σ bottom` over independent units (texts), and its 95 % interval.

    The interval is found by drawing units with replacement, so it stays within what ratios can be;
    of few units it is too narrow, see `ratio_interval`. One unit has none, NaN.

    Example:
        >>> bootstrap_ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        (0.5, 0.5, 0.5)
    """
    if len(top) == 1:
        return float(top[0] / bottom[0]), math.nan, math.nan
    pick = numpy_generator(seed).integers(0, len(top), (draws, len(top)))
    low, high = np.quantile(top[pick].sum(1) / bottom[pick].sum(1), [0.025, 0.975])
    return float(top.sum() / bottom.sum()), float(low), float(high)


FEW = 40
"""Units below which drawing them with replacement gives too narrow an interval."""


def ratio_interval(
    top: Float[np.ndarray, " n"],
    bottom: Float[np.ndarray, " n"],
    *,
    variance: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return `Σ top / Σ bottom` over independent units (texts), and its 95 % interval: by drawing
    units with replacement, and of fewer than 40, where that is too narrow (it covers 0.71 with
    three units), Student's, of the ratio's standard error.

    Units count as many as vary alike (Satterthwaite 1946): a hundred texts of which ten vary ten
    times as much as the others are about ten.

        n_eff = (Σ v)² / Σ v²        degrees of freedom: n_eff (n − 1) / n

    Args:
        variance: `v`, how much each unit's `top` varies, up to a factor; None: as `bottom`, like
            sums over a text's tokens.

    Example:
        >>> ratio_interval(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        (0.5, 0.5, 0.5)
    """
    v = np.abs(bottom if variance is None else variance)
    count = float(v.sum() ** 2 / (v**2).sum()) if v.any() else len(top)
    if len(top) == 1 or count >= FEW:
        return bootstrap_ratio(top, bottom, seed=seed)
    ratio = float(top.sum() / bottom.sum())
    half = float(t.ppf(0.975, count * (1 - 1 / len(top)))) * ratio_error(top, bottom)
    return ratio, ratio - half, ratio + half


def ratio_error(top: Float[np.ndarray, " n"], bottom: Float[np.ndarray, " n"]) -> float:
    """Return the standard error of `Σ top / Σ bottom` over independent units, to first order.

    Example:
        >>> ratio_error(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
        1.0
    """
    n, ratio = len(top), top.sum() / bottom.sum()
    spread = ((top - ratio * bottom) ** 2).sum() * n / max(n - 1, 1)
    return float(math.sqrt(spread) / bottom.sum())


def even_weights(
    size: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return weights by which positive and negative labels weigh the same.

        w_i = 1 / Σ_j |y_j| size_j        over the units j whose label has the sign of y_i

    Example:
        >>> even_weights(np.ones(3), np.array([1.0, 1.0, -1.0])).tolist()
        [0.5, 0.5, 1.0]
    """
    weight = np.zeros(len(labels))
    for some in (labels > 0, labels < 0):
        if size[some].any():
            weight[some] = 1 / (np.abs(labels) * size)[some].sum()
    return weight


def even_interval(
    top: Float[np.ndarray, " n"], bottom: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """Return `Σ w top / Σ w bottom` over independent units, and its 95 % interval, with weights by
    which positive and negative labels weigh the same (`even_weights`), held fixed; of labels of one
    sign `ratio_interval`.

    What goes by the label alone (`top = a · y · bottom`, such as a liking for all texts at +1 and a
    dislike at -1) is 0 then, however many units there are of either sign. Where two have a sign
    the interval may be too narrow (0.88 to 0.97 of such hold the ratio); of one it has no ends, NaN.

    Example:
        >>> even_interval(np.array([1.0, 1.0, -1.0]), np.ones(3), np.array([1.0, 1.0, -1.0]))[0]
        0.0
    """
    positive = labels > 0
    fewest = min(np.count_nonzero(bottom[some]) for some in (positive, ~positive))
    if not fewest:
        return ratio_interval(top, bottom)
    weight, left = even_weights(bottom, labels), np.zeros(len(top))
    for some in (positive, ~positive):
        # a kind's own ratio is fitted to it, so that what is left varies too little by this much
        own, n = top[some].sum() / bottom[some].sum(), some.sum()
        left[some] = (top[some] - own * bottom[some]) * math.sqrt(n / max(n - 1, 1))
    ratio = float((weight * top).sum() / (weight * bottom).sum())
    if fewest == 1:
        return ratio, math.nan, math.nan
    return ratio_interval(
        weight * (left + ratio * bottom), weight * bottom, variance=weight**2 * bottom
    )


def top_by_chance(draws: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Return what one more draw by chance exceeds in no more than 1 of 20 cases; of fewer than 19,
    which cannot say it, the largest.

    The quantile of the draws themselves is exceeded more often: that of 20 in 1 of 11 cases.

        the ⌈0.95 (n + 1)⌉-th smallest

    Example:
        >>> top_by_chance(range(1, 21)), top_by_chance(range(1, 101))
        (20.0, 96.0)
    """
    x = np.sort(np.asarray(draws, dtype=float))
    return float(x[min(math.ceil(0.95 * (len(x) + 1) - 1e-9), len(x)) - 1])


ROUNDING = 1e-9
"""Of a variance: what is below it is rounding."""


class Permuted(NamedTuple):
    """What labels gain in their own order, by text, and how often random orders gain as much."""

    gains: Float[np.ndarray, "ways n"]
    p: float


def permute_labels(
    worth: Float[np.ndarray, "ways n"],
    labels: Float[np.ndarray, " n"],
    *,
    orders: int = 999,
    seed: int = 0,
) -> Permuted:
    """Return what labels gain, `(y − ȳ) · worth` by text, and the p-value of its sum against labels
    in random order.

        p = (1 + #{orders: max_ways z ≥ max_ways z of the labels}) / (1 + orders)

    Each sum is divided by its standard error in its order before the largest is taken, so that the
    choice of the best way is allowed for (Westfall and Young 1993). One p, as exact as labels are
    exchangeable between texts; and about right where labels say nothing but how much a text varies,
    as where those of a rare label are longer (DiCiccio and Romano 2017).

        z = Σ y w / (Σ y² e² / (1 − h))^{1/2}        e = w − w̄ − y Σyw/Σy²,  h = 1/n + y²/Σy²

    with `y` less its mean (HC2 of MacKinnon and White 1985).

    Args:
        worth: what a unit of label gains in each text, several ways.
        labels: of the texts; those at the mean label gain nothing.

    Example:
        >>> y = np.array([1.0, -1.0] * 10)
        >>> permute_labels(y[None], y).p
        0.001
    """
    random = numpy_generator(seed)
    y = labels - labels.mean()
    w = worth - worth.mean(1, keepdims=True)
    tried = np.stack([y, *(random.permutation(y) for _ in range(orders))])
    power = (y**2).sum()
    # a text that alone has its label leaves nothing of itself: 0 / 0 without the floor
    left = np.maximum(1 - 1 / len(y) - tried**2 / max(power, 1e-300), 1e-2)
    weight = tried**2 / left
    sums, whole = w @ tried.T, w**2 @ weight.T
    slope = sums / max(power, 1e-300)
    variance = whole - 2 * slope * (w @ (weight * tried).T) + slope**2 * (weight * tried**2).sum(1)
    z = (sums / np.sqrt(np.maximum(variance, ROUNDING * whole + 1e-300))).max(0)
    # a sum of the same numbers in another order is as large as the labels' own, not a rounding less
    reached = z[1:] >= z[0] - 1e-5 * abs(z[0])
    return Permuted(worth * y, float((1 + reached.sum()) / (1 + orders)))


def benjamini_hochberg(p: Float[np.ndarray, " m"], n: int) -> Float[np.ndarray, " m"]:
    """Return p-values adjusted for `n` tests, of which the given ones may count as found.

        q_i = min over j ≥ i of n · p_j / j, at most 1        p in ascending order

    The share of accidents to be expected among those with as small a p. As
    `scipy.stats.false_discovery_control` of all `n`, the others at 1, without sorting these.

    Example:
        >>> benjamini_hochberg(np.array([0.3, 0.01]), n=10).tolist()
        [1.0, 0.1]
    """
    order = np.argsort(-p, kind="stable")
    q = np.minimum.accumulate(n * p[order] / np.arange(len(p), 0, -1))
    found = np.empty_like(q)
    found[order] = np.minimum(q, 1.0)
    return found


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `n` independent units (Wilson 1927), which has a
    width, unlike the bootstrap's, also where all are alike.

    Example:
        >>> [round(end, 3) for end in share_interval(1.0, 10)]
        [0.722, 1.0]
    """
    found = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def auc_interval(auc: float, n_high: int, n_low: int) -> tuple[float, float]:
    """Return the 95 % interval of the chance that one of `n_high` units scores above one of `n_low`:
    what chances have the one found within z = 1.96 of their own standard errors (method 5 of Newcombe
    2006), so that it has a width also where all do.

        (θ − auc)² = z² θ (1 − θ) (1 + N ((1 − θ)/(2 − θ) + θ/(1 + θ))) / (n_high n_low)
        N = (n_high + n_low)/2 − 1

    Example:
        >>> [round(end, 2) for end in auc_interval(1.0, 10, 10)]
        [0.8, 1.0]
    """
    z, more, pairs = float(norm.ppf(0.975)), (n_high + n_low) / 2 - 1, n_high * n_low

    def lowest(area: float) -> float:
        def beyond(x: float) -> float:
            variance = x * (1 - x) * (1 + more * ((1 - x) / (2 - x) + x / (1 + x))) / pairs
            return area - x - z * math.sqrt(variance)

        # at 1 the error is 0, which is no end
        bracket = (0.0, min(area, 1 - 1e-12))
        return float(root_scalar(beyond, bracket=bracket).root) if area > 0 else 0.0

    return lowest(auc), 1 - lowest(1 - auc)
