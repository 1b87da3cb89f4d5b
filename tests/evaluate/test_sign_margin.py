"""Worth and cost of any intervention: for a steer those of the steer's own formulas, for an edit
those of whole passes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.evaluate import matched_kl
from steerlens.evaluate.fluency import strength_cost
from steerlens.evaluate.losses import kl_at_strengths, sign_margins
from steerlens.evaluate.sign_margin import (
    kl_on_texts,
    nll,
    sign_margin,
    strength_on_texts,
)
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.values.steer import Steer, zero_steer
from tests.models.zoo import TEXTS, by_hand, contexts, hook_count, random_reft, zoo


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """One that was trained, as the tests ask what a steer is worth."""
    toy = sl.load_model("toy-64")
    before = hook_count(toy)
    yield toy
    assert hook_count(toy) == before, "a hook was left behind"


@pytest.fixture(scope="module")
def held() -> sl.Labelled:
    """A third of them without a sign."""
    return sl.toy.corpus("tone", n=14, seed=1)


@pytest.fixture(scope="module")
def tone(model) -> Steer:
    """A quick fit: one step and one damping are tried."""
    states = sl.collect(model, sl.toy.corpus("tone", n=200, seed=0), progress=False)
    return sl.fit_steer(states, ridge=(0.1, 1.0), damping=0.1, lr=0.1, name="tone").value


def by_score(
    model, data: sl.Labelled, value: Any, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Summed NLL of each text at the strength times its label, and its tokens, by `score`."""
    total, n = np.zeros(len(data)), np.zeros(len(data))
    for label in set(data.labels):
        rows = [i for i, y in enumerate(data.labels) if y == label]
        scores = sl.score(
            model, [data.texts[i] for i in rows], value, strengths=(strength * label,)
        )
        by_text = scores.groupby("text").log_prob
        total[rows], n[rows] = -by_text.sum().sort_index(), by_text.size().sort_index()
    return total, n


def even(gains: np.ndarray, tokens: np.ndarray, labels: Any) -> float:
    """What texts gain per token, those of either sign weighing as much by the sizes of their
    labels."""
    y = np.array(labels)
    up, down = (abs(y) * tokens * (y * sign > 0) for sign in (1, -1))
    weight = (y > 0) * down.sum() + (y < 0) * up.sum()
    return float((weight * gains).sum() / (weight * tokens).sum())


@pytest.mark.parametrize("kind", ["steer", "reft"])
def test_the_sign_margin_is_that_of_the_scores(model, held, tone, kind: str):
    value = tone if kind == "steer" else random_reft(model, layers=(1,))
    kept = with_nonzero_label(held)
    (right, n), (wrong, _) = (by_score(model, kept, value, s) for s in (0.7, -0.7))
    found = sign_margin(model, held, value, strength=0.7)
    assert found.index.tolist() == ["sign_margin", "low", "high", "nll", "texts"]
    expected = even(wrong - right, n, kept.labels)
    assert found.sign_margin == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert found.nll == pytest.approx(right.sum() / n.sum(), rel=1e-4)
    # there every text counts
    assert nll(model, held, value, strength=0.7) != pytest.approx(found.nll, rel=1e-3)
    assert abs(found.sign_margin) > 1e-3
    assert found.texts == len(kept) < len(held)


def test_the_sign_margin_of_a_steer_is_that_of_its_states(model, held, tone):
    kept = with_nonzero_label(held)
    states = sl.collect(model, kept, progress=False)
    gains = sign_margins(states, [tone], zero_steer(tone.readout))[0]
    expected = even(gains.numpy(), states.lengths.double().numpy(), kept.labels)
    assert sign_margin(model, held, tone).sign_margin == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-3


def test_the_sign_margin_of_nothing_is_zero_and_turns_with_the_strength(model, held, tone):
    for value, strength in (
        (zero_steer(tone.readout), 1.0),
        (tone, 0.0),
        (random_reft(model), 0.0),
    ):
        assert sign_margin(model, held, value, strength=strength)[
            ["sign_margin", "low", "high"]
        ].tolist() == [0, 0, 0]
    for value in (tone, random_reft(model)):
        one, other = (sign_margin(model, held, value, strength=s) for s in (2.0, -2.0))
        assert one.sign_margin == -other.sign_margin != 0
        assert (one.low, one.high) == pytest.approx(
            (-other.high, -other.low), abs=0.2 * (one.high - one.low)
        )


def test_texts_without_a_sign_do_not_count_and_others_count_by_their_label(model, held, tone):
    kept = with_nonzero_label(held)
    more = sl.Labelled((*kept.texts, "it was good ."), (*kept.labels, 0.0))
    pd.testing.assert_series_equal(sign_margin(model, kept, tone), sign_margin(model, more, tone))
    counted = sl.Labelled(more.texts, (*kept.labels, 1.0))
    assert sign_margin(model, counted, tone).texts == len(kept) + 1
    half = sl.Labelled(kept.texts, tuple(y / 2 for y in kept.labels))
    pd.testing.assert_series_equal(
        sign_margin(model, half, tone, strength=2.0), sign_margin(model, kept, tone)
    )
    assert sign_margin(model, half, tone).sign_margin != sign_margin(model, kept, tone).sign_margin


def test_prompts_are_read_and_not_scored(model, tone):
    data = sl.Labelled(("good .", "bad ."), (1.0, -1.0), ("the food was", "it was"))
    whole = sl.Labelled(("the food was good .", "it was bad ."), data.labels)
    gained, n, everything = 0.0, 0, 0.0
    for text, label, prompt in zip(whole.texts, whole.labels, data.prompts, strict=True):
        right, wrong = (
            sl.score(model, [text], tone, strengths=(s * label,)).log_prob.to_numpy()
            for s in (1.0, -1.0)
        )
        behind = (right - wrong)[len(prompt.split()) :]
        gained, n, everything = (
            gained + behind.sum(),
            n + len(behind),
            everything + (right - wrong).sum(),
        )
    assert sign_margin(model, data, tone).sign_margin == pytest.approx(gained / n, rel=1e-3)
    assert n == 6 and abs(gained - everything) > 1e-3


def test_the_interval_holds_the_sign_margin_and_narrows_with_more_texts(model, tone):
    data = sl.toy.corpus("tone", n=160, seed=2)
    few, many = (
        sign_margin(model, sl.Labelled(data.texts[:n], data.labels[:n]), tone) for n in (25, 160)
    )
    for found in (few, many):
        assert found.low < found.sign_margin < found.high
    assert many.high - many.low < 0.7 * (few.high - few.low)
    # about two standard errors to each side
    kept = with_nonzero_label(data)
    (right, n), (wrong, _) = (by_score(model, kept, tone, s) for s in (1, -1))
    error = float((wrong - right).std()) * len(kept) ** 0.5 / n.sum()
    assert many.high - many.low == pytest.approx(2 * 1.96 * error, rel=0.3)
    pd.testing.assert_series_equal(
        few, sign_margin(model, sl.Labelled(data.texts[:25], data.labels[:25]), tone)
    )


def test_what_all_texts_like_is_no_style_however_many_have_one_label(model, tone) -> None:
    """Texts of one tone, whose labels say nothing of it: all of them like the steer."""
    data = sl.toy.corpus("tone", n=1_000, seed=1)
    polite = [text for text, y in zip(data.texts, data.labels, strict=True) if y > 0][:200]

    def labelled(often: int, rare: float) -> pd.Series:
        labels = [1.0 if k % often else rare for k in range(len(polite))]
        return sign_margin(model, sl.Labelled(polite, labels), tone)

    alone = sign_margin(model, sl.Labelled(polite, [1.0] * len(polite)), tone)
    assert alone.low > 0.02  # of labels of one sign nothing tells the two apart
    for often, rare in ((10, -1.0), (2, -0.2)):
        found = labelled(often, rare)
        assert found.low < 0 < found.high
        assert found.high < 0.7 * alone.sign_margin


def test_copies_of_a_text_are_one_in_the_interval(model, tone) -> None:
    few = sl.toy.corpus("tone", n=45, seed=2)
    once = sign_margin(model, few, tone)
    often = sign_margin(model, sl.Labelled(few.texts * 9, few.labels * 9), tone)
    assert often.sign_margin == pytest.approx(once.sign_margin, rel=1e-6)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.01)


def test_without_any_sign_there_is_no_sign_margin(model, tone):
    with pytest.raises(ValueError, match="data: every label is 0"):
        sign_margin(model, sl.Labelled(("it was good .",), (0.0,)), tone)


def test_the_cost_of_a_steer_is_that_of_its_own_formula(model, held, tone):
    states = sl.collect(model, held, progress=False)
    for strength in (0.5, 3.0):
        expected = float(kl_at_strengths(states, tone, (strength, -strength)).mean())
        assert kl_on_texts(model, held, tone, strength=strength) == pytest.approx(
            expected, rel=1e-3
        )
        assert strength_cost(
            states, tone, strengths=(strength, -strength)
        ).kl.mean() == pytest.approx(expected)
        assert expected > 1e-3
    assert kl_on_texts(model, list(held.texts), tone) == pytest.approx(
        kl_on_texts(model, held, tone), rel=1e-6
    )


def test_the_cost_is_zero_at_zero_even_in_the_strength_and_grows(model, held, tone):
    for value in (tone, random_reft(model)):
        up, down, twice = (kl_on_texts(model, held, value, strength=s) for s in (0.1, -0.1, 0.2))
        assert up == pytest.approx(down, rel=1e-9)
        assert twice == pytest.approx(4 * up, rel=0.15) and up > 1e-6
        assert kl_on_texts(model, held, value, strength=0.0) == 0


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "cohere"])
def test_cost_and_sign_margin_of_edits_are_those_of_whole_passes_under_soft_cap_and_scale_too(
    name: str,
):
    model, labels = zoo(name), (1.0, -1.0, 0.5, -0.5)
    edit, total, signs = random_reft(model, layers=(0,), rank=3), 0.0, (1, -1)
    gains, lengths = np.zeros(len(TEXTS)), np.zeros(len(TEXTS))
    for k, (text, label) in enumerate(zip(TEXTS, labels, strict=True)):
        ids = _ids(model, text)
        tokens = torch.tensor([ids])
        plain = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
        for sign in signs:
            with sl.steered(model, edit, sign, prompt=len(ids)):
                moved = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
            total += float((plain.exp() * (plain - moved)).sum()) / 2
            with sl.steered(model, edit, sign * label, prompt=len(ids)):
                read = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
            gains[k] += sign * float(read.gather(1, tokens[0, 1:, None]).sum())
        lengths[k] = len(ids) - 1
    data, n, gained = sl.Labelled(TEXTS, labels), lengths.sum(), even(gains, lengths, labels)
    assert kl_on_texts(model, data, edit) == pytest.approx(total / n, rel=2e-3)
    assert sign_margin(model, data, edit).sign_margin == pytest.approx(gained, rel=2e-3)
    assert total / n > 1e-2 and abs(gained) > 1e-3


def _ids(model, text: str) -> list[int]:
    """With begin and end of text, as `collect` reads it: the tokens that it predicts, behind
    begin-of-text."""
    states = sl.collect(model, [text], progress=False)
    return [model.tokenizer.bos_token_id, *states.shards[0].next.tolist()]


def test_the_strength_of_a_steer_at_a_cost_is_that_of_its_states(model, held, tone):
    states = sl.collect(model, held, progress=False)
    found = {kl: strength_on_texts(model, held, tone, kl=kl) for kl in (0.01, 0.2)}
    for kl, strength in found.items():
        assert strength == pytest.approx(matched_kl.strength_at_kl(tone, states, kl=kl), rel=1e-3)
    assert found[0.2] > 2 * found[0.01]


@pytest.mark.parametrize("variant", ["loreft", "lobireft"])
def test_an_edit_at_its_strength_costs_what_was_asked(model, held, variant: str):
    edit = random_reft(model, variant, layers=(1,))
    before = kl_on_texts(model, held, edit)
    strength = strength_on_texts(model, held, edit, kl=0.03)
    assert kl_on_texts(model, held, edit, strength=strength) == pytest.approx(0.03, rel=1e-3)
    assert abs(before - 0.03) > 0.01 and abs(strength - 1) > 0.05


def test_what_costs_nothing_has_no_strength_at_a_cost(model, tone):
    with pytest.raises(
        ValueError,
        match="'zero' costs 0.05 nats per token at no strength up to a million; is it zero",
    ):
        strength_on_texts(model, ["it was good ."], zero_steer(tone.readout, "zero"))
