"""Who may attend to whom where a few gist tokens stand between an instruction and what follows
it."""

from typing import Literal, get_args

from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.maths.brief import brief

Control = Literal["gist", "positive", "negative"]


def gist_mask(
    index: Int[Tensor, "batch pos"],
    start: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
    *,
    queries: Int[Tensor, "batch new"] | None = None,
    control: Control = "gist",
    begin: int = 0,
) -> Bool[Tensor, "batch new pos"]:
    """Return whether the token of each row may attend to that of each column.

    Rows are the second axis, columns the third.

    Every token sees itself and what stands before it. What follows the gist (`end` and later) does
    not see the instruction (`begin` up to `start`), and so knows of it only what the gist tokens
    (`start` up to `end`) say. Padding neither sees nor is seen.

    Args:
        index: of each token in its row's text, 0 the first, -1 padding, on either side.
        start, end: first gist token of each row, and the first token behind the gist. A row without
            gist (`start ≥ end`) is plainly causal.
        queries: index of the tokens that attend, e.g. the last one in cached generation; None: all.
        control: "gist"; "positive", the upper bound: what follows sees everything; "negative", the
            lower bound: it sees neither instruction nor gist.
        begin: tokens at the beginning that are no part of the instruction and stay visible, e.g. 1
            for begin-of-text; 0 as published.

    Source: Mu, Li and Goodman (arXiv 2304.08467), which has no `begin`.

    Raises:
        ValueError: an unknown control, `begin` below 0.

    Example:
        >>> import torch
        >>> one = torch.ones(1, dtype=torch.long)
        >>> gist_mask(torch.arange(4)[None], 1 * one, 2 * one).int()
        tensor([[[1, 0, 0, 0],
                 [1, 1, 0, 0],
                 [0, 1, 1, 0],
                 [0, 1, 1, 1]]], dtype=torch.int32)
    """
    check_gist(control, begin)
    queries = index if queries is None else queries
    keys = index[:, None, :]
    plain = (keys >= 0) & (keys <= queries[:, :, None])
    if control == "positive":
        return plain
    start, end = start[:, None, None], end[:, None, None]
    hidden = (keys >= begin) & (keys < (start if control == "gist" else end)) & (start < end)
    return plain & ~(hidden & (queries[:, :, None] >= end))


def check_gist(control: str, begin: int) -> None:
    """Raise where these are none of `gist_mask`'s."""
    if control not in get_args(Control):
        raise ValueError(
            f"control: got {brief(control)}, expected 'gist', 'positive' or 'negative'"
        )
    if begin < 0:
        raise ValueError(
            f"begin: got {begin}, expected a number ≥ 0, e.g. 1 to leave begin-of-text visible"
        )
