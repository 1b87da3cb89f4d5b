"""The gist mask against the rule written out for one pair of tokens at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steerlens.methods.gist.formulas import gist_mask

CONTROLS = ("gist", "positive", "negative")


def may(i: int, j: int, start: int, end: int, control: str, begin: int) -> bool:
    """Whether token `i` of a text may attend to token `j`, by the published rule."""
    if j > i:
        return False
    if control == "positive" or i < end or start >= end or j < begin:
        return True
    return j >= start if control == "gist" else j >= end


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Texts of several lengths, padded on either side, and where the gist of each is."""
    width = draw(st.integers(1, 7))
    index, starts, ends = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(1, width))
        left = draw(st.booleans())
        text, padding = list(range(n)), [-1] * (width - n)
        index.append(padding + text if left else text + padding)
        starts.append(draw(st.integers(0, n)))
        ends.append(draw(st.integers(0, n)))
    return torch.tensor(index), torch.tensor(starts), torch.tensor(ends)


@pytest.mark.parametrize("control", CONTROLS)
@given(case=rows(), begin=st.integers(0, 2))
def test_every_pair_of_tokens_is_as_the_rule_says(control, case, begin) -> None:
    index, start, end = case
    found = gist_mask(index, start, end, control=control, begin=begin)
    assert found.shape == (*index.shape, index.shape[1]) and found.dtype == torch.bool
    for row, places in enumerate(index.tolist()):
        for a, i in enumerate(places):
            for b, j in enumerate(places):
                real = i >= 0 and j >= 0
                assert found[row, a, b] == (
                    real and may(i, j, int(start[row]), int(end[row]), control, begin)
                )


@pytest.mark.parametrize("control", CONTROLS)
@given(case=rows(), n=st.integers(1, 7))
def test_some_queries_are_rows_of_the_whole(control, case, n) -> None:
    index, start, end = case
    whole = gist_mask(index, start, end, control=control)
    last = gist_mask(index, start, end, queries=index[:, -n:], control=control)
    assert torch.equal(last, whole[:, -n:])


@given(case=rows(), begin=st.integers(0, 2))
def test_negative_sees_no_more_than_gist_and_gist_no_more_than_positive(case, begin) -> None:
    low, middle, high = (
        gist_mask(*case, control=c, begin=begin) for c in ("negative", "gist", "positive")
    )
    assert not (low & ~middle).any() and not (middle & ~high).any()
    real = case[0] >= 0
    assert torch.equal(low.diagonal(dim1=1, dim2=2), real)  # every token sees itself


def test_what_follows_reaches_the_instruction_through_the_gist_alone() -> None:
    """Paths of several layers: in the graph without the gist tokens nothing leads from what follows
    to the instruction."""
    index, start, end = torch.arange(7)[None], torch.tensor([3]), torch.tensor([5])
    seen = gist_mask(index, start, end)[0].float()
    reached = torch.linalg.matrix_power(seen, 4) > 0
    assert reached[5:, :3].all()
    seen[3:5] = seen[:, 3:5] = 0
    assert not (torch.linalg.matrix_power(seen, 4) > 0)[5:, :3].any()
    negative = gist_mask(index, start, end, control="negative")[0].float()
    assert not (torch.linalg.matrix_power(negative, 4) > 0)[5:, :5].any()


def test_a_row_without_gist_is_plainly_causal() -> None:
    index = torch.arange(5)[None]
    at = torch.tensor([3])
    for control in CONTROLS:
        assert torch.equal(
            gist_mask(index, at, at, control=control)[0], torch.ones(5, 5).tril().bool()
        )


def test_bad_arguments_are_refused_by_name(unchecked) -> None:
    index, at = torch.arange(5)[None], torch.tensor([3])
    with pytest.raises(
        ValueError, match="control: got 'none', expected 'gist', 'positive' or 'negative'"
    ):
        gist_mask(index, at, at, control="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="begin: got -1, expected a number ≥ 0"):
        gist_mask(index, at, at, begin=-1)
