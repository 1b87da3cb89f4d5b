"""The best disjoint spans of a sequence of numbers, exactly, by dynamic programming."""

from typing import Literal, NamedTuple

import torch
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

    The inner maximum is that of `f_{k-1}(i) − P_i` in a window that slides: `O(n · spans)` in all, whatever `max_len` is.
    Exact in float64; among spans of equal worth the shortest, so no span begins or ends with a 0. A span that adds
    nothing is left out.

    Args:
        price: what a position must be worth to be in a span; above 0, spans shed positions that hardly count.
        starts, ends: where a span may begin, and where it may have its last position; None for everywhere.

    Returns:
        The spans in order of position.

    Example:
        >>> best_spans(torch.tensor([1.0, 2.0, -9.0, 0.0, 4.0]), spans=2, max_len=3)
        [Span(start=2, end=3, value=-9.0), Span(start=4, end=5, value=4.0)]
    """
    n = len(x)
    if n == 0 or spans < 1:
        return []
    x = x.double().cpu()
    sums = [
        torch.cat([torch.zeros(1, dtype=torch.float64), (s * x - price).cumsum(0)])
        for s, name in ((1.0, "+"), (-1.0, "-"))
        if sign in ("both", name)
    ]
    closed_start = torch.zeros(n + 1, dtype=torch.float64)  # -inf where no span may begin
    closed_start[n] = -torch.inf
    if starts is not None:
        closed_start[:n][~starts.cpu()] = -torch.inf
    closed_end = torch.zeros(n + 1, dtype=torch.float64)  # -inf where no span may end
    closed_end[0] = -torch.inf
    if ends is not None:
        closed_end[1:][~ends.cpu()] = -torch.inf
    f = [torch.zeros(n + 1, dtype=torch.float64)]
    for _ in range(min(spans, n)):
        best = torch.stack([_window_max(f[-1] - P + closed_start, max_len) + P for P in sums]).amax(0)
        f.append(torch.maximum(f[-1], best + closed_end).cummax(0).values)
    return [Span(start, end, float(x[start:end].sum())) for start, end in _trace(sums, f, closed_start, max_len)]


def _window_max(x: Float[Tensor, " m"], width: int) -> Float[Tensor, " m"]:
    """`max(x[j - width … j - 1])` for every j (-inf where there is none): two running maxima over blocks.

    The window of `width` before j ends in one block and begins in the one before it: the larger of the running maximum
    from the left up to j - 1 and of that from the right down to j - width (van Herk 1992; Gil and Werman 1993).
    """
    m, width = len(x), min(width, len(x))
    blocks = -(-(m + width) // width)
    padded = torch.full((blocks * width,), -torch.inf, dtype=x.dtype)
    padded[width : width + m] = x  # padded[width + i] = x[i]
    table = padded.view(blocks, width)
    left = table.cummax(1).values.flatten()
    right = table.flip(1).cummax(1).values.flip(1).flatten()
    return torch.maximum(right[:m], left[width - 1 : width - 1 + m])


def _trace(
    sums: list[Float[Tensor, " m"]], f: list[Float[Tensor, " m"]], closed_start: Float[Tensor, " m"], max_len: int
) -> list[tuple[int, int]]:
    """Start and end of the spans behind the best total, in order of position."""
    found = []
    j = len(f[0]) - 1
    for k in range(len(f) - 1, 0, -1):
        if f[k][j] <= f[k - 1][j]:
            continue  # one span fewer is as good
        end = int((f[k] == f[k][j]).nonzero()[0, 0])  # the first place that reaches it
        window = slice(max(end - max_len, 0), end)
        reach = torch.stack([(f[k - 1] - P + closed_start)[window] + P[end] for P in sums]).amax(0)
        near = (reach == reach.max()).nonzero().squeeze(1)
        j = window.start + int(near[-1])  # the shortest
        found.append((j, end))
    return found[::-1]
