"""Intervals hold what they say they hold."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from steerlens.maths.numbers import numpy_generator
from steerlens.maths.stats import (
    auc_interval,
    bootstrap_ratio,
    even_interval,
    permute_labels,
    ratio_error,
    ratio_interval,
    share_interval,
    top_by_chance,
)


def test_one_unit_has_no_interval() -> None:
    for interval in (bootstrap_ratio, ratio_interval):
        ratio, low, high = interval(np.array([3.0]), np.array([2.0]))
        assert ratio == 1.5 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("n", [3, 8, 30, 60])
def test_an_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    random, covered, draws = np.random.default_rng(n), 0, 400
    for _ in range(draws):
        bottom = random.integers(5, 15, n).astype(float)
        top = 0.3 * bottom + random.normal(0, 1, n) * bottom**0.5
        _, low, high = ratio_interval(top, bottom)
        covered += low <= 0.3 <= high
    # 95 % less three standard errors; drawing with replacement gives 0.71 of three units
    assert covered / draws > 0.915


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_any_integer_of_64_bits(seed: int) -> None:
    x = np.random.default_rng(0).uniform(1, 2, 60)
    found = bootstrap_ratio(x, x + 1, seed=seed)
    assert found == bootstrap_ratio(x, x + 1, seed=seed) != bootstrap_ratio(x, x + 1, seed=seed - 1)
    assert permute_labels(x[None], x - 1.5, orders=19, seed=seed).p > 0


def test_units_that_hardly_vary_do_not_count() -> None:
    random, covered = np.random.default_rng(0), {"told": 0, "not told": 0}
    bottom, spread = np.ones(60), np.where(np.arange(60) < 4, 1.0, 0.05)
    for _ in range(400):
        top = 0.3 + random.normal(0, 1, 60) * spread
        for told, variance in (("told", spread**2), ("not told", None)):
            _, low, high = ratio_interval(top, bottom, variance=variance)
            covered[told] += low <= 0.3 <= high
    assert covered["told"] / 400 > 0.915 > 0.9 > covered["not told"] / 400


@pytest.mark.parametrize("length", [1, 9])
def test_a_rare_label_whose_texts_vary_more_is_not_told_from_others_for_that(length: int) -> None:
    random, few = np.random.default_rng(length), 0
    labels = np.where(np.arange(200) < 20, -1.0, 1.0)
    spread = np.where(labels < 0, length, 1) ** 0.5  # sums over the tokens of a text
    for seed in range(300):
        worth = random.normal(0, 1, (2, 200)) * spread
        few += permute_labels(worth, labels, orders=99, seed=seed).p <= 0.05
    # 5 %, and three standard errors; 0.18 against sums that are not divided by their own error
    assert few / 300 < 0.09


def test_labels_that_say_all_of_a_text_are_told_and_worth_that_is_the_same_is_not() -> None:
    labels = np.array([1.0] * 28 + [-1.0] * 2)
    assert permute_labels(labels[None], labels).p < 0.01
    assert permute_labels(np.full((1, 30), 0.3), labels).p == 1
    assert permute_labels(-labels[None], labels).p == 1
    one = np.array([1.0] * 99 + [-1.0])
    random = np.random.default_rng(0).normal(0, 0.1, (1, 100))
    assert permute_labels(one[None] + random, one).p < 0.03  # one order in a hundred is as good


@pytest.mark.parametrize("few", [4, 15, 75])
def test_what_turns_its_sign_with_the_kind_is_no_mean_of_both(few: int) -> None:
    random, covered = np.random.default_rng(few), 0
    kind = np.arange(150) >= few
    for _ in range(300):
        bottom = random.integers(5, 15, 150).astype(float)
        top = (0.1 + np.where(kind, 0.5, -0.5)) * bottom + random.normal(0, 1, 150) * bottom**0.5
        _, low, high = even_interval(top, bottom, np.where(kind, 1.0, -1.0))
        covered += low <= 0.1 <= high
    assert covered / 300 > 0.91
    assert ratio_interval(top, bottom)[1] > 0.3 or few == 75
    assert even_interval(top, bottom, np.ones(150)) == ratio_interval(top, bottom)


@pytest.mark.parametrize("n", [19, 20, 100, 999])
def test_one_more_draw_lies_above_what_chance_reaches_in_one_of_twenty_cases(n: int) -> None:
    random = np.random.default_rng(n)
    above = np.mean([random.normal() > top_by_chance(random.normal(size=n)) for _ in range(4000)])
    # the 95 % quantile of 20 draws themselves is exceeded in 0.09
    assert 0.035 < above < 0.062


def test_units_of_no_size_have_no_sign_and_one_of_a_sign_has_no_interval() -> None:
    top, bottom = np.array([1.0, 3.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    labels = np.array([1.0, 1.0, -1.0, -1.0])
    assert even_interval(top, bottom, labels) == ratio_interval(top, bottom)
    bottom[3] = 2.0  # how much such units vary one does not say; by the others it was [-2.2, 4.2]
    ratio, *ends = even_interval(top, bottom, labels)
    assert ratio == 1 and np.isnan(ends).all()
    bottom[2] = 2.0
    assert np.isfinite(even_interval(top, bottom, labels)).all()


@pytest.mark.parametrize(("n_high", "n_low", "apart"), [(10, 40, 1.5), (30, 30, 2.5), (8, 8, 0.0)])
def test_intervals_of_shares_and_areas_cover_also_where_all_is_told_apart(
    n_high: int, n_low: int, apart: float
) -> None:
    random = np.random.default_rng(n_high)
    area, share = norm.cdf(apart / 2**0.5), norm.cdf(apart / 2)
    covered = np.zeros(2)
    for _ in range(1_000):
        x = random.normal(np.repeat([apart, 0.0], [n_high, n_low]))
        y = np.repeat([1, 0], [n_high, n_low])
        low, high = auc_interval(float(roc_auc_score(y, x)), n_high, n_low)
        least, most = share_interval(float(((x > apart / 2) == y).mean()), n_high + n_low)
        covered += low <= area <= high, least <= share <= most
    assert (covered / 1_000 > 0.9).all()  # of 16 shares at one half 0.92 is what Wilson has
    # where drawing units again has [1, 1]
    assert auc_interval(1.0, n_high, n_low)[0] < 0.95 and share_interval(1.0, n_low)[0] < 0.95
    for value in (0.0, 0.3, 1.0):
        low, high = auc_interval(value, n_high, n_low)
        assert 0 <= low <= value <= high <= 1
        assert auc_interval(1 - value, n_high, n_low) == pytest.approx((1 - high, 1 - low))


# ---- by hand ----


def test_errors_of_a_few_units_are_those_by_hand() -> None:
    assert ratio_error(np.array([1.0, 3.0, 5.0]), np.ones(3)) == pytest.approx(2 / 3**0.5)
    top, labels = np.array([1.0, 3.0, -1.0, -3.0]), np.array([1.0, 1.0, -1.0, -1.0])
    # each kind's two are 1 from their mean: variance 2, of four units 2 · 4/3 in all
    error = (2 * 4 / 3) ** 0.5 / 2
    ratio, low, high = even_interval(top, np.ones(4), labels)
    assert ratio == 0 and high == -low == pytest.approx(error * student.ppf(0.975, 3))


@pytest.mark.parametrize(("area", "n_high", "n_low"), [(0.8, 10, 10), (0.93, 5, 40), (0.5, 30, 7)])
def test_ends_of_an_area_solve_newcombes_equation(area: float, n_high: int, n_low: int) -> None:
    z, more = 1.959964, (n_high + n_low) / 2 - 1
    for end in auc_interval(area, n_high, n_low):
        spread = 1 + more * ((1 - end) / (2 - end) + end / (1 + end))
        assert (end - area) ** 2 == pytest.approx(
            z**2 * end * (1 - end) * spread / (n_high * n_low), rel=1e-5
        )


def test_sums_of_labels_are_divided_by_their_hc2_errors() -> None:
    random, found = np.random.default_rng(10), {}
    y = np.array([1.0, 0.9, *(-0.2 for _ in range(7)), -0.5])
    worth = 0.25 * y + 0.3 * random.normal(size=(2, 10))
    order = numpy_generator(5)
    centred = y - y.mean()
    orders = np.stack([centred, *(order.permutation(centred) for _ in range(999))])
    for power in (0, 1):  # without the leverage, and with it
        z = np.zeros((1000, 2))
        for k, x in enumerate(orders):
            design = np.stack([np.ones(10), x], 1)
            leverage = np.diag(design @ np.linalg.inv(design.T @ design) @ design.T)
            for way in range(2):
                fit = np.linalg.lstsq(design, worth[way], rcond=None)[0]
                left = (worth[way] - design @ fit) ** 2 / (1 - leverage) ** power
                z[k, way] = (x @ worth[way]) / (x**2 @ left) ** 0.5
        best = z.max(1)
        found[power] = (1 + (best[1:] >= best[0] - 1e-5 * abs(best[0])).sum()) / 1000
    p = permute_labels(worth, y, seed=5).p
    assert p == pytest.approx(found[1], abs=2e-3) and abs(p - found[0]) > 0.02
