"""A steer as a classifier: judged by known probabilities, and on the toy beside the exact
posterior."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

import steerlens as sl
from steerlens.evaluate.classify import classify, judge_probabilities, mean_states
from steerlens.evaluate.strength import infer_strength


@pytest.fixture(scope="module")
def train() -> sl.Labelled:
    return sl.toy.corpus("sentiment", n=600, seed=0)


@pytest.fixture(scope="module")
def joy(model, train: sl.Labelled) -> sl.Steer:
    return sl.fit_steer(
        sl.collect(model, train, progress=False), ridge=(0.05, 2.0), damping=0.1, lr=0.1
    ).value


def test_on_the_toy_the_steer_tells_signs_and_the_truth_does_better(
    model, joy: sl.Steer, train: sl.Labelled
):
    test = sl.toy.corpus("sentiment", n=250, seed=1)
    table = classify(model, joy, train, test).set_index("method")
    assert table.shape[0] == 4 and not table.isna().any().any()
    ratio = table.loc["steer, likelihood ratio"]
    assert ratio.auc > 0.85 and table.auc["bag of words"] > 0.7
    assert (table.accuracy_low <= table.accuracy).all() and (
        table.accuracy <= table.accuracy_high
    ).all()
    assert ratio.texts == sum(label != 0 for label in test.labels)
    truth = sl.toy.grammar.attribute_mean(list(test.texts), "sentiment")
    exact = judge_probabilities((truth + 1) / 2, np.array(test.labels))
    assert exact["auc"] > table.auc.max() - 0.01
    turned = classify(model, -joy, train, test).set_index("method")
    assert turned.auc["steer, likelihood ratio"] == pytest.approx(1 - ratio.auc, abs=1e-6)
    assert turned.auc["probe"] == pytest.approx(table.auc["probe"])


def test_the_odds_of_the_training_texts_count_and_what_is_at_the_limit_is_sure_of_its_side(
    model, joy: sl.Steer, train: sl.Labelled
) -> None:
    rare = [k for k, y in enumerate(train.labels) if y < 0][:20]
    skewed = train.pick([k for k, y in enumerate(train.labels) if y > 0][:180] + rare)
    test = sl.toy.corpus("sentiment", n=150, seed=1)
    loud = classify(model, joy, skewed, test).set_index("method")
    evidence = infer_strength(model, joy, test, prior=1.0).table.evidence.to_numpy()
    labels = np.array(test.labels)
    right, wrong = (
        judge_probabilities(1 / (1 + np.exp(-evidence - sign * np.log(9))), labels)["log_loss"]
        for sign in (1, -1)
    )
    assert loud.log_loss["steer, likelihood ratio"] == pytest.approx(right, rel=1e-4)
    assert abs(right - wrong) > 0.05
    short = 0.05 * joy
    found = infer_strength(model, short, test, prior=10.0).table
    assert found.at_limit.sum() >= 5
    by_side = judge_probabilities(
        np.where(found.at_limit, found.strength > 0, norm.cdf(found.strength / found.error)), labels
    )
    table = classify(model, short, train, test, prior=10.0).set_index("method")
    assert table.auc["steer, inferred strength"] == pytest.approx(by_side["auc"])


def test_the_measures_are_what_they_say():
    random = np.random.default_rng(0)
    p = random.uniform(size=20_000)
    grades = np.where(random.uniform(size=p.size) < p, 1.0, -0.5)
    honest, sure = (
        judge_probabilities(p, grades),
        judge_probabilities(np.where(p > 0.5, 0.99, 0.01), grades),
    )
    assert honest["calibration"] < 0.02 < 0.2 < sure["calibration"]
    assert honest["accuracy"] == sure["accuracy"] == pytest.approx(0.75, abs=0.01)
    assert honest["log_loss"] == pytest.approx(0.5, abs=0.01) and sure["log_loss"] > 0.8
    assert honest["auc"] == pytest.approx(5 / 6, abs=0.01)
    assert honest["accuracy_low"] < 0.75 < honest["accuracy_high"]


def test_an_interval_is_that_of_the_binomial():
    random = np.random.default_rng(0)
    grades = np.array([-1.0, 1.0] * 200)
    p = np.where(random.uniform(size=400) < 0.8, 0.5 + 0.4 * grades, 0.5 - 0.4 * grades)
    found = judge_probabilities(p, grades)
    half = (found["accuracy_high"] - found["accuracy_low"]) / 2
    assert half == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), rel=0.2)


def test_copies_of_a_test_text_count_once(model, joy: sl.Steer, train: sl.Labelled) -> None:
    test = sl.toy.corpus("sentiment", n=60, seed=1)
    again = test + test.pick(list(range(30)) * 4)
    pd.testing.assert_frame_equal(
        classify(model, joy, train, again), classify(model, joy, train, test), atol=1e-6
    )


def test_mean_states_are_means(model):
    states = sl.collect(model, ["the film was good .", "it was bad"], progress=False)
    means = mean_states(states)
    for i in range(2):
        rows = [c.hidden[c.text == i] for c in states.chunks(100)]
        np.testing.assert_allclose(means[i], torch.cat(rows).mean(0).numpy(), atol=1e-5)


def test_texts_that_were_learned_from_and_are_asked_again_are_said(
    model, joy: sl.Steer, train: sl.Labelled
):
    few, others = train.first(20), sl.toy.corpus("sentiment", n=20, seed=9)
    both = sl.Labelled(few.texts + others.texts[:5], few.labels + others.labels[:5])
    with pytest.warns(UserWarning, match="test: 5 of its texts are in train too"):
        sl.classify(model, joy, both, others)


def test_a_missing_sign_is_refused(model, joy: sl.Steer, train: sl.Labelled):
    one = sl.Labelled(("good", "fine"), (1.0, 0.0))
    with pytest.raises(ValueError, match="test: labels of both signs"):
        classify(model, joy, train, one)
    with pytest.raises(ValueError, match="train: labels of both signs"):
        classify(model, joy, one, train)
    few = sl.Labelled(("good one", "bad one", "so it was"), (1.0, -1.0, 0.0))
    with pytest.raises(ValueError, match="at least two"):
        classify(model, joy, few, train)


def test_nothing_is_drawn_from_the_users_generators(model) -> None:
    data = sl.toy.corpus("tone", n=120, seed=0)
    tone = sl.fit_steer(model, data, solver="closed-form", progress=False)
    train, test = data.split(0.5, seed=0)
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    sl.classify(model, tone, train, test)
    assert np.random.rand() == expected
