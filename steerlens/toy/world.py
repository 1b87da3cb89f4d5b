"""The default grammar: the words of `steerlens.toy.lexicon` and the sentences of
`steerlens.toy.sentences` as a `Grammar`."""

from functools import cache

from steerlens.toy import lexicon
from steerlens.toy.hmm import Grammar
from steerlens.toy.sentences import TEMPLATES
from steerlens.toy.tables import Template, WordClass

ZIPF_EXPONENT = 0.7


def word_class(name: str, factor: str | None, words: lexicon.Levels) -> WordClass:
    """Build a class from words by level.

    Word r of a level is ∝ (r + 1)^-0.7, all levels have the same total.
    """
    flat, levels, frequencies = [], [], []
    for level, text in words.items():
        listed = text.split()
        zipf = [(rank + 2) ** -ZIPF_EXPONENT for rank in range(len(listed))]
        flat += listed
        levels += [level] * len(listed)
        frequencies += [f / sum(zipf) for f in zipf]
    return WordClass(name, factor, tuple(flat), tuple(levels), tuple(frequencies))


def sentence_templates(by_mark: dict[str, str]) -> tuple[Template, ...]:
    """Return one template for each line."""
    lines = [(line.strip(), mark) for mark, text in by_mark.items() for line in text.splitlines()]
    return tuple(Template(" ".join(line.split()), mark) for line, mark in lines if line)


@cache
def default_grammar() -> Grammar:
    """Return the grammar of the shipped models: 90 conditions, some 70 sentences, some 1,300 words.

    Example:
        >>> len(default_grammar().templates) >= 60
        True
    """
    classes = (
        *(
            word_class(name, "sentiment", words)
            for name, words in lexicon.SENTIMENT_CLASSES.items()
        ),
        *(word_class(name, "tone", words) for name, words in lexicon.TONE_CLASSES.items()),
        *(word_class(name, "topic", words) for name, words in lexicon.TOPIC_CLASSES.items()),
        *(word_class(name, None, {None: words}) for name, words in lexicon.NEUTRAL_CLASSES.items()),
    )
    return Grammar(
        classes=classes,
        templates=sentence_templates(TEMPLATES),
        sentiments=lexicon.SENTIMENTS,
        tones=lexicon.TONES,
        topics=lexicon.TOPICS,
    )
