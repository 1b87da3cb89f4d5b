"""The likelihood of constant offsets: the quick way beside every position's logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.baselines import offsets
from steerlens.methods.baselines.logit_bias import fit_logit_bias
from steerlens.methods.baselines.offsets import (
    EXPONENT,
    HELDOUT,
    Span,
    fit_offsets,
    from_logits,
    likelihood,
    reweighed,
    text_moments,
)
from tests.values.make import make_readout, make_states, random

ON = make_readout()


@given(size=st.floats(0, 8), seed=st.integers(0, 20), many=st.booleans())
def test_the_models_predictions_weighed_anew_are_those_of_moved_logits(
    size: float, seed: int, many: bool
) -> None:
    states = make_states(30, on=ON, planted=random(6, 6, seed=seed))
    if many:  # a label of its own for every text
        states = states.relabel(torch.linspace(-1, 1, 30))
    u = size * random(2, ON.d_vocab, seed=seed + 1)
    (quick, slope), (loss, expected) = reweighed(states)(u), from_logits(states, u)
    assert quick == pytest.approx(loss, rel=1e-5)
    assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_the_slope_is_that_of_the_loss() -> None:
    mean_nll = reweighed(make_states(30, on=ON))
    u, step = random(2, ON.d_vocab, seed=1), random(2, ON.d_vocab, seed=2)
    rise = (mean_nll(u + 1e-2 * step)[0] - mean_nll(u - 1e-2 * step)[0]) / 2e-2
    assert rise == pytest.approx(float((mean_nll(u)[1] * step).sum()), rel=1e-3)


def test_exponentials_that_float32_does_not_hold_are_never_taken() -> None:
    """A word that is as good as forbidden: its weight is 0, and may be all that a position has."""
    states = make_states(30, on=ON)
    u = torch.zeros(2, ON.d_vocab)
    u[1, 0] = 3 * EXPONENT
    found, expected = reweighed(states)(u), from_logits(states, u)
    assert found[0] == pytest.approx(expected[0]) and expected[0] > EXPONENT
    assert_close(found[1], expected[1])


def test_where_memory_forbids_it_the_offset_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    states = make_states(60, on=ON)
    quick = fit_logit_bias(states).offset
    monkeypatch.setattr(offsets, "KEPT", 0)
    assert_close(fit_logit_bias(states).offset, quick, rtol=1e-2, atol=1e-3)


def test_under_a_soft_cap_words_have_no_weight_that_is_the_same_at_all_positions() -> None:
    states = make_states(30, on=make_readout(softcap=2.0))
    u = 2 * random(2, ON.d_vocab, seed=3)
    expected = from_logits(states, u)[0]
    assert abs(reweighed(states)(u)[0] - expected) > 0.1
    assert likelihood(states)(u)[0] == expected


def test_of_all_ridges_the_one_is_taken_that_serves_held_out_texts_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=200, seed=0), progress=False)
    sums = text_moments(states)
    size = ((sums.p + 1) / sums.weight).sqrt().float()
    span = Span(len(size), lambda V: V / size, lambda g: g / size)
    ridges = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
    monkeypatch.setattr(offsets, "RIDGES", ridges)
    found = fit_offsets(states, span, 0)
    fitting, heldout = states.split(1 - HELDOUT, seed=0)
    losses, alone = [], []
    for ridge in ridges:
        monkeypatch.setattr(offsets, "RIDGES", (ridge,))
        alone.append(fit_offsets(states, span, 0))
        losses.append(likelihood(heldout)(span.expand(fit_offsets(fitting, span, 0)))[0])
    best = losses.index(min(losses))
    assert 1 < best < len(ridges) - 1
    gaps = [float((found - one).norm()) for one in alone]
    assert gaps.index(min(gaps)) == best
