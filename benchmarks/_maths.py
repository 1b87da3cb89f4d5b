"""The small closed forms beside what they replace: the map between models, spans, a low-rank
SVD."""

import time
from collections.abc import Iterator

import torch
from _measure import Line, alternate, medians, number, ratio
from jaxtyping import Float
from torch import Tensor

import steerlens as sl
from steerlens.maths.least_squares import regress
from steerlens.maths.spans import best_spans
from steerlens.maths.svd import svd

ADAM_STEPS = 5_000
AT_ONCE = 20
"""Calls that are timed together where one takes microseconds: texts are highlighted one after the
other."""


def lines(quick: bool) -> Iterator[Line]:
    yield from maps(quick)
    yield spans(quick)
    yield low_rank(quick)


def adam(
    X: Float[Tensor, "n d_x"], Y: Float[Tensor, "n d_y"], steps: int, *, seed: int = 0
) -> Float[Tensor, "d_x d_y"]:
    """The map by descent, as the paper has it (Han et al., appendix F): from noise, step 0.01, mean
    squared error."""
    M = torch.randn(
        X.shape[1], Y.shape[1], generator=torch.Generator().manual_seed(seed)
    ).requires_grad_(True)
    optimiser = torch.optim.Adam([M], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(X @ M, Y).backward()
        optimiser.step()
    return M.detach()


def maps(quick: bool) -> Iterator[Line]:
    """toy-128 → toy-64 in full with the residuals of both; real sizes from a few steps of the
    reference."""
    X, Y = (e.float() for e in sl.align(*map(sl.load_model, ("toy-128", "toy-64"))).embeddings())
    yield mapping("map-toy", "toy-128 → toy-64", X, Y, 200 if quick else ADAM_STEPS, 2)
    if not quick:
        random = torch.Generator().manual_seed(0)
        X = torch.randn(50_000, 768, generator=random)
        Y = X @ torch.randn(768, 1024, generator=random) / 28 + torch.randn(
            50_000, 1024, generator=random
        )
        yield mapping("map", "random", X, Y, 2, 2)


def mapping(
    key: str,
    name: str,
    X: Float[Tensor, "n d_x"],
    Y: Float[Tensor, "n d_y"],
    steps: int,
    rounds: int,
) -> Line:
    found = {}
    ways = {
        "closed form": lambda: found.update(ours=regress(X, Y).M.float()),
        "QR": lambda: torch.linalg.lstsq(X, Y),
        "Adam": lambda: found.update(adam=adam(X, Y, steps)),
    }
    seconds = alternate(ways, rounds, warm=0)
    seconds["Adam"] = [ADAM_STEPS / steps * taken for taken in seconds["Adam"]]
    residual = {way: float(((Y - X @ M) ** 2).sum() / (Y**2).sum()) for way, M in found.items()}
    whole = steps == ADAM_STEPS
    most = None if whole else 2.0  # seconds at real sizes
    numbers = [number("residual", [residual["ours"]])] + (
        [number("Adam's residual", [residual["adam"]])] if whole else []
    )
    return Line(
        key, "map for transfer", "5,000 Adam steps" + ("" if whole else f" (from {steps})"), "one QR, float32",
        "≥ 100 ×" + ("" if whole else ", ≤ 2 s"),
        f"{name}, d {Y.shape[1]} → {X.shape[1]}, {len(X):,} tokens",
        (
            ratio("times faster", seconds["Adam"], seconds["closed form"], least=100.0),
            ratio("times the limit", seconds["closed form"], seconds["QR"]),
            number("seconds", seconds["closed form"], most=most), *numbers,
        ),
        medians(seconds), note="float64 and five held-out folds included",
    )  # fmt: skip


def triple_loop(x: list[float], spans: int, longest: int) -> list[tuple[int, int]]:
    """The best disjoint spans by plain loops over their number, their end and their start."""
    n = len(x)
    sums = [0.0]
    for value in x:
        sums.append(sums[-1] + value)
    totals = [[0.0] * (n + 1)]
    starts = [[-1] * (n + 1)]
    for k in range(spans):
        best, start_of = [0.0] * (n + 1), [-1] * (n + 1)
        for end in range(1, n + 1):
            best[end] = best[end - 1]
            for start in range(max(end - longest, 0), end):
                total = totals[k][start] + abs(sums[end] - sums[start])
                if total > best[end]:
                    best[end], start_of[end] = total, start
        totals.append(best)
        starts.append(start_of)
    found, end = [], n
    for k in range(spans, 0, -1):
        while end > 0 and starts[k][end] < 0:
            end -= 1
        if end > 0:
            found.append((starts[k][end], end))
            end = starts[k][end]
    return found[::-1]


def spans(quick: bool) -> Line:
    n, few, longest = 1_000, 4, 10
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    found = {}
    ways = {
        "ours": lambda: found.update(
            ours=[best_spans(x, few, longest) for _ in range(AT_ONCE)][-1]
        ),
        "loops": lambda: found.update(loops=triple_loop(x.double().tolist(), few, longest)),
    }
    seconds = alternate(ways, 9 if quick else 31, warm=3)
    seconds["ours"] = [taken / AT_ONCE for taken in seconds["ours"]]
    assert [(s.start, s.end) for s in found["ours"]] == found["loops"]
    return Line(
        "highlight", "highlight: the best spans", "dynamic programme in three plain loops", "O(n · spans)", "≥ 50 ×",
        f"{n:,} tokens, {few} spans of ≤ {longest}",
        (ratio("times faster", seconds["loops"], seconds["ours"], least=50.0),), medians(seconds),
        note="some thirty array operations take one to four microseconds each; running maxima and sums a third of it",
    )  # fmt: skip


def low_rank(quick: bool) -> Line:
    d, rank = (768, 16) if quick else (4_096, 64)
    random = torch.Generator().manual_seed(0)
    A, B = (torch.randn(d, rank, generator=random) for _ in range(2))
    W, found = A @ B.mT, {}

    def limit() -> None:
        """Where the factors are known: two QRs and the SVD of a rank × rank matrix."""
        (Q, R), (P, S) = torch.linalg.qr(A), torch.linalg.qr(B)
        U, s, Vh = torch.linalg.svd(R @ S.mT)
        found["limit"] = (Q @ U, s, Vh @ P.mT)

    def ours() -> None:
        found["ours"] = svd(W)

    begun = time.perf_counter()
    full = torch.linalg.svd(W, full_matrices=False).S  # once: the longest of all by far
    slow = time.perf_counter() - begun
    seconds = alternate({"ours": ours, "limit": limit}, 5)
    worst = float((found["ours"][1][:rank] - full[:rank]).abs().max() / full[0])
    assert worst < 1e-4, worst
    seconds["full SVD"] = [slow] * 5
    return Line(
        "svd", f"SVD of a rank-{rank} W", "full SVD", "QR + SVD of rank²", "≥ 30 ×", f"d {d:,}, factors not known",
        (
            ratio("times faster", seconds["full SVD"], seconds["ours"], least=30.0),
            ratio("times the limit", seconds["ours"], seconds["limit"]),
            number("largest error", [worst]),
        ),
        medians(seconds),
    )  # fmt: skip
