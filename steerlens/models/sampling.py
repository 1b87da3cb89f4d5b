"""Draw tokens by inverse cumulative probability, so that one number gives one token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import as_count, as_number, as_seed, generator_of

BUCKETS, REACH = 4_096, 32.0
"""Tokens are put in order only within a bucket of logits, 1/128 nats wide; the last holds all that
are e⁻³² times as likely as the likeliest, or less."""


@dataclass(frozen=True)
class Warp:
    """Say which tokens may be drawn from logits, and how likely.

    Args:
        temperature: what logits are divided by; 0 is greedy.
        top_p: sample from the smallest set of likeliest tokens that holds this probability.
        top_k: and among at most so many tokens; None: all.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Warp(top_p=0.9)
        Warp(temperature=1.0, top_p=0.9, top_k=None)
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        expected = "a number ≥ 0 (0 is greedy)"
        if as_number(self.temperature, "temperature", expected) < 0:
            raise ValueError(f"temperature: got {self.temperature}, expected {expected}")
        expected = "a number in (0, 1]"
        if not 0 < as_number(self.top_p, "top_p", expected) <= 1:
            raise ValueError(f"top_p: got {self.top_p}, expected {expected}")
        if self.top_k is not None:
            as_count(self.top_k, "top_k", "a whole number, at least 1, or None")


@dataclass(frozen=True)
class Drawing:
    """Say how many continuations are drawn, how long and from what numbers; see
    `steerlens.generate`.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Drawing(samples=3, max_new_tokens=12).warp.temperature
        1.0
    """

    samples: int = 1
    seed: int = 0
    max_new_tokens: int = 30
    warp: Warp = Warp()

    def __post_init__(self) -> None:
        as_count(self.samples, "samples", "a whole number, at least 1")
        as_count(self.max_new_tokens, "max_new_tokens", "a whole number, at least 1, e.g. 30")
        as_seed(self.seed)

    def uniform(self, prompt: str, occurrence: int, sample: int) -> Float[Tensor, " n"]:
        """Return numbers in [0, 1), one per new token, that depend on nothing but seed and
        arguments.

        So a row is the same in any company.
        """
        random = generator_of(f"{as_seed(self.seed)} {occurrence} {sample} {prompt}")
        return torch.rand(self.max_new_tokens, dtype=torch.float64, generator=random)


def sample_tokens(
    logits: Float[Tensor, "rows vocab"],
    uniform: Float[Tensor, " rows"],
    warp: Warp = Warp(),
) -> Int[Tensor, " rows"]:
    """Return a token per row, by inverse cumulative probability.

    It is the first whose cumulative probability, likeliest first, exceeds the row's uniform number.

    Temperature 0 takes the likeliest. Likeliest first makes nearby distributions give the same
    token for most numbers.
    """
    temperature, top_p, top_k = warp.temperature, warp.top_p, warp.top_k
    if temperature == 0:
        return logits.argmax(1)
    z = logits.double() / temperature
    p = torch.softmax(z, 1)
    bucket = ((z.amax(1, keepdim=True) - z) * (BUCKETS / REACH)).clamp_(max=BUCKETS - 1).long()
    mass = (
        torch.zeros(len(p), BUCKETS, dtype=p.dtype, device=p.device)
        .scatter_add_(1, bucket, p)
        .cumsum(1)
    )
    kept = mass[:, -1]
    if top_p < 1:
        kept = torch.minimum(kept, _reach(p, bucket, mass, (top_p * kept)[:, None], left=True)[1])
    if top_k is not None and top_k < p.shape[1]:
        kept = torch.minimum(kept, p.topk(top_k, dim=1).values.sum(1))
    # a little below, so that rounding in the sums never leads beyond what is kept
    return _reach(p, bucket, mass, (uniform * kept * (1 - 1e-14))[:, None])[0]


def _reach(
    p: Float[Tensor, "rows vocab"],
    bucket: Int[Tensor, "rows vocab"],
    mass: Float[Tensor, "rows buckets"],
    target: Float[Tensor, "rows 1"],
    *,
    left: bool = False,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the first token whose cumulative probability exceeds a target, and that probability.

    Tokens come likeliest first, and of equals the first; with `left` it is the token whose
    probability reaches the target.

    Exact, and no sort of the vocabulary: buckets are in order of probability, so only the one where
    the target is passed is put in order.
    """
    place = torch.searchsorted(mass, target, right=not left)
    place = torch.minimum(
        place, torch.searchsorted(mass, mass[:, -1:].contiguous())
    )  # a bucket that holds something
    before = torch.where(place > 0, mass.gather(1, (place - 1).clamp_min(0)), 0.0)
    inside = bucket == place
    members = p.masked_fill(~inside, -1.0)
    ids = members.topk(int(inside.sum(1).max()), dim=1, sorted=False).indices.sort(dim=1).values
    found, order = members.gather(1, ids).sort(dim=1, descending=True, stable=True)
    cumulative = before + found.clamp_min(0).cumsum(1)
    passed = (cumulative < target if left else cumulative <= target).sum(1, keepdim=True)
    passed = torch.minimum(passed, ((found > 0).sum(1, keepdim=True) - 1).clamp_min(0))
    return ids.gather(1, order.gather(1, passed)).squeeze(1), cumulative.gather(1, passed).squeeze(
        1
    )
