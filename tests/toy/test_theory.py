"""Statements about exact steers against brute force, and the places where they must fail."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize

from steerlens.toy import Condition, grammar, weights_folder
from steerlens.toy.batches import build_pieces
from steerlens.toy.belief import (
    exact_linear_model,
    kl_rows,
    sample_with_redraw,
    tilted_prior,
)
from steerlens.toy.expected import expected_ids, word_rows
from steerlens.toy.tables import FACTORS
from steerlens.toy.theory import (
    assumption_residuals,
    grammar_chain,
    in_basis,
    random_hmm,
    two_worlds,
)

SENTIMENT = 2.0
TEXTS = grammar.sample(5, seed=3)


def brute_force(hmm, words) -> float:
    """P(words): the sum over every path of states."""
    n, total = len(hmm.start), 0.0
    for path in itertools.product(range(n), repeat=len(words)):
        p = hmm.start[path[0]] * hmm.emission[path[0], words[0]]
        for a, b, word in zip(path, path[1:], words[1:], strict=False):
            p *= hmm.transition[a, b] * hmm.emission[b, word]
        total += p
    return total


def by_chain_rule(predictions, words) -> float:
    return float(np.prod([row[word] for row, word in zip(predictions, words, strict=False)]))


@settings(max_examples=20)
@given(seed=st.integers(0, 50), ratio=st.tuples(*[st.floats(0.05, 20)] * 2))
def test_a_steer_of_the_belief_turns_one_prior_into_another_exactly(seed, ratio):
    hmm = random_hmm(2, 2, 3, seed=seed)
    other = hmm.with_prior(np.array(ratio))
    form = in_basis(hmm, d=6, seed=seed)
    W = form.steer(np.array(ratio)[hmm.condition])
    for words in itertools.product(range(3), repeat=3):
        beliefs = hmm.beliefs(words)
        found = by_chain_rule(form.predict(beliefs, W), words)
        assert found == pytest.approx(brute_force(other, words), rel=1e-8)
        plain = by_chain_rule(form.predict(beliefs, np.eye(6)), words)
        assert plain == pytest.approx(brute_force(hmm, words), rel=1e-8)


def test_where_the_condition_is_drawn_anew_the_same_steer_is_wrong():
    ratio, words = np.array([0.1, 4.0]), [0, 1, 2, 1]
    for redraw, least, most in ((0.0, 0.0, 1e-12), (0.3, 0.01, 10.0)):
        hmm = random_hmm(2, 3, 4, redraw=redraw, seed=1)
        form = in_basis(hmm, d=6)
        steered = form.predict(hmm.beliefs(words), form.steer(ratio[hmm.condition]))
        truth = hmm.with_prior(ratio).beliefs(words) @ hmm.emission
        error = np.abs(steered - truth).sum(axis=1).max()
        assert least <= error <= most
        # at the first word it is right all the same: nothing has been drawn anew yet
        assert np.abs(steered[0] - truth[0]).max() < 1e-12


def test_the_linear_model_is_the_grammar():
    model = exact_linear_model(grammar, TEXTS)
    np.testing.assert_allclose(model.predict(), word_rows(grammar, TEXTS).toarray(), atol=1e-13)
    np.testing.assert_allclose(model.c.sum(axis=1), 1, atol=1e-13)


def test_the_belief_keeps_the_condition_where_words_do_not_depend_on_it():
    model = exact_linear_model(grammar, TEXTS[:3])
    beliefs, at = model.belief(), 0
    for text in TEXTS[:3]:
        words = text.split()
        for k in range(len(words) + 1):
            exact = grammar.posterior(" ".join(words[:k])).table.ravel()
            np.testing.assert_allclose(beliefs[at + k], exact, atol=1e-12)
        at += len(words) + 1


def test_the_theorem_on_the_toy_world():
    prior = tilted_prior(grammar, "sentiment", SENTIMENT)
    model, other = (exact_linear_model(grammar, TEXTS, p) for p in (None, prior))
    truth, n = other.predict(), len(prior)
    assert kl_rows(truth, model.predict()).mean() > 1e-3
    assert kl_rows(truth, model.predict(n * prior)).max() < 1e-12


def test_a_prior_on_one_grade_is_the_grammar_that_is_told_it():
    sentiment = grammar.tables.levels[:, FACTORS.index("sentiment")]
    model = exact_linear_model(grammar, TEXTS[:3])
    told = word_rows(grammar, TEXTS[:3], Condition(sentiment=1.0)).toarray()
    np.testing.assert_allclose(model.predict((sentiment == 4).astype(float)), told, atol=1e-12)


def test_drawing_anew_is_the_mixture_over_every_path():
    """Two steps by hand: after one word the belief is (1 − δ) own + δ uniform."""
    prior, redraw = tilted_prior(grammar, "tone", 1.0), 0.3
    text = " ".join(TEXTS[0].split()[:1])
    kept = exact_linear_model(grammar, [text], prior).belief()
    found = exact_linear_model(grammar, [text], prior, redraw=redraw).belief()
    np.testing.assert_allclose(found[0], prior, atol=1e-15)
    np.testing.assert_allclose(found[1], (1 - redraw) * kept[1] + redraw / len(prior), atol=1e-14)


def test_texts_drawn_with_a_redraw_are_texts_of_the_model():
    prior = tilted_prior(grammar, "sentiment", 8.0)
    still, moving = (
        sample_with_redraw(grammar, 40, prior, redraw=redraw, seed=0) for redraw in (0.0, 1.0)
    )
    assert np.isfinite(grammar.log_probs(still)).all()
    graded = [grammar.attribute_mean(texts, "sentiment").mean() for texts in (still, moving)]
    assert graded[0] > 0.7 > 0.3 > graded[1]


@pytest.mark.parametrize("name", ["toy-128", "toy-96-llama"])
def test_the_ids_of_a_text_have_the_probability_of_the_text(name):
    """Whatever the pieces: the product over a text's ids is P(text)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights_folder(name))
    pieces = build_pieces(grammar, tokenizer, len(tokenizer))
    condition = Condition(sentiment=-1.0)
    found = expected_ids(grammar, TEXTS, condition, pieces)
    np.testing.assert_allclose(found.rows.sum(axis=1), 1, atol=1e-12)
    log = np.log(np.asarray(found.rows[np.arange(len(found.following)), found.following]).ravel())
    by_text = np.add.reduceat(log, found.offset)
    np.testing.assert_allclose(by_text, grammar.log_probs(TEXTS, condition), rtol=1e-10)
    untold = expected_ids(grammar, TEXTS, None, pieces)
    assert (found.cross_entropy(untold) - found.entropy > -1e-12).all()


# ---- the published assumptions ----


def test_the_toy_world_is_not_one_that_the_assumptions_allow():
    T, condition = grammar_chain(grammar)
    found = assumption_residuals(T, condition)
    assert found.right < 1e-12 < 0.1 < found.left
    assert found.third == pytest.approx(1 / (90 * np.sqrt(len(condition) / 90)))


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_with_a_condition_everywhere_meaning_breaks_the_third_order(seed):
    """The identity behind `third`, for any semantic feature."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 9, 4)
    condition = np.repeat(np.arange(4), sizes)
    feature = random.standard_normal(len(condition))
    feature /= np.linalg.norm(feature)
    sums = [(feature**2 * (condition == k)).sum() / np.sqrt(n) for k, n in enumerate(sizes)]
    assert np.dot(np.sqrt(sizes), sums) == pytest.approx(1)
    T = sparse.csr_matrix(np.eye(len(condition)))
    assert max(sums) >= assumption_residuals(T, condition).third * (1 - 1e-12)


@settings(max_examples=30)
@given(
    values=st.lists(st.floats(0.3, 3), min_size=2, max_size=4),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=4),
)
def test_a_condition_feature_is_on_one_closed_class(values, signs, sizes):
    """Constants on two classes or more break the third order, whatever their signs."""
    n = sizes[: len(values)]
    a = np.array(values) * signs[: len(values)]
    phi = np.repeat(a, n) / np.sqrt((a**2 * n).sum())
    indicators = np.repeat(np.eye(len(n)), n, axis=1)
    others = indicators - np.outer(indicators @ phi, phi)
    np.testing.assert_allclose(others @ phi, 0, atol=1e-12)
    sums = [others @ phi**2, np.einsum("cs,ds,s->cd", others, others, phi).ravel()]
    assert max(np.abs(x).max() for x in sums) > 1e-3
    alone = np.where(np.repeat(np.arange(len(n)), n) == 0, 1 / np.sqrt(n[0]), 0.0)
    left = indicators - np.outer(indicators @ alone, alone)
    assert np.abs(left @ alone**2).max() < 1e-12
    assert np.abs(np.einsum("cs,ds,s->cd", left, left, alone)).max() < 1e-12


def test_what_the_assumptions_allow_emits_without_memory():
    """They are met exactly by a closed class that draws its next state from all of it alike."""
    m, n = 4, 10
    phi = np.zeros(n)
    phi[:m] = m**-0.5
    random = np.random.default_rng(0)
    meaning = np.zeros((n, 3))
    meaning[m:] = np.linalg.qr(random.standard_normal((n - m, 3)))[0]
    features = np.column_stack([meaning, phi])
    np.testing.assert_allclose(features.T @ features, np.eye(4), atol=1e-12)
    third = np.einsum("si,sj,s->ij", features, features, phi)[:3]
    assert np.abs(third).max() < 1e-12
    # the last of the third-order sums is C · Σφ³ with C = Σφ² = 1, free by the assumption
    class_ = np.outer(phi, phi)[:m, :m]
    np.testing.assert_allclose(class_, 1 / m)  # every row the same: no memory
    # with meaning on the class too the third order is broken
    spoilt = meaning.copy()
    spoilt[0] = 0.5
    assert np.abs(np.einsum("si,si,s->i", spoilt, spoilt, phi)).max() > 0.1


# ---- expressivity ----


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_any_two_worlds_are_two_signs_of_one_steer(seed):
    random = np.random.default_rng(seed)
    plus, minus = random.dirichlet(np.ones(4), (2, 5))
    model = two_worlds(plus, minus)
    np.testing.assert_allclose(model.predict(1), plus, rtol=1e-8)
    np.testing.assert_allclose(model.predict(-1), minus, rtol=1e-8)
    with pytest.raises(ValueError, match="positive"):
        two_worlds(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))


def best_offset(base, truth, weight) -> float:
    """The least mean KL(truth ‖ softmax(base + offset)), a convex problem."""

    def loss(offset):
        z = base + offset
        top = z.max(axis=1, keepdims=True)
        log_q = z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
        slope = weight @ (np.exp(log_q) - truth)
        told = np.where(truth > 0, truth * (np.log(np.maximum(truth, 1e-300)) - log_q), 0.0)
        return weight @ told.sum(axis=1), slope

    return float(minimize(loss, np.zeros(base.shape[1]), jac=True, method="BFGS").fun)


def test_no_constant_offset_makes_two_orders_of_one():
    """AB alone, or AB and BA: what B needs at the beginning it must not have after B."""
    M = 20.0
    # histories: nothing, A, B, AB or BA; words: A, B, the end
    base = np.array([[M, 0, 0], [0, M, 0], [M, 0, 0], [0, 0, M]])
    truth = np.array([[0.5, 0.5, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    weight = np.array([1.0, 0.5, 0.5, 1.0])
    assert 0.2 < best_offset(base, truth, weight) < 1
    plain = np.exp(base) / np.exp(base).sum(axis=1, keepdims=True)
    soft = (truth + 1e-12) / (1 + 3e-12)
    model = two_worlds(soft, plain)
    assert kl_rows(truth, model.predict(1)).max() < 1e-10
    assert kl_rows(truth, model.predict(-1)).max() > 5


def test_where_the_theorem_is_exact_no_constant_offset_is():
    ratio, hmm = np.array([0.2, 3.0]), random_hmm(2, 3, 4, seed=2)
    other, base, truth, weight = hmm.with_prior(ratio), [], [], []
    for words in itertools.product(range(4), repeat=3):
        p, q = (m.beliefs(words)[3] @ m.emission for m in (hmm, other))
        base.append(np.log(p)), truth.append(q)
        weight.append(brute_force(other, words))
    base, truth, weight = np.array(base), np.array(truth), np.array(weight)
    unsteered = weight @ kl_rows(truth, np.exp(base))
    left = best_offset(base, truth, weight)
    assert unsteered > left > 0.05 * unsteered > 1e-5
