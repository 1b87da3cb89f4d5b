"""Positions belong to a text: the same under any padding, and token by token as in one pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerlens.values.positions import PositionSelector, TokenIndex, parse_positions, places_of
from tests.values.make import picked

LENGTH = 7


def mask_of(lengths: list[int], *, left: bool) -> Tensor:
    """An attention mask of texts of some lengths, padded on one side."""
    width = max(lengths)
    rows = [[0] * (width - n) + [1] * n if left else [1] * n + [0] * (width - n) for n in lengths]
    return torch.tensor(rows)


def chosen(positions: str, places: TokenIndex) -> tuple[list[list[int]], list[list[int]]]:
    """The indices, in their texts, of the tokens of beginning and end."""
    beginning, end = parse_positions(positions).masks(places)
    return tuple(
        [row[m].tolist() for row, m in zip(places.index, mask, strict=True)]
        for mask in (beginning, end)
    )  # pyright: ignore[reportReturnType]


CASES = [
    ("f2+l3", 7, [0, 1], [4, 5, 6]),  # enough room for both
    ("f2+l3", 6, [0, 1], [3, 4, 5]),
    ("f2+l3", 5, [0, 1], [2, 3, 4]),  # they meet
    ("f2+l3", 4, [0, 1], [2, 3]),  # even: a half each
    ("f2+l3", 3, [0], [1, 2]),  # odd: the middle one is the end's
    ("f2+l3", 2, [0], [1]),
    ("f2+l3", 1, [], [0]),
    ("f2+l3", 0, [], []),
    (
        "f3+l1",
        3,
        [0],
        [2],
    ),  # the end leaves one out rather than that the beginning takes more than its half
    ("f9+l9", 5, [0, 1], [2, 3, 4]),
    ("f2", 3, [0, 1], []),
    ("f2", 2, [0, 1], []),
    ("f2", 1, [0], []),
    ("f2", 0, [], []),
    ("l2", 3, [], [1, 2]),
    ("l2", 1, [], [0]),
    ("l2", 0, [], []),
    ("prompt", 3, [0, 1, 2], []),
    ("prompt", 0, [], []),
    ("new", 3, [], [3, 4, 5, 6]),
    ("new", 0, [], [0, 1, 2, 3, 4, 5, 6]),
    ("new", 7, [], []),
    ("all", 3, [0, 1, 2], [3, 4, 5, 6]),
    ("all", 0, [], [0, 1, 2, 3, 4, 5, 6]),
    ("f1+new", 3, [0], [3, 4, 5, 6]),
    ("new+l1", 3, [], [2, 3, 4, 5, 6]),
    ("f1+l1+new", 3, [0], [2, 3, 4, 5, 6]),
    ("l1+f1", 3, [0], [2]),
]


@pytest.mark.parametrize("positions, prompt, beginning, end", CASES)
@pytest.mark.parametrize(
    "pads", [(0, 0), (3, 0), (0, 2)], ids=["whole", "padded left", "padded right"]
)
def test_places_by_hand(
    positions: str, prompt: int, beginning: list[int], end: list[int], pads: tuple[int, int]
) -> None:
    mask = torch.tensor([[0] * pads[0] + [1] * LENGTH + [0] * pads[1]])
    places = places_of(mask, torch.tensor([prompt]))
    assert chosen(positions, places) == ([beginning], [end])
    assert picked(positions, prompt, LENGTH) == (beginning, end)  # what the tests of models go by


@pytest.mark.parametrize("positions, prompt, beginning, end", CASES)
def test_a_cached_step_holds_one_token_whose_index_is_that_of_the_text(
    positions: str, prompt: int, beginning: list[int], end: list[int]
) -> None:
    for i in range(LENGTH):
        step = TokenIndex(torch.tensor([[i]]), torch.tensor([prompt]))
        at = [mask.tolist() == [[True]] for mask in parse_positions(positions).masks(step)]
        assert at == [i in beginning, i in end]


def test_places_count_real_tokens_on_either_side_of_padding() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    places = places_of(mask, torch.tensor([1, 2, 3, 1]))
    expected = [[0, 1, 2, -1, -1], [-1, -1, 0, 1, 2], [0, 1, 2, 3, 4], [-1, -1, -1, -1, 0]]
    assert places.index.tolist() == expected
    assert places.prompt.tolist() == [1, 2, 3, 1]


counts = st.integers(0, 4)
rows = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 10)), min_size=1, max_size=4)


@st.composite
def specs(draw: st.DrawFn) -> str:
    """Any positions that can be asked for, the parts in any order."""
    first, last, prompt, new = draw(counts), draw(counts), draw(st.booleans()), draw(st.booleans())
    parts = ["prompt"] if prompt else [f"{end}{n}" for end, n in (("f", first), ("l", last)) if n]
    parts += ["new"] if new or not parts else []
    return "+".join(draw(st.permutations(parts)))


@settings(max_examples=150)
@given(positions=specs(), rows=rows, left=st.booleans())
def test_ends_never_overlap_never_touch_padding_and_take_as_many_as_there_are(
    positions: str, rows: list[tuple[int, int]], left: bool
) -> None:
    lengths, prompts = [n for n, _ in rows], [n for _, n in rows]
    mask, where = mask_of(lengths, left=left), parse_positions(positions)
    beginning, end = where.masks(places_of(mask, torch.tensor(prompts)))
    assert not (beginning & end).any()
    assert not ((beginning | end) & (mask == 0)).any()
    for row, (length, n) in enumerate(rows):
        if n > length:
            continue  # a prompt that was cut
        if where.prompt:
            first, last = n, 0
        elif where.first and where.last:
            first, last = min(where.first, n // 2), min(where.last, (n + 1) // 2)
        else:
            first, last = min(where.first, n), min(where.last, n)
        assert int(beginning[row].sum()) == first
        assert int(end[row].sum()) == last + (length - n if where.new else 0)


@settings(max_examples=150)
@given(positions=specs(), rows=rows)
def test_either_padding_none_and_single_steps_choose_the_same_tokens(
    positions: str, rows: list[tuple[int, int]]
) -> None:
    lengths, prompts = [n for n, _ in rows], torch.tensor([n for _, n in rows])
    left, right = (
        chosen(positions, places_of(mask_of(lengths, left=left), prompts)) for left in (True, False)
    )
    assert left == right
    for row, (length, n) in enumerate(rows):
        alone = places_of(torch.ones(1, length, dtype=torch.long), prompts[row : row + 1])
        assert chosen(positions, alone) == ([left[0][row]], [left[1][row]])
        assert picked(positions, n, length) == (left[0][row], left[1][row])
        steps = [
            chosen(positions, alone._replace(index=alone.index[:, i : i + 1]))
            for i in range(length)
        ]
        for end in (0, 1):
            assert sum((step[end][0] for step in steps), []) == left[end][row]  # noqa: RUF017  (a few lists)


@settings(max_examples=60)
@given(positions=specs())
def test_what_was_written_is_read(positions: str) -> None:
    where, parts = parse_positions(positions), positions.split("+")
    assert where.first == next((int(part[1:]) for part in parts if part[0] == "f"), 0)
    assert where.last == next((int(part[1:]) for part in parts if part[0] == "l"), 0)
    assert (where.prompt, where.new) == ("prompt" in parts, "new" in parts)


def test_all_is_the_prompt_and_what_is_new() -> None:
    assert (
        parse_positions("all")
        == parse_positions("prompt+new")
        == PositionSelector(prompt=True, new=True)
    )
    assert parse_positions("f12+l3") == PositionSelector(first=12, last=3)


BAD = [
    "", " ", "f", "l", "f0", "f-1", "f1.5", "2", "f2l3", "f2 + l3", "f2+", "+f2", "f2+f3", "l1+l1", "new+new", "first",
    "last", "all+new", "all+f1", "F2", "prompts", "f2\n",
]  # fmt: skip


@pytest.mark.parametrize("positions", BAD)
def test_anything_else_is_refused_with_what_can_be_asked_for(positions: str) -> None:
    with pytest.raises(ValueError, match=r"positions: got .*expected 'all', or parts such as f2"):
        parse_positions(positions)


@pytest.mark.parametrize("positions", ["prompt+f1", "l2+prompt", "prompt+new+f1"])
def test_the_whole_prompt_and_a_part_of_it_are_not_asked_for_together(positions: str) -> None:
    with pytest.raises(ValueError, match="positions: .*leave one out"):
        parse_positions(positions)
