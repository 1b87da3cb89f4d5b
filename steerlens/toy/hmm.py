"""A grammar that is exactly a hidden Markov model: state = condition × template × position."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from steerlens.toy.condition import Condition, EntropyRate, WordFactor
from steerlens.toy.forward import Sentences, log_sum_exp, safe_log, split_sentences
from steerlens.toy.posterior import Posterior, posterior
from steerlens.toy.sample import draw_texts
from steerlens.toy.tables import (
    FACTORS,
    Level,
    Tables,
    Template,
    WordClass,
    build_tables,
    check_levels,
    check_templates,
)
from steerlens.toy.targets import NextRows, mixture_table, next_rows
from steerlens.toy.text_likelihood import prefix_log_probs, stop_chances, text_log_likelihood


@dataclass(frozen=True)
class Grammar:
    """Texts of sentences, sentences of words; every probability is exact, in nats and float64.

    A condition (sentiment × tone × topic, uniform) is drawn for the text and persists. Each
    sentence draws a template t with P(t | condition) ∝ 1 or, where the template's mark does not fit
    the condition, ∝ 1/boost; each slot draws a word v from its class with P(v) ∝ frequency ·
    exp(-(g - grade)²/2σ²) for sentiment and tone, and frequency · (1 - leak) or leak/(n - 1) for
    the condition's own topic and the n - 1 others. After `min_sentences` sentences or more the text
    ends with probability `stop`.

    Example:
        >>> from steerlens.toy import Condition, grammar
        >>> text = grammar.sample(1, Condition(sentiment=1.0), seed=0)[0]
        >>> grammar.log_prob(text) < 0
        True
    """

    classes: tuple[WordClass, ...]
    templates: tuple[Template, ...]
    sentiments: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    tones: tuple[float, ...] = (-1.0, 0.0, 1.0)
    topics: tuple[str, ...] = ("films",)
    stop: float = 0.5
    min_sentences: int = 2
    sentiment_spread: float = 0.5
    tone_spread: float = 0.6
    topic_leak: float = 0.03
    boost: float = 6.0

    def __post_init__(self) -> None:
        for name in ("stop", "sentiment_spread", "tone_spread", "boost"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if self.stop > 1 or not 0 <= self.topic_leak < 1 or self.min_sentences < 1:
            raise ValueError(
                f"stop is {self.stop}, topic_leak {self.topic_leak}, min_sentences {self.min_sentences}; "
                "expected stop in (0, 1], topic_leak in [0, 1), at least 1 sentence"
            )
        check_templates(self.templates, self.classes)
        for word_class in self.classes:
            check_levels(word_class, self.axes)

    @property
    def axes(self) -> dict[str, tuple[Level, ...]]:
        """The levels of each factor, in the order of every table."""
        return {"sentiment": self.sentiments, "tone": self.tones, "topic": self.topics}

    @cached_property
    def tables(self) -> Tables:
        """Return the model as arrays, built at first use."""
        spreads = {"sentiment": self.sentiment_spread, "tone": self.tone_spread}
        return build_tables(
            self.classes, self.templates, self.axes, spreads, self.topic_leak, self.boost
        )

    @property
    def vocab(self) -> tuple[str, ...]:
        """All tokens; number 0 is the end of the text, the words follow in alphabetical order."""
        return self.tables.vocab

    @cached_property
    def word_index(self) -> dict[str, int]:
        """Return the number of each word in `vocab`; the end of the text is not a word."""
        return {word: i for i, word in enumerate(self.vocab) if i > 0}

    @cached_property
    def lexicon(self) -> dict[str, WordFactor]:
        """Return the truth about every word: (factor, level).

        (None, None) stands for words that depend on nothing.
        """
        truth = {word: WordFactor(None, None) for word in self.vocab[1:]}
        for c in self.classes:
            truth.update(
                {
                    w: WordFactor(c.factor, v)
                    for w, v in zip(c.words, c.levels, strict=True)
                    if c.factor
                }
            )
        return truth

    def log_prob(self, text: str, condition: Condition | None = None, end: bool = True) -> float:
        """Return log P(text | condition) in nats; -inf for what the grammar cannot say.

        With `end` the text must be whole: the probability includes that it ends here. Without, it
            is the
        probability that a text begins with these tokens, which may stop in the middle of a
        sentence.

        Example:
            >>> from steerlens.toy import grammar
            >>> grammar.log_prob("the plot", end=False) > grammar.log_prob("the plot was", end=False)
            True
        """
        return float(self.log_probs([text], condition, end)[0])

    def log_probs(
        self, texts: Iterable[str], condition: Condition | None = None, end: bool = True
    ) -> Float[np.ndarray, " texts"]:
        """Return `log_prob` of many texts at once."""
        return log_sum_exp(
            self._log_prior(condition) + self._log_likelihood(self._parse(texts), end)
        )

    def token_log_probs(
        self, text: str, condition: Condition | None = None
    ) -> Float[np.ndarray, " tokens"]:
        """Return log P(token | tokens before it, condition) for each token of the text.

        The sum is `log_prob(text, condition, end=False)`. From the first impossible token on all
        are -inf.
        """
        sentences = self._parse([text])
        joint = prefix_log_probs(
            self.tables, sentences, self._stops(sentences), self._log_prior(condition)
        )
        path = np.concatenate([[0.0], joint])
        return np.where(
            np.isfinite(path[1:]),
            path[1:] - np.where(np.isfinite(path[:-1]), path[:-1], 0.0),
            -np.inf,
        )

    def next_token(
        self, prefix: str, condition: Condition | None = None
    ) -> Float[np.ndarray, " vocab"]:
        """Return P(next token | prefix, condition) over `vocab`.

        Entry 0 is the probability that the text ends.

        Raises ValueError where the prefix has probability 0: nothing can be said about what
            follows.
        """
        rows = self.next_rows([prefix], condition)
        here = rows.position == rows.n_positions - 1
        if not here.any():
            raise ValueError(
                f"prefix {prefix!r} has probability 0 under {condition or 'every condition'}; "
                "expected the beginning of a text that the grammar can produce "
                "(see `token_log_probs` for the first impossible token)"
            )
        return rows.weight[here] @ self.mixtures[rows.row[here]]

    def next_rows(self, texts: Iterable[str], condition: Condition | None = None) -> NextRows:
        """Return exact next-token distributions at every position of the texts.

        They are sparse weights over `mixtures`.
        """
        sentences = self._parse(texts)
        return next_rows(self.tables, sentences, self._log_prior(condition), self._stops(sentences))

    @cached_property
    def mixtures(self) -> Float[np.ndarray, "rows vocab"]:
        """Return the distributions that `next_rows` mixes."""
        return mixture_table(self.tables)

    def posterior(self, text: str, condition: Condition | None = None) -> Posterior:
        """Return P(condition | text begins like this).

        `posterior` has the rule for what the grammar cannot produce.
        """
        many = self.posteriors([text], condition)
        return Posterior(many.table[0], many.axes, many.grammatical[0, ...])

    def posteriors(self, texts: Iterable[str], condition: Condition | None = None) -> Posterior:
        """Return `posterior` of many texts at once.

        Texts may be cut anywhere and may be ungrammatical.
        """
        axes = (self.sentiments, self.tones, self.topics)
        return posterior(self.tables, self._parse(texts), self._log_prior(condition), axes)

    def attribute_mean(self, texts: Iterable[str], factor: str) -> Float[np.ndarray, " texts"]:
        """Return E[label | text] of "sentiment" or "tone", between -1 and 1.

        Example:
            >>> from steerlens.toy import grammar
            >>> bool(grammar.attribute_mean(["it was a triumph from"], "sentiment")[0] > 0.3)
            True
        """
        return self.posteriors(texts).mean(factor)

    def sample(self, n: int = 1, condition: Condition | None = None, seed: int = 0) -> list[str]:
        """Draw `n` whole texts; the same arguments give the same texts.

        Example:
            >>> from steerlens.toy import grammar
            >>> grammar.sample(2, seed=3) == grammar.sample(2, seed=3)
            True
        """
        return self.sample_with_conditions(n, condition, seed)[0]

    def sample_with_conditions(
        self, n: int = 1, condition: Condition | None = None, seed: int = 0
    ) -> tuple[list[str], Int[np.ndarray, "texts 3"]]:
        """Return `sample`, and the levels (as indices into `axes`) that each text was drawn
        under."""
        if n < 0:
            raise ValueError(f"n is {n}; expected how many texts to draw, 0 or more")
        generator = np.random.default_rng(seed)
        chances = np.exp(self._log_prior(condition))
        chosen = generator.choice(len(chances), size=n, p=chances / chances.sum())
        texts = (
            draw_texts(self.tables, chosen, self.min_sentences, self.stop, generator) if n else []
        )
        return texts, self.tables.levels[chosen]

    def entropy_rate(
        self, n: int = 2000, condition: Condition | None = None, seed: int = 0
    ) -> EntropyRate:
        """Return nats per token, Σ -log P(text) / Σ (tokens + 1), over `n` samples.

        The end of a text counts as one token.

        The standard error is that of a ratio of means (delta method). `given_condition` is the same
        with the text's own condition known; the difference is what the condition is worth.
        """
        texts, levels = self.sample_with_conditions(n, condition, seed)
        like = self._log_likelihood(self._parse(texts), True)
        own = like[
            np.arange(n), np.ravel_multi_index(levels.T, [len(v) for v in self.axes.values()])
        ]
        tokens = np.array([len(text.split()) + 1 for text in texts], dtype=float)
        values = []
        for log_p in (log_sum_exp(self._log_prior(condition) + like), own):
            rate = -log_p.sum() / tokens.sum()
            values += [rate, (-log_p - rate * tokens).std() / tokens.mean() / np.sqrt(n)]
        return EntropyRate(*(float(v) for v in values))

    def _parse(self, texts: Iterable[str]) -> Sentences:
        # imported here so that a plain import of the toy world brings no pandas
        from steerlens.values.texts import plain_texts

        if isinstance(texts, str):
            raise TypeError(
                f"texts is {type(texts).__name__}; expected a list of strings, as in [text]"
            )
        return split_sentences(list(plain_texts("texts", texts)), self.word_index, len(self.vocab))

    def _stops(self, sentences: Sentences) -> Float[np.ndarray, " counts"]:
        return stop_chances(sentences, self.stop, self.min_sentences)

    def _log_prior(self, condition: Condition | None) -> Float[np.ndarray, " conditions"]:
        """Return the log prior, uniform over the conditions that agree with `condition`, -inf
        elsewhere."""
        fits = np.ones(len(self.tables.levels), bool)
        for i, factor in enumerate(FACTORS):
            level = getattr(condition, factor) if condition else None
            if level is not None and level not in self.axes[factor]:
                raise ValueError(
                    f"condition has {factor}={level!r}; expected None or one of {self.axes[factor]}"
                )
            if level is not None:
                fits &= self.tables.levels[:, i] == self.axes[factor].index(level)
        return safe_log(fits / fits.sum())

    def _log_likelihood(
        self, sentences: Sentences, end: bool
    ) -> Float[np.ndarray, "texts conditions"]:
        return text_log_likelihood(self.tables, sentences, self._stops(sentences), end)
