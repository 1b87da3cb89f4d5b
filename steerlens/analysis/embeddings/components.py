"""Components of an embedding space, the words at their ends, and whether they come again."""

import warnings
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import kurtosis, skew
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from steerlens.analysis.embeddings.table import Embedding, Found

ITERATIONS = 400


def components(
    emb: Embedding,
    n: int = 10,
    *,
    method: Literal["pca", "ica"] = "pca",
    tokens: int = 10,
    seed: int = 0,
    repeats: int = 4,
) -> Found:
    """The main axes of an embedding (PCA), or its independent ones (ICA), with the words at both ends.

    PCA finds the axes of largest variance, which in real models are often those of word frequency; it depends on the inner
    product. ICA looks, within the leading `n` axes, for those whose values are least Gaussian: few words far out, most near 0,
    which is what a dimension with a meaning looks like. An end is "+" where the longer tail is.

    `stability` is between 0 and 1. PCA: the share of the axis that lies in the leading `n` axes found on a random half of the
    words (chance: n / d). ICA: correlation, over all words, with the matching component found on a random half of them from
    another start; below some 0.8 a component is an accident of words and start. Names are for the reader to give: words at
    the end of an axis look like a theme more often than they are one, so a theme is to be tested with `probe`. Pieces of
    words gather on axes of their own; `embedding(model, states=...)` leaves them out.

    Args:
        n: how many.
        tokens: words at each end.
        seed: of halves and starts.
        repeats: halves.

    Returns:
        One row a component: `component`, `share` of variance (PCA, the largest first) or `kurtosis` (ICA, excess, the largest
        first), `stability`, `top`, `bottom` (words, the farthest first); ICA also `converged`.

    Raises:
        ValueError: another method, `n` beyond the dimensions or the words, no repeats.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.analysis.embeddings.table import embedding
        >>> emb = embedding(sl.load_model("toy-64"))
        >>> components(emb, n=2, tokens=3).table.columns.tolist()
        ['component', 'share', 'stability', 'top', 'bottom']
    """
    most = min(emb.vectors.shape[1], len(emb.words) // 2)
    if method not in ("pca", "ica"):
        raise ValueError(f"method: got {method!r}, expected 'pca' or 'ica'")
    if not 1 <= n <= most or repeats < 1:
        raise ValueError(f"n, repeats: got {n}, {repeats}, expected 1 … {most} and at least 1")
    X = (emb.vectors - emb.vectors.mean(0)).double().numpy()
    random = np.random.default_rng(seed)
    U, s, Vh = np.linalg.svd(X, full_matrices=False)
    table = {"component": range(1, n + 1)}
    if method == "pca":
        values = U[:, :n] * s[:n]
        table |= {"share": (s**2 / (s**2).sum())[:n], "stability": _halves(X, Vh[:n], random, repeats)}
    else:
        # on the leading axes at variance 1: FastICA then only has to find a rotation
        white = U[:, :n] * np.sqrt(len(X))
        everything = np.arange(len(X))
        halves = [random.permutation(len(X))[: len(X) // 2] for _ in range(repeats)]
        runs = [_ica(white, rows, int(random.integers(1 << 31))) for rows in (everything, *halves)]
        first, converged = runs[0]
        order = np.argsort(-kurtosis(first, axis=0))
        values = first[:, order]
        again = np.mean([_matched(values, other) for other, _ in runs[1:]], axis=0)
        table |= {"kurtosis": kurtosis(values, axis=0), "stability": again, "converged": converged}
    values = values * np.where(skew(values, axis=0) < 0, -1, 1)
    ends = np.argsort(-values, axis=0)
    table["top"] = [", ".join(emb.words[i] for i in ends[:tokens, k]) for k in range(n)]
    table["bottom"] = [", ".join(emb.words[i] for i in ends[::-1][:tokens, k]) for k in range(n)]
    return Found(pd.DataFrame(table))


def _halves(
    X: Float[np.ndarray, "words d"], axes: Float[np.ndarray, "n d"], random: np.random.Generator, repeats: int
) -> Float[np.ndarray, " n"]:
    """How much of each axis lies in the leading axes of a random half of the words."""
    found = []
    for _ in range(repeats):
        half = X[random.permutation(len(X))[: len(X) // 2]]
        theirs = np.linalg.svd(half - half.mean(0), full_matrices=False)[2][: len(axes)]
        found.append(((axes @ theirs.T) ** 2).sum(1))
    return np.mean(found, axis=0)


def _ica(
    white: Float[np.ndarray, "words n"], rows: Int[np.ndarray, " some"], seed: int
) -> tuple[Float[np.ndarray, "words n"], bool]:
    """Components found on some words, with the values of all words on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the table instead
        model = FastICA(whiten="unit-variance", random_state=seed, max_iter=ITERATIONS, tol=1e-3).fit(white[rows])
    values = model.transform(white)
    return values / values.std(0), model.n_iter_ < ITERATIONS


def _matched(values: Float[np.ndarray, "words n"], other: Float[np.ndarray, "words n"]) -> Float[np.ndarray, " n"]:
    """|correlation| of each component with the one that corresponds to it in another run."""
    n = values.shape[1]
    alike = np.abs(np.corrcoef(values.T, other.T)[:n, n:])
    return alike[np.arange(n), linear_sum_assignment(alike, maximize=True)[1]]
