"""A text classifier of one's own: weighted n-grams and logistic regression, kept without pickle."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save as to_bytes
from scipy.sparse import hstack, vstack
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from steerlens.evaluate.scorers.card import Card, Heldout, heldout
from steerlens.evaluate.scorers.ngrams import Grams, tfidf
from steerlens.maths.numbers import as_count, as_numpy_seed
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_labelled
from steerlens.values.atomic import write_bytes
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_path
from steerlens.values.tensor_file import open_tensors

CUTS = (Grams("word", 1, 2), Grams("char_wb", 2, 5))
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
FORMAT = 1
FEW = 10
"""Different texts, below which a tenth of them is none."""


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """`σ(Σ tf-idf · weight + bias)` of words and of characters; made by `fit_text_classifier`.

    Scored in numpy: whoever only scores needs no scikit-learn of the version it was fitted with.

    Args:
        terms: n-grams of each cut, in the order of the weights.
        idf, weights: of each term, one cut after the other.
        bias: the log-odds of a text without a known term.
    """

    terms: tuple[tuple[str, ...], ...]
    idf: Float[np.ndarray, " terms"]
    weights: Float[np.ndarray, " terms"]
    bias: float
    card: Card

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        z, start = np.full(len(texts), self.bias), 0
        for cut, terms in zip(CUTS, self.terms, strict=True):
            part = slice(start, start + len(terms))
            columns = {term: k for k, term in enumerate(terms)}
            z = z + tfidf(texts, cut, columns, self.idf[part]) @ self.weights[part]
            start = part.stop
        return expit(z)

    def __repr__(self) -> str:
        return f"TextClassifier({self.card}; {len(self.weights):,} terms)"


@torch_defaults()
def fit_text_classifier(
    data: Labelled,
    *,
    measures: str,
    name: str = "text classifier",
    test: Labelled | None = None,
    min_count: int = 2,
    seed: int = 0,
) -> TextClassifier:
    """Fit a classifier of texts to labels in [-1, 1]: 1- and 2-grams of words, 2- to 5-grams of
    characters within words, tf-idf, logistic regression.

    A graded label y counts as (1 + y)/2 of a high text and (1 − y)/2 of a low one, which is the
    cross-entropy to that share. The penalty is chosen on a tenth of the texts, or on all that are
    learned from where fewer than ten are different.

    Args:
        data: texts and labels; prompts are not read.
        measures: what 1 means, e.g. "how toxic".
        test: texts that judge it, for the card; None: a fifth of `data`, which is then not learned
            from.
        min_count: texts that a term must be in.
        seed: of the splits.

    Raises:
        ValueError: labels of one sign alone, or no term that comes often enough.

    Example:
        >>> import steerlens as sl
        >>> data = sl.toy.corpus("sentiment", n=300, seed=0)
        >>> joy = fit_text_classifier(data, measures="how positive")
        >>> joy.scores(["the film was superb ."])[0] > joy.scores(["the film was awful ."])[0]
        np.True_
    """
    check_labelled(data)
    if test is not None:
        check_labelled(test, "test")
    least, seed = as_count(min_count, "min_count"), as_numpy_seed(seed)
    _check_signs(data)
    if test is None:
        data, test = data.split(0.8, seed=seed)
    few = len(set(zip(data.texts, data.prompts or data.texts, strict=True))) < FEW
    learn, choose = (data, data) if few else data.split(0.9, seed=seed)
    _check_signs(learn)
    vectors = [
        TfidfVectorizer(
            analyzer=cut.kind, ngram_range=(cut.least, cut.most), min_df=least,
            sublinear_tf=True, dtype=np.float64,
        )
        for cut in CUTS
    ]  # fmt: skip
    try:
        parts = [cast(Any, v.fit_transform(learn.texts)) for v in vectors]
    except ValueError as error:
        raise ValueError(
            f"data: no term of words or characters is in at least {least} of {len(learn)} texts, "
            f"so there is nothing to learn from ({error}); take more texts, or a smaller min_count"
        ) from None
    x = hstack(parts).tocsr()
    held = hstack([v.transform(choose.texts) for v in vectors]).tocsr()
    shares = (1 + np.array(choose.labels)) / 2
    best = min(
        (_logistic(x, (1 + np.array(learn.labels)) / 2, c) for c in PENALTIES),
        key=lambda found: _cross_entropy(held @ found[0] + found[1], shares),
    )
    terms = tuple(tuple(v.get_feature_names_out().tolist()) for v in vectors)
    idf = np.concatenate([cast(Any, v.idf_) for v in vectors])
    card = Card(name, measures, None, f"fitted to {len(data):,} texts, {len(idf):,} terms")
    fitted = TextClassifier(terms, idf, *best, card)
    judged = heldout(fitted, test, on="of the same kind")
    return replace(fitted, card=replace(card, heldout=judged))


def _check_signs(data: Labelled) -> None:
    if not {-1.0, 1.0} <= {float(np.sign(y)) for y in data.labels}:
        raise ValueError(
            f"data: labels of both signs are needed, got {sorted(set(data.labels))[:8]}; add texts "
            "of the other kind"
        )


def _logistic(x: Any, shares: Float[np.ndarray, " n"], c: float) -> tuple[np.ndarray, float]:
    """Fit log-odds to shares of a class: each text counts on both sides, by its share."""
    high, low = shares > 0, shares < 1
    # the intercept is penalised as a weight is; scaled by 10 it hardly is
    fitted = LogisticRegression(C=c, solver="liblinear", random_state=0, intercept_scaling=10).fit(
        vstack([x[high], x[low]]),
        np.repeat([1, 0], [high.sum(), low.sum()]),
        sample_weight=np.concatenate([shares[high], 1 - shares[low]]),
    )
    return cast(np.ndarray, fitted.coef_)[0], float(cast(np.ndarray, fitted.intercept_)[0])


def _cross_entropy(z: Float[np.ndarray, " n"], shares: Float[np.ndarray, " n"]) -> float:
    return float((np.logaddexp(0, z) - shares * z).mean())


def save_text_classifier(scorer: TextClassifier, path: str | Path) -> Path:
    """Write a classifier to one `.safetensors` file, its terms and card as JSON inside.

    Raises:
        ValueError: another ending.

    Example:
        >>> import steerlens as sl
        >>> joy = fit_text_classifier(sl.toy.corpus("tone", n=200, seed=0), measures="courtesy")
        >>> path = save_text_classifier(joy, "courtesy.safetensors")
        >>> load_text_classifier(path).card == joy.card
        True
    """
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in .safetensors")
    about = {
        "format": FORMAT, "terms": scorer.terms, "bias": scorer.bias, "card": asdict(scorer.card),
        "cuts": CUTS,
    }  # fmt: skip
    if scorer.card.heldout is not None:
        about["card"]["heldout"] = scorer.card.heldout._asdict()
    tensors = {"idf": scorer.idf, "weights": scorer.weights}
    write_bytes(path, to_bytes(tensors, metadata={"steerlens scorer": json.dumps(about)}))
    return path


def load_text_classifier(path: str | Path) -> TextClassifier:
    """Load a classifier that `save_text_classifier` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or one of a later format.

    Example:
        >>> load_text_classifier("none.safetensors")
        Traceback (most recent call last):
            ...
        FileNotFoundError: path: no file none.safetensors
    """
    path = as_path(path)
    tensors, about = open_tensors(path, "steerlens scorer")
    if not about:
        raise ValueError(f"{path}: not a file that save_text_classifier wrote")
    if about["format"] > FORMAT or [list(cut) for cut in CUTS] != about["cuts"]:
        raise ValueError(f"{path}: format {about['format']}, this steerlens reads {FORMAT}; update")
    card = about["card"]
    known = None if card["heldout"] is None else Heldout(**card["heldout"])
    terms = tuple(map(tuple, about["terms"]))
    card = Card(**(card | {"heldout": known}))
    idf, weights = (tensors[name].numpy() for name in ("idf", "weights"))
    return TextClassifier(terms, idf, weights, about["bias"], card)
