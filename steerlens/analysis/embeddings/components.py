"""Components of an embedding space, the words at their ends, and whether they replicate."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import kurtosis, skew
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from steerlens.analysis.embeddings.table import Embedding, ResultTable
from steerlens.maths.brief import brief
from steerlens.maths.numbers import numpy_generator
from steerlens.maths.torch_defaults import torch_defaults

ITERATIONS = 400


@torch_defaults()
def components(
    emb: Embedding,
    n: int = 10,
    *,
    method: Literal["pca", "ica"] = "pca",
    tokens: int = 10,
    seed: int = 0,
    repeats: int = 4,
) -> ResultTable:
    """Find an embedding's main axes (PCA), or independent ones (ICA), with the words at both ends.

    PCA finds the axes of largest variance, which in real models are often those of word frequency;
    it depends on the inner product. ICA looks, within the leading `n` axes, for those whose values
    are least Gaussian. A `kurtosis` above 0 says few words far out and most near 0, which is what a
    dimension with a meaning looks like; below 0, two groups of words (in a GPT-2 of d_model 192
    trained on reviews five of the first six are such). The longer tail is `top`.

    `stability` is between 0 and 1 and compares what two halves of the words, which share none, find
    on their own; the whole with a part of itself would find its noise again. Each component goes
    with the one of a half that it is most like. PCA: the share of that axis that lies in the
    leading `n` axes of the other half. ICA (from another start in each half): its correlation, over
    all words, with the matching component of the other half. `chance` is the same for nothing at
    all, n / d for PCA, and for ICA what normal noise of this shape gives, which is not small. A
    component whose stability is not far above it is an accident. ICA takes the leading axes of all
    words as given, so look at the stability of PCA first: in the causal inner product that is nil
    (0.01 on the same GPT-2, chance 0.03), as whitening made all axes alike.

    Names are for the reader to give: words at the end of an axis look like a theme more often than
    they are one, so a theme is to be tested with `probe`. Pieces of words gather on axes of their
    own; `embedding(model, states=...)` leaves them out.

    Args:
        n: how many.
        tokens: words at each end.
        seed: of halves and starts.
        repeats: pairs of halves.

    Returns:
        One row per component: `component`, `share` of variance (PCA, the largest first) or `kurtosis`
        (ICA, excess, the largest
        first), `stability`, `chance`, `top`, `bottom` (words, the farthest first); ICA also
        `converged`.

    Raises:
        ValueError: another method, `n` beyond the dimensions or the words, no repeats.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.analysis.embeddings.table import embedding
        >>> emb = embedding(sl.load_model("toy-64"))
        >>> components(emb, n=2, tokens=3).table.columns.tolist()
        ['component', 'share', 'stability', 'chance', 'top', 'bottom']
    """
    most = min(emb.vectors.shape[1], len(emb.words) // 2)
    if method not in ("pca", "ica"):
        raise ValueError(f"method: got {brief(method)}, expected 'pca' or 'ica'")
    if not 1 <= n <= most or repeats < 1:
        raise ValueError(f"n, repeats: got {n}, {repeats}, expected 1 … {most} and at least 1")
    if tokens < 1:
        raise ValueError(f"tokens: got {tokens}, expected at least 1 word at each end")
    X = (emb.vectors - emb.vectors.mean(0)).double().numpy()
    random = numpy_generator(seed)
    U, s, Vh = np.linalg.svd(X, full_matrices=False)
    if s[n - 1] <= 1e-6 * np.linalg.norm(emb.vectors.numpy()):
        raise ValueError(
            f"n: got {n}, but the vectors of {emb.name!r} differ in {int((s > 1e-6 * s[0]).sum()) if s[0] else 0} directions only"
        )
    table: dict[str, Any] = {"component": range(1, n + 1)}
    halves = [np.array_split(random.permutation(len(X)), 2) for _ in range(repeats)]
    if method == "pca":
        values = U[:, :n] * s[:n]
        found = np.mean([_same_axes(Vh[:n], X[one], X[other]) for one, other in halves], axis=0)
        table |= {"share": (s**2 / (s**2).sum())[:n], "stability": found, "chance": n / X.shape[1]}
    else:
        # on the leading axes at variance 1: FastICA then only has to find a rotation
        white = U[:, :n] * np.sqrt(len(X))
        values, converged = _ica(white, np.arange(len(X)), random)
        values = values[:, np.argsort(-kurtosis(values, axis=0))]
        noise = random.normal(size=white.shape)
        found = np.mean([_same_components(values, white, pair, random) for pair in halves], axis=0)
        chance = np.mean([_same_components(None, noise, pair, random) for pair in halves])
        table |= {
            "kurtosis": kurtosis(values, axis=0),
            "stability": found,
            "chance": chance,
            "converged": converged,
        }
    values = values * np.where(skew(values, axis=0) < 0, -1, 1)
    ends = np.argsort(-values, axis=0)
    table["top"] = [", ".join(emb.words[i] for i in ends[:tokens, k]) for k in range(n)]
    table["bottom"] = [", ".join(emb.words[i] for i in ends[::-1][:tokens, k]) for k in range(n)]
    return ResultTable(pd.DataFrame(table))


def _same_axes(
    axes: Float[np.ndarray, "n d"],
    one: Float[np.ndarray, "half d"],
    other: Float[np.ndarray, "rest d"],
) -> Float[np.ndarray, " n"]:
    """Return how much of each axis, as each half has it, lies in the other half's leading axes.

    It is the mean of both ways.
    """
    first, second = (
        np.linalg.svd(Z - Z.mean(0), full_matrices=False)[2][: len(axes)] for Z in (one, other)
    )
    shares = [
        (
            (mine[linear_sum_assignment(np.abs(axes @ mine.T), maximize=True)[1]] @ theirs.T) ** 2
        ).sum(1)
        for mine, theirs in ((first, second), (second, first))
    ]
    return np.mean(shares, axis=0)


def _same_components(
    values: Float[np.ndarray, "words n"] | None,
    white: Float[np.ndarray, "words n"],
    halves: Sequence[Int[np.ndarray, " some"]],
    random: np.random.Generator,
) -> Float[np.ndarray, " n"]:
    """Return the |correlation| of two halves' matching components, in the order of `values`."""
    one, other = (_ica(white, rows, random)[0] for rows in halves)
    if values is not None:
        one = one[:, linear_sum_assignment(_alike(values, one), maximize=True)[1]]
    alike = _alike(one, other)
    return alike[linear_sum_assignment(alike, maximize=True)]


def _ica(
    white: Float[np.ndarray, "words n"], rows: Int[np.ndarray, " some"], random: np.random.Generator
) -> tuple[Float[np.ndarray, "words n"], bool]:
    """Find components on some words; return all words' values on them, and whether it converged."""
    seed = int(random.integers(1 << 31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the table instead
        model = FastICA(
            whiten="unit-variance", random_state=seed, max_iter=ITERATIONS, tol=1e-3
        ).fit(white[rows])
    values = model.transform(white)
    return values / values.std(0), model.n_iter_ < ITERATIONS


def _alike(
    values: Float[np.ndarray, "words n"], other: Float[np.ndarray, "words n"]
) -> Float[np.ndarray, "n n"]:
    """Return the |correlation| of each component with each of another run."""
    n = values.shape[1]
    return np.abs(np.corrcoef(values.T, other.T)[:n, n:])
