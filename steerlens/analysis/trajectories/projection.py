"""The states of texts in a few dimensions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from steerlens.analysis.trajectories.states import Trajectories
from steerlens.maths.brief import brief
from steerlens.maths.torch_defaults import torch_defaults

MAX_PERPLEXITY = 30.0


@dataclass(frozen=True, eq=False)
class Projection:
    """Points of a few dimensions, one a state, and the share of the variance along each axis (PCA
    only)."""

    points: Float[np.ndarray, "n k"]
    explained: tuple[float, ...]
    method: str


@torch_defaults()
def project(
    found: Trajectories, *, method: str = "pca", components: int = 2, seed: int = 0
) -> Projection:
    """Return the states of all texts in a few dimensions, for the eye.

    No distance between groups is to be read off t-SNE or UMAP.

    Args:
        method: "pca", "tsne" (scikit-learn, perplexity 30 or less) or "umap" (the package
            umap-learn, which has to be installed beside steerlens).
        components: dimensions.
        seed: of t-SNE and UMAP; PCA has no chance in it, its axes point to where their largest
            entry is positive.

    Raises:
        ValueError: another method; more components than there are dimensions or states.
        ImportError: "umap" without umap-learn.
    """
    X = found.states.double()
    if not 1 <= components <= min(X.shape):
        raise ValueError(
            f"components: got {components}, expected 1 … {min(X.shape)} for states of shape {tuple(X.shape)}"
        )
    X = X - X.mean(0)
    if method == "pca":
        _, s, V = torch.linalg.svd(X, full_matrices=False)
        largest = V.gather(1, V.abs().argmax(1, keepdim=True))
        V = (V * largest.sign())[:components]
        share = s.square() / s.square().sum().clamp_min(1e-300)
        return Projection((X @ V.mT).numpy(), tuple(share[:components].tolist()), method)
    if method == "tsne":
        from sklearn.manifold import TSNE

        made = TSNE(
            components,
            perplexity=min(MAX_PERPLEXITY, (len(X) - 1) / 3),
            init="pca",
            method="barnes_hut" if components < 4 else "exact",
            random_state=seed,
        )
    elif method == "umap":
        try:
            from umap import UMAP  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                'method: "umap" needs the package umap-learn, which is not installed; install it (pip install umap-learn) or '
                'take method="tsne" or "pca"'
            ) from None
        made = UMAP(n_components=components, random_state=seed, n_jobs=1)
    else:
        raise ValueError(f'method: got {brief(method)}, expected "pca", "tsne" or "umap"')
    return Projection(np.asarray(made.fit_transform(X.numpy()), dtype=np.float64), (), method)
