"""Probabilities of texts under each condition, from those of their sentences."""

import numpy as np
from jaxtyping import Float

from steerlens.toy.forward import (
    Sentences,
    before_each,
    log_sum_exp,
    prefix_likelihood,
    safe_log,
    sentence_likelihood,
)
from steerlens.toy.tables import Tables


def stop_chances(
    sentences: Sentences, stop: float, min_sentences: int
) -> Float[np.ndarray, " counts"]:
    """Return P(the text ends | j sentences are over).

    j runs from 0 to as many as there are, and one more.
    """
    counts = np.arange(max(sentences.order, default=0) + 2)
    return np.where(counts >= min_sentences, stop, 0.0)


def text_log_likelihood(
    tables: Tables, sentences: Sentences, stops: Float[np.ndarray, " counts"], end: bool
) -> Float[np.ndarray, "texts conditions"]:
    """Return log P(text | each condition).

    It is the product over sentences, times going on after each but the last; with `end` times
    ending there, which a text cut within a sentence cannot.
    """
    out = np.zeros((sentences.n_texts, len(tables.start)))
    log_like = safe_log(sentence_likelihood(tables, sentences))
    np.add.at(out, sentences.text, log_like + safe_log(1.0 - stops)[sentences.order][:, None])
    if end:
        count = np.bincount(sentences.text, minlength=sentences.n_texts)
        cut = np.zeros(sentences.n_texts, bool)
        cut[sentences.text[~sentences.complete]] = True
        out += np.where(cut, -np.inf, safe_log(stops)[count])[:, None]
    return out


def prefix_log_probs(
    tables: Tables,
    sentences: Sentences,
    stops: Float[np.ndarray, " counts"],
    log_prior: Float[np.ndarray, " conditions"],
) -> Float[np.ndarray, " tokens"]:
    """Return log P(the text begins with its first k tokens), for every k of one text; -inf from the
    first impossible token on."""
    inside = prefix_likelihood(tables, sentences)
    going = safe_log(1.0 - stops)[sentences.order]
    last = inside[np.arange(len(inside)), sentences.length - 1]
    earlier = before_each(safe_log(last) + going[:, None], sentences.order) + going[:, None]
    joint = earlier[:, None] + safe_log(inside) + log_prior
    real = np.arange(inside.shape[1]) < sentences.length[:, None]
    return log_sum_exp(joint)[real]
