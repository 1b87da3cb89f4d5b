"""A `Fit` stands for its value in every analysis that takes one, and what is none is refused by
name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.analysis import theory
from steerlens.analysis.embeddings import lexicon_alignment
from steerlens.analysis.prompts.words import of_words, readability
from steerlens.analysis.reft import composition
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.analysis.subspaces import compare_subspaces
from steerlens.models.embeddings import embeddings
from steerlens.values.metric import Metric
from steerlens.values.states import States
from tests.values.make import make_reft

DATA = sl.toy.corpus("tone", n=20, seed=0)
LEXICON = dict(zip(sl.toy.grammar.classes[0].words, range(104), strict=True))


class World(NamedTuple):
    model: Any
    states: States
    metric: Metric
    fit: sl.Fit
    truth: theory.Truth

    def holding(self, value: Any) -> sl.Fit[Any]:
        """The fit of another value."""
        return replace(self.fit, value=value)


@pytest.fixture(scope="module")
def w(model) -> World:
    states = sl.collect(model, DATA, progress=False)
    fit = sl.fit_steer(states, ridge=0.1, damping=0.1, lr=0.1, progress=False)
    truth = theory.truth_of(model, DATA, "tone", states)
    return World(model, states, sl.natural_metric(states, damping=0.1), fit, truth)


def reft(w: World) -> sl.Reft:
    return make_reft("consreft", sl.readout(w.model))


def soft(w: World) -> sl.SoftPrompt:
    E = embeddings(w.model)
    return of_words(E[5:7], E[8:10], sl.readout(w.model))


ASKED: dict[str, Callable[[World, Any], Any]] = {
    "spectrum": lambda w, s: sl.spectrum(s, metric=w.metric).table,
    "singular_words": lambda w, s: sl.singular_words(s, rank=1, tokens=2),
    "lexicon_alignment": lambda w, s: lexicon_alignment(s, LEXICON, metric=w.metric).table,
    "state_shift_overlap": lambda w, s: state_shift_overlap(
        w.model, s, s, DATA, w.metric, controls={"same": s}, draws=2
    ),
    "compare_subspaces": lambda w, s: compare_subspaces(
        w.model, s, {0: reft(w)}, DATA, w.metric, draws=2
    ),
    "interpolation_error": lambda w, s: theory.interpolation_error(s, w.states, n=8),
    "composition_error": lambda w, s: theory.composition_error(s, s, w.states, n=8),
    "gauge_errors": lambda w, s: theory.gauge_errors(s, w.states, conditions=(2.0,), n=8),
    "belief_alignment": lambda w, s: theory.belief_alignment(
        {"tone": s}, w.model, DATA.texts, "tone", w.metric, draws=2
    ),
    "margin_at_kl": lambda w, s: theory.margin_at_kl(s, w.states),
    "gap_parts": lambda w, s: theory.gap_parts(w.truth, s, s),
    "steered": lambda w, s: w.truth.steered(s),
    "transfer": lambda w, s: sl.transfer(s, w.model).W,
}
OTHERS: dict[str, tuple[Callable[[World], Any], Callable[[World, Any], Any]]] = {
    "edits": (reft, lambda w, s: compare_subspaces(w.model, w.fit, {0: s}, DATA, w.metric, again={0: s}, draws=2)),
    "composition": (reft, lambda w, s: composition(w.model, {"tone": s}, s, {"tone": DATA})),
    "prompt": (soft, lambda w, s: readability(w.model, s, DATA, draws=1)),
}  # fmt: skip


def assert_same(a: Any, b: Any) -> None:
    """To rounding: where a tensor happens to lie in memory decides how its sums are grouped."""
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-9)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    else:
        assert a == b


@pytest.mark.parametrize("name", ASKED)
def test_a_fit_of_a_steer_stands_for_it_and_what_is_none_is_refused(w: World, name: str, unchecked):
    ask = ASKED[name]
    assert_same(ask(w, w.fit), ask(w, w.fit.value))
    for wrong in (3, [w.fit.value], w.holding(soft(w))):
        with pytest.raises(ValueError, match=r"^(steer|one|fit|background|src|intervention)\S*: got"):  # fmt: skip
            ask(w, wrong)


@pytest.mark.parametrize("name", OTHERS)
def test_so_does_a_fit_of_something_else(w: World, name: str, unchecked):
    make, ask = OTHERS[name]
    assert_same(ask(w, w.holding(make(w))), ask(w, make(w)))
    with pytest.raises(ValueError, match=r"^(edits|prompt|intervention): got"):
        ask(w, 3)


@pytest.mark.parametrize("name", ["interpolation_error", "composition_error", "gauge_errors"])
def test_a_steer_of_another_model_is_refused(w: World, name: str):
    other = sl.Steer(torch.eye(128), sl.readout(sl.load_model("toy-128")))
    with pytest.raises(ValueError, match="they are of 'toy-64'"):
        ASKED[name](w, other)
