"""Numbers are shown as they are, with a real minus sign and never a negative zero."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlens.show.numbers import fixed, format_signed, interval, percent, tidy

NUMBERS = st.floats(-1e6, 1e6)


def value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@given(NUMBERS | st.floats(-0.01, 0.01), st.integers(0, 4), st.booleans())
def test_a_number_is_itself_rounded_and_zero_has_no_sign(x: float, digits: int, sign: bool):
    text = fixed(x, digits, sign=sign)
    assert value(text) == pytest.approx(x, abs=0.51 * 10**-digits)
    assert "-" not in text and not re.fullmatch(r"[−+]0(\.0*)?", text)
    assert text.startswith("+") == (sign and value(text) > 0)
    assert value(percent(x).removesuffix("\u202f%")) == pytest.approx(100 * x, abs=0.51)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_what_is_missing_is_nothing(missing: float | None):
    assert fixed(missing) == interval(missing, 0.0, 1.0) == ""


@given(st.floats(-100, 100).map(lambda x: round(x, 2)))
def test_a_label_says_its_sign_but_for_zero(x: float):
    assert value(format_signed(x)) == x and (format_signed(x)[0] in "+−") == (x != 0)


@given(NUMBERS, st.sampled_from(["+.4f", ".3f", "g", ".2e"]))
def test_numbers_in_a_sentence_keep_their_values(x: float, how: str):
    text = tidy(f"margin {x:{how}}, held-out [{x:{how}}] at -1")
    assert "-" not in text.replace("held-out", "") and not re.search(r"−0(\.0+)?(?![\d.e])", text)
    for shown in re.findall(r"[+−]?[\d.]+(?:e[+−]\d+)?", text)[:-1]:
        assert value(shown) == float(f"{x:{how}}")
