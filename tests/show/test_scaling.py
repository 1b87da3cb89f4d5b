"""Power laws: exact ones are found exactly, noisy ones with an honest error, and drawn where they
were measured."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress

from steerlens.show.scaling import exponent, plot_scaling

SIZES = np.array([10.0, 100.0, 1_000.0, 10_000.0])


@given(st.floats(-2, 3), st.floats(1e-4, 1e4))
@settings(max_examples=30, deadline=None)
def test_an_exact_law_is_found_exactly(k: float, a: float) -> None:
    found, error, factor = exponent(pd.Series(SIZES), pd.Series(a * SIZES**k))
    assert found == pytest.approx(k, abs=1e-9) and error == pytest.approx(0, abs=1e-6)
    assert factor == pytest.approx(a, rel=1e-6)


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_error_and_exponent_are_those_of_a_regression(seed: int) -> None:
    y = SIZES**1.5 * np.exp(0.3 * np.random.default_rng(seed).normal(size=4))
    expected = linregress(np.log(SIZES), np.log(y))
    found = exponent(pd.Series(SIZES), pd.Series(y))
    assert found[:2] == (pytest.approx(expected.slope), pytest.approx(expected.stderr))


def test_two_sizes_are_no_law() -> None:
    with pytest.raises(ValueError, match="x: got 2 different values"):
        exponent(pd.Series([1.0, 1.0, 2.0]), pd.Series([1.0, 1.1, 2.0]))


def test_medians_are_dots_and_the_law_is_that_of_the_largest_sizes() -> None:
    sizes = [1.0, *SIZES]
    rows = [(s, "fit", 0, 5.0 if s == 1 else s**2 * 1e-3) for s in sizes] + [
        (s, "products", 0, s * 1e-3) for s in sizes
    ]
    ax = plot_scaling(
        pd.DataFrame(rows, columns=["size", "way", "round", "seconds"]), what="tokens"
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["fit: 2.00 ± 0.00", "products: 1.00 ± 0.00"]
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_xlabel() == "tokens"
    medians = [line for line in ax.lines if line.get_label() in labels]
    assert [line.get_ydata()[0] for line in medians] == [5.0, 1e-3]
    plt.close("all")
