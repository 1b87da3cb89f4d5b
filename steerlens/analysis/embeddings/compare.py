"""Two embeddings of the same words: how alike are they?"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.embeddings.table import Embedding, enough

LEADING = 10
CHUNK = 2_048


@dataclass(frozen=True)
class Comparison:
    """`table`: `measure`, `value`, `chance`. `words`: `word`, `overlap`, the least alike first."""

    table: pd.DataFrame
    words: pd.DataFrame

    def _repr_html_(self) -> str:
        return self.table.round(3).to_html(index=False, escape=True)


def compare_embeddings(a: Embedding, b: Embedding, *, k: int = 10, seed: int = 0) -> Comparison:
    """How alike two embeddings are on the words that they share: input and output, or two models.

        cka         ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)                            linear, on centred rows
        procrustes  min_{R orthogonal, t} ‖tXR − Y‖² / ‖Y‖² = 1 − (Σ σ(XᵀY))² / (‖X‖² ‖Y‖²)
        subspace    mean squared cosine of the angles between the leading 10 axes' scores of the words
        neighbours  share of the k nearest words (cosine) that are the same

    The first is blind to rotations and small directions, the second forgives only rotation and scale, the last looks at
    neighbourhoods alone: they may disagree, and say by that in what the two differ. `chance` is the same for shuffled words;
    for `cka` it is far from 0 where there are few words for the dimensions (Murphy et al., 2024).

    Args:
        a, b: of any dimensions.
        k: neighbours a word.
        seed: of the shuffle.

    Returns:
        `Comparison`: `.table` with these four, `.words` with the neighbourhood overlap of each word.

    Raises:
        ValueError: fewer than `k + 2` words in common.

    Example:
        >>> emb = Embedding(tuple("abcdefgh"), torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
        >>> compare_embeddings(emb, emb, k=2).table.value.round(3).tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    shared = [word for word in a.words if word in b.place]
    enough("words in common", shared, k + 2, ())
    X, Y = (e.vectors[e.find(shared)[0]].double() for e in (a, b))
    shuffled = Y[torch.randperm(len(Y), generator=torch.Generator().manual_seed(seed))]
    overlap, by_chance = (neighbourhood_overlap(X, other, k) for other in (Y, shuffled))
    rows = [
        (*measure, float(chance))
        for measure, chance in zip(
            (*_global(X, Y).items(), ("neighbours", float(overlap.mean()))),
            (*_global(X, shuffled).values(), by_chance.mean()),
            strict=True,
        )
    ]
    words = pd.DataFrame({"word": shared, "overlap": overlap.numpy()}).sort_values(
        "overlap", kind="stable", ignore_index=True
    )
    return Comparison(pd.DataFrame(rows, columns=["measure", "value", "chance"]), words)


def _global(X: Float[Tensor, "n d"], Y: Float[Tensor, "n e"]) -> dict[str, float]:
    X, Y = X - X.mean(0), Y - Y.mean(0)
    cross = X.mT @ Y
    cka = cross.square().sum() / ((X.mT @ X).norm() * (Y.mT @ Y).norm())
    residual = 1 - torch.linalg.svdvals(cross).sum() ** 2 / (X.square().sum() * Y.square().sum())
    r = min(LEADING, X.shape[1], Y.shape[1], len(X) - 1)
    left, right = (torch.linalg.svd(Z, full_matrices=False)[0][:, :r] for Z in (X, Y))
    return {"cka": float(cka), "procrustes": float(residual), "subspace": float((left.mT @ right).square().sum() / r)}


def neighbourhood_overlap(X: Float[Tensor, "n d"], Y: Float[Tensor, "n e"], k: int) -> Float[Tensor, " n"]:
    """For each row, the share of its k nearest rows by cosine that are the same in both."""
    found = []
    units = [torch.nn.functional.normalize(Z, dim=1) for Z in (X, Y)]
    for start in range(0, len(X), CHUNK):
        near = []
        for unit in units:
            cosine = unit[start : start + CHUNK] @ unit.mT
            cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -torch.inf
            near.append(torch.topk(cosine, k).indices)
        found.append((near[0][:, :, None] == near[1][:, None, :]).any(2).double().mean(1))
    return torch.cat(found)
