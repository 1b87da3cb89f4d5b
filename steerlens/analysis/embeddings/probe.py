"""Linear probes for properties of words, with the control that tells knowing from memorising."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steerlens.analysis.embeddings.table import Embedding, Found, enough

PENALTIES = np.logspace(-1, 6, 15)
SUFFIXES = ("ingly", "edly", "ness", "ment", "ing", "ied", "ies", "est", "ful", "ly", "ed", "er", "es", "s", "d", "y")


def probe(
    emb: Embedding,
    labels: Mapping[str, str | bool | float],
    *,
    groups: Mapping[str, str] | None = None,
    folds: int = 5,
    repeats: int = 5,
    controls: int = 10,
    seed: int = 0,
) -> Found:
    """Can a property of words be read linearly off their embeddings?

    Ridge regression on standardised vectors, the penalty chosen on the training folds by leave-one-out in closed form:
    of numbers (score: R²), or of classes in one-against-all coding (score: balanced accuracy). Cross-validated by groups of
    words, so that "love", "loved" and "loves" are never on both sides.

    The control task (Hewitt and Liang, EMNLP 2019) gives each group the label of another at random, everything else the
    same; selectivity = score − control. What a probe finds is there; that the model uses it is not said. Frequency is the
    usual confounder: rare words differ from common ones in every embedding, so take lists of like frequency.

    Args:
        labels: word → class (a string or a bool) or word → number.
        groups: word → group; None: words with a common stem, crudely by English suffixes.
        folds, repeats: of the cross-validation, each repeat with other folds.
        controls: random relabellings.
        seed: of folds and controls.

    Returns:
        One row: `task` ("classes" or "number"), `score` (mean over repeats), `low`, `high` (95 % bootstrap interval over groups,
        predictions kept), `control` (mean), `control_high` (the largest), `selectivity`, `spearman` (of predictions and
        labels, for numbers and bools), `words`, `groups`, `classes`.

    Raises:
        ValueError: fewer than 20 words that are single tokens, one class only, fewer groups than folds.

    Example:
        >>> import torch
        >>> words = tuple(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(200))
        >>> emb = Embedding(words, torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
        >>> bool(probe(emb, {w: float(v[0]) for w, v in zip(words, emb.vectors)}).table.score[0] > 0.95)
        True
    """
    rows, dropped = emb.find(labels)
    enough("labels", rows, 20, dropped)
    kept = [emb.words[i] for i in rows]
    lower = {word.lower(): value for word, value in labels.items()}
    y = np.array([lower[word] for word in kept])
    numbers = y.dtype.kind in "if"
    if len(set(y.tolist())) < 2:
        raise ValueError(
            f"labels: every word that is a single token has the label {y.tolist()[0]!r}, expected at least two"
        )
    by = {word.lower(): group for word, group in groups.items()} if groups else {}
    names, group = np.unique([by.get(word, stem(word)) for word in kept], return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"groups: got {len(names)}, expected at least as many as folds ({folds})")
    X = emb.vectors[rows].double().numpy()
    random = np.random.default_rng(seed)
    guesses = [_guesses(X, y, group, folds, numbers, random) for _ in range(repeats)]
    draws = [
        np.concatenate([np.flatnonzero(group == g) for g in random.integers(0, len(names), len(names))])
        for _ in range(300)
    ]
    spread = [
        np.mean([_score(y[d], guess[d], numbers) for guess in guesses]) for d in draws if len(set(y[d].tolist())) > 1
    ]
    low, high = np.quantile(spread, (0.025, 0.975))
    control = []
    for _ in range(controls):
        first = np.array([np.flatnonzero(group == g)[0] for g in random.permutation(len(names))])
        shuffled = y[first][group]
        if len(set(shuffled.tolist())) > 1:
            control.append(_score(shuffled, _guesses(X, shuffled, group, folds, numbers, random), numbers))
    score, chance = float(np.mean([_score(y, guess, numbers) for guess in guesses])), float(np.mean(control))
    ranks = [np.nan]
    if numbers or y.dtype.kind == "b":
        ranks = [spearmanr(y.astype(float), guess.astype(float)).statistic for guess in guesses]
    row = {
        "task": "number" if numbers else "classes", "score": score, "low": low, "high": high, "control": chance,
        "control_high": float(np.max(control)), "selectivity": score - chance, "spearman": float(np.mean(ranks)),
        "words": len(kept), "groups": len(names), "classes": 0 if numbers else len(set(y.tolist())),
    }  # fmt: skip
    return Found(pd.DataFrame([row]), dropped)


def stem(word: str) -> str:
    """A crude stem: one English suffix off, a doubled consonant or a final e after it; at least three letters stay.

    Example:
        >>> [stem(w) for w in ("loved", "loves", "loving", "love", "stopped")]
        ['lov', 'lov', 'lov', 'lov', 'stop']
    """
    bare = next((word[: -len(s)] for s in SUFFIXES if word.endswith(s) and len(word) - len(s) >= 3), word)
    if len(bare) > 3 and bare[-1] == bare[-2] and bare != word:
        bare = bare[:-1]
    return bare[:-1] if len(bare) > 3 and bare.endswith("e") else bare


def _guesses(
    X: Float[np.ndarray, "n d"],
    y: np.ndarray,
    group: np.ndarray,
    folds: int,
    numbers: bool,
    random: np.random.Generator,
) -> np.ndarray:
    """What the probe says of each word when the words of its fold were held out."""
    fold = np.empty(group.max() + 1, int)
    for k, part in enumerate(np.array_split(random.permutation(group.max() + 1), folds)):
        fold[part] = k
    found = np.empty_like(y, dtype=float if numbers else y.dtype)
    for k in range(folds):
        held = fold[group] == k
        if len(set(y[~held].tolist())) < 2:
            found[held] = y[~held][0]
            continue
        last = RidgeCV(alphas=PENALTIES) if numbers else RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
        found[held] = make_pipeline(StandardScaler(), last).fit(X[~held], y[~held]).predict(X[held])
    return found


def _score(y: np.ndarray, guess: np.ndarray, numbers: bool) -> float:
    if numbers:
        return float(r2_score(y, guess))
    present = [y == label for label in np.unique(y)]
    return float(np.mean([(guess[mine] == y[mine]).mean() for mine in present]))
