"""The forward algorithm, sentence by sentence.

Every sentence ends with a word that occurs nowhere else, so the position in a sentence is
observable and a belief is a table over (template, condition). Most templates die at the first word;
only the pairs (sentence, template) that are still alive are carried along, for all sentences of all
texts at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from steerlens.toy.tables import TERMINATORS, Tables

PADDING = -1


@dataclass(frozen=True, eq=False)
class Sentences:
    """Texts cut after each terminator: word indices, padded with -1, and where each one stands."""

    words: Int[np.ndarray, "sentences positions"]
    length: Int[np.ndarray, " sentences"]
    text: Int[np.ndarray, " sentences"]
    order: Int[np.ndarray, " sentences"]
    complete: Bool[np.ndarray, " sentences"]
    n_texts: int


@dataclass(frozen=True, eq=False)
class Alive:
    """Pairs (sentence, template) that are left after one position, by sentence, with weights by
    condition."""

    sentence: Int[np.ndarray, " pairs"]
    template: Int[np.ndarray, " pairs"]
    weight: Float[np.ndarray, "pairs conditions"]

    def total(self, n: int) -> Float[np.ndarray, "n conditions"]:
        """Sum over templates: P(sentence so far | condition)."""
        out = np.zeros((n, self.weight.shape[1]))
        if len(self.sentence):
            present, begins = np.unique(self.sentence, return_index=True)
            out[present] = np.add.reduceat(self.weight, begins, axis=0)
        return out


def split_sentences(texts: list[str], index: dict[str, int], unknown: int) -> Sentences:
    """Split texts into sentences; tokens are what whitespace separates.

    A text may stop in the middle of a sentence and may be empty.
    """
    rows, text, order, complete = [], [], [], []
    for i, one in enumerate(texts):
        tokens, begin, count = one.split(), 0, 0
        for j, token in enumerate(tokens):
            if token in TERMINATORS or j == len(tokens) - 1:
                rows.append([index.get(word, unknown) for word in tokens[begin : j + 1]])
                text.append(i)
                order.append(count)
                complete.append(token in TERMINATORS)
                begin, count = j + 1, count + 1
    length = np.array([len(row) for row in rows], dtype=int)
    words = np.full((len(rows), max(length, default=1)), PADDING)
    for i, row in enumerate(rows):
        words[i, : len(row)] = row
    return Sentences(
        words,
        length,
        np.array(text, dtype=int),
        np.array(order, dtype=int),
        np.array(complete, bool),
        len(texts),
    )


def scan(tables: Tables, words: Int[np.ndarray, "sentences positions"]) -> Iterator[Alive]:
    """Yield, after each position, P(template, words so far | condition) of the pairs still
    possible."""
    if not len(words):
        return
    sentence, template = np.nonzero(tables.allowed[words[:, 0]])
    weight = tables.start.T[template]
    for p in range(min(words.shape[1], tables.row.shape[1])):
        word = words[sentence, p]
        seen = word != PADDING
        sentence, template, weight, word = sentence[seen], template[seen], weight[seen], word[seen]
        weight = weight * tables.by_word[word[:, None], tables.row[template, p]]
        alive = weight.any(axis=1)
        sentence, template, weight = sentence[alive], template[alive], weight[alive]
        yield Alive(sentence, template, weight)


def prefix_likelihood(
    tables: Tables, sentences: Sentences
) -> Float[np.ndarray, "sentences positions conditions"]:
    """Return P(first p + 1 words of the sentence | condition).

    It is zero where the sentence is over or impossible.
    """
    n, positions = sentences.words.shape
    out = np.zeros((n, positions, len(tables.start)))
    for p, alive in enumerate(scan(tables, sentences.words)):
        out[:, p] = alive.total(n)
    return out


def sentence_likelihood(
    tables: Tables, sentences: Sentences
) -> Float[np.ndarray, "sentences conditions"]:
    """Return P(all words of the sentence | condition)."""
    n = len(sentences.words)
    out = np.zeros((n, len(tables.start)))
    for p, alive in enumerate(scan(tables, sentences.words)):
        here = sentences.length == p + 1
        out[here] = alive.total(n)[here]
    return out


def safe_log(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the natural logarithm with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(x)


def log_sum_exp(x: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """Return log Σ exp over the last axis; -inf where every entry is -inf."""
    top = x.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    return safe_log(np.exp(x - top).sum(axis=-1)) + top[..., 0]


def softmax(x: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch n"]:
    """Return exp(x) normalised over the last axis; zeros where every entry is -inf."""
    total = log_sum_exp(x)[..., None]
    return np.exp(x - np.where(np.isfinite(total), total, 0.0))


def before_each(
    values: Num[np.ndarray, "sentences c"], order: Int[np.ndarray, " sentences"]
) -> Num[np.ndarray, "sentences c"]:
    """Sum `values` over the earlier sentences of the same text (they stand in order, side by
    side)."""
    out = np.zeros_like(values)
    for k in range(1, max(order, default=0) + 1):
        here = np.nonzero(order == k)[0]
        out[here] = out[here - 1] + values[here - 1]
    return out
