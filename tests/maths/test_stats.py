"""Intervals hold what they say they hold."""

import math

import numpy as np
import pytest

from steerlens.maths.stats import bootstrap_ratio, ratio_interval


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
