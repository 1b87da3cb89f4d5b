"""Two embeddings of the same words: how alike are they?"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.embeddings.table import Embedding, check_embedding, require_at_least
from steerlens.maths.numbers import generator
from steerlens.maths.torch_defaults import torch_defaults

LEADING = 10
CHUNK = 2_048


@dataclass(frozen=True, eq=False)
class Comparison:
    """`table`: `measure`, `value`, `chance`. `words`: `word`, `overlap`, the least alike first.
    `dropped`: words of one alone."""

    table: pd.DataFrame
    words: pd.DataFrame
    dropped: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        note = (
            f"<p>{len(self.words)} words in common, {len(self.dropped)} in one of the two alone</p>"
        )
        return self.table.round(3).to_html(index=False, escape=True) + note


@torch_defaults()
def compare_embeddings(a: Embedding, b: Embedding, *, k: int = 10, seed: int = 0) -> Comparison:
    """Measure how alike two embeddings are on their shared words: input and output, or two models.

        cka         HSIC(X, Y) / √(HSIC(X, X) HSIC(Y, Y))              linear kernel, HSIC by its unbiased estimator
        procrustes  min_{R orthogonal, t} ‖tXR − Y‖² / ‖Y‖² = 1 − (Σ σ(XᵀY))² / (‖X‖² ‖Y‖²)
        subspace    mean squared cosine of the angles between the leading 10 axes' scores of the words
        neighbours  share o of the k nearest words (cosine) that are the same; their Jaccard index
        is o / (2 − o)

    The first is blind to rotations and small directions, the second forgives only rotation and
    scale, the last looks at neighbourhoods alone: they may disagree, and say by that in what the
    two differ. `chance` is the same for shuffled words. The plain estimate of CKA is far above 0
    for noise where there are few words for the dimensions (0.47 for two clouds of 60 points in 50);
    the unbiased one (Song et al., JMLR 2012; Murphy et al., arXiv 2405.01012) is around 0 there and
    may be a little below. `procrustes` has that flaw and no such cure: hold it against `chance`.
    Input and output embeddings that are tied compare as equal; spelled alike is taken for the same
    word, so pieces of words count too (see `embedding`, `states`).

    Args:
        a, b: of any dimensions.
        k: neighbours a word.
        seed: of the shuffle.

    Returns:
        `Comparison`: `.table` with these four, `.words` with the neighbourhood overlap of each
            word, `.dropped`.

    Raises:
        ValueError: fewer than `k + 2` or five words in common, `k` below 1, vectors that are all
            the same.

    Example:
        >>> emb = Embedding(tuple("abcdefgh"), torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
        >>> compare_embeddings(emb, emb, k=2).table.value.round(3).tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    check_embedding(a, "a")
    check_embedding(b, "b")
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1 neighbour")
    shared = [word for word in a.words if word.lower() in b.place]
    require_at_least("words in common", shared, max(k + 2, 5), ())
    X, Y = (e.vectors[e.find(shared)[0]].double() for e in (a, b))
    for name, e, Z in (("a", a, X), ("b", b, Y)):
        if not bool((Z - Z[0]).any()):
            raise ValueError(
                f"{name}: the vectors of {e.name!r} are all the same, so there is nothing to compare"
            )
    shuffled = Y[torch.randperm(len(Y), generator=generator(seed))]
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
    alone = (
        word
        for one, other in ((a, b), (b, a))
        for word in one.words
        if word.lower() not in other.place
    )
    return Comparison(
        pd.DataFrame(rows, columns=["measure", "value", "chance"]), words, tuple(alone)
    )


def _global(X: Float[Tensor, "n d"], Y: Float[Tensor, "n e"]) -> dict[str, float]:
    X, Y = X - X.mean(0), Y - Y.mean(0)
    cross = X.mT @ Y
    cka = hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)).clamp_min(1e-300).sqrt()
    residual = 1 - torch.linalg.svdvals(cross).sum() ** 2 / (X.square().sum() * Y.square().sum())
    r = min(LEADING, X.shape[1], Y.shape[1], len(X) - 1)
    left, right = (torch.linalg.svd(Z, full_matrices=False)[0][:, :r] for Z in (X, Y))
    return {
        "cka": float(cka),
        "procrustes": float(residual),
        "subspace": float((left.mT @ right).square().sum() / r),
    }


def hsic(X: Float[Tensor, "n d"], Y: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Return the unbiased estimate of HSIC with linear kernels, in O(n d e).

    The n × n kernels never exist.

    With `K`, `L` the kernels without their diagonals (Song et al., JMLR 2012, eq. 5)

        (tr(KL) + 1ᵀK1 · 1ᵀL1 / (n − 1)(n − 2) − 2 · 1ᵀKL1 / (n − 2)) / n (n − 3)

    Example:
        >>> x = torch.arange(6.0)[:, None]
        >>> round(float(hsic(x, x)), 3)
        10.5
    """
    n = len(X)
    own = [Z.square().sum(1) for Z in (X, Y)]
    K1, L1 = (Z @ Z.sum(0) - diagonal for Z, diagonal in zip((X, Y), own, strict=True))
    trace = (X.mT @ Y).square().sum() - own[0] @ own[1]
    return (trace + K1.sum() * L1.sum() / ((n - 1) * (n - 2)) - 2 * (K1 @ L1) / (n - 2)) / (
        n * (n - 3)
    )


def neighbourhood_overlap(
    X: Float[Tensor, "n d"], Y: Float[Tensor, "n e"], k: int
) -> Float[Tensor, " n"]:
    """Return, for each row, the share of its k nearest rows by cosine that are the same in both."""
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
