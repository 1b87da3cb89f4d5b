"""Linear probes for properties of words, with the control that tells knowing from memorising."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steerlens.analysis.embeddings.table import Embedding, Found, enough

PENALTIES = np.logspace(-1, 6, 15)
SUFFIXES = (
    "ation", "ness", "less", "ment", "able", "ible", "ably", "ibly", "ing", "ful", "est", "ous", "ive", "ion", "ish",
    "ly", "ed", "er", "or", "es", "en", "al", "s", "y", "e", "i",
)  # fmt: skip


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
    of numbers (score: R²), or of classes in one-against-all coding (score: balanced accuracy; `auc` where there are two).
    On 344 words of an opinion lexicon and a GPT-2 of d_model 192 it beat logistic regression with a cross-validated
    penalty (balanced accuracy 0.84 to 0.83, AUC 0.90 to 0.89) in a seventh of the time. Cross-validated by groups of
    words, so that "love", "loved" and "loves" are never on both sides.

    The control task (Hewitt and Liang, EMNLP 2019) gives each group the label of another at random, everything else the
    same; selectivity = score − control. As no word is on both sides, the control cannot be memorised and lies at chance
    unless groups leak: it checks the procedure and says how far chance scatters, no more. What a probe finds is there;
    that the model uses it is not said. Frequency is the usual confounder: rare words differ from common ones in every
    embedding, so take lists of like frequency. Words that are single tokens are the frequent ones, no fair sample of a list.

    Args:
        labels: word → class (all strings or all bools) or word → number (ints are numbers; spell classes as strings).
        groups: word → group; None, and for words that it lacks: words with a common stem, crudely by English suffixes.
        folds, repeats: of the cross-validation, each repeat with other folds.
        controls: random relabellings.
        seed: of folds and controls.

    Returns:
        One row: `task` ("classes" or "number"), `score` (mean over repeats), `low`, `high` (95 % bootstrap interval over groups,
        predictions kept: how the words scatter, not the fit), `control` (mean), `control_high` (the largest), `selectivity`,
        `spearman` (of predictions and labels, for numbers and bools), `auc` (of two classes), `words`, `groups`, `classes`.

    Raises:
        ValueError: fewer than 20 words that are single tokens, one class only, a class in one group only, labels of
            several kinds, a number that is none, two labels of a word, fewer groups than folds.

    Example:
        >>> import torch
        >>> words = tuple(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(200))
        >>> emb = Embedding(words, torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
        >>> bool(probe(emb, {w: float(v[0]) for w, v in zip(words, emb.vectors)}).table.score[0] > 0.95)
        True
    """
    if folds < 2 or repeats < 1 or controls < 1:
        raise ValueError(f"folds, repeats, controls: got {folds}, {repeats}, {controls}, expected at least 2, 1 and 1")
    rows, values, dropped = emb.given("labels", labels)
    enough("labels", rows, 20, dropped)
    kept = [emb.words[i].lower() for i in rows]
    y = _as_array(values)
    numbers = y.dtype.kind == "f"
    by = {word.lower(): group for word, group in groups.items()} if groups else {}
    names, group = np.unique([by.get(word, stem(word)) for word in kept], return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"groups: got {len(names)}, expected at least as many as folds ({folds})")
    _check_classes(y, group)
    X = emb.vectors[rows].double().numpy()
    random = np.random.default_rng(seed)
    runs = [_guesses(X, y, group, folds, numbers, random) for _ in range(repeats)]
    guesses = [guess for guess, _ in runs]
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
            control.append(_score(shuffled, _guesses(X, shuffled, group, folds, numbers, random)[0], numbers))
    score, chance = float(np.mean([_score(y, guess, numbers) for guess in guesses])), float(np.mean(control))
    ranks = [np.nan]
    if numbers or y.dtype.kind == "b":
        ranks = [spearmanr(y.astype(float), guess.astype(float)).statistic for guess in guesses]
    classes = 0 if numbers else len(set(y.tolist()))
    auc = np.mean([roc_auc_score(y == np.unique(y)[-1], margin) for _, margin in runs]) if classes == 2 else np.nan
    row = {
        "task": "number" if numbers else "classes", "score": score, "low": low, "high": high, "control": chance,
        "control_high": float(np.max(control)), "selectivity": score - chance, "spearman": float(np.mean(ranks)),
        "auc": float(auc), "words": len(kept), "groups": len(names), "classes": classes,
    }  # fmt: skip
    return Found(pd.DataFrame([row]), dropped)


def stem(word: str) -> str:
    """A crude stem: English suffixes off as long as three letters stay, then a doubled consonant.

    It rather throws together what is different than parts what belongs together, which would let the answer leak.

    Example:
        >>> [stem(w) for w in ("loved", "loves", "lovely", "stopped", "happy", "happily", "terrible", "terribly")]
        ['lov', 'lov', 'lov', 'stop', 'hap', 'hap', 'ter', 'ter']
    """
    while True:
        shorter = next((word[: -len(s)] for s in SUFFIXES if word.endswith(s) and len(word) - len(s) >= 3), None)
        if shorter is None:
            break
        word = shorter
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") else word


def _as_array(values: list) -> np.ndarray:
    """Numbers as floats, bools and strings as they are."""
    kinds = {
        str
        if isinstance(v, str)
        else bool
        if isinstance(v, bool | np.bool_)
        else float
        if isinstance(v, Real)
        else type(v)
        for v in values
    }
    if len(kinds) > 1 or not kinds <= {str, bool, float}:
        names = sorted(kind.__name__ for kind in kinds)
        raise ValueError(f"labels: got {' and '.join(names)}, expected all strings, all bools or all numbers")
    y = np.array(values, dtype=None if kinds != {float} else float)
    if kinds == {float} and not np.isfinite(y).all():
        raise ValueError(f"labels: got {y[~np.isfinite(y)][0]} as a number, expected finite ones; leave such words out")
    if len(set(y.tolist())) < 2:
        raise ValueError(
            f"labels: every word that is a single token has the label {values[0]!r}, expected at least two"
        )
    return y


def _check_classes(y: np.ndarray, group: np.ndarray) -> None:
    for label in [] if y.dtype.kind == "f" else np.unique(y):
        if len(set(group[y == label].tolist())) < 2:
            raise ValueError(
                f"labels: all words of class {label.item()!r} are of one group, expected two groups a class at least: none would "
                "be left to learn it from; leave the class out"
            )


def _guesses(
    X: Float[np.ndarray, "n d"],
    y: np.ndarray,
    group: np.ndarray,
    folds: int,
    numbers: bool,
    random: np.random.Generator,
) -> tuple[np.ndarray, Float[np.ndarray, " n"]]:
    """What the probe says of each word when the words of its fold were held out; of two classes, how surely the second."""
    fold = np.empty(group.max() + 1, int)
    for k, part in enumerate(np.array_split(random.permutation(group.max() + 1), folds)):
        fold[part] = k
    found, margin = np.empty_like(y), np.zeros(len(y))
    for k in range(folds):
        held = fold[group] == k
        if len(set(y[~held].tolist())) < 2:
            found[held] = y[~held][0]
            continue
        last = RidgeCV(alphas=PENALTIES) if numbers else RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
        fitted = make_pipeline(StandardScaler(), last).fit(X[~held], y[~held])
        found[held] = fitted.predict(X[held])
        if not numbers and len(set(y.tolist())) == 2:
            margin[held] = fitted.decision_function(X[held])
    return found, margin


def _score(y: np.ndarray, guess: np.ndarray, numbers: bool) -> float:
    if numbers:
        return float(r2_score(y, guess))
    present = [y == label for label in np.unique(y)]
    return float(np.mean([(guess[mine] == y[mine]).mean() for mine in present]))
