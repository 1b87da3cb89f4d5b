"""The best disjoint spans of a sequence of numbers, exactly, by dynamic programming."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Sign = Literal["both", "+", "-"]


class Span(NamedTuple):
    """Positions `start … end - 1`, and the sum of the numbers there."""

    start: int
    end: int
    value: float


def best_spans(
    x: Float[Tensor, " n"],
    spans: int,
    max_len: int,
    *,
    sign: Sign = "both",
    price: float = 0.0,
    starts: Bool[Tensor, " n"] | None = None,
    ends: Bool[Tensor, " n"] | None = None,
) -> list[Span]:
    """Return at most `spans` disjoint spans of at most `max_len` positions whose sums are largest
    in all.

        maximise Σ_k v(Σ_{start_k ≤ t < end_k} x_t) − price · Σ_k (end_k − start_k)

    with `v(u) = |u|`, `u` or `-u` for sign "both", "+" or "-". With `w(i, j)` the worth of the span
    `i … j - 1` and `f_k(j)` the best that `k` spans within the first `j` positions can reach,

        f_k(j) = max( f_k(j-1),  f_{k-1}(j),  max_{j - max_len ≤ i < j} f_{k-1}(i) + w(i, j) )

    for all `j` at once, from one row of numbers per length: `O(n · spans · max_len)` in a few array
    operations per span. Exact in float64; among spans of equal worth the shortest, so no span
    begins or ends with a 0. A span that adds nothing is left out.

    Args:
        price: what a position must be worth to be in a span; above 0, spans shed positions that
            hardly count.
        starts, ends: where a span may begin, and where it may have its last position; None for
            everywhere.

    Returns:
        The spans in order of position.

    Example:
        >>> import torch
        >>> best_spans(torch.tensor([1.0, 2.0, -9.0, 0.0, 4.0]), spans=2, max_len=3)
        [Span(start=2, end=3, value=-9.0), Span(start=4, end=5, value=4.0)]
    """
    n = len(x)
    if n == 0 or spans < 1:
        return []
    # a thousand small numbers: numpy's calls cost a fraction of torch's
    values, longest = x.double().cpu().numpy(), min(max_len, n)
    sums = np.zeros(longest + n)
    values.cumsum(out=sums[longest:])
    worth = sums[longest:] - windows_before(sums, longest)
    if sign == "both":
        np.abs(worth, out=worth)
    elif sign == "-":
        np.negative(worth, out=worth)
    if price:
        worth -= price * np.arange(1, longest + 1)[:, None]
    if starts is not None:
        may = np.concatenate([np.zeros(longest - 1, bool), starts.cpu().numpy(), [False]])
        worth[~windows_before(may, longest)] = -np.inf
    if ends is not None:
        worth[:, ~ends.cpu().numpy()] = -np.inf
    f = np.zeros((min(spans, n) + 1, longest + n))
    f[:, : longest - 1] = -np.inf  # no span begins before the first position
    before, total = windows_before(f, longest), np.empty_like(worth)
    for k in range(1, len(f)):
        # before the first span there is nothing to add
        ended = worth if k == 1 else np.add(before[k - 1], worth, out=total)
        best = np.maximum(f[k - 1, longest:], ended.max(0))
        if k + 1 < len(f):
            np.maximum.accumulate(best, out=f[k, longest:])
        else:
            f[k, longest:] = best  # of the last only the largest counts
    found, j = [], n
    f = f[:, longest - 1 :]
    for k in range(len(f) - 1, 0, -1):
        first = int(f[k, : j + 1].argmax())  # the first place that reaches the most
        if f[k, first] <= f[k - 1, j]:
            continue  # one span fewer is as good
        j = first
        length = 1 + int((before[k - 1, :, j - 1] + worth[:, j - 1]).argmax())  # the shortest
        found.append((j - length, j))
        j -= length
    return [Span(i, j, float(sum(values[i:j].tolist()))) for i, j in found[::-1]]


def windows_before(
    x: Shaped[np.ndarray, "*rows m"], longest: int
) -> Shaped[np.ndarray, "*rows longest n"]:
    """Return what stands one, two, … `longest` places before each number from `x[longest]` on.

    These are the same numbers, not a copy.

    Example:
        >>> windows_before(np.arange(4), 2).tolist()
        [[1, 2], [0, 1]]
    """
    # numpy's sliding_window_view gives the same rows, and its checks cost more than the search
    *rows, m = x.shape
    *steps, step = x.strides
    return np.ndarray(
        (*rows, longest, m - longest), x.dtype, x, (longest - 1) * step, (*steps, -step, step)
    )
