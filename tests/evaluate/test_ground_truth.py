"""Evaluation: nothing at strength 0, sums that agree with the scores, gaps that agree with the
grammar."""

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.evaluate.fluency import strength_cost, writing_cost
from steerlens.evaluate.ground_truth import gap_closed, label_curve, written_attribute
from steerlens.evaluate.losses import measure
from steerlens.toy import Condition, default_grammar
from steerlens.values.states import States
from steerlens.values.steer import Steer, zero_steer


@pytest.fixture(scope="module")
def data() -> sl.Labelled:
    return sl.toy.corpus("tone", n=400, seed=0)


@pytest.fixture(scope="module")
def states(model, data: sl.Labelled) -> States:
    return sl.collect(model, data, progress=False)


@pytest.fixture(scope="module")
def tone(states: States) -> Steer:
    fit = sl.fit_steer(states, name="tone", ridge=(0.1, 1.0), damping=0.1, lr=0.1)
    return fit.report.strength * fit.value  # as long as labels ask for


def test_labels_come_back_as_they_were_written(states: States, tone: Steer) -> None:
    labels = torch.where(states.labels == 0, 0.2, 0.6 * states.labels)
    again = states.relabel(labels)
    written = {round(float(label), 3) for label in labels}
    assert 0.2 in written and 0.2 not in set(labels.tolist())
    assert set(label_curve(again, tone).label) == written
    assert set(measure(again, tone, zero_steer(tone.readout)).by_label) == written


def test_label_curve_is_the_sum_of_the_scores(
    model, data: sl.Labelled, states: States, tone: Steer
):
    table = label_curve(states, tone, strengths=(-1, 0, 1))
    assert (table.log_likelihood[table.strength == 0] == 0).all()
    assert (table.error[table.strength == 0] == 0).all()
    mine = [text for text, label in data if label == 1]
    scores = sl.score(model, mine, tone, strengths=(0, 1)).groupby("strength").log_prob.sum()
    row = table[(table.label == 1) & (table.strength == 1)].iloc[0]
    assert row.log_likelihood * row.tokens == pytest.approx(scores[1] - scores[0], rel=1e-4)
    assert row.texts == len(mine)


def test_label_curves_of_opposite_labels_lean_apart(states: States, tone: Steer):
    at = (
        label_curve(states, tone, strengths=(-1, 1)).set_index(["label", "strength"]).log_likelihood
    )
    assert at[1, 1] > 0 > at[1, -1]
    assert at[-1, -1] > 0 > at[-1, 1]


def test_label_curve_over_a_background_starts_there(states: States, tone: Steer):
    table = label_curve(states, tone, background=0.5 * tone, strengths=(0, 1))
    alone = label_curve(states, tone, strengths=(0.5, 1.5)).pivot(
        index="label", columns="strength", values="log_likelihood"
    )
    over = table.pivot(index="label", columns="strength", values="log_likelihood")
    np.testing.assert_allclose(over[1.0], alone[1.5] - alone[0.5], atol=1e-6)
    assert over[1.0].abs().max() > 1e-3


def test_a_zero_steer_closes_no_gap(model):
    table = gap_closed(model, zero_steer(sl.readout(model)), "tone", n=60)
    assert (table.gap_closed == 0).all() and (table.best_gap_closed == 0).all()
    assert table.grade.tolist() == [-1.0, 0.0, 1.0, "all"]


def test_gap_closed_agrees_with_the_grammar(model, tone: Steer):
    table = gap_closed(model, tone, "tone", n=60, seed=5)
    grammar = default_grammar()
    texts = grammar.sample(20, Condition(tone=1.0), seed=5 * 101 + 2)
    tokens = sum(len(text.split()) + 1 for text in texts)
    row = table[table.grade == 1.0].iloc[0]
    assert row.tokens == tokens
    assert row.truth == pytest.approx(
        -sum(grammar.log_prob(t, Condition(tone=1.0)) for t in texts) / tokens
    )
    assert row.base == pytest.approx(-sl.score(model, texts).log_prob.sum() / tokens, rel=1e-5)
    steered = -sl.score(model, texts, tone, strengths=(1.0,)).log_prob.sum() / tokens
    assert row.gap_closed == pytest.approx((row.base - steered) / (row.base - row.truth), rel=1e-3)
    assert row.low <= row.gap_closed <= row.high
    assert row.truth < row.steered < row.base
    assert table[table.grade == 0.0].gap_closed.iloc[0] == 0


def test_gap_closed_repeats_itself_and_depends_on_the_seed(model, tone: Steer):
    one, two, other = (gap_closed(model, tone, "tone", n=30, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert one.base.iloc[0] != other.base.iloc[0]


def test_the_best_multiple_is_chosen_by_other_texts(model, tone: Steer):
    multiples = (0.5, 1.0, 1.5, 2.0, 3.0)
    own = []
    for seed in range(4):
        best = gap_closed(model, tone, "tone", n=15, strengths=multiples, seed=seed)
        each = [
            gap_closed(model, tone, "tone", n=15, strengths=(m,), seed=seed).best_steered.iloc[-1]
            for m in multiples
        ]
        assert best.best_steered.iloc[-1] == pytest.approx(
            each[multiples.index(best.multiple[0])], rel=1e-6
        )
        own.append(best.multiple[0] == multiples[int(np.argmin(each))])
    assert not all(own)


def test_a_background_is_not_part_of_the_base(model, tone: Steer):
    over = gap_closed(model, tone.with_background(0.3 * tone), "tone", n=30, strengths=(1,))
    alone = gap_closed(model, tone, "tone", n=30, strengths=(1,))
    np.testing.assert_allclose(over.base, alone.base, rtol=1e-6)
    assert over.steered.iloc[0] != alone.steered.iloc[0]


@pytest.mark.parametrize("attribute", ["topic", "joy"])
def test_attributes_without_grades_are_refused(model, tone: Steer, attribute: str):
    with pytest.raises(ValueError, match="attribute"):
        gap_closed(model, tone, attribute, n=30)
    with pytest.raises(ValueError, match="attribute"):
        written_attribute(model, tone, attribute)


def test_fewer_texts_than_grades_are_refused(model, tone: Steer):
    with pytest.raises(ValueError, match="n: got 2"):
        gap_closed(model, tone, "tone", n=2)


def test_what_is_written_follows_the_strength(model, tone: Steer):
    table = written_attribute(
        model, tone, "tone", strengths=(-4, 0, 4), samples=30, seed=0, max_new_tokens=25
    )
    mean = table.groupby("strength").attribute.mean()
    assert mean[4] - mean[-4] > 0.5
    assert table.attribute.between(-1, 1).all()
    plain = sl.generate(model, [""], samples=30, seed=0, max_new_tokens=25)
    assert table.text[table.strength == 0].tolist() == plain.text.tolist()


def test_the_judge_sees_the_prompt(model, tone: Steer):
    table = written_attribute(
        model, tone, "tone", strengths=(0,), prompts=("thank you for",), samples=2, seed=0
    )
    texts = [f"thank you for {text}".strip() for text in table.text]
    np.testing.assert_allclose(table.attribute, default_grammar().attribute_mean(texts, "tone"))


def test_kl_is_exact_zero_at_zero_and_grows_with_the_square(model, states: States, tone: Steer):
    table = strength_cost(states, tone, strengths=(-0.05, 0, 0.05, 0.1)).set_index("strength").kl
    assert table[0] == 0
    assert table[0.1] > 1e-6
    assert table[0.1] == pytest.approx(4 * table[0.05], rel=0.05)
    assert table[-0.05] == pytest.approx(table[0.05], rel=0.05)
    one = sl.collect(model, ["it was good ."], progress=False)
    c = one.shards[0].hidden
    p, q = (one.readout.logits(x).double().log_softmax(1) for x in (c, tone.apply(c, 2.0)))
    assert strength_cost(one, tone, strengths=(2,)).kl[0] == pytest.approx(
        float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4
    )


@pytest.mark.parametrize("name", ["toy-64", "toy-96-llama"])  # words; pieces that keep spaces
def test_writing_cost_is_the_plain_models_score_of_the_new_tokens(name: str):
    model = sl.load_model(name, plain=True)
    written = sl.generate(model, ["it was", ""], samples=4, seed=0, max_new_tokens=8)
    row = writing_cost(model, written).iloc[0]
    total = count = 0
    for prompt, text in zip(written.prompt, written.text, strict=True):
        head = len(sl.score(model, [prompt], end=False)) if prompt else 0
        scores = sl.score(model, [prompt + text], end=False).log_prob.iloc[head:]
        total, count = total - scores.sum(), count + len(scores)
    assert row.nll == pytest.approx(total / count, rel=1e-5)
    assert row.texts == 8


def test_the_judge_reads_what_was_written_inside_a_word_too():
    model, begun = sl.load_model("toy-96-llama", plain=True), "the film was aw"
    plain = zero_steer(sl.readout(model))
    table = written_attribute(model, plain, "sentiment", prompts=(begun,), samples=4, seed=0)
    assert not any(text[0].isspace() for text in table.text)
    mean = default_grammar().attribute_mean([begun + text for text in table.text], "sentiment")
    np.testing.assert_allclose(table.attribute, mean)


def test_distinct_counts_words_and_pairs(model):
    written = pd.DataFrame({"prompt": "", "strength": 1.0, "text": ["it was good", "it was bad"]})
    row = writing_cost(model, written).iloc[0]
    assert row.distinct_1 == pytest.approx(4 / 6)
    assert row.distinct_2 == pytest.approx(3 / 4)
    assert torch.isfinite(torch.tensor(row.nll))


def test_texts_that_are_empty_do_not_break_the_cost(model):
    written = pd.DataFrame({"prompt": "", "strength": [0.0, 1.0], "text": ["", "it was good"]})
    table = writing_cost(model, written)
    assert table.texts.tolist() == [0, 1]
    assert np.isnan(table.nll[0]) and table.nll[1] > 0


def test_a_grade_of_one_text_has_no_interval(model, tone: Steer):
    few, more = (gap_closed(model, tone, "tone", n=n) for n in (3, 30))
    ends = ["low", "high", "best_low", "best_high"]
    assert (few.texts[:3] == 1).all() and few[ends].isna().all(axis=None)
    assert more[ends].notna().all(axis=None) and (more.low < more.high)[more.grade != 0].all()


def test_a_background_is_no_fit(states: States, unchecked: None):
    fit = sl.fit_steer(states, solver="closed-form")
    with pytest.raises(
        ValueError, match=r"background: got a Fit, expected.*\.background, or \.value"
    ):
        label_curve(states, fit, background=fit)  # pyright: ignore[reportArgumentType]
