"""Whether a steer writes along a lexicon."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from steerlens.analysis.embeddings.table import ResultTable, embedding, require_at_least
from steerlens.maths.numbers import as_count, generator
from steerlens.maths.stats import rank_correlation
from steerlens.maths.svd import svd
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_metric, steer_of
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.steer import Steer

SHUFFLES = 1_000
EMPTY = 1e-6
"""Gains below this share of the first are 0 up to rounding."""


@torch_defaults()
def lexicon_alignment(
    steer: Steer | Fit,
    lexicon: Mapping[str, float],
    *,
    metric: Metric | None = None,
    rank: int = 5,
    seed: int = 0,
) -> ResultTable:
    """Measure how near the directions that a steer writes lie to that of a lexicon of scored words.

        lexicon direction   l = mean_v (score_v − mean score) · e_v
        write direction     b_k, of the SVD of W, or of C^{1/2} W S^{1/2} = Σ gain_k a_kᵀ b_k in the natural metric
        cosine              |cos(l, b_k)|, natural: of S^{1/2}-coordinates, |cos(l S^{-1/2}, b_k)|

    `p_shuffled` is the share of 1,000 shuffles of the scores among the words that lie as near to
    the direction as the lexicon does: at most 0.05 in 5 % of the lexicons whose scores are random,
    for any embeddings and any steer. A chance by the angle alone, as of a direction drawn evenly
    from the sphere, is not given: embeddings are no sphere, some directions are long and a steer
    may write along one for any reason, and one lexicon in six of random scores had such a p below
    0.05. Shuffling treats words as exchangeable: of a family ("love", "loved", "loves") with one
    score keep one word, or p is too small.

    Each p is for one direction: of five, one at least has a p below 0.05 by accident in up to 23 %
    of cases. In the natural metric `l S^{-1/2}` is the gradient of the lexicon's mean logit. A
    steer may move words of a lexicon for a reason that is not the lexicon's (topic, frequency); a
    cosine in d dimensions is large from some 2/√d on, or more where embeddings have long
    directions.

    Args:
        lexicon: word → score (valence, say); words that are no single token are left out, and said.
        metric: of the same model; None for the plain SVD.
        rank: how many directions. Where the steer has fewer, the rest of the rows is NaN.
        seed: of the shuffles.

    Returns:
        One row per direction: `direction`, `gain`, `cosine` (0 to 1), `p_shuffled` (1/1001 to 1),
        `spearman` (of the words' shifts along the direction with their scores; its sign is that of
        the direction), `words`.

    Raises:
        ValueError: fewer than ten words, all with the same score, a score that is no number, two
            scores of a word, a rank out of range, a metric of another model.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0))).value
        >>> grades = {w: g for c in sl.toy.grammar.classes if c.factor == "sentiment" for w, g in zip(c.words, c.levels)}
        >>> lexicon_alignment(joy, grades, rank=1).table.columns.tolist()
        ['direction', 'gain', 'cosine', 'p_shuffled', 'spearman', 'words']
    """
    steer = steer_of(steer)
    d = steer.readout.d_model
    rank = as_count(rank, "rank", f"1 … {d} (d_model)", most=d)
    check_metric(metric, steer)
    emb = embedding(steer.readout)
    rows, given, dropped = emb.given("lexicon", lexicon)
    require_at_least("lexicon", rows, 10, dropped)
    scores = torch.tensor([float(score) for score in given], dtype=torch.float64)
    if not bool(scores.isfinite().all()):
        at = int((~scores.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"lexicon: {emb.words[rows[at]]!r} has the score {given[at]}, expected a number; leave it out"
        )
    if bool((scores == scores[0]).all()):
        raise ValueError(
            f"lexicon: every word has the score {float(scores[0]):g}, expected different scores"
        )
    E = emb.vectors[rows].double()
    M = steer.W.double().cpu() if metric is None else metric.whiten(steer.W.double()).cpu()
    root = (
        torch.eye(d, dtype=torch.float64)
        if metric is None
        else metric.S_inverse_root.double().cpu()
    )
    _, gains, Vh = svd(M)
    b = Vh[:rank]
    line = ((scores - scores.mean()) @ E) @ root / len(scores)
    cosine = (b @ line / line.norm()).abs().clamp(max=1).numpy()
    shifts = (E @ (b @ root).mT).numpy()
    random = generator(seed)
    orders = torch.stack([torch.randperm(len(scores), generator=random) for _ in range(SHUFFLES)])
    others = torch.nn.functional.normalize((scores - scores.mean())[orders] @ (E @ root), dim=1)
    # a shuffle that gives the scores back must tie, however it was rounded
    as_near = ((others @ b.mT).abs().numpy() >= cosine - 1e-9).sum(0)
    table = {
        "direction": range(1, len(b) + 1),
        "gain": gains[: len(b)].numpy(),
        "cosine": cosine,
        "p_shuffled": (as_near + 1) / (SHUFFLES + 1),
        "spearman": [rank_correlation(shifts[:, k], scores.numpy()) for k in range(len(b))],
        "words": len(rows),
    }
    found = pd.DataFrame(table)
    nothing = (
        gains[: len(b)] <= EMPTY * gains[0]
    ).numpy()  # those directions are the SVD's choice, not the steer's
    found.loc[nothing, ["cosine", "p_shuffled", "spearman"]] = np.nan
    return ResultTable(found, dropped)
