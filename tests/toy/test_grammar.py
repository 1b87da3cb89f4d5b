"""Every probability of a small grammar against the enumeration of its generative story, term by
term."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from steerlens.toy import Condition, Grammar, Template, WordClass

STOP, SPREAD, LEAK, BOOST = 0.4, 0.7, 0.1, 4.0
SENTIMENTS, TONES, TOPICS = (-1.0, 0.5), (-1.0, 1.0), ("sea", "land")
QUALITY = {"bad": (-1.0, 2.0), "fine": (0.0, 1.0), "good": (1.0, 3.0)}
OPENER = {"oi": (-1.0, 1.0), "please": (1.0, 1.0)}
THING = {"boat": ("sea", 2.0), "farm": ("land", 1.0)}
TEMPLATES = {
    "{opener} {quality} .": "",
    "the {thing} {quality} !": "positive",
    "the farm ?": "rude",
}
CONDITIONS = list(itertools.product(SENTIMENTS, TONES, TOPICS))


def small_grammar(min_sentences: int = 1) -> Grammar:
    def word_class(name: str, factor: str, words: dict) -> WordClass:
        levels, frequencies = zip(*words.values(), strict=True)
        return WordClass(name, factor, tuple(words), levels, frequencies)

    return Grammar(
        classes=(
            word_class("quality", "sentiment", QUALITY),
            word_class("opener", "tone", OPENER),
            word_class("thing", "topic", THING),
        ),
        templates=tuple(Template(text, mark) for text, mark in TEMPLATES.items()),
        sentiments=SENTIMENTS,
        tones=TONES,
        topics=TOPICS,
        stop=STOP,
        min_sentences=min_sentences,
        sentiment_spread=SPREAD,
        tone_spread=SPREAD,
        topic_leak=LEAK,
        boost=BOOST,
    )


def slot(symbol: str, condition: tuple) -> dict[str, float]:
    """The words of one symbol and their probabilities, from the formula in the documentation."""
    sentiment, tone, topic = condition
    if symbol == "{quality}":
        scores = {
            w: f * math.exp(-((sentiment - v) ** 2) / (2 * SPREAD**2))
            for w, (v, f) in QUALITY.items()
        }
    elif symbol == "{opener}":
        scores = {
            w: f * math.exp(-((tone - v) ** 2) / (2 * SPREAD**2)) for w, (v, f) in OPENER.items()
        }
    elif symbol == "{thing}":
        scores = {w: f * (1 - LEAK if v == topic else LEAK) for w, (v, f) in THING.items()}
    else:
        scores = {symbol: 1.0}
    return {w: s / sum(scores.values()) for w, s in scores.items()}


def enumerate_sentences(condition: tuple) -> dict[str, float]:
    """P(sentence | condition) for every sentence; different templates may give the same one."""
    weight = {
        "": 1.0,
        "positive": 1.0 if condition[0] > 0 else 1 / BOOST,
        "rude": 1.0 if condition[1] < 0 else 1 / BOOST,
    }
    total = sum(weight[mark] for mark in TEMPLATES.values())
    out: dict[str, float] = defaultdict(float)
    for text, mark in TEMPLATES.items():
        for choice in itertools.product(*(slot(s, condition).items() for s in text.split())):
            out[" ".join(w for w, _ in choice)] += (
                weight[mark] / total * math.prod(p for _, p in choice)
            )
    return dict(out)


SENTENCES = {condition: enumerate_sentences(condition) for condition in CONDITIONS}
# Beginnings of one and two whole sentences: P(text begins so | condition).
BEGINNINGS = {
    condition: one
    | {f"{a} {b}": one[a] * one[b] * (1 - STOP) for a, b in itertools.product(one, one)}
    for condition, one in SENTENCES.items()
}


def begins(prefix: str, condition: tuple) -> float:
    """P(text begins with the prefix | condition), for prefixes of at most two sentences."""
    wanted = prefix.split()
    sentences = 1 + sum(w in ".!?" for w in wanted[:-1])
    return sum(
        p
        for text, p in BEGINNINGS[condition].items()
        if sum(w in ".!?" for w in text.split()) == sentences
        and text.split()[: len(wanted)] == wanted
    )


def mean(values) -> float:
    return sum(values) / len(CONDITIONS)


PREFIXES = sorted(
    {
        " ".join(t.split()[:k])
        for t in BEGINNINGS[CONDITIONS[0]]
        for k in range(1, len(t.split()) + 1)
    }
)


def test_every_text_of_at_most_two_sentences_has_the_enumerated_probability():
    grammar = small_grammar()
    texts = list(BEGINNINGS[CONDITIONS[0]])
    exact = [mean(BEGINNINGS[c][text] * STOP for c in CONDITIONS) for text in texts]
    np.testing.assert_allclose(np.exp(grammar.log_probs(texts)), exact, rtol=1e-12)
    # The rest of the mass is on longer texts.
    assert sum(exact) == pytest.approx(1 - (1 - STOP) ** 2, rel=1e-12)


def test_every_other_string_of_up_to_four_tokens_is_impossible():
    grammar = small_grammar()
    words = [*grammar.vocab[1:], "unheard"]
    possible = set(BEGINNINGS[CONDITIONS[0]])
    strings = [" ".join(s) for n in range(5) for s in itertools.product(words, repeat=n)]
    log_p = grammar.log_probs(strings)
    assert {s for s, lp in zip(strings, log_p, strict=True) if lp > -np.inf} == {
        s for s in strings if s in possible
    }


def test_prefixes_have_the_enumerated_probability():
    grammar = small_grammar()
    exact = [mean(begins(prefix, c) for c in CONDITIONS) for prefix in PREFIXES]
    np.testing.assert_allclose(np.exp(grammar.log_probs(PREFIXES, end=False)), exact, rtol=1e-12)
    assert grammar.log_prob("", end=False) == 0.0
    assert grammar.log_prob("") == -np.inf


def test_conditions_are_summed_over_only_where_they_are_left_open():
    grammar = small_grammar()
    text = "the boat good ! oi bad"
    for condition in CONDITIONS:
        whole = grammar.log_prob(text, Condition(*condition), end=False)
        assert math.exp(whole) == pytest.approx(begins(text, condition), rel=1e-12)
    given = [begins(text, c) for c in CONDITIONS if c[2] == "land"]
    assert math.exp(grammar.log_prob(text, Condition(topic="land"), end=False)) == pytest.approx(
        sum(given) / len(given), rel=1e-12
    )


def test_posteriors_are_those_of_bayes():
    grammar = small_grammar()
    joint = np.array([[begins(prefix, c) for c in CONDITIONS] for prefix in PREFIXES])
    exact = (joint / joint.sum(axis=1, keepdims=True)).reshape(-1, 2, 2, 2)
    posterior = grammar.posteriors(PREFIXES)
    np.testing.assert_allclose(posterior.table, exact, atol=1e-12)
    assert posterior.grammatical.all()
    np.testing.assert_allclose(
        posterior.mean("sentiment"), exact.sum((2, 3)) @ SENTIMENTS, atol=1e-12
    )


@pytest.mark.parametrize("min_sentences", [1, 2])
def test_next_token_is_the_ratio_of_prefixes(min_sentences: int):
    grammar = small_grammar(min_sentences)
    for prefix in [
        "",
        "the",
        "the boat",
        "oi bad .",
        "the farm ?",
        "please good . the",
        "the farm",
    ]:
        p = grammar.next_token(prefix)
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
        over = bool(prefix) and prefix[-1] in ".!?"
        assert p[0] == (STOP if over and min_sentences == 1 else 0.0)
        here = math.exp(grammar.log_prob(prefix, end=False))
        longer = grammar.log_probs([f"{prefix} {word}" for word in grammar.vocab[1:]], end=False)
        np.testing.assert_allclose(p[1:] * here, np.exp(longer), atol=1e-14)


def test_two_sentences_at_least_means_no_text_of_one():
    grammar = small_grammar(min_sentences=2)
    one, two = "the farm ?", "the farm ? the farm ?"
    assert grammar.log_prob(one) == -np.inf
    exact = mean(SENTENCES[c][one] ** 2 * STOP for c in CONDITIONS)
    assert math.exp(grammar.log_prob(two)) == pytest.approx(exact, rel=1e-12)


def test_samples_are_as_frequent_as_they_should_be():
    grammar, n = small_grammar(), 20_000
    counts: dict[str, int] = defaultdict(int)
    for text in grammar.sample(n, seed=0):
        counts[text] += 1
    texts = [t for t in BEGINNINGS[CONDITIONS[0]] if n * math.exp(grammar.log_prob(t)) > 5]
    expected = n * np.exp(grammar.log_probs(texts))
    chi2 = (((np.array([counts[t] for t in texts]) - expected) ** 2) / expected).sum()
    # Mean = number of texts, standard deviation = √(2 × that): five of them. A wrong world is far
    # beyond.
    bound = len(texts) + 5 * math.sqrt(2 * len(texts))
    assert chi2 < bound
    other = n * np.exp(grammar.log_probs(texts, Condition(sentiment=-1.0)))
    assert (((np.array([counts[t] for t in texts]) - other) ** 2) / other).sum() > 2 * bound


def test_entropy_rate_is_the_enumerated_one():
    grammar = small_grammar()
    # Only two-sentence texts are enumerated, so let the text stop almost surely.
    nearly = Grammar(**{**vars_of(grammar), "stop": 1 - 1e-9})
    p = {s: mean(SENTENCES[c][s] for c in CONDITIONS) for s in SENTENCES[CONDITIONS[0]]}
    exact = -sum(q * math.log(q) for q in p.values()) / sum(
        q * (len(s.split()) + 1) for s, q in p.items()
    )
    rate = nearly.entropy_rate(n=4000, seed=1)
    assert abs(rate.nats - exact) < 4 * rate.error
    assert rate.given_condition < rate.nats


def vars_of(grammar: Grammar) -> dict:
    """The fields of a grammar, without what it has cached."""
    return {name: getattr(grammar, name) for name in grammar.__dataclass_fields__}
