"""The best disjoint spans of a sequence of numbers, exactly, by dynamic programming."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

Sign = Literal["both", "+", "-"]
WAYS: dict[Sign, tuple[float, ...]] = {"both": (1.0, -1.0), "+": (1.0,), "-": (-1.0,)}


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

    with `v(u) = |u|`, `u` or `-u` for sign "both", "+" or "-". A span's worth is the difference of
    two running sums `S` of `x − price` or of `−x − price`, whichever is larger, so with `f_k(j)`
    the best that `k` spans within the first `j` positions can reach,

        f_k(j) = max( f_k(j-1),  f_{k-1}(j),  max_± S(j) + max_{j - max_len ≤ i < j} f_{k-1}(i) − S(i) )

    for all `j` at once: `O(n · spans · log max_len)` in a few array operations per span. Exact in
    float64; among spans of equal worth the shortest, so no span begins or ends with a 0. A span
    that adds nothing is left out.

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
    # a thousand small numbers: numpy's calls cost a fraction of torch's, and of one row a third
    # of two, so both ways lie behind one another
    values, longest = x.double().cpu().numpy(), min(max_len, n)
    ways, width = WAYS[sign], longest - 1 + n
    begun, ended = np.full((2, len(ways) * width), -np.inf)
    for k, way in enumerate(ways):
        sums = np.zeros(n + 1)
        (way * values - price).cumsum(out=sums[1:])
        here = k * width
        # no span begins before the first position
        begun[here + longest - 1 : here + width] = -sums[:-1]
        ended[here : here + n] = sums[1:]
    if starts is not None:
        begun.reshape(-1, width)[:, longest - 1 :][:, ~starts.cpu().numpy()] = -np.inf
    if ends is not None:
        ended.reshape(-1, width)[:, :n][:, ~ends.cpu().numpy()] = -np.inf
    ended = ended[: len(ended) - longest + 1]
    f = np.zeros((min(spans, n) + 1, n + 1))
    so_far = np.zeros(len(begun))
    for k in range(1, len(f)):
        for here in range(longest - 1, len(begun), width):
            so_far[here : here + n] = f[k - 1, :-1]
        reached = window_maxima(so_far + begun, longest) + ended
        best = f[k - 1, 1:]
        for here in range(0, len(reached), width):
            best = np.maximum(best, reached[here : here + n])
        np.maximum.accumulate(best, out=f[k, 1:])
    found, j = [], n
    for k in range(len(f) - 1, 0, -1):
        if f[k, j] <= f[k - 1, j]:
            continue  # one span fewer is as good
        j = int(f[k].searchsorted(f[k, j]))  # the first place that reaches it; totals never fall
        first = max(j - longest, 0)
        worth = np.array([f[k-1, first:j] + begun[h+longest-1+first:h+longest-1+j] + ended[h+j-1] for h in range(0,len(begun),width)]).max(0)
        length = 1 + int(worth[::-1].argmax())  # the shortest
        found.append((j - length, j))
        j -= length
    return [Span(i, j, float(sum(values[i:j].tolist()))) for i, j in found[::-1]]


def window_maxima(x: Float[np.ndarray, " m"], width: int) -> Float[np.ndarray, " n"]:
    """Return the largest of every `width` numbers in a row: of two, four, eight …, then of two such
    windows that overlap.

    Example:
        >>> window_maxima(np.array([1.0, 5.0, 2.0, 3.0]), 3).tolist()
        [5.0, 5.0]
    """
    reached, n = 1, len(x) - width + 1
    while 2 * reached <= width:
        x = np.maximum(x[:-reached], x[reached:])
        reached *= 2
    return np.maximum(x[:n], x[-n:]) if reached < width else x
