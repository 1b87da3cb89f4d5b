"""Methods over draws of their texts: means of what `compare` says, differences text by text."""

import math
from collections.abc import Sequence

import pytest

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.draws import compare_draws
from steerlens.evaluate.sign_margin import strength_on_texts
from tests.models.zoo import TEXTS, random_steer, zoo

TEST = sl.Labelled(TEXTS, [1.0, -0.5, 1.0, -1.0])


def test_means_are_of_what_compare_says_and_differences_are_taken_within_texts() -> None:
    model = zoo("gpt2")
    one, other = (random_steer(model, seed=k) for k in (0, 1))
    zero = 0 * one
    fits: dict[str, Sequence[sl.Steer]] = {
        "own": [one, other], "longer": [2 * one, 3 * other], "other": [other, other], "nothing": [zero, zero],
        "half": [one, zero],
    }  # fmt: skip
    table = compare_draws(model, fits, TEST, against="own", kl=0.03).set_index("name")
    each = compare(model, {"one": one, "other": other}, TEST, kl=0.03).sign_margin
    assert abs(each[0] - each[1]) > 1e-3
    assert table.sign_margin["own"] == pytest.approx(each.mean(), rel=1e-4)
    assert table.sign_margin["other"] == pytest.approx(each[1], rel=1e-4)
    assert (table.least["own"], table.most["own"]) == pytest.approx(
        (each.min(), each.max()), rel=1e-4
    )
    assert table.difference["other"] == pytest.approx(each[1] - each.mean(), abs=1e-5)
    for column in ("difference", "difference_low", "difference_high"):
        assert table[column]["own"] == 0
        assert table[column]["longer"] == pytest.approx(0, abs=1e-4)
    assert table.low["longer"] < table.high["longer"] - 0.01  # though not the difference from it
    assert table.strength["half"] == strength_on_texts(model, TEST, one, kl=0.03)
    assert math.isnan(table.strength["nothing"])
    assert table.sign_margin["nothing"] == 0
    assert table.difference["nothing"] == -table.sign_margin["own"]


@pytest.mark.parametrize("draws", [{"a": 1, "b": 1}, {"c": 1, "b": 2}, {"c": 0}])
def test_what_cannot_be_compared_is_refused(draws: dict[str, int]) -> None:
    made = {name: [random_steer(zoo("gpt2"))] * n for name, n in draws.items()}
    with pytest.raises(ValueError, match="against, fits: got 'c' and draws"):
        compare_draws(zoo("gpt2"), made, TEST, against="c")
