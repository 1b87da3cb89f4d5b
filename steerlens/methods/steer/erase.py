"""Erase a concept at the unembedding, in closed form: no linear probe finds it afterwards."""

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_numbers
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer

CHUNK = 1 << 14
FLOOR = 1e-8
"""Of eigenvalues, relative to the largest: directions that states never use."""


@torch_defaults()
def fit_eraser(
    states: States, labels: Float[Tensor, "n_texts k"] | None = None, *, name: str = "eraser"
) -> Steer:
    """Fit the steer that, at strength 1, takes labels out of the states, and changes them least.

        W = −C⁻¹ B (Bᵀ C⁻¹ B)⁺ Bᵀ        B = Cov(c, y),  C = E[cᵀc]

    Theorem: after `c' = c + cW` the covariance `Cov(c', y)` is 0, so no linear probe of `y` has a
    smaller squared error on these states than the best constant; and where `y` has two values, or
    is one-hot, none does better whatever its convex loss. (Of grades only the squared error is
    settled: give one-hot columns as `labels` to erase which grade it is.) Of all matrices
    that do this, this one costs least in the natural metric, `½ tr(Wᵀ C W S)`, whatever `S` is. It
    is LEACE without its constant: a steer has none, so the second moment stands where LEACE has the
    covariance. `W` is minus a projection of the rank of `B`; strength 2 mirrors the labels.

    The theorem is about these states and linear probes. On other texts a little is left, and what
    a network may find is another matter.

    Source: Belrose et al. (arXiv 2306.03819), theorems 3.1 and 4.3.

    Args:
        states: of labelled texts, from `steerlens.collect`; every position weighs the same.
        labels: one row per text, of any number of columns (one-hot classes, say); None: the
            states' own.
        name: for tables and figures.

    Raises:
        ValueError: labels that are all equal, or not one row per text.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False)
        >>> plain = fit_eraser(states)
        >>> torch.allclose(plain.W @ plain.W, -plain.W, atol=1e-4)        # minus a projection
        True
    """
    check_states(states)
    y = as_numbers(states.labels if labels is None else labels, "labels", "one row per text")
    y = y[:, None] if y.ndim == 1 else y
    if len(y) != len(states.labels) or y.ndim != 2:
        raise ValueError(
            f"labels: got shape {tuple(y.shape)} for {len(states.labels)} texts, expected one row per text"
        )
    moment, mean, crossed, label = _sums(states, y)
    B = crossed - torch.outer(mean, label)
    if not bool(B.norm() > 1e-12 * crossed.norm().clamp_min(1e-30)):
        raise ValueError("labels: all equal, so there is nothing to erase; add texts of another")
    W = _least_change(moment, B).float()
    return Steer(W.to(states.readout.W_U.device), states.readout, name)


def erase_directions(
    states: States, directions: Float[Tensor, "k d_model"], *, name: str = "eraser"
) -> Steer:
    """Return the steer that, at strength 1, makes states say nothing along given directions.

        c' · v = 0 for each direction v        W = −V (Vᵀ S⁻¹ V)⁺ Vᵀ S⁻¹

    for every `c`, not only for these states: with `v = e_good − e_bad`, a difference of two columns
    of `W_U`, the two words are equally likely, up to their biases, at every position. Of all
    matrices that do this, this one costs least in the natural metric, `½ tr(Wᵀ C W S)`, whatever
    `C` is.

    Args:
        states: of any texts; labels are not read.
        directions: rows, in the space of output embeddings.

    Raises:
        ValueError: no directions, of another width, or all 0.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), ["the film was good ."], progress=False)
        >>> v = torch.randn(2, 64)
        >>> flat = erase_directions(states, v)
        >>> c = torch.randn(5, 64)
        >>> float((flat.apply(c, 1.0) @ v.mT).abs().max()) < 1e-2 * float((c @ v.mT).abs().max())
        True
    """
    check_states(states)
    directions = as_numbers(directions, "directions", "rows of d_model numbers")
    if directions.ndim != 2 or directions.shape[1] != states.d_model or not len(directions):
        raise ValueError(
            f"directions: got shape {tuple(directions.shape)}, expected rows of {states.d_model} numbers (d_model)"
        )
    if not bool(directions.any()):
        raise ValueError("directions: all 0; there is nothing to erase along them")
    S = natural_metric(states, weights="tokens").S.cpu()
    W = _least_change(S, directions.cpu().mT).mT
    return Steer(W.float().to(states.readout.W_U.device), states.readout, name)


def _sums(
    states: States, y: Float[Tensor, "n_texts k"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"], Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """Return `E[cᵀc]`, `E[c]`, `E[cᵀy]` and `E[y]` over the positions, float64."""
    d, k = states.d_model, y.shape[1]
    moment, mean = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    crossed, label = torch.zeros(d, k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    for c, _, text in states.chunks(CHUNK):
        wide, of = c.double(), y[text]
        moment += wide.mT @ wide
        mean += wide.sum(0)
        crossed += wide.mT @ of
        label += of.sum(0)
    n = states.n_positions
    return moment / n, mean / n, crossed / n, label / n


def _least_change(moment: Float[Tensor, "d d"], B: Float[Tensor, "d k"]) -> Float[Tensor, "d d"]:
    """Return `−C⁻¹ B (Bᵀ C⁻¹ B)⁺ Bᵀ`, from an orthonormal basis of `C^{-1/2} B`."""
    values, vectors = torch.linalg.eigh(moment)
    root = values.clamp_min(FLOOR * float(values[-1].clamp_min(1e-30))).sqrt()
    white = (vectors.mT @ B) / root[:, None]
    U, gains, _ = torch.linalg.svd(white / white.norm(dim=0).clamp_min(1e-300), full_matrices=False)
    U = U[:, gains > 1e-9 * gains[0]]
    left, right = (vectors / root) @ U, (vectors * root) @ U
    return -left @ right.mT
