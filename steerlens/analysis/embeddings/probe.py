"""Linear probes for properties of words, with the control that tells knowing from memorising."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import roc_auc_score

from steerlens.analysis.embeddings.table import Embedding, ResultTable, require_at_least
from steerlens.maths.numbers import numpy_generator
from steerlens.maths.ridge import predict_by_ridge, standardise
from steerlens.maths.stats import rank_correlation
from steerlens.maths.torch_defaults import torch_defaults

SUFFIXES = (
    "ation", "ness", "less", "ment", "able", "ible", "ably", "ibly", "ing", "ful", "est", "ous", "ive", "ion", "ish",
    "ly", "ed", "er", "or", "es", "en", "al", "s", "y", "e", "i",
)  # fmt: skip


@torch_defaults()
def probe(
    emb: Embedding,
    labels: Mapping[str, str | bool | float],
    *,
    groups: Mapping[str, str] | None = None,
    folds: int = 5,
    repeats: int = 5,
    controls: int = 39,
    seed: int = 0,
) -> ResultTable:
    """Ask whether a property of words can be read linearly off their embeddings.

    Ridge regression on standardised vectors, the penalty chosen on the training folds by
    leave-one-out in closed form: of numbers (score: R²), or of classes in one-against-all coding
    (score: balanced accuracy; `auc` where there are two). On 344 words of an opinion lexicon and a
    GPT-2 of d_model 192 it beat logistic regression with a cross-validated penalty (balanced
    accuracy 0.84 to 0.83, AUC 0.90 to 0.89) in a seventh of the time. Cross-validated by groups of
    words, so that "love", "loved" and "loves" are never on both sides.

    The control task (Hewitt and Liang, EMNLP 2019) gives each group the labels of another at
    random, everything else the same, the folds too; selectivity = score − control. As no word is on
    both sides, the control cannot be memorised. Its scores say how far chance scatters: a random
    labelling is one more of them, so that it lies within `control_low` … `control_high` in 95 % of
    cases and has p ≤ 0.05 in 5 %, exactly where the groups are of one size or each has one label.

    The score itself has no interval here. Each word is tested once and trains the probe that tests
    the others, so the words' hits are not independent; under random labels each pair of words
    counts twice in the score, whose variance is then up to twice that of independent words. An
    interval from resampling the words (predictions kept) covered chance in some 80 % of random
    labellings instead of 95 %, and no unbiased estimate of that variance exists (Bengio and
    Grandvalet, 2004).

    What a probe finds is there; that the model uses it is not said. Frequency is the usual
    confounder: rare words differ from common ones in every embedding, so take lists of like
    frequency. Words that are single tokens are the frequent ones, no fair sample of a list.

    Args:
        labels: word → class (all strings or all bools) or word → number (ints are numbers; spell
            classes as strings).
        groups: word → group; None, and for words that it lacks: words with a common stem, crudely
            by English suffixes.
        folds, repeats: of the cross-validation, each repeat with other folds.
        controls: random relabellings, m. Of fewer than 39 the least and the largest score are
            `control_low` and `control_high`, which hold a random labelling's in (m − 1)/(m + 1) of
            cases; p is at least 1/(m + 1).
        seed: of folds and controls.

    Returns:
        One row: `task` ("classes" or "number"), `score` (mean over repeats; R² or balanced
        accuracy,
        1 at best), `control` (mean score of the relabellings), `control_low`, `control_high` (the
        range that holds 95 % of random labellings' scores), `p` (chance of so high a score if the
        labels say nothing, one-sided), `selectivity`, `spearman` (of predictions and labels, for
        numbers and bools), `auc` (of two classes), `words`, `groups`, `classes`.

    Raises:
        ValueError: fewer than 20 words that are single tokens, one class only, a class in one group
            only, labels of several kinds, a number that is none, two labels of a word, fewer groups
            than folds.

    Example:
        >>> import torch
        >>> words = tuple(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(200))
        >>> emb = Embedding(words, torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
        >>> bool(probe(emb, {w: float(v[0]) for w, v in zip(words, emb.vectors)}).table.score[0] > 0.95)
        True
    """
    if folds < 2 or repeats < 1 or controls < 1:
        raise ValueError(
            f"folds, repeats, controls: got {folds}, {repeats}, {controls}, expected at least 2, 1 and 1"
        )
    rows, values, dropped = emb.given("labels", labels)
    require_at_least("labels", rows, 20, dropped)
    kept = [emb.words[i].lower() for i in rows]
    y = _as_array(values)
    numbers = y.dtype.kind == "f"
    by = {word.lower(): group for word, group in groups.items()} if groups else {}
    names, group = np.unique([by.get(word, stem(word)) for word in kept], return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"groups: got {len(names)}, expected at least as many as folds ({folds})")
    _check_classes(y, group)
    X = emb.vectors[rows].double().numpy()
    random = numpy_generator(seed)
    members = [np.flatnonzero(group == g) for g in range(len(names))]
    others = [_relabelled(y, members, random) for _ in range(controls)]
    runs = [_guesses(X, [y, *others], group, folds, random) for _ in range(repeats)]
    guesses = [run[0][0] for run in runs]
    score, *chances = (
        float(np.mean([_score(of, found[k], numbers) for found, _ in runs]))
        for k, of in enumerate([y, *others])
    )
    chance = float(np.mean(chances))
    # order statistics, so that a score that is one more of them falls outside in 2 · out / (m + 1)
    out = max((controls + 1) // 40, 1)
    low, high = np.sort(chances)[[out - 1, -out]]
    # equal labellings must tie, however their scores were rounded
    as_high = sum(other >= score - 1e-9 for other in chances)
    ranks = [np.nan]
    if numbers or y.dtype.kind == "b":
        ranks = [rank_correlation(y.astype(float), guess.astype(float)) for guess in guesses]
    classes = 0 if numbers else len(set(y.tolist()))
    auc = (
        np.mean([roc_auc_score(y == np.unique(y)[-1], margins[0]) for _, margins in runs])
        if classes == 2
        else np.nan
    )
    row = {
        "task": "number" if numbers else "classes", "score": score, "control": chance, "control_low": low,
        "control_high": high, "p": (as_high + 1) / (controls + 1), "selectivity": score - chance,
        "spearman": float(np.mean(ranks)), "auc": float(auc), "words": len(kept), "groups": len(names),
        "classes": classes,
    }  # fmt: skip
    return ResultTable(pd.DataFrame([row]), dropped)


def stem(word: str) -> str:
    """Stem crudely: English suffixes off as long as three letters stay, then a doubled consonant.

    It rather throws together what is different than parts what belongs together, which would let
    the answer leak.

    Example:
        >>> [stem(w) for w in ("loved", "loves", "lovely", "stopped", "happy", "happily", "terrible", "terribly")]
        ['lov', 'lov', 'lov', 'stop', 'hap', 'hap', 'ter', 'ter']
    """
    while True:
        shorter = next(
            (word[: -len(s)] for s in SUFFIXES if word.endswith(s) and len(word) - len(s) >= 3),
            None,
        )
        if shorter is None:
            break
        word = shorter
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") else word


def _as_array(values: list) -> np.ndarray:
    """Return values as an array: numbers as floats, bools and strings as they are."""
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
        raise ValueError(
            f"labels: got {' and '.join(names)}, expected all strings, all bools or all numbers"
        )
    y = np.array(values, dtype=None if kinds != {float} else float)
    if kinds == {float} and not np.isfinite(y).all():
        raise ValueError(
            f"labels: got {y[~np.isfinite(y)][0]} as a number, expected finite ones; leave such words out"
        )
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


def _relabelled(
    y: np.ndarray, members: list[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """Give each group the labels of another, those again from the first where it has more words."""
    while True:  # the labels themselves are one of the draws, so that it ends
        new = np.empty_like(y)
        for mine, g in zip(members, random.permutation(len(members)), strict=True):
            new[mine] = np.resize(y[members[g]], len(mine))
        if len(set(new.tolist())) > 1:
            return new


def _guesses(
    X: Float[np.ndarray, "n d"],
    labellings: list[np.ndarray],
    group: np.ndarray,
    folds: int,
    random: np.random.Generator,
) -> tuple[list[np.ndarray], Float[np.ndarray, "labellings n"]]:
    """Predict each word from the words outside its fold, by each labelling with the same folds.

    Returns:
        The predictions, and of two classes how surely the second (the ridge's output, −1 to 1
        about).
    """
    fold = np.empty(group.max() + 1, int)
    for k, part in enumerate(np.array_split(random.permutation(group.max() + 1), folds)):
        fold[part] = k
    found, margins = [np.empty_like(y) for y in labellings], np.zeros((len(labellings), len(X)))
    for k in range(folds):
        held = fold[group] == k
        train, test = standardise(X[~held], X[held])
        if labellings[0].dtype.kind == "f":
            guess = predict_by_ridge(
                train, np.stack([y[~held] for y in labellings], 1), np.ones(len(train)), test, True
            )
            for mine, column in zip(found, guess.T, strict=True):
                mine[held] = column
            continue
        for i, y in enumerate(labellings):
            names, code, count = np.unique(y[~held], return_inverse=True, return_counts=True)
            if len(names) < 2:
                found[i][held] = names[0]
                continue
            codes = 2.0 * (code[:, None] == np.arange(len(names))) - 1
            # each class weighs the same, or the probe would name the commonest
            outputs = predict_by_ridge(
                train, codes, (len(code) / (len(names) * count))[code], test, False
            )
            found[i][held] = names[outputs.argmax(1)]
            if len(names) == 2:
                margins[i, held] = outputs[:, 1]
    return found, margins


def _score(y: np.ndarray, guess: np.ndarray, numbers: bool) -> float:
    if numbers:
        return float(1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    present = [y == label for label in np.unique(y)]
    return float(np.mean([(guess[mine] == y[mine]).mean() for mine in present]))
