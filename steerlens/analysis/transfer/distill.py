"""Moving a steer by what it does to unlabelled text that both models read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.evaluate.losses import sign_margins
from steerlens.evaluate.matched_kl import kl_at_strength
from steerlens.maths.least_squares import FEWEST, Regression, regress
from steerlens.maths.logits import apply_softcap, softcap_gradient
from steerlens.maths.newton import log_prob_along
from steerlens.maths.solvers import conjugate_gradient
from steerlens.methods.steer.fit import fit_steer
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.values.alignment import shared_tokens
from steerlens.values.pairs import Pairs
from steerlens.values.states import States
from steerlens.values.steer import Steer, zero_steer

CHUNK = 1024
PLACES = 256
"""Places read for each dimension of the target: beyond, the match hardly improves."""
RIDGE = 0.3
"""Of the match, nats of cost for a nat of mismatch: much of what two models disagree on is
noise."""
DAMPING = 1e-2
SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of the learned steer in the mean, tried."""


def context_map(pairs: Pairs) -> Regression:
    """Fit `Gᵀ` with `c_src ≈ c_tgt Gᵀ`, ridge by error on held-out places.

    It is not centred, as a steer maps 0 to 0.
    """
    if len(pairs) < FEWEST:
        raise ValueError(
            f"text: both models read {len(pairs)} places of it, expected at least {FEWEST}; give more texts"
        )
    return regress(pairs.c_tgt, pairs.c_src, ridge=None)


def distil(src: Steer, pairs: Pairs, *, seed: int = 0) -> Steer:
    """Fit the steer on the target whose logit shifts are nearest to the source's on the same text.

        minimise  ½ E_t Var_{p_t}(u_t − u'_t) + λ/2 tr(W'ᵀ C W' S)         u = cWe  of the source,  u' = c'W'e'  of the target

    over the places of the pairs and the tokens that both models have, `p_t` the target's
    prediction: to second order the first term is the KL, in nats per token, from the target shifted
    as the source to the target steered. A shift that is the same for all tokens changes nothing,
    hence the variance. The problem is quadratic: conjugate gradients in the target's natural
    metric, until the certified distance to the minimum is 1/500 of that at zero. The result is then
    scaled to match best, so that strength 1 means on the target what it means on the source.
    """
    part = pairs.sample(max(16_384, PLACES * pairs.tgt.d_model), seed=seed)
    metric = natural_metric(pairs.tgt.sample(16_384, seed=seed), damping=DAMPING)
    to_white, to_logits = metric.C_inverse_root, metric.S_inverse_root
    shared = Shared(src, part)

    def covariance(
        shift: Callable[[PairedContexts], Float[Tensor, "n shared"]],
    ) -> Float[Tensor, "d_tgt d_tgt"]:
        """Return `E_t c'ᵀ Cov_p(u, e')` in whitened coordinates."""
        total = torch.zeros_like(to_white, dtype=torch.float64)
        for place in shared.places():
            centred = place.slope * place.p * shared.centre(place, shift(place))
            total += (place.c_tgt.mT @ (centred @ shared.e.mT)).double()
        return (to_white.double() @ total @ to_logits.double() / len(part)).float()

    def curvature(V: Float[Tensor, "d_tgt d_tgt"]) -> Float[Tensor, "d_tgt d_tgt"]:
        W = metric.unwhiten(V)
        return covariance(lambda place: shared.of_target(place, W))

    slope_at_zero = covariance(shared.of_source)
    at_zero = float(slope_at_zero.double().square().sum()) / (2 * RIDGE)
    W = metric.unwhiten(
        conjugate_gradient(curvature, slope_at_zero, RIDGE, tolerance=at_zero / 500)[0]
    )
    _, cross, own = shared.products(W)
    return Steer((cross / own if own > 0 else 1.0) * W, pairs.tgt.readout, src.name)


def selftrain(src: Steer, pairs: Pairs, *, seed: int = 0) -> Steer:
    """Average two steers at equal KL: `distil`, and one that the target learns from the text.

    For the second the source only says how strongly it finds each text steered, by one Newton step
    from 0 under a standard normal prior,

        ŷ = Σ_t ∂ log P_s(x_t)/∂s / (1 + Σ_t Var_p(u_t))        at s = 0, within ±1

    and a steer is fitted on the target with `ŷ` for labels. The two err in different ways, the one
    by what the target's contexts cannot say of the source's, the other by wrong labels, so a mean
    is better than either. Its weights are those of a few that tell texts kept aside best apart,
    again by `ŷ`: with little text the learned part counts little.
    """
    states = pairs.tgt.relabel(strengths_of_texts(src, pairs.src))
    train, judge = states.split(0.8, seed=seed)
    # at the cost of strength 1; only its direction counts
    learned = fit_steer(train, seed=seed, progress=False).value
    matched = distil(src, pairs, seed=seed)
    sample = pairs.tgt.sample(4_096, seed=seed)
    costs = [kl_at_strength(steer, sample, 1.0) for steer in (learned, matched)]
    if not min(costs) > 0:
        return matched
    # KL grows with the square of the strength: of these any mean of mixed weights is brought to the
    # cost of `matched`
    units = learned * (costs[1] / costs[0]) ** 0.5, matched
    mixed = [share * units[0] + (1 - share) * units[1] for share in SHARES]
    level = [(costs[1] / kl_at_strength(steer, sample, 1.0)) ** 0.5 * steer for steer in mixed]
    worth = sign_margins(judge, level, zero_steer(states.readout)).sum(1)
    return Steer(level[int(worth.argmax())].W, states.readout, src.name)


def strengths_of_texts(src: Steer, states: States) -> Float[Tensor, " n_texts"]:
    """Return `ŷ` of `selftrain`, one per text, in one pass over its states."""
    head = states.readout.head
    slope, information = torch.zeros(2, len(states.labels), dtype=torch.float64).unbind()
    for c, target, text in states.chunks(CHUNK):
        c, target = c.to(head.W_U.device), target.to(head.W_U.device)
        z, u = c @ head.W_U + head.b_U, (c @ src.W.to(c)) @ head.W_U
        along = log_prob_along(head, z, u, torch.zeros(len(c), device=c.device), target)
        slope.index_add_(0, text, along.slope.double().cpu())
        information.index_add_(0, text, along.information.double().cpu())
    return (slope / (1 + information)).clamp(-1, 1).float()


def shift_match(src: Steer, moved: Steer, pairs: Pairs) -> float:
    """Return how much of the source's logit shifts a moved steer reproduces at its best strength.

    It is 1 for all of them, 0 for nothing.

    R² = 1 − min_s E Var_p(u − s u') / E Var_p(u) = E Cov_p(u, u')² / (E Var_p(u) E Var_p(u'))        0 where Cov < 0
    """
    source, cross, own = Shared(src, pairs).products(moved.W)
    return max(cross, 0.0) ** 2 / (source * own) if source * own > 0 else 0.0


class PairedContexts(NamedTuple):
    """Some places: contexts of both models, and of the shared tokens the target's prediction and
    slope of its logits."""

    c_src: Float[Tensor, "n d_src"]
    c_tgt: Float[Tensor, "n d_tgt"]
    p: Float[Tensor, "n shared"]
    slope: Float[Tensor, "n shared"] | float


@dataclass(frozen=True, eq=False)
class Shared:
    """Logit shifts of the tokens that two models share, at the places of some pairs."""

    src: Steer
    pairs: Pairs

    @cached_property
    def ids(self) -> tuple[Int[Tensor, " shared"], Int[Tensor, " shared"]]:
        return shared_tokens(self.src.readout, self.pairs.tgt.readout)[1:]

    @cached_property
    def e(self) -> Float[Tensor, "d_tgt shared"]:
        """The target's embeddings of the shared tokens."""
        return self.pairs.tgt.readout.head.W_U[:, self.ids[1]]

    def places(self) -> Iterator[PairedContexts]:
        head, ids = self.pairs.tgt.readout.head, self.ids[1]
        for c_src, c_tgt in self.pairs.chunks(CHUNK):
            c = c_tgt.to(head.W_U.device)
            z = apply_softcap(head, c @ head.W_U + head.b_U)
            a = softcap_gradient(head, z)
            yield PairedContexts(
                c_src, c, torch.softmax(z, 1)[:, ids], a[:, ids] if isinstance(a, Tensor) else a
            )

    def centre(
        self, place: PairedContexts, u: Float[Tensor, "n shared"]
    ) -> Float[Tensor, "n shared"]:
        """Return `u` less its mean under the prediction."""
        return u - (place.p * u).sum(1, keepdim=True) / place.p.sum(1, keepdim=True).clamp_min(
            1e-30
        )

    def of_source(self, place: PairedContexts) -> Float[Tensor, "n shared"]:
        head = self.src.readout.head
        c, E = place.c_src.to(head.W_U.device), head.W_U[:, self.ids[0]]
        a = softcap_gradient(head, apply_softcap(head, c @ E + head.b_U[self.ids[0]]))
        return (a * ((c @ self.src.W) @ E)).to(place.p.device)

    def of_target(
        self, place: PairedContexts, W: Float[Tensor, "d_tgt d_tgt"]
    ) -> Float[Tensor, "n shared"]:
        return place.slope * ((place.c_tgt @ W) @ self.e)

    def products(self, W: Float[Tensor, "d_tgt d_tgt"]) -> tuple[float, float, float]:
        """Return `E Var_p(u)`, `E Cov_p(u, u')` and `E Var_p(u')`."""
        total = torch.zeros(3, dtype=torch.float64)
        for place in self.places():
            u, v = (
                self.centre(place, x)
                for x in (self.of_source(place), self.of_target(place, W.to(place.p)))
            )
            total += (
                torch.stack([(place.p * x * y).sum() for x, y in ((u, u), (u, v), (v, v))])
                .double()
                .cpu()
            )
        source, cross, own = (total / len(self.pairs)).tolist()
        return source, cross, own
