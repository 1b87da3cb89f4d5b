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
    signs = [s for s, name in ((1.0, "+"), (-1.0, "-")) if sign in ("both", name)]
    P = torch.zeros(len(signs), n + 1, dtype=torch.float64)
    torch.cumsum(torch.tensor(signs, dtype=torch.float64)[:, None] * x - price, 1, out=P[:, 1:])
    leave, arrive = -P, P.clone()  # -inf where no span may begin, or end
    leave[:, n] = arrive[:, 0] = -torch.inf
    if starts is not None:
        leave[:, :n][:, ~starts.cpu()] = -torch.inf
    if ends is not None:
        arrive[:, 1:][:, ~ends.cpu()] = -torch.inf
    width, m = min(max_len, n), n + 1
    window = torch.full((1, len(signs), width + n), -torch.inf, dtype=torch.float64)
    reached = window[..., width:]  # behind as many places that no span can begin at
    f = [torch.zeros(m, dtype=torch.float64)]
    for _ in range(min(spans, n)):
        torch.add(f[-1][:n], leave[:, :n], out=reached[0])
        best = torch.maximum((_window_max(window, width) + arrive).amax((0, 1)), f[-1])
        f.append(best.cummax(0).values)
    values = x.numpy()
    return [Span(i, j, float(sum(values[i:j].tolist()))) for i, j in _trace(P, f, leave, max_len)]


NARROW = 16
"""Up to this width looking at every place of a window is faster than anything cleverer."""


def _window_max(x: Float[Tensor, "1 rows m"], width: int) -> Float[Tensor, "1 rows windows"]:
    """`max(x[k … k + width - 1])` for every place k that a whole window begins at; for wide ones two running maxima over blocks.

    A window begins in one block and ends in the same or the next: the larger of the running maximum from the right down to
    its first place and of that from the left up to its last (van Herk 1992; Gil and Werman 1993).
    """
    if width <= NARROW:
        return torch.max_pool1d(x, width, 1)
    m = x.shape[-1]
    blocks = -(-m // width)
    padded = torch.nn.functional.pad(x, (0, blocks * width - m), value=-torch.inf)
    table = padded.unflatten(-1, (blocks, width))
    left = table.cummax(-1).values.flatten(-2)
    right = table.flip(-1).cummax(-1).values.flip(-1).flatten(-2)
    return torch.maximum(right[..., : m - width + 1], left[..., width - 1 : m])


def _trace(
    P: Float[Tensor, "signs m"], f: list[Float[Tensor, " m"]], leave: Float[Tensor, "signs m"], max_len: int
) -> list[tuple[int, int]]:
    """Start and end of the spans behind the best total, in order of position."""
    # single numbers are read from the arrays behind the tensors: a tensor of one number costs a hundred times as much
    totals, sums, begin = [t.numpy() for t in f], P.numpy(), leave.numpy()
    found = []
    j = P.shape[1] - 1
    for k in range(len(f) - 1, 0, -1):
        total, before = totals[k], totals[k - 1]
        if total[j] <= before[j]:
            continue  # one span fewer is as good
        end = int(total.searchsorted(total[j]))  # the first place that reaches it; totals never fall
        first = max(end - max_len, 0)
        reach = (before[first:end] + begin[:, first:end] + sums[:, end : end + 1]).max(0).tolist()
        j = first + max(i for i, r in enumerate(reach) if r == max(reach))  # the shortest
        found.append((j, end))
    return found[::-1]
