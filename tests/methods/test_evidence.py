"""The steer that explains most for its cost: against planted truth, beside the ridge problem, with
nothing to find."""

import math
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.losses import sign_margins
from steerlens.maths.logits import UnembedWeights
from steerlens.maths.tail import two_tiers
from steerlens.methods.steer import cost
from steerlens.methods.steer.evidence import evidence_of
from steerlens.methods.steer.judge import Asked, judge_halves
from steerlens.models.score import state_log_probs
from steerlens.values.states import States
from steerlens.values.steer import Steer
from tests.values.make import make_readout, make_states, random

D, V = 24, 60
ON = make_readout(d=D, vocab=V)
DIRECTION = torch.outer(random(D, seed=60), random(D, seed=61)) / D
"""A planted steer of rank 1."""
FLOOR = 0.2 * random(D, D, seed=62) / D**0.5
GIVEN: dict[str, Any] = {"ridge": 0.05, "damping": 1e-2, "lr": 0.1}


@cache
def planted(n_texts: int = 240) -> States:
    return make_states(n_texts, on=ON, planted=DIRECTION, background=FLOOR)


@cache
def fitted(solver: Any = "auto", **options: Any) -> sl.Fit:
    return sl.fit_steer(planted(), solver=solver, seed=0, **GIVEN, **options)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_a_direction_is_found_better_than_by_a_full_matrix() -> None:
    few, full = fitted().value.W, fitted("lbfgs").value.W
    assert torch.linalg.matrix_rank(few, rtol=1e-3) < torch.linalg.matrix_rank(full, rtol=1e-3)
    assert cosine(few, DIRECTION) > max(0.6, cosine(full, DIRECTION))
    found = fitted().report.heldout
    assert found.steered < found.background < found.flipped


def test_of_new_texts_it_explains_more_at_equal_cost() -> None:
    new = make_states(600, on=ON, planted=DIRECTION, background=FLOOR, seed=9)
    worth = {}
    for solver in ("auto", "lbfgs"):
        fit = fitted(solver)
        s = sl.strength_at_kl(fit.value.with_background(fit.background), new, kl=0.05)
        worth[solver] = float(sign_margins(new, [s * fit.value], fit.background).sum())
    assert worth["auto"] > worth["lbfgs"] > 0


@pytest.mark.parametrize("rank", [1, 2])
def test_a_rank_is_fitted_not_cut(rank: int) -> None:
    cut = fitted(rank=rank)
    assert torch.linalg.matrix_rank(cut.value.W, rtol=1e-4) <= rank
    assert cosine(cut.value.W, DIRECTION) > 0.6


def test_turned_labels_turn_the_steer_and_a_seed_repeats_it() -> None:
    fit = fitted()
    turned = sl.fit_steer(planted().relabel(-planted().labels), seed=0, **GIVEN)
    assert fit.value.W.norm() > 0.1
    assert_close(turned.value.W, -fit.value.W, rtol=1e-2, atol=1e-2)
    again = sl.fit_steer(planted(), seed=0, **GIVEN)
    assert torch.equal(again.value.W, fit.value.W) and torch.equal(
        again.background.W, fit.background.W
    )


def test_labels_of_0_and_1_give_the_steer_of_minus_and_plus() -> None:
    signed = planted().select(planted().labels != 0)
    halves = signed.relabel((signed.labels + 1) / 2)
    a = sl.fit_steer(signed, seed=0, **GIVEN)
    b = sl.fit_steer(halves, seed=0, **GIVEN)
    # a label of 1 against 0 is twice the step that 1 against 0 is among -1, 0 and 1
    assert b.report.strength / a.report.strength == pytest.approx(2, rel=0.35)
    assert b.report.mean_label == pytest.approx((a.report.mean_label + 1) / 2, abs=1e-5)
    assert a.report.mean_label == pytest.approx(0, abs=0.05)


def test_shuffled_labels_leave_next_to_nothing() -> None:
    order = torch.randperm(len(planted().labels), generator=torch.Generator().manual_seed(3))
    fit = sl.fit_steer(planted().relabel(planted().labels[order]), seed=0, **GIVEN)
    true, noise = (max(t["margin"] for t in f.report.trials) for f in (fitted(), fit))
    assert noise < 0.3 * true


def test_copies_of_a_text_are_no_evidence() -> None:
    model, texts = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=40, seed=3).texts
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    data = sl.Labelled(texts, [1.0 if k % 2 else -1.0 for k in order])  # labels that say nothing
    states = sl.collect(model, data + data + data, progress=False)
    parts = states.split(0.5, seed=0)
    seen = [set(states.copy_of[part.keep].tolist()) for part in parts]
    assert not seen[0] & seen[1] and all(part.n_texts == 60 for part in parts)
    verdict = sl.fit_steer(states, progress=False).report.verdict
    apart = sl.fit_steer(replace(states, copy_of=None), progress=False).report.verdict
    assert apart.p < 0.01  # each half held the other's texts
    assert verdict.p > 0.1 and not verdict.found


@pytest.mark.parametrize("n", [4, 5, 6])
def test_a_handful_of_texts_gives_no_number_that_is_none(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = sl.collect(
            sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=n, seed=0), progress=False
        )
        report = sl.fit_steer(states, progress=False).report
    assert report.verdict is None or math.isfinite(report.verdict.margin)
    assert all(math.isfinite(x) for trial in report.trials for x in trial.values())


def test_a_vocabulary_in_two_tiers_gives_nearly_the_same_steer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fitted().value.W
    monkeypatch.setattr(cost, "LIKELY", V // 3)
    tiered = sl.fit_steer(planted(), seed=0, **GIVEN).value.W
    monkeypatch.setattr(cost, "two_tiers", lambda head, c, n: (only(head, c, n), None))
    words_left_out = sl.fit_steer(planted(), seed=0, **GIVEN).value.W
    assert cosine(tiered, whole) > 0.99 > cosine(words_left_out, whole)


def only(head: UnembedWeights, c: torch.Tensor, n: int) -> UnembedWeights:
    """The likely words alone, without what the others add."""
    return two_tiers(head, c, n)[0]


def test_a_halfs_margin_is_what_the_likelihood_of_its_texts_says() -> None:
    """In nats per token: how much likelier the right sign makes them, labels less their mean."""
    states = planted()
    labels = states.labels - states.labels.mean()
    asked, base = Asked(rank=2), 0.1 * FLOOR
    parts = states.split(0.5, seed=0)
    W = 0.01 * DIRECTION
    halves = [evidence_of(part, labels, base, asked)._replace(path=[W, W]) for part in parts]
    margins, _, verdict = judge_halves(halves, sl.natural_metric(states), asked)
    assert verdict is not None and margins[0] == margins[1] == pytest.approx(verdict.margin)
    steer = Steer(W, ON).with_background(Steer(base, ON))
    expected = []
    for part in parts:
        log_p = part.sum_by_text(state_log_probs(part, steer, (-1.0, 1.0)))
        y = part.labels[part.keep] - part.labels[part.keep].mean()
        gain = (log_p[1] - log_p[0])[part.keep] * y
        expected.append(float(gain.sum() / part.lengths[part.keep].sum()))
    assert verdict.margin == pytest.approx(sum(expected) / 2, rel=0.03)
    assert verdict.low < verdict.margin < verdict.high and verdict.margin > 1e-4
