"""The singular directions of a steer, how much each is worth, and how far they can be believed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.moments import Costs, costs
from steerlens.maths.numbers import as_count
from steerlens.maths.svd import svd
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_metric, check_same_model, steer_of
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer

CHUNK = 512
"""Positions whose logits are held at once."""
ROUNDING = 1e-4
"""Of the largest gain: what is below is no gain. Fits are in float32, and whitening by a damped
metric costs a digit or two."""


class Directions(NamedTuple):
    """`W = Σ_k gains_k · probes_kᵀ writes_k`, and the contexts `reads_k` that each probe answers
    to.

    A context `c` (a row) has the reading `c · probes_k` and is shifted by
    `gains_k · reading · writes_k`. `reads_k` is the context that goes with a reading of 1:
    `reads_k · probes_k = 1`. `a`, `b` are the singular vectors themselves, in the coordinates of
    the metric: orthonormal rows.
    """

    gains: Float[Tensor, " rank"]
    probes: Float[Tensor, "rank d_model"]
    reads: Float[Tensor, "rank d_model"]
    writes: Float[Tensor, "rank d_model"]
    shares: Float[Tensor, " rank"]
    a: Float[Tensor, "rank d_model"]
    b: Float[Tensor, "rank d_model"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """All gains of a steer, and what they cost.

    `table` has a row per direction: `direction`, `gain`, `share` (of the sum of squares),
    `cumulative`. With a metric also `kronecker`, half the square of the gain, which approximates
    nats per token. With states also, in nats per token at strength 1, to second order (see
    `spectrum`):

    - `cost`: of the direction alone;
    - `part`: its part of the whole, with half of each cross term. Parts add up to `kl`.

    `effective_rank` is the exponential of the entropy of the shares: the number of directions if
    all had the same share. `kronecker` is half the sum of squares: what the steer costs if contexts
    and the covariance of words were independent, in the metric's damping; None for the plain
    metric. `kl` is what it does cost to second order on the states, nats per token; None without
    states.
    """

    table: pd.DataFrame
    effective_rank: float
    kronecker: float | None = None
    kl: float | None = None

    def _repr_html_(self) -> str:
        if self.kl is not None:
            cost = f", {self.kl:.4f} nats per token at strength 1 (second order)"
        elif self.kronecker is not None:
            cost = f", Kronecker approximation {self.kronecker:.4f}; for nats per token give states"
        else:
            cost = ""
        head = self.table.head(12).round(4).to_html(index=False)
        return f"<p>effective rank {self.effective_rank:.1f}{cost}</p>{head}"


def directions(W: Float[Tensor, "d d"], rank: int, metric: Metric | None = None) -> Directions:
    """Return the leading singular directions, in float64; see `singular_words` for the formulas.

    Signs are as the SVD gives.
    """
    M = W.double().cpu() if metric is None else metric.whiten(W.double()).cpu()
    U, gains, Vh = svd(M)
    a, b = U.mT[:rank], Vh[:rank]
    shares = (gains**2 / (gains**2).sum().clamp_min(1e-300))[:rank]
    if metric is None:
        return Directions(gains[:rank], a, a, b, shares, a, b)
    root, inverse, S_inverse = (
        x.double().cpu() for x in (metric.C_root, metric.C_inverse_root, metric.S_inverse_root)
    )
    return Directions(gains[:rank], a @ inverse, a @ root, b @ S_inverse, shares, a, b)


@torch_defaults()
def spectrum(
    steer: Steer | Fit, *, metric: Metric | None = None, states: States | None = None
) -> Spectrum:
    """Give the singular values of `W`, or of `C^{1/2} W S^{1/2}`, and what each direction costs.

    With the reading `u_i` of a direction at a position and `v_i` what it adds to the logits there
    per unit of reading, with its gain, the slope of a soft cap in it:

        cost_i = E_t[½ u_i² Var_{p_t}(v_i)]        part_i = E_t[½ Cov_{p_t}(u_i v_i, Σ_j u_j v_j)]
        kl = Σ_i part_i = E_t[½ Var_{p_t}(s · c_t W e)]        nats per token at strength 1

    This is the KL as the strength goes to 0 times the square of the strength, every position of the
    states counting once; `strength_cost` has the exact KL at any strength. The metric alone cannot
    know it: it holds two means, and the cost is a mean of products. Its number is in `kronecker`:
    undamped it is 1.4 to 3.9 times too small on fitted steers, and damping adds to it, so it can as
    well be too large. `part` can be negative, where a direction undoes what others do.

    Truncating after k directions (`steer.truncate(k, metric)`) keeps the share `cumulative` of the
    squared length in the metric, more than any other steer of that rank.

    Args:
        metric: of the same model, from `natural_metric`; None for the plain SVD.
        states: of the same model, on whose text the cost is taken. One pass, at most five products
            with `W_U` a position; some thousand positions are plenty
            (`states.sample(4_096, seed=0)`).

    Raises:
        ValueError: a metric or states of another model.

    Example:
        >>> import torch
        >>> from steerlens import Readout
        >>> on = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> spectrum(Steer(torch.diag(torch.tensor([2.0, 1.0])), on)).table.cumulative.tolist()
        [0.8, 1.0]
    """
    steer = steer_of(steer)
    check_metric(metric, steer)
    check_text(states, steer)
    found = directions(steer.W, steer.readout.d_model, metric)
    shares = found.shares
    columns = {
        "direction": torch.arange(1, len(shares) + 1),
        "gain": found.gains,
        "share": shares,
        "cumulative": shares.cumsum(0),
    }
    kronecker, kl = None, None
    if metric is not None:
        columns["kronecker"] = found.gains**2 / 2
        kronecker = float(columns["kronecker"].sum())
    if states is not None:
        sums = _costs(found, states)
        columns |= {"cost": sums.alone / sums.weight, "part": sums.part / sums.weight}
        kl = float(sums.total / sums.weight)
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
    return Spectrum(table, float(entropy.exp()), kronecker, kl)


def _costs(found: Directions, states: States) -> Costs:
    head = states.readout.head
    probes = found.probes.to(head.W_U)
    writes = (found.gains[:, None] * found.writes).to(head.W_U)
    parts = (
        costs(head, c, probes, writes, torch.ones_like(c[:, 0]))
        for c, _, _ in states.chunks(CHUNK, device=head.W_U.device)
    )
    return reduce(Costs.plus, parts)


@torch_defaults()
def split_half_reliability(
    steer: Steer | Fit,
    pairs: Sequence[tuple[Steer, Steer]],
    *,
    rank: int = 5,
    metric: Metric | None = None,
) -> pd.DataFrame:
    """Say which singular directions of a steer replicate when it is fitted to other texts.

    Each pair holds two fits to halves of the texts that share none, as independent as the texts
    are. The direction of one half that corresponds to the steer's k-th, `a`, `b`, is looked for in
    the other half's matrix `M'`:

        kept = aᵀ M' b / gain_k, no further than ±1
        reads = |a projected on the other's leading `rank` directions|²       writes: of `b`

    (all in the metric, both ways round). 1: the other half does there what the steer does, or more
    of it; noise: 0 on average; `chance` is `rank / d_model`. Comparing the steer itself with fits
    to parts of its own texts would find its noise again: `kept` is then near the share of texts in
    common, whatever the direction. Directions correspond by the best assignment of
    `|cos a| · |cos b|` among the half's leading 2 · `rank`. A half has half the text, so the steer's
    own directions are, if anything, better than this says.

    A ratio needs a gain to compare. A comparison is left out where the steer's gain there, that of
    the half where the direction was found, or every gain of the other half is no more than rounding
    (a ten-thousandth of the largest gain of the three): such a direction is arbitrary, and its
    share would be noise over nothing. `kept` is NaN where no comparison is left, as for a steer
    fitted to labels that say nothing, which may be all but zero where its halves are not.

    Args:
        pairs: from `steerlens.fit_split_halves`.
        rank: how many directions.
        metric: of the same model; None for the plain SVD.

    Returns:
        One row per direction: `direction`, `gain`, `kept` (mean, in [-1, 1] or NaN), `spread` (its
        standard deviation over the comparisons, NaN with fewer than two), `reads`, `writes` (mean
        overlaps), `chance`, `comparisons` (those that `kept` could be taken from). Believe a row
        whose `kept` is well above 0 beside its spread and whose overlaps are well above chance;
        others, NaN among them, are noise, or a mixture that another fit would mix otherwise.

    Raises:
        ValueError: no pairs, a steer that lives elsewhere, a rank out of range.

    Example:
        >>> import torch
        >>> from steerlens import Readout
        >>> on = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> one, other = (Steer(torch.diag(torch.tensor(x)), on) for x in ([2.0, 1.0], [2.0, -0.5]))
        >>> split_half_reliability(one, [(one, other)], rank=2).kept.tolist()
        [1.0, -0.75]
    """
    steer = steer_of(steer)
    check_metric(metric, steer)
    check_rank(steer, rank)
    check_pairs(pairs)
    found = directions(steer.W, rank, metric)
    kept, reads, writes = [], [], []
    for one, other in (way for pair in pairs for way in (pair, pair[::-1])):
        _ = steer + one + other  # raises where they live on different read-outs
        mine, theirs = (directions(x.W, min(2 * rank, len(x.W)), metric) for x in (one, other))
        M = other.W.double().cpu() if metric is None else metric.whiten(other.W.double()).cpu()
        alike = (found.a @ mine.a.mT).abs() * (found.b @ mine.b.mT).abs()
        match = torch.as_tensor(linear_sum_assignment(alike.numpy(), maximize=True)[1])
        a, b = mine.a[match], mine.b[match]
        least = torch.minimum(found.gains, mine.gains[match]).clamp_max(theirs.gains[0])
        floor = ROUNDING * max(float(x.gains[0]) for x in (found, mine, theirs))
        share = (torch.einsum("ki,ij,kj->k", a, M, b) / found.gains).clamp(-1, 1)
        kept.append(torch.where(least > floor, share, torch.nan))
        reads.append((a @ theirs.a[:rank].mT).square().sum(1))
        writes.append((b @ theirs.b[:rank].mT).square().sum(1))
    values = pd.DataFrame(torch.stack(kept).numpy())
    return pd.DataFrame(
        {
            "direction": range(1, len(found.gains) + 1),
            "gain": found.gains.numpy(),
            "kept": values.mean(),  # of the comparisons that are not NaN
            "spread": values.std(),
            "reads": torch.stack(reads).mean(0).numpy(),
            "writes": torch.stack(writes).mean(0).numpy(),
            "chance": rank / steer.readout.d_model,
            "comparisons": values.count(),
        }
    )


def check_rank(steer: Steer, rank: int) -> None:
    """Raise on a rank that there is not, and on a steer whose `W_U` was written to since: its words
    would be others."""
    steer.readout.check_unchanged()
    d = steer.readout.d_model
    as_count(rank, "rank", f"1 … {d} (d_model)", most=d)


def check_text(states: States | None, steer: Steer) -> None:
    """Raise where states are not of the steer's model; None is none."""
    if states is not None:
        check_states(states)
        check_same_model(states, steer)


def check_pairs(pairs: Sequence[tuple[Steer, Steer]], name: str = "pairs") -> None:
    """Raise where something else was given than pairs of fits to halves of the texts."""
    said = (
        "expected at least one pair of fits to halves of the texts; see steerlens.fit_split_halves"
    )
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise ValueError(f"{name}: got {type(pairs).__name__}, {said}")
    if not pairs:
        raise ValueError(f"{name}: got none, {said}")
    for pair in pairs:
        if not isinstance(pair, Sequence) or [type(x) for x in pair] != [Steer, Steer]:
            got = brief(
                tuple(type(x).__name__ for x in pair) if isinstance(pair, Sequence) else pair
            )
            raise ValueError(f"{name}: got {got} among them, {said}; of a fit take .value")
