"""The default grammar: its size, its words, its judgement; errors; corpora."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerlens import toy
from steerlens.toy import (
    Condition,
    Grammar,
    Template,
    WordClass,
    corpus,
    default_grammar,
    weights_folder,
)
from steerlens.toy.tables import TERMINATORS


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return default_grammar()


def test_the_world_is_as_large_as_promised(grammar: Grammar):
    assert len(grammar.templates) >= 60
    assert len(grammar.vocab) - 1 >= 1000
    assert len(grammar.tables.levels) == 5 * 3 * 6


def test_a_word_belongs_to_one_factor_and_one_level(grammar: Grammar):
    literals = {s for t in grammar.templates for s in t.symbols if not s.startswith("{")}
    for word_class in grammar.classes:
        assert len(set(word_class.words)) == len(word_class.words), word_class.name
        for word, level in zip(word_class.words, word_class.levels, strict=True):
            assert grammar.lexicon[word] == (word_class.factor, level), word
            assert word_class.factor is None or word not in literals, word
    assert grammar.lexicon["masterpiece"] == ("sentiment", 1.0)
    assert grammar.lexicon["the"] == (None, None)
    assert set(grammar.lexicon) == set(grammar.vocab[1:])


def test_no_vowel_follows_the_article_a(grammar: Grammar):
    classes = {"{" + c.name + "}": c.words for c in grammar.classes}
    for template in grammar.templates:
        for article, symbol in zip(template.symbols, template.symbols[1:], strict=False):
            if article == "a":
                assert not [w for w in classes.get(symbol, (symbol,)) if w[0] in "aeiou"], (
                    template.text
                )


def test_every_class_is_used(grammar: Grammar):
    symbols = {s for t in grammar.templates for s in t.symbols}
    assert {"{" + c.name + "}" for c in grammar.classes} <= symbols


@pytest.mark.parametrize(
    "condition", [None, Condition(sentiment=-0.5), Condition(1.0, -1.0, "food")]
)
def test_chain_rule(grammar: Grammar, condition: Condition | None):
    for text in grammar.sample(10, condition, seed=4):
        per_token = grammar.token_log_probs(text, condition)
        assert per_token.shape == (len(text.split()),)
        assert per_token.sum() == pytest.approx(
            grammar.log_prob(text, condition, end=False), abs=1e-10
        )
        assert grammar.log_prob(text, condition) == pytest.approx(
            per_token.sum() + np.log(0.5), abs=1e-10
        )


def test_next_token_agrees_with_the_chain_rule(grammar: Grammar):
    tokens = grammar.sample(1, seed=9)[0].split()
    per_token = grammar.token_log_probs(" ".join(tokens))
    for i, token in enumerate(tokens):
        p = grammar.next_token(" ".join(tokens[:i]))
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
        assert np.log(p[grammar.word_index[token]]) == pytest.approx(per_token[i], abs=1e-10)


def test_rows_of_many_texts_are_those_of_each(grammar: Grammar):
    texts = grammar.sample(5, seed=2)
    rows = grammar.next_rows(texts)
    dense = np.zeros((rows.n_positions, len(grammar.mixtures)))
    np.add.at(dense, (rows.position, rows.row), rows.weight)
    for i, text in enumerate(texts):
        tokens = text.split()
        for j in (0, 3, len(tokens) - 1, len(tokens)):
            alone = grammar.next_token(" ".join(tokens[:j]))
            np.testing.assert_allclose(
                dense[rows.offset[i] + j] @ grammar.mixtures, alone, atol=1e-12
            )


def test_posteriors_find_the_condition_that_was_planted(grammar: Grammar):
    texts, levels = grammar.sample_with_conditions(1000, seed=5)
    posterior = grammar.posteriors(texts)
    np.testing.assert_allclose(posterior.table.sum((1, 2, 3)), 1.0, atol=1e-12)
    assert posterior.grammatical.all()
    for i, factor in enumerate(("sentiment", "tone", "topic")):
        marginal = posterior.marginal(factor)
        hit = marginal[np.arange(1000), levels[:, i]]
        right = (marginal.argmax(1) == levels[:, i]).mean()
        # Calibrated: the mean probability of the best guess is the rate at which it is right.
        assert right == pytest.approx(marginal.max(1).mean(), abs=0.05)
        assert hit.mean() > 1.6 / marginal.shape[1]
    # One word is a hint, not a verdict.
    one = grammar.posterior("the plot was superb .")
    assert 0.4 < one.sentiment[-1] < 0.8
    assert 0.5 < one.mean("sentiment") < 0.95
    assert bool(one.grammatical)


def test_ungrammatical_texts_are_judged_by_their_words_and_reported(grammar: Grammar):
    texts = [
        "the plot was",
        "plot plot superb was .",
        "zzz qqq",
        "",
        "the plot was superb . plot idiots idiots",
    ]
    posterior = grammar.posteriors(texts)
    assert posterior.grammatical.tolist() == [True, False, False, True, False]
    assert posterior.mean("sentiment")[1] > 0.3
    assert posterior.topic[1].argmax() == 0
    np.testing.assert_allclose(posterior.table[2], 1 / 90)
    np.testing.assert_allclose(posterior.table[3], 1 / 90)
    assert posterior.mean("sentiment")[4] > 0.3
    assert posterior.mean("tone")[4] < -0.5


def test_unknown_words_and_broken_sentences_are_impossible(grammar: Grammar):
    assert grammar.log_prob("the zzz was good .") == -np.inf
    assert grammar.log_prob("the <|endoftext|>", end=False) == -np.inf
    assert grammar.log_prob("the plot was good") == -np.inf
    per_token = grammar.token_log_probs("the plot zzz good .")
    assert np.isfinite(per_token[:2]).all()
    assert (per_token[2:] == -np.inf).all()


def test_seeds(grammar: Grammar):
    assert grammar.sample(20, seed=1) == grammar.sample(20, seed=1)
    assert grammar.sample(20, seed=1) != grammar.sample(20, seed=2)
    assert grammar.sample(0) == []


def test_knowing_the_condition_saves_nats(grammar: Grammar):
    rate = grammar.entropy_rate(n=1000, seed=0)
    assert 0.05 < rate.nats - rate.given_condition < 0.3
    assert rate.error < 0.02


@pytest.mark.parametrize("attribute", ["sentiment", "tone"])
def test_corpora_are_balanced_and_labelled_right(grammar: Grammar, attribute: str):
    labelled = corpus(attribute, n=500, seed=0)
    counts = Counter(labelled.labels)
    assert set(counts) == set(grammar.axes[attribute])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(labelled.texts) == 500
    means = grammar.attribute_mean(list(labelled.texts), attribute)
    assert np.corrcoef(means, labelled.labels)[0, 1] > 0.7
    assert corpus(attribute, n=500, seed=0) == labelled
    assert corpus(attribute, n=500, seed=1) != labelled


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample(-1), "n is -1"),
        (lambda g: g.sample(1, Condition(sentiment=0.3)), "sentiment=0.3; expected None or one of"),
        (lambda g: g.log_prob("a", Condition(topic="cars")), "topic='cars'"),
        (lambda g: g.next_token("zzz"), "prefix 'zzz' has probability 0"),
        (lambda g: g.posterior("the").mean("topic"), 'expected "sentiment" or "tone"'),
        (lambda g: g.posterior("the").marginal("colour"), "factor is 'colour'"),
        (lambda g: corpus("topic"), "attribute: got 'topic'"),
        (lambda g: corpus("tone", n=0), "n: got 0"),
        (lambda g: weights_folder("toy-1"), "expected one of"),
        (lambda g: Template("no end"), "must end with one of"),
        (lambda g: Template("the . end ."), "hold none before its end"),
        (lambda g: Template("the end .", "angry"), "mark is 'angry'"),
        (lambda g: WordClass("x", "mood", ("a",), (0.0,), (1.0,)), "factor is 'mood'"),
        (lambda g: WordClass("x", None, ("a",), (None,), (0.0,)), "expected only positive"),
        (lambda g: WordClass("x", None, ("a", "b"), (None,), (1.0,)), "2 words, 1 levels"),
        (lambda g: Grammar((), (Template("the {x} ."),)), r"slot \{x\}"),
        (lambda g: Grammar((), (Template("a ."),), stop=0.0), "stop is 0.0"),
        (lambda g: Grammar((), ()), "templates is empty"),
        (
            lambda g: Grammar(
                (WordClass("x", "topic", ("a",), ("cars",), (1.0,)),), (Template("a ."),)
            ),
            "'cars'",
        ),
        (
            lambda g: Grammar(
                (WordClass("x", None, (".",), (None,), (1.0,)),), (Template("{x} ."),)
            ),
            "end a sentence",
        ),
    ],
)
def test_bad_inputs_say_what_came_and_what_was_expected(
    unchecked, grammar: Grammar, call, message: str
):
    with pytest.raises(ValueError, match=message):
        call(grammar)


def test_one_string_is_not_a_list_of_texts(unchecked, grammar: Grammar):
    with pytest.raises(TypeError, match="expected a list of strings"):
        grammar.posteriors("the plot")


@pytest.mark.parametrize(
    "hold", [tuple, iter, np.array, pd.Series, lambda x: pd.Series(x, index=[7, 3])]
)
def test_texts_come_in_any_sequence(hold, grammar: Grammar):
    texts = ["the plot was slow .", "it was a triumph ."]
    expected = grammar.attribute_mean(texts, "sentiment")
    assert expected[0] < expected[1]
    np.testing.assert_array_equal(grammar.attribute_mean(hold(texts), "sentiment"), expected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["the plot", float("nan")], r"texts\[1\] is missing"),
        ({"the plot": 1}, "texts: got a dict"),
        (pd.DataFrame({"text": ["the plot"]}), "texts: got a DataFrame"),
    ],
)
def test_what_is_no_text_is_refused(unchecked, grammar: Grammar, texts, message: str):
    with pytest.raises(ValueError, match=message):
        grammar.log_probs(texts)


def test_terminators_end_sentences_and_nothing_else(grammar: Grammar):
    for word_class in grammar.classes:
        assert not set(word_class.words) & set(TERMINATORS)


def test_importing_the_toy_world_imports_no_model_library():
    heavy = {"transformers", "tokenizers", "transformer_lens", "torch"}
    for path in Path(toy.__file__).parent.glob("*.py"):
        names = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
                # The toy world rests on nothing else of the package, at import or later.
                assert node.module.split(".")[0] != "steerlens" or node.module.startswith(
                    "steerlens.toy"
                )
        allowed = {"torch"} if path.name in ("train.py", "batches.py", "tasks.py") else set()
        assert names & heavy <= allowed, path.name
