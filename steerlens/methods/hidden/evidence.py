"""What texts say of a map of hidden states, from one pass forward and one back."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.svd import svd
from steerlens.methods.hidden.hidden_steer import moved
from steerlens.methods.training import Data, backward
from steerlens.models.hooks import Model, eval_mode
from steerlens.models.partial_forward import batch_of, final_states
from steerlens.values.intervention import Edit
from steerlens.values.metric import Metric
from steerlens.values.positions import TokenIndex

DAMPING = 1e-2
"""Of the second moments, relative to their largest eigenvalue (trials: 0.01 and 0.1)."""


class Evidence(NamedTuple):
    """The slope of the likelihood in a map of hidden states, and the metric of these states.

    `slope` is per predicted token; so are the moments, as a map changes each of them by what it
    does to all states before.
    """

    slope: Float[Tensor, "d d"]
    metric: Metric
    label2: float


def evidence(model: Model, data: Data, site: str) -> Evidence:
    """Return what the fitting texts say of a map at a site.

        G = −Σ (y − ȳ) hᵀ g        C = Σ hᵀh        S = Σ gᵀg        g = ∂ NLL / ∂h

    over the tokens, `y` the label of a token's text. `g` holds what a token's state does to all
    later predictions of its text. `C ⊗ S` is the Kronecker approximation of the Fisher information
    of the map; at the unembedding it estimates the natural metric of a steer.

    The first state of a text, which many models make hundreds of times as long as any other, is
    left out of the sums: it is the same in all texts that begin alike.
    """
    kept, on = data.kept, data.kept.readout
    mean = kept.labels[data.fitting].mean().to(on.W_U.device)
    slope, C, S = (torch.zeros(on.d_model, on.d_model, dtype=torch.float64) for _ in range(3))
    n, label2 = 0, 0.0
    with eval_mode(model, gradients=True):
        for rows in kept.batches(data.fitting):
            batch, seen = batch_of(kept, rows), list[Tensor]()

            def watch(h: Tensor, places: TokenIndex, seen: list[Tensor] = seen) -> Tensor:
                seen.append(h.detach().requires_grad_())
                return seen[-1]

            c = final_states(model, kept, batch, ((site, watch),))
            weight = torch.ones(len(c), device=c.device)
            backward(kept, c, batch.targets, weight, data.background)
            used = batch.places.index > 0
            h, g = seen[0].detach()[used].float(), seen[0].grad
            assert g is not None  # the pass went through the site
            g = g[used].float()
            y = (batch.labels - mean)[:, None].expand(used.shape)[used][:, None]
            for total, part in ((slope, -(y * h).mT @ g), (C, h.mT @ h), (S, g.mT @ g)):
                total += part.double().cpu()
            label2 += float(y.square().sum())
            n += len(h)
    device = on.W_U.device
    metric = Metric((C / n).to(device), (S / n).to(device), damping=DAMPING)
    return Evidence((slope / n).float().to(device), metric, label2 / n)


def newton_factors(
    found: Evidence, rank: int
) -> tuple[Float[Tensor, "d rank"], Float[Tensor, "rank d"]]:
    """Return the best step of a rank in whitened coordinates, as factors.

        V = C^{-1/2} G S^{-1/2} / E y²        W = C^{-1/2} V S^{-1/2}

    Newton's step under the Kronecker approximation; cut to the leading singular directions, which
    is the best step of that rank.

    Example:
        >>> I = torch.eye(2, dtype=torch.float64)
        >>> found = Evidence(torch.diag(torch.tensor([2.0, 1.0])), Metric(I, I, damping=0.0), 0.5)
        >>> P, Q = newton_factors(found, 1)
        >>> (P @ Q).round(decimals=4) + 0.0
        tensor([[4., 0.],
                [0., 0.]])
    """
    metric = found.metric
    V = metric.C_inverse_root @ found.slope @ metric.S_inverse_root / max(found.label2, 1e-12)
    U, s, Vh = svd(V)
    root = s[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]


def map_edits(
    A: Float[Tensor, "d rank"], B: Float[Tensor, "rank d"], site: str, strength: Tensor
) -> tuple[Edit, ...]:
    """Return the edits of factors that are being learned, with gradients to them."""

    def edit(h: Tensor, places: TokenIndex) -> Tensor:
        return moved(h, A, B, strength)

    return ((site, edit),)
