"""From word classes and sentence templates to the tables of a hidden Markov model."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

END = "<|endoftext|>"
TERMINATORS = (".", "!", "?")
FACTORS = ("sentiment", "tone", "topic")
MARKS = ("", "rude", "courteous", "negative", "positive")

Level = float | str | None


@dataclass(frozen=True)
class WordClass:
    """Words that may fill the slot `{name}`; `factor` (None: no factor) and each word's level
    decide how likely each is.

    Example:
        >>> WordClass("stars", "sentiment", ("one", "five"), (-1.0, 1.0), (1.0, 1.0)).words
        ('one', 'five')
    """

    name: str
    factor: str | None
    words: tuple[str, ...]
    levels: tuple[Level, ...]
    frequencies: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.factor is not None and self.factor not in FACTORS:
            raise ValueError(
                f"class {self.name!r}: factor is {self.factor!r}; expected one of {FACTORS} or None"
            )
        if not len(self.words) == len(self.levels) == len(self.frequencies) > 0:
            raise ValueError(
                f"class {self.name!r}: {len(self.words)} words, {len(self.levels)} levels and "
                f"{len(self.frequencies)} frequencies; expected the same number of each, at least 1"
            )
        if min(self.frequencies) <= 0:
            raise ValueError(
                f"class {self.name!r}: a frequency is {min(self.frequencies)}; expected only positive ones"
            )


@dataclass(frozen=True)
class Template:
    """A sentence of words and slots, as "the {part} was {quality} ."; `mark` names the tone or sign
    that favours it.
    """

    text: str
    mark: str = ""

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(
                f"template {self.text!r}: mark is {self.mark!r}; expected one of {MARKS}"
            )
        symbols = self.symbols
        if (
            not symbols
            or symbols[-1] not in TERMINATORS
            or any(s in TERMINATORS for s in symbols[:-1])
        ):
            raise ValueError(
                f"template {self.text!r} must end with one of {TERMINATORS} and hold none before its end; "
                "split it into two templates or add the missing mark"
            )

    @property
    def symbols(self) -> tuple[str, ...]:
        """The words and slots in order."""
        return tuple(self.text.split())


@dataclass(frozen=True, eq=False)
class Tables:
    """The hidden Markov model as arrays.

    `emission[row]` is a distribution over words, its last row (padding) and last column (unknown
    word) all zero, and `by_word` its transpose; `row` says which one a template uses at a position
    under a condition; `start` is P(template | condition); `allowed` which templates can begin with
    a word; `first` and `unigram` are P(first word of a sentence | condition) and each word's
    expected share; `levels` are the indices of each condition's levels.
    """

    vocab: tuple[str, ...]
    emission: Float[np.ndarray, "rows words"]
    by_word: Float[np.ndarray, "words rows"]
    row: Int[np.ndarray, "templates positions conditions"]
    length: Int[np.ndarray, " templates"]
    start: Float[np.ndarray, "conditions templates"]
    allowed: Bool[np.ndarray, "words templates"]
    first: Float[np.ndarray, "conditions words"]
    unigram: Float[np.ndarray, "conditions words"]
    levels: Int[np.ndarray, "conditions 3"]


def check_templates(templates: tuple[Template, ...], classes: tuple[WordClass, ...]) -> None:
    """Raise where there is no template, a slot has no class, or a class holds a sentence's end."""
    if not templates:
        raise ValueError('templates is empty; expected at least one, as Template("the end .")')
    names = {word_class.name for word_class in classes}
    for template in templates:
        for symbol in template.symbols:
            if symbol.startswith("{") and symbol[1:-1] not in names:
                raise ValueError(
                    f"template {template.text!r} has the slot {symbol}; expected a class among {sorted(names)}"
                )
    for word_class in classes:
        reserved = {*TERMINATORS, END} & set(word_class.words)
        if reserved:
            raise ValueError(
                f"class {word_class.name!r} holds {sorted(reserved)}, which end a sentence or a text; "
                "write terminators at the end of templates instead"
            )


def check_levels(word_class: WordClass, axes: dict[str, tuple[Level, ...]]) -> None:
    """Raise where a topic is not among the grammar's, or a grade is no number.

    Grades may lie between the grammar's.
    """
    for word, level in zip(word_class.words, word_class.levels, strict=True):
        wrong = {
            None: level is not None,
            "topic": level not in axes["topic"],
        }.get(word_class.factor, not isinstance(level, (int, float)))
        if wrong:
            raise ValueError(
                f"class {word_class.name!r}: {word!r} has the level {level!r}; expected one of "
                f"{axes[word_class.factor] if word_class.factor else 'None alone'}"
            )


def level_affinity(
    factor: str,
    level: Level,
    levels: tuple[Level, ...],
    spreads: dict[str, float],
    leak: float,
    n_levels: int,
) -> Float[np.ndarray, " words"]:
    """Return how much a condition at `level` likes words of `levels`.

    exp(-(g - v)²/2σ²) for grades g and v; for topics 1 - leak, or leak/(n - 1) where they differ.
    """
    if factor == "topic":
        other = leak / max(n_levels - 1, 1)
        return np.array([1.0 - leak if v == level else other for v in levels])
    distance = np.array(levels, dtype=float) - np.array(level, dtype=float)
    return np.exp(-(distance**2) / (2 * spreads[factor] ** 2))


def _class_rows(
    word_class: WordClass,
    index: dict[str, int],
    axes: dict[str, tuple[Level, ...]],
    spreads: dict[str, float],
    leak: float,
) -> Float[np.ndarray, "rows words"]:
    """Return one distribution over the vocabulary for each level of the class's factor, or a single
    one."""
    levels = axes[word_class.factor] if word_class.factor else (None,)
    rows = np.zeros((len(levels), len(index) + 1))
    places = [index[word] for word in word_class.words]
    for i, level in enumerate(levels):
        weights = np.array(word_class.frequencies)
        if word_class.factor:
            weights = weights * level_affinity(
                word_class.factor, level, word_class.levels, spreads, leak, len(levels)
            )
        np.add.at(rows[i], places, weights / weights.sum())
    return rows


def _template_weights(
    templates: tuple[Template, ...], values: tuple[tuple[float, float], ...], boost: float
) -> Float[np.ndarray, "conditions templates"]:
    """Return P(template | condition), from the sentiment and tone values of every condition."""
    weights = np.ones((len(values), len(templates)))
    for c, (sentiment, tone) in enumerate(values):
        favoured = {
            "rude": tone < 0,
            "courteous": tone > 0,
            "negative": sentiment < 0,
            "positive": sentiment > 0,
        }
        for t, template in enumerate(templates):
            if template.mark and not favoured[template.mark]:
                weights[c, t] = 1.0 / boost
    return weights / weights.sum(axis=1, keepdims=True)


def build_tables(
    classes: tuple[WordClass, ...],
    templates: tuple[Template, ...],
    axes: dict[str, tuple[Level, ...]],
    spreads: dict[str, float],
    leak: float,
    boost: float,
) -> Tables:
    """Number the vocabulary and the distributions, and lay the templates out as indices of rows."""
    by_name = {word_class.name: word_class for word_class in classes}
    literals = sorted(
        {s for template in templates for s in template.symbols if not s.startswith("{")}
    )
    words = sorted(set(literals).union(*(word_class.words for word_class in classes)))
    vocab = (END, *words)
    index = {word: i for i, word in enumerate(vocab)}
    blocks, first_row, n_rows = [], {}, 0
    for literal in literals:
        block = np.zeros((1, len(vocab) + 1))
        block[0, index[literal]] = 1.0
        blocks.append(block)
        first_row[literal], n_rows = n_rows, n_rows + 1
    for name, word_class in by_name.items():
        blocks.append(_class_rows(word_class, index, axes, spreads, leak))
        first_row["{" + name + "}"], n_rows = n_rows, n_rows + len(blocks[-1])
    emission = np.concatenate([*blocks, np.zeros((1, len(vocab) + 1))])

    levels = np.indices([len(axes[factor]) for factor in FACTORS]).reshape(3, -1).T
    length = np.array([len(template.symbols) for template in templates])
    row = np.full((len(templates), length.max(), len(levels)), n_rows)
    for t, template in enumerate(templates):
        for p, symbol in enumerate(template.symbols):
            factor = by_name[symbol[1:-1]].factor if symbol.startswith("{") else None
            row[t, p] = first_row[symbol] + (levels[:, FACTORS.index(factor)] if factor else 0)
    values = tuple((float(axes["sentiment"][s]), float(axes["tone"][t])) for s, t, _ in levels)
    return _finish(
        vocab, emission, row, length, _template_weights(templates, values, boost), levels
    )


def _finish(
    vocab: tuple[str, ...],
    emission: Float[np.ndarray, "rows words"],
    row: Int[np.ndarray, "templates positions conditions"],
    length: Int[np.ndarray, " templates"],
    start: Float[np.ndarray, "conditions templates"],
    levels: Int[np.ndarray, "conditions 3"],
) -> Tables:
    """Add what follows from the model: first words, and each word's expected share under a
    condition."""
    by_word = np.ascontiguousarray(emission.T)
    allowed = np.any(by_word[:, row[:, 0]] > 0, axis=2)
    first = np.stack([start[c] @ emission[row[:, 0, c]] for c in range(len(start))])
    usage = np.zeros((len(start), len(emission)))
    for c in range(len(start)):
        np.add.at(usage[c], row[:, :, c], start[c][:, None] * np.ones(row.shape[1]))
    usage[:, -1] = 0.0
    unigram = usage @ emission
    unigram /= unigram.sum(axis=1, keepdims=True)
    return Tables(vocab, emission, by_word, row, length, start, allowed, first, unigram, levels)
