"""Where rows of token embeddings lie: among the words of a model, and in priors."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_count, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.prompt.priors import Gaussian, Prior, fit_gaussian
from steerlens.models.embeddings import embeddings
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.readout import Readout

SAMPLES = 2048
"""Rows of a prior that stand for it where it has no mean and covariance of its own."""
DRAWS = 20
"""Random sets of words behind what is usual."""
OWN = 39
"""Samples of a prior behind its own distance: one more lies between the least and the largest in 38
of 40 cases."""


@torch_defaults()
def nearest_tokens(model: Model, rows: Float[Tensor, "n d"], *, k: int = 5) -> pd.DataFrame:
    """Return the ordinary tokens whose embeddings are nearest to each row.

    A reading, and not an explanation: see `readability`.

    Returns:
        One row per prompt row and rank: `row`, `rank` (1 is nearest), `token`, `distance` in units
        of the usual distance of a
        token to the token nearest to it, `cosine`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> nearest_tokens(model, embeddings(model)[[7]], k=1).distance.tolist()
        [0.0]
    """
    on = readout(model)
    E, ids = ordinary_words(model, on)
    k = as_count(k, "k", f"1 … {len(E)} (ordinary tokens)", most=len(E))
    if rows.shape[-1] != E.shape[1]:
        raise ValueError(
            f"rows: got a width of {rows.shape[-1]}, expected {E.shape[1]}, that of the model's embeddings"
        )
    unit = _usual_distance(E)
    far = distances(rows.to(E), E)
    cosine = (
        torch.nn.functional.normalize(rows.to(E), dim=1)
        @ torch.nn.functional.normalize(E, dim=1).mT
    )
    order = far.argsort(1)[:, :k]
    return pd.DataFrame(
        [
            (row, rank + 1, on.tokens[ids[i]], float(far[row, i]) / unit, float(cosine[row, i]))
            for row, found in enumerate(order.tolist())
            for rank, i in enumerate(found)
        ],
        columns=["row", "rank", "token", "distance", "cosine"],
    )


@torch_defaults()
def embedding_geometry(
    model: Model,
    rows: Float[Tensor, "n d"],
    *,
    start: Float[Tensor, "n d"] | None = None,
    seed: int = 0,
) -> pd.Series:
    """Measure where rows of token embeddings lie among a model's words, and how far they have come.

    Returns:
        - `size`: root mean square of the rows over that of token embeddings.
        - `nearest`: mean distance to the nearest token, in units of a token's usual distance to its
          nearest; 0 on words.
        - `effective_rank`: `exp(entropy of σ²)` of the centred rows (Roy and Vetterli, 2007), at
          most n − 1.
        - `collapse`: `1 − (rank − 1) / (rank of as many random words − 1)`: 0 as spread as words, 1
          all on one line.
        - `spread`: root mean square distance from the rows' mean, over the same for random words: a
          collapse in size.
        - with `start`: `moved`, root mean square way from there over the size of token embeddings;
          `same_word`, share of rows whose nearest token is still that of their start.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> round(float(embedding_geometry(model, embeddings(model)[100:108]).nearest), 6)
        0.0
    """
    E, _ = ordinary_words(model, readout(model))
    rows = rows.to(E)
    random = generator(seed)
    draws = [E[torch.randperm(len(E), generator=random)[: len(rows)]] for _ in range(DRAWS)]
    rank = effective_rank(rows)
    usual = float(np.mean([effective_rank(draw) for draw in draws]))
    spread = float(np.mean([_spread(draw) for draw in draws]))
    size = float(E.square().mean().sqrt())
    far = distances(rows, E)
    found = {
        "size": float(rows.square().mean().sqrt()) / size,
        "nearest": float(far.amin(1).mean()) / _usual_distance(E),
        "effective_rank": rank,
        "collapse": 1 - (rank - 1) / (usual - 1) if len(rows) > 2 else math.nan,
        "spread": _spread(rows) / spread if len(rows) > 1 else math.nan,
    }
    if start is not None:
        found["moved"] = float((rows - start.to(E)).square().mean().sqrt()) / size
        found["same_word"] = float(
            (far.argmin(1) == distances(start.to(E), E).argmin(1)).float().mean()
        )
    return pd.Series(found)


@torch_defaults()
def drift(
    rows: Float[Tensor, "n d"], priors: Mapping[str, Prior], *, seed: int = 0
) -> pd.DataFrame:
    """Measure how far rows are from each of several priors.

    A prompt that has kept to its own is near to it and far from others.

        distance = √(mean over rows of (x − μ)ᵀ Σ⁻¹ (x − μ) / d)        1 is typical of the prior's own samples

    A prior that is no Gaussian is taken for one with mean and covariance of 2,048 of its samples,
    shrunk by a hundredth.

    Returns:
        One row per prior: `prior`, `distance`, `own_low`, `own_high` (95 % of its own samples of as
        many rows lie between: the least and the largest of 39), and `log_prob`, nats per dimension,
        of the rows less that of its own samples (NaN where it has no density).

    Raises:
        ValueError: a prior of another width.

    Example:
        >>> from steerlens.methods.prompt.priors import isotropic
        >>> one = isotropic(16, std=0.1)
        >>> table = drift(one.sample(8, seed=3), {"own": one, "narrower": isotropic(16, std=0.05)})
        >>> round(float(table.distance[1] / table.distance[0]), 3)
        2.0
    """
    n, d = rows.shape
    found = []
    for name, prior in priors.items():
        many = prior.sample(SAMPLES, seed)
        if many.shape[1] != d:
            raise ValueError(
                f"priors: {name!r} makes rows of width {many.shape[1]}, the prompt's are {d} wide"
            )
        if not isinstance(prior, Gaussian) and len(many.unique(dim=0)) < 2:
            found.append((name, math.nan, math.nan, math.nan, math.nan))
            continue
        shape = prior if isinstance(prior, Gaussian) else fit_gaussian(many)
        draws = [prior.sample(n, seed + 1 + k) for k in range(OWN)]
        own = [_distance(shape, draw) for draw in draws]
        density = getattr(prior, "log_prob", None)
        gained = math.nan
        if density is not None:
            usual = np.mean([float(density(draw).mean()) for draw in draws])
            gained = (float(density(rows.cpu()).mean()) - float(usual)) / d
        found.append((name, _distance(shape, rows.cpu()), min(own), max(own), gained))
    return pd.DataFrame(found, columns=["prior", "distance", "own_low", "own_high", "log_prob"])


@torch_defaults()
def effective_rank(rows: Float[Tensor, "n d"]) -> float:
    """Return `exp(−Σ p ln p)`, `p` the shares of the centred rows' squared singular values.

    It is 1 where all lie on one line.

    Source: Roy and Vetterli, The effective rank (EUSIPCO 2007), on squared values.

    Example:
        >>> round(effective_rank(torch.eye(4)), 3)
        3.0
    """
    power = torch.linalg.svdvals((rows - rows.mean(0)).double()).square()
    p = power / power.sum().clamp_min(1e-300)
    return float(torch.special.entr(p).sum().exp())


def ordinary_words(model: Model, on: Readout) -> tuple[Float[Tensor, "words d"], list[int]]:
    """Return the embeddings of all ordinary tokens, and their ids."""
    return embeddings(model)[on.ordinary], on.ordinary


def distances(rows: Float[Tensor, "n d"], E: Float[Tensor, "words d"]) -> Float[Tensor, "n words"]:
    """Return Euclidean distances, by differences.

    So a row that is a word is at distance 0 from it, not at a rounding error's root.
    """
    return torch.cdist(rows, E, compute_mode="donot_use_mm_for_euclid_dist")


def _usual_distance(E: Float[Tensor, "words d"]) -> float:
    """Return the median distance of a token to the token nearest to it."""
    some = E[torch.randperm(len(E), generator=generator(0))[:1000]]
    return float(torch.cdist(some, E).kthvalue(2, dim=1).values.median())


def _spread(rows: Float[Tensor, "n d"]) -> float:
    return float((rows - rows.mean(0)).square().sum(1).mean().sqrt())


def _distance(shape: Gaussian, rows: Float[Tensor, "n d"]) -> float:
    return float((shape.distance(rows).square().mean() / rows.shape[1]).sqrt())
