"""What a text says about the condition it was written under."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from steerlens.toy.forward import Sentences, safe_log, sentence_likelihood, softmax
from steerlens.toy.tables import FACTORS, Level, Tables


@dataclass(frozen=True, eq=False)
class Posterior:
    """P(sentiment, tone, topic | text), and whether the grammar can begin a text that way.

    `table` holds the joint probabilities, `axes` the levels of its last three axes; for several
    texts all arrays have a leading axis over texts.

    Example:
        >>> from steerlens.toy import grammar
        >>> bool(grammar.posterior("the plot was wonderful .").mean("sentiment") > 0)
        True
    """

    table: Float[np.ndarray, "*texts sentiments tones topics"]
    axes: tuple[tuple[Level, ...], tuple[Level, ...], tuple[Level, ...]]
    grammatical: Bool[np.ndarray, "*texts"]

    def marginal(self, factor: str) -> Float[np.ndarray, "*texts levels"]:
        """Return P(level of `factor` | text), the other two factors summed out."""
        axis = _axis(factor)
        return self.table.sum(axis=tuple(i - 3 for i in range(3) if i != axis))

    def mean(self, factor: str) -> Float[np.ndarray, "*texts"]:
        """Return E[label | text], in the units of the label (sentiment and tone: -1 … 1).

        Topics have no mean.
        """
        if factor == "topic":
            raise ValueError(
                'factor is "topic", whose levels are names; expected "sentiment" or "tone"'
            )
        return np.asarray(self.marginal(factor) @ np.array(self.axes[_axis(factor)], dtype=float))

    @property
    def sentiment(self) -> Float[np.ndarray, "*texts sentiments"]:
        """P(grade | text) over `axes[0]`."""
        return self.marginal("sentiment")

    @property
    def tone(self) -> Float[np.ndarray, "*texts tones"]:
        """P(tone | text) over `axes[1]`."""
        return self.marginal("tone")

    @property
    def topic(self) -> Float[np.ndarray, "*texts topics"]:
        """P(topic | text) over `axes[2]`."""
        return self.marginal("topic")


def _axis(factor: str) -> int:
    if factor not in FACTORS:
        raise ValueError(f"factor is {factor!r}; expected one of {FACTORS}")
    return FACTORS.index(factor)


def posterior(
    tables: Tables,
    sentences: Sentences,
    log_prior: Float[np.ndarray, " conditions"],
    axes: tuple[tuple[Level, ...], tuple[Level, ...], tuple[Level, ...]],
) -> Posterior:
    """Return the posterior over conditions of every text; exact for texts that the grammar can
    begin.

    A sentence that the grammar cannot produce has likelihood 0 under every condition. Such a
    sentence is replaced by its bag of words: the product over its known words of P(word |
    condition), the word's expected share in texts of that condition; unknown words say nothing. The
    other sentences of the text keep their exact likelihood, and the text is reported as not
    grammatical.
    """
    like = sentence_likelihood(tables, sentences)
    broken = ~like.any(axis=1)
    log_like = safe_log(like)
    words = np.where(sentences.words < 0, tables.emission.shape[1] - 1, sentences.words)
    shares = tables.unigram.copy()
    shares[:, [0, -1]] = 1.0
    for s in np.nonzero(broken)[0]:
        log_like[s] = np.log(shares[:, words[s]]).sum(axis=1)
    total = np.tile(log_prior, (sentences.n_texts, 1))
    np.add.at(total, sentences.text, log_like)
    grammatical = np.ones(sentences.n_texts, bool)
    grammatical[sentences.text[broken]] = False
    possible = np.isfinite(total).any(axis=1)
    # Every sentence is possible, but no condition allows them all: only the prior is left.
    total[~possible] = log_prior
    shape = tuple(len(axis) for axis in axes)
    return Posterior(softmax(total).reshape(-1, *shape), axes, grammatical & possible)
