"""Exact next-token distributions of whole texts, as sparse mixtures of the model's emission
rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from steerlens.toy.forward import (
    Alive,
    Sentences,
    before_each,
    safe_log,
    scan,
    sentence_likelihood,
    softmax,
)
from steerlens.toy.tables import Tables


@dataclass(frozen=True, eq=False)
class NextRows:
    """P(next token | tokens before) = Σ weight · mixture[row], for each position; text i owns
    positions offset[i] …

    A text of m tokens has m + 1 positions: before its first token, then after each token.
    """

    position: Int[np.ndarray, " entries"]
    row: Int[np.ndarray, " entries"]
    weight: Float[np.ndarray, " entries"]
    offset: Int[np.ndarray, " texts"]
    n_positions: int


def mixture_table(tables: Tables) -> Float[np.ndarray, "rows vocab"]:
    """Return the distributions that `NextRows.row` counts.

    These are emission rows, first words by condition, end of text.
    """
    end = np.zeros((1, len(tables.vocab)))
    end[0, 0] = 1.0
    return np.concatenate([tables.emission[:, :-1], tables.first[:, :-1], end])


def _spread(
    alive: Alive, p: int, prior: Float[np.ndarray, "sentences conditions"], tables: Tables
) -> Float[np.ndarray, "sentences rows"]:
    """Return the belief over the rows of the next position, inside a sentence.

    The belief is that given the words up to position p.
    """
    n, n_rows = len(prior), len(tables.emission)
    out = np.zeros((n, n_rows))
    going = tables.length[alive.template] > p + 1
    sentence, template = alive.sentence[going], alive.template[going]
    if not len(sentence):
        return out
    weight = alive.weight[going] * prior[sentence]
    key = sentence[:, None] * n_rows + tables.row[template, p + 1]
    out = np.bincount(key.ravel(), weight.ravel(), n * n_rows).reshape(n, n_rows)
    total = out.sum(axis=1, keepdims=True)
    return np.divide(out, total, out=out, where=total > 0)


def next_rows(
    tables: Tables,
    sentences: Sentences,
    log_prior: Float[np.ndarray, " conditions"],
    stops: Float[np.ndarray, " sentences_or_more"],
) -> NextRows:
    """Return every position's exact next-token mixture.

    `stops[j]` = P(the text ends | j sentences are over).

    A position that the grammar cannot reach gets no entries (probabilities that sum to 0).
    """
    n_rows = len(tables.emission)
    log_like = safe_log(sentence_likelihood(tables, sentences))
    prior_log = log_prior + before_each(log_like, sentences.order)
    prior = softmax(prior_log)
    tokens = np.bincount(sentences.text, sentences.length, sentences.n_texts).astype(int)
    offset = np.concatenate([[0], np.cumsum(tokens + 1)])
    begin = offset[sentences.text] + before_each(sentences.length[:, None], sentences.order)[:, 0]

    parts = []
    for p, alive in enumerate(scan(tables, sentences.words)):
        inside = _spread(alive, p, prior, tables)
        s, row = np.nonzero(inside)
        parts.append((begin[s] + p + 1, row, inside[s, row]))
    belief = np.concatenate(
        [softmax(np.tile(log_prior, (sentences.n_texts, 1))), softmax(prior_log + log_like)]
    )
    over = np.concatenate([np.ones(sentences.n_texts, bool), sentences.complete])
    place = np.concatenate([offset[:-1], begin + sentences.length])[over]
    stop = np.concatenate([np.zeros(sentences.n_texts), stops[sentences.order + 1]])[over]
    belief = belief[over]
    s, c = np.nonzero(belief)
    parts.append((place[s], n_rows + c, belief[s, c] * (1.0 - stop[s])))
    ends = np.nonzero((stop > 0) & belief.any(axis=1))[0]
    parts.append((place[ends], np.full(len(ends), n_rows + belief.shape[1]), stop[ends]))
    position, row, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return NextRows(position, row, weight, offset[:-1], int(offset[-1]))
