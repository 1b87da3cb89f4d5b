"""Fluency and variety of written texts, and strengths that spend a budget."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import steerlens as sl
from steerlens.evaluate.measures import (
    TextNll,
    continuation_nll,
    distinct,
    fluency,
    repetition,
)
from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.runs import Entrant, run_protocol
from steerlens.evaluate.scorers import oracle
from steerlens.evaluate.spend import HIGHEST, LOWEST, spend


def test_nll_of_a_continuation_is_the_sum_of_its_tokens(model):
    prompts, texts = ["the film was", "it was", "my"], [" superb and long .", " awful .", ""]
    found = continuation_nll(model, prompts, texts)
    for k in range(2):
        tokens = sl.score(model, [prompts[k] + texts[k]], end=False)
        own = tokens[tokens.position >= len(prompts[k].split())]
        assert found.nats[k] == pytest.approx(-own.log_prob.sum(), abs=1e-4)
        assert found.tokens[k] == len(own) == len(texts[k].split())
    assert (found.nats[2], found.tokens[2]) == (0, 0)


def test_nll_of_a_text_without_prompt_is_all_of_it(model):
    found = continuation_nll(model, [""], ["the film was good ."])
    assert found.nats[0] == pytest.approx(
        -sl.score(model, ["the film was good ."], end=False).log_prob.sum(), abs=1e-4
    )


def test_both_perplexities_and_what_they_leave_out():
    nll = TextNll(np.array([0.0, 2.0, 40.0, 0.0]), np.array([1.0, 2.0, 4.0, 0.0]))
    found = fluency(nll)
    assert found.perplexity == pytest.approx((1 + math.e) / 2)  # e^10 is dropped
    assert found.corpus_perplexity == pytest.approx(math.exp(42 / 7))
    assert (found.dropped, found.empty) == (1, 1)
    # the papers leave out what is above 10,000
    edge = fluency(TextNll(np.log([9_999, 10_000.1]), np.ones(2)))
    assert edge.perplexity == pytest.approx(9_999) and edge.dropped == 1


def test_nothing_written_has_no_perplexity():
    found = fluency(TextNll(np.zeros(2), np.zeros(2)))
    assert math.isnan(found.perplexity) and math.isnan(found.corpus_perplexity)
    assert (found.dropped, found.empty) == (0, 2)


def test_distinct_divides_by_words_whatever_n():
    texts = ["a b c", "a b d"]
    assert [distinct(texts, n) for n in (1, 2, 3)] == [4 / 6, 3 / 6, 2 / 6]
    assert distinct([" a b c"], 1) == distinct(["a b c"], 1) == 1
    assert math.isnan(distinct(["", " "], 1))


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_repetition_is_the_share_of_grams_seen_before(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    seen = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert repetition(" ".join(words), n) == pytest.approx(seen / len(grams) if grams else 0)


@given(st.floats(0.3, 4), st.floats(1e-3, 1e3), st.floats(1e-3, 10))
def test_a_budget_is_met_whatever_the_power_of_the_cost(power, scale, budget):
    found = spend(lambda s: scale * s**power, budget)
    wanted = (budget / scale) ** (1 / power)
    if LOWEST < wanted < HIGHEST:
        assert found.note == "" and found.cost == pytest.approx(budget, rel=0.05)
        assert found.strength == pytest.approx(wanted, rel=0.02)


def test_the_side_is_the_sign_of_the_strength():
    assert spend(lambda s: s * s if s < 0 else 0.0, 0.09, side=-1).strength == pytest.approx(
        -0.3, rel=0.01
    )


def test_what_cannot_spend_the_budget_says_so():
    capped = spend(lambda s: min(s, 0.1), 0.25)
    assert (capped.cost, capped.note) == (0.1, "spends at most 0.1 of 0.25 nats per token")
    assert capped.strength <= 1  # not a thousandfold for nothing more
    slow = spend(lambda s: 0.1 * s / (1 + s), 0.25)
    assert (
        slow.cost > 0.099 and slow.strength < 1_000
    )  # a hundredth more is nothing more, a half is not
    assert spend(lambda s: 0.0, 0.1) == (0.0, 0.0, "changes nothing at any strength")
    always = spend(lambda s: 0.3 + s, 0.1)
    assert always.note.startswith("costs 0.3") and always.strength == LOWEST
    unknown = spend(lambda s: math.nan, 0.1)
    assert unknown.strength == 1 and "no next-token distribution" in unknown.note
    jump = spend(lambda s: 0.0 if s < 3 else 1.0, 0.1)
    assert jump.note == "jumps past 0.1: costs 0" or jump.note == "jumps past 0.1: costs 1"


def test_strengths_beyond_finite_numbers_are_too_dear():
    def cost(s: float) -> float:
        if s > 5:
            raise ValueError("strengths: the model's states are no finite numbers any more")
        return 0.01 * s

    assert spend(cost, 0.03).strength == pytest.approx(3, rel=0.02)
    with pytest.raises(ValueError, match="another fault"):
        spend(lambda s: (_ for _ in ()).throw(ValueError("another fault")), 0.1)


@pytest.mark.parametrize("budget", (0.0, -1.0, math.nan, math.inf))
def test_a_budget_is_a_positive_number(budget):
    with pytest.raises(ValueError, match="kl: got"):
        spend(lambda s: s, budget)


def test_what_an_evaluator_does_not_read_is_said(model, unchecked: None):
    long = "the film was good . " * 60
    with pytest.warns(
        UserWarning, match="evaluator: 2 of 2 strings are longer than its context, 256"
    ):
        continuation_nll(model, [long], [" it was bad ."])
    task = Protocol("long", (("long", long),), oracle("tone"), evaluator=model)
    assert task.prompts == (long,)
    with pytest.raises(ValueError, match="does not fit the context of 256"):
        run_protocol(model, [Entrant("base", None, 0.0)], task, progress=False)


def test_a_judge_without_a_card_is_refused_at_once(unchecked: None):
    with pytest.raises(ValueError, match="scorer: got function, expected.*function_scorer"):
        Protocol("x", (("k", ("you",)),), lambda texts: [0.5] * len(texts))  # pyright: ignore[reportArgumentType]
