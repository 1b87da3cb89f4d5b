"""The best disjoint spans of a sequence of numbers, exactly, by dynamic programming."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
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
    """At most `spans` disjoint spans of at most `max_len` positions whose sums are largest in all.

        maximise Σ_k v(Σ_{start_k ≤ t < end_k} x_t) − price · Σ_k (end_k − start_k)

    with `v(u) = |u|`, `u` or `-u` for sign "both", "+" or "-". With `P` the prefix sums of `x − price`, or of
    `−x − price` for the other sign, and `f_k(j)` the best that `k` spans within the first `j` positions can reach,

        f_k(j) = max( f_k(j-1),  f_{k-1}(j),  max_{j - max_len ≤ i < j} f_{k-1}(i) + P_j − P_i )

    The inner maximum is that of `f_{k-1}(i) − P_i` in a window that slides, from windows of half its width: `log₂ max_len`
    maxima of whole arrays, `O(n · spans · log max_len)` in all.
    Exact in float64; among spans of equal worth the shortest, so no span begins or ends with a 0. A span that adds
    nothing is left out.

    Args:
        price: what a position must be worth to be in a span; above 0, spans shed positions that hardly count.
        starts, ends: where a span may begin, and where it may have its last position; None for everywhere.

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
    values = x.double().cpu().numpy()
    signs = [s for s, name in ((1.0, "+"), (-1.0, "-")) if sign in ("both", name)]
    P = np.zeros((len(signs), n + 1))
    np.cumsum(np.multiply.outer(signs, values) - price, axis=1, out=P[:, 1:])
    leave, arrive = -P, P[:, 1:].copy()  # -inf where no span may begin, or end
    leave[:, n] = -np.inf
    if starts is not None:
        leave[:, :n][:, ~starts.cpu().numpy()] = -np.inf
    if ends is not None:
        arrive[:, ~ends.cpu().numpy()] = -np.inf
    width = min(max_len, n)
    window = np.full((len(signs), width - 1 + n), -np.inf)
    reached = window[:, width - 1 :]  # behind as many places that no span can begin at
    f = [np.zeros(n + 1)]
    for _ in range(min(spans, n)):
        np.add(f[-1][:n], leave[:, :n], out=reached)
        best = f[-1].copy()
        for row in _window_max(window, width) + arrive:
            np.maximum(best[1:], row, out=best[1:])
        f.append(np.maximum.accumulate(best))
    return [Span(i, j, float(sum(values[i:j].tolist()))) for i, j in _trace(P, f, leave, max_len)]


def _window_max(x: Float[np.ndarray, "rows m"], width: int) -> Float[np.ndarray, "rows windows"]:
    """`max(x[k … k + width - 1])` for every place k that a whole window begins at, from windows half as wide."""
    have = 1
    while have < width:
        more = min(have, width - have)
        x = np.maximum(x[:, :-more], x[:, more:])
        have += more
    return x


def _trace(
    P: Float[np.ndarray, "signs m"], f: list[Float[np.ndarray, " m"]], leave: Float[np.ndarray, "signs m"], max_len: int
) -> list[tuple[int, int]]:
    """Start and end of the spans behind the best total, in order of position."""
    found = []
    j = P.shape[1] - 1
    for k in range(len(f) - 1, 0, -1):
        total, before = f[k], f[k - 1]
        if total[j] <= before[j]:
            continue  # one span fewer is as good
        end = int(total.searchsorted(total[j]))  # the first place that reaches it; totals never fall
        first = max(end - max_len, 0)
        reach = (before[first:end] + leave[:, first:end] + P[:, end : end + 1]).max(0)
        j = end - 1 - int(reach[::-1].argmax())  # the shortest
        found.append((j, end))
    return found[::-1]
