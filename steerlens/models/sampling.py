"""Draw tokens by inverse cumulative probability, so that one number gives one token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BUCKETS, REACH = 4_096, 32.0
"""Tokens are put in order only within a bucket of logits, 1/128 nats wide; the last holds all that
are e⁻³² times as likely as the likeliest, or less."""


def sample_tokens(
    logits: Float[Tensor, "rows vocab"],
    uniform: Float[Tensor, " rows"],
    temperature: float,
    top_p: float,
    top_k: int | None,
) -> Int[Tensor, " rows"]:
    """Return a token per row, by inverse cumulative probability.

    It is the first whose cumulative probability, likeliest first, exceeds the row's uniform number.

    Temperature 0 takes the likeliest. Likeliest first makes nearby distributions give the same
    token for most numbers.
    """
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
