"""The best spans: as good as trying every choice, and obedient to every limit."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerlens.maths.spans import best_spans, windows_before

VALUE = {"both": abs, "+": lambda u: u, "-": lambda u: -u}
quarters = st.integers(-8, 8).map(
    lambda k: k / 4
)  # sums of quarters are exact, so totals can be compared


def worth(x: list[float], sign: str, price: float) -> float:
    return VALUE[sign](sum(x)) - price * len(x)


def brute_force(
    x: list[float],
    spans: int,
    max_len: int,
    sign: str,
    price: float,
    starts: list[bool],
    ends: list[bool],
) -> float:
    """The best total, by trying every set of disjoint spans."""

    @cache
    def best(position: int, left: int) -> float:
        if position >= len(x) or left == 0:
            return 0.0
        found = best(position + 1, left)
        if starts[position]:
            for end in range(position + 1, min(position + max_len, len(x)) + 1):
                if ends[end - 1]:
                    found = max(found, worth(x[position:end], sign, price) + best(end, left - 1))
        return found

    return best(0, spans)


@st.composite
def problems(draw):
    n = draw(st.integers(1, 12))
    lists = [
        draw(st.lists(item, min_size=n, max_size=n))
        for item in (quarters, st.booleans(), st.booleans())
    ]
    price = draw(st.sampled_from([0.0, 0.25, 0.75]))
    return (
        *lists,
        draw(st.integers(1, 5)),
        draw(st.integers(1, 14)),
        draw(st.sampled_from(sorted(VALUE))),
        price,
    )


@given(problems())
def test_no_choice_of_spans_is_better(problem):
    x, starts, ends, spans, max_len, sign, price = problem
    limits = {"starts": torch.tensor(starts), "ends": torch.tensor(ends)}
    found = best_spans(torch.tensor(x), spans, max_len, sign=sign, price=price, **limits)
    total = sum(worth(x[s.start : s.end], sign, price) for s in found)
    assert total == brute_force(x, spans, max_len, sign, price, starts, ends)
    assert len(found) <= spans
    assert all(a.end <= b.start for a, b in pairwise(found))
    for span in found:
        assert 0 < span.end - span.start <= max_len
        assert (
            span.value == sum(x[span.start : span.end])
            and worth(x[span.start : span.end], sign, price) > 0
        )
        assert starts[span.start] and ends[span.end - 1]


@given(st.lists(quarters, min_size=2, max_size=20), st.data())
def test_what_stands_before_each_place(x, data):
    longest = data.draw(st.integers(1, len(x) - 1))
    found = windows_before(np.array(x), longest).tolist()
    assert found == [
        [x[longest + t - 1 - k] for t in range(len(x) - longest)] for k in range(longest)
    ]


def test_turning_the_signs_turns_the_values():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    there, back = best_spans(x, 3, 5), best_spans(-x, 3, 5)
    assert [(s.start, s.end) for s in there] == [(s.start, s.end) for s in back]
    assert [s.value for s in there] == pytest.approx([-s.value for s in back])


def test_zeros_are_not_part_of_a_span():
    assert best_spans(torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 0.0]), 1, 6) == [(2, 5, 2.0)]
    assert best_spans(torch.zeros(5), 2, 3) == []


def test_nothing_to_choose_from():
    assert best_spans(torch.zeros(0), 2, 3) == []
    assert best_spans(torch.ones(3), 0, 3) == []
    assert best_spans(torch.ones(3), 2, 3, sign="-") == []
    assert best_spans(torch.ones(1), 4, 100) == [(0, 1, 1.0)]
