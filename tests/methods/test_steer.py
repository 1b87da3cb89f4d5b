"""The fit of a steer: laws of the convex problem, on states with a planted steer and on a toy
model."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import steerlens as sl
from steerlens.evaluate.matched_kl import kl_at_strength
from steerlens.maths import logits
from steerlens.maths.logits import to_bfloat16
from steerlens.maths.moments import second_moments
from steerlens.maths.solvers import lbfgs
from steerlens.methods.steer import refit, solution
from steerlens.methods.steer.cost import HELD
from steerlens.methods.steer.evidence import explain
from steerlens.methods.steer.judge import MIXES, Asked
from steerlens.methods.steer.problem import CHUNK, Problem, sums_over, text_weights
from steerlens.methods.steer.refit import fit_shuffled
from steerlens.methods.steer.selection import (
    DAMPING,
    START,
    Fixed,
    Setting,
    best_ridges,
    choose,
    make_problem,
)
from steerlens.methods.steer.solution import by_likelihood, of_unit_cost
from steerlens.methods.steer.solvers import Effort, Solved
from steerlens.values.metric import Metric
from steerlens.values.states import Shard, States
from tests.values.make import make_readout, make_states, on_disk, random

D, V = 8, 40
ON = make_readout(d=D, vocab=V)
PLANTED = 0.4 * random(D, D, seed=50) / D**0.5
BACKGROUND = 0.4 * random(D, D, seed=51) / D**0.5
SOLVERS = ("auto", "closed-form", "lbfgs")
GIVEN: dict[str, Any] = {"ridge": 0.05, "damping": 1e-2, "lr": 0.3}
"""Settings given, so that a test does not pay for choosing them."""


@cache
def planted(n_texts: int = 600, **options: Any) -> States:
    return make_states(n_texts, on=ON, planted=PLANTED, background=BACKGROUND, **options)


@cache
def fitted(solver: Any = "auto") -> sl.Fit:
    return sl.fit_steer(planted(), solver=solver, seed=0, **GIVEN)


@cache
def toy(n: int = 400) -> tuple[Any, States]:
    model = sl.load_model("toy-64")
    return model, sl.collect(model, sl.toy.corpus("sentiment", n=n, seed=0), progress=False)


def problem_of(states: States, **setting: float) -> Problem:
    metric = Metric(*second_moments(states.readout.head, sums_over(states, "labels")))
    return make_problem(
        states,
        metric,
        "labels",
        Setting(**{"damping": 1e-2, "ridge": 2e4, "ridge_background": 2e4, **setting}),
    )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_planted_steer_and_background_are_found(solver: str) -> None:
    fit = fitted(solver)
    assert cosine(fit.value.W, PLANTED) > 0.75
    assert cosine(fit.background.W, BACKGROUND) > 0.75
    assert abs(cosine(fit.value.W, BACKGROUND)) < 0.4


@pytest.mark.parametrize("solver", SOLVERS)
def test_losses_order_as_they_must_where_there_is_something_to_find(solver: str) -> None:
    report = fitted(solver).report
    for losses in (report.heldout, report.train):
        assert losses.steered < losses.background < losses.base
        assert losses.steered < losses.flipped
        assert losses.sign_margin == losses.flipped - losses.steered
    assert set(report.by_label) == {-1.0, 0.0, 1.0}
    middle = report.by_label[0.0]  # labels are flipped around their mean, which is nearly 0
    assert middle.steered == pytest.approx(middle.background)
    assert middle.flipped == pytest.approx(middle.steered, abs=1e-3)


def test_losses_of_the_report_are_those_of_the_definition() -> None:
    fit = fitted()
    heldout = planted().split(0.9, seed=0)[1]
    c, target, text = next(heldout.chunks(10**9))
    y = heldout.labels[text][:, None]
    W, D_ = fit.value.W, fit.background.W
    found, s, mean = fit.report.heldout, fit.report.strength, fit.report.mean_label
    assert abs(s - 1) > 0.1 and mean != 0
    for loss, moved in (
        (found.base, c),
        (found.background, c + c @ D_),
        (found.steered, c + c @ D_ + s * y * (c @ W)),
        (found.flipped, c + c @ D_ + s * (2 * mean - y) * (c @ W)),
    ):
        assert loss == pytest.approx(
            float(torch.nn.functional.cross_entropy(ON.logits(moved), target)), abs=1e-4
        )
    p = torch.log_softmax(ON.logits(c), 1)
    for kl, sign in zip(fit.report.kl, (1, -1), strict=True):
        q = torch.log_softmax(ON.logits(c + sign * c @ W), 1)
        assert kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_flipping_every_label_flips_the_steer_and_leaves_the_background(solver: str) -> None:
    fit = fitted(solver)
    flipped = sl.fit_steer(planted().relabel(-planted().labels), solver=solver, seed=0, **GIVEN)
    assert fit.value.W.norm() > 0.1
    assert_close(flipped.value.W, -fit.value.W, rtol=1e-3, atol=1e-3)
    assert_close(flipped.background.W, fit.background.W, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_seed_gives_the_same_matrix_and_another_split_another(solver: str) -> None:
    again = sl.fit_steer(planted(), solver=solver, seed=0, **GIVEN)
    assert torch.equal(again.value.W, fitted(solver).value.W)
    assert torch.equal(again.background.W, fitted(solver).background.W)
    other = sl.fit_steer(planted(), solver=solver, seed=1, **GIVEN)
    assert not torch.equal(other.value.W, again.value.W)
    assert cosine(other.value.W, again.value.W) > 0.8


def test_the_certificate_is_honest_and_half_way_is_not_optimal() -> None:
    problem = problem_of(planted(), ridge=200.0, ridge_background=200.0)
    zero = torch.zeros(2, D, D)
    optimum = lbfgs(problem.objective, zero.double(), problem.ridge.double(), 1e-9)
    for tolerance in (1e-1, 1e-3, 1e-5):
        found = lbfgs(problem.objective, zero, problem.ridge, tolerance)
        assert (
            found.optimality_gap is not None
            and found.objective is not None
            and optimum.objective is not None
        )
        assert found.optimality_gap <= tolerance
        assert (
            found.optimality_gap >= found.objective - optimum.objective - 1e-7
        )  # the objective's own rounding in float32
    fine = lbfgs(problem.objective, zero, problem.ridge, 1e-7)
    assert (
        fine.optimality_gap is not None
        and fine.objective is not None
        and fine.optimality_gap < 2e-7
    )
    assert 0 <= fine.objective - optimum.objective <= fine.optimality_gap  # taken in float64
    slope, half = (problem.objective(V)[1].norm() for V in (optimum.V, optimum.V / 2))
    assert slope < 1e-4 < 1e-2 < half


def test_lbfgs_reports_objective_and_gap_and_the_others_say_why_not() -> None:
    report = sl.fit_steer(planted(), solver="lbfgs", tolerance=1e-5, **GIVEN).report
    assert (
        report.optimality_gap is not None
        and report.optimality_gap <= 1e-5
        and report.gap_reason is None
    )
    assert report.objective is not None and report.objective < report.train.base
    for solver in ("auto", "closed-form"):
        other = fitted(solver).report
        assert (
            other.optimality_gap is None
            and other.objective is None
            and "lbfgs" in str(other.gap_reason)
        )


def test_the_objective_is_the_formula_and_its_gradient_that_of_autograd() -> None:
    states = planted(60)
    problem = problem_of(states, damping=0.1, ridge=50.0, ridge_background=20.0)
    point = 0.3 * random(2, D, D, seed=3)
    c, target, text = next(states.chunks(10**9))
    y, weight = states.labels[text][:, None], text_weights(states, "labels")[text]

    def formula(V: torch.Tensor) -> torch.Tensor:
        W, B = problem.metric.unwhiten(V[0]), problem.metric.unwhiten(V[1])
        nll = torch.nn.functional.cross_entropy(
            ON.logits(c + y * (c @ W) + c @ B), target, reduction="none"
        )
        return (
            (weight * nll).mean()
            + 50 / len(c) / 2 * V[0].square().sum()
            + 20 / len(c) / 2 * V[1].square().sum()
        )

    V = point.clone().requires_grad_(True)
    value = formula(V)
    value.backward()
    found, slope = problem.objective(point)
    assert found == pytest.approx(float(value.detach()), abs=1e-5)
    assert_close(slope, V.grad, rtol=1e-4, atol=1e-5)


def test_auto_comes_near_the_certified_optimum_on_a_well_posed_problem() -> None:
    auto, best = fitted("auto").report.heldout, fitted("lbfgs").report.heldout
    gain = best.base - best.steered
    assert gain > 0.05
    assert auto.base - auto.steered > 0.9 * gain
    assert cosine(fitted("auto").value.W, fitted("lbfgs").value.W) > 0.9


def test_a_closed_form_fit_from_many_shards_on_disk_is_that_from_one_in_memory(
    tmp_path: Path,
) -> None:
    whole = planted(200)
    shard = whole.shards[0]
    assert isinstance(shard, Shard)
    parts = tuple(Shard(*(t[shard.text % 4 == k] for t in shard)) for k in range(4))
    disk = on_disk(dataclasses.replace(whole, shards=parts), tmp_path)
    one, many = (sl.fit_steer(s, solver="closed-form", **GIVEN) for s in (whole, disk))
    assert_close(many.value.W, one.value.W, rtol=1e-3, atol=1e-4)
    assert_close(many.background.W, one.background.W, rtol=1e-3, atol=1e-4)
    assert many.report.heldout.steered == pytest.approx(one.report.heldout.steered, abs=1e-5)


def doubled(states: States, label: float) -> States:
    """Every text of one label twice."""
    shard = states.shards[0]
    assert isinstance(shard, Shard)
    twice = (states.labels == label).nonzero().squeeze(1)
    new_ids = torch.full((len(states.labels),), -1).index_put(
        (twice,), len(states.labels) + torch.arange(len(twice))
    )
    rows = torch.isin(shard.text.long(), twice)
    copy = Shard(shard.hidden[rows], shard.next[rows], new_ids[shard.text[rows].long()].int())
    n = len(states.labels) + len(twice)
    return States(
        states.readout,
        (Shard(*(torch.cat(pair) for pair in zip(shard, copy, strict=True))),),
        torch.cat([states.labels, states.labels[twice]]),
        torch.cat([states.lengths, states.lengths[twice]]),
        torch.ones(n, dtype=torch.bool),
    )


@pytest.mark.parametrize("weights", ["labels", "texts"])
def test_duplicating_a_class_does_not_move_the_balanced_objective(weights: Any) -> None:
    states, metric = planted(90), problem_of(planted(90)).metric
    ridge, point = torch.full((2, 1, 1), 0.1), 0.3 * random(2, D, D, seed=4)
    values = {}
    for kind in (weights, "tokens"):
        values[kind] = [
            Problem(s, metric, mixed(s.labels), text_weights(s, kind), ridge).objective(point)
            for s in (states, doubled(states, 1.0))
        ]
    (before, slope), (after, slope_after) = values[weights]
    assert after == pytest.approx(before, abs=1e-5)
    assert_close(slope_after, slope, rtol=1e-3, atol=1e-5)
    assert (
        abs(values["tokens"][0][0] - values["tokens"][1][0]) > 1e-3
    )  # where every token counts it does move


def mixed(labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([labels, torch.ones_like(labels)], 1)


@pytest.mark.parametrize("weights", ["labels", "texts", "tokens"])
def test_weights_have_mean_one_and_balance_what_they_say(weights: Any) -> None:
    states = planted(91).select(torch.arange(91) % 7 != 0)
    weight = text_weights(states, weights).double()
    n = states.lengths.double()
    assert float((weight * n).sum()) == pytest.approx(states.n_positions, rel=1e-6)
    assert weight[~states.keep].abs().sum() == 0
    by_class = [float((weight * n)[states.keep & (states.labels == y)].sum()) for y in (-1, 0, 1)]
    of_ones = weight[states.keep & (states.labels == 1)]
    if weights == "tokens":
        assert weight[states.keep].unique().tolist() == [1.0]
    else:
        assert by_class == pytest.approx([states.n_positions / 3] * 3, rel=1e-5)
    if weights == "labels":
        assert len(of_ones.unique()) == 1
    if weights == "texts":
        totals = of_ones * n[states.keep & (states.labels == 1)]
        assert totals.max() == pytest.approx(float(totals.min()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_fit_has_that_rank_and_is_the_truncation_of_the_full_one(rank: int) -> None:
    cut = sl.fit_steer(planted(), solver="lbfgs", rank=rank, seed=0, **GIVEN)
    assert (
        torch.linalg.matrix_rank(cut.value.W, rtol=1e-4)
        == rank
        < torch.linalg.matrix_rank(fitted("lbfgs").value.W)
    )
    assert cut.report.rank == rank
    assert cut.value.name == "steer"
    assert torch.equal(cut.background.W, fitted("lbfgs").background.W)
    full = fitted("lbfgs").report.heldout
    assert full.steered < cut.report.heldout.steered < full.background


@pytest.mark.parametrize("solver", SOLVERS)
def test_given_settings_are_used_and_reported(solver: Any) -> None:
    report = sl.fit_steer(
        planted(90), solver=solver, ridge=(0.3, 0.7), damping=0.05, lr=0.2, weights="texts", seed=4
    ).report
    assert report.ridge == pytest.approx((0.3, 0.7))
    assert (report.damping, report.weights, report.seed, report.solver) == (
        0.05,
        "texts",
        4,
        solver,
    )
    assert report.lr == (None if solver == "closed-form" else 0.2)
    assert all(set(trial) == {"few", "margin"} for trial in report.trials)
    small = sl.fit_steer(
        planted(90), solver=solver, ridge=(30.0, 0.7), damping=0.05, lr=0.02, seed=4
    )
    large = sl.fit_steer(
        planted(90), solver=solver, ridge=(0.3, 0.7), damping=0.05, lr=0.02, seed=4
    )
    if solver == "auto":  # how far it goes is asked of the halves, where it goes of the ridge too
        assert cosine(small.value.W, large.value.W) < 0.999
    else:
        assert small.report.strength < 0.3 * large.report.strength


def test_a_fit_knows_its_solver_by_what_it_does() -> None:
    asked: list[str] = []

    class Planted:
        """Knows the answer, whitened, and takes no pass."""

        name, second_order = "lbfgs", True

        def trial(self, problem: Problem, *_: Any) -> tuple[torch.Tensor, float]:
            asked.append("trial")
            return self.answer(problem), 0.0

        def solve(self, problem: Problem, *_: Any) -> Solved:
            asked.append("solve")
            return Solved(self.answer(problem), Effort(7.0))

        def answer(self, problem: Problem) -> torch.Tensor:
            both = torch.stack([PLANTED, BACKGROUND])
            return torch.stack([problem.metric.whiten(W) for W in both])

    states = planted(90)
    halves = tuple(sums_over(half, "labels") for half in states.split(0.5, seed=0))
    metric = Metric(*second_moments(states.readout.head, halves[0].plus(halves[1])))
    setting, trials, passes = choose(
        states, halves, metric, states, "labels", Fixed(lr=0.1), Planted(), 0
    )
    # it does not depend on the settings, so each of the three is moved once either way
    assert asked == 7 * ["trial"] and passes == 0
    tried = {(t["damping"], t["ridge"], t["ridge_background"]) for t in trials}
    assert len(tried) == 7 and len({round(t["heldout_nll"], 5) for t in trials}) == 1
    assert setting == Setting(DAMPING, START, START, 0.1)
    found = by_likelihood(states, metric, setting, Asked(), Planted())
    assert asked[7:] == ["solve"] and found.effort.passes == 7
    assert_close(found.steer.W, PLANTED, rtol=1e-3, atol=1e-4)
    assert_close(found.D, BACKGROUND, rtol=1e-3, atol=1e-4)


def test_what_is_not_given_is_chosen_on_held_out_texts_and_the_trials_are_reported() -> None:
    report = sl.fit_steer(planted(), solver="lbfgs", tolerance=1e-2, seed=0).report
    tried = [trial["heldout_nll"] for trial in report.trials]
    assert len(tried) >= 3
    chosen = next(t for t in report.trials if t["damping"] == report.damping)
    assert set(chosen) == {"damping", "ridge", "ridge_background", "heldout_nll"}
    assert chosen["heldout_nll"] < min(tried) + 1e-3
    assert report.heldout.steered < report.heldout.background < report.heldout.base
    assert report.passes > 1 and report.seconds > 0
    given = sl.fit_steer(planted(), solver="lbfgs", tolerance=1e-2, seed=0, damping=0.3).report
    assert given.damping == 0.3 and given.trials == ()
    ridges = sl.fit_steer(planted(), solver="lbfgs", tolerance=1e-2, seed=0, ridge=0.4).report
    assert (
        ridges.ridge == pytest.approx((0.4, 0.4))
        and len({t["damping"] for t in ridges.trials}) >= 3
    )
    closed = sl.fit_steer(planted(), seed=0, damping=0.3, solver="closed-form").report
    assert {t["damping"] for t in closed.trials} == {0.3} and len(
        {t["ridge"] for t in closed.trials}
    ) > 1


def test_auto_takes_the_usual_mix_or_one_that_halves_like_better_than_chance_would() -> None:
    for states in (planted(), planted().relabel(planted().labels.roll(1))):
        report = sl.fit_steer(states, seed=0).report
        trials = {t["few"]: t["margin"] for t in report.trials}
        assert set(trials) == set(MIXES) and max(trials.values()) > min(trials.values())
        assert report.few is not None and trials[report.few] >= trials[0.0]
        assert report.verdict is not None and report.verdict.margin == trials[report.few]


def test_under_a_soft_cap_there_is_no_certificate_and_the_reason_says_so() -> None:
    capped = make_states(90, on=make_readout(d=D, vocab=V, softcap=3.0), planted=PLANTED)
    report = sl.fit_steer(capped, solver="lbfgs", tolerance=1e-2, **GIVEN).report
    assert (
        report.optimality_gap is None
        and "soft cap" in str(report.gap_reason)
        and "not convex" in str(report.gap_reason)
    )
    assert report.heldout.steered < report.heldout.flipped


def test_without_a_ridge_there_is_no_certificate_and_the_reason_says_so() -> None:
    report = sl.fit_steer(
        planted(90), solver="lbfgs", ridge=0.0, damping=0.1, lr=0.1, tolerance=1e-2
    ).report
    assert report.optimality_gap is None and "ridge" in str(report.gap_reason)


BAD: dict[str, tuple[Callable[[], States], dict[str, Any], str]] = {
    "one class": (lambda: planted(60).relabel(torch.ones(60)), {}, "every label is 1.*label 0"),
    "unlabelled": (lambda: planted(60).relabel(torch.zeros(60)), {}, "every label is 0"),
    "too few texts": (lambda: planted(60).select(torch.arange(60) < 3), {}, "got 3 texts"),
    "solver": (planted, {"solver": "adam"}, "'auto', 'closed-form', 'lbfgs'"),
    "rank 0": (planted, {"rank": 0}, "rank: got 0"),
    "rank beyond d": (planted, {"rank": D + 1}, rf"expected 1 … {D}"),
    "negative ridge": (planted, {"ridge": -1.0}, "ridge: got -1"),
    "negative background ridge": (planted, {"ridge": (1.0, -0.5)}, "ridge: got -0.5"),
    "negative damping": (planted, {"damping": -0.1}, "damping: got -0.1"),
    "no lr": (planted, {"lr": 0.0}, "lr: got 0.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str, unchecked: None) -> None:
    states, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        sl.fit_steer(states(), **options)


def test_a_label_that_is_only_held_out_is_no_label_to_fit() -> None:
    labels = torch.zeros(20)
    one = next(i for i in range(20) if not bool(planted(20).split(0.9, seed=0)[0].keep[i]))
    labels[one] = 1.0
    with pytest.raises(ValueError, match="only one label is left"):
        sl.fit_steer(planted(20).relabel(labels), seed=0)


def test_labels_that_differ_by_less_than_can_be_squared_are_no_labels() -> None:
    labels = planted(20).labels.sign()
    with pytest.raises(ValueError, match="labels from -1e-30 to 1e-30 differ by less than 1e-6"):
        sl.fit_steer(planted(20).relabel(1e-30 * labels))
    assert sl.fit_steer(planted(20).relabel(0.01 * labels)).value.W.isfinite().all()


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that is made inside the block."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return made


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_tensor_of_positions_times_vocabulary_is_larger_than_what_may_be_kept(
    solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlens.methods.steer.cost.HELD", 1_000 * 300)  # fewer than are asked
    on = make_readout(d=4, vocab=300)
    largest = {}
    for n_texts in (300, 1200):
        states = make_states(n_texts, on=on, length=12)
        with Largest() as seen:
            sl.fit_steer(states, solver=solver, tolerance=1e-2, **GIVEN)
        largest[n_texts] = seen.size
        assert states.n_positions > CHUNK
    assert largest[1200] <= CHUNK * 300 < 0.1 * states.n_positions * 300
    assert largest[300] >= 32 * 300  # logits of some positions did exist
    if solver != "auto":
        return
    monkeypatch.undo()
    with Largest() as seen:
        sl.fit_steer(states, solver=solver, tolerance=1e-2, **GIVEN)
    assert largest[1200] < 1_000 * 300 < seen.size <= HELD


def test_a_second_attribute_needs_no_second_pass_of_the_model() -> None:
    model, states = toy()
    first = sl.fit_steer(states, seed=0, **GIVEN)
    passes: list[Any] = []
    seen = [m.register_forward_pre_hook(lambda m, _: passes.append(m)) for m in model.modules()]
    try:
        second = sl.fit_steer(states.relabel(states.labels.roll(1)), seed=0, **GIVEN)
        assert not passes
        sl.collect(model, ["it was good ."], progress=False)
        assert passes
    finally:
        for handle in seen:
            handle.remove()
    assert not torch.equal(first.value.W, second.value.W)
    # sentiment can be learned, labels that belong to other texts cannot
    assert first.report.heldout.sign_margin > 5 * abs(second.report.heldout.sign_margin)


def test_on_the_toy_the_sign_is_worth_something_on_texts_never_seen() -> None:
    model, states = toy()
    fit = sl.fit_steer(states, seed=0, name="joy")
    assert fit.report.heldout.steered < fit.report.heldout.flipped - 0.02
    test = sl.toy.corpus("sentiment", n=150, seed=99)
    scores = sl.score(model, list(test.texts), fit.value, strengths=(-1.0, 1.0))
    sums = scores.groupby(["strength", "text"]).log_prob.sum()
    evidence = torch.tensor((sums[1.0] - sums[-1.0]).to_numpy())
    labels = torch.tensor(test.labels)
    assert cosine(evidence - evidence.mean(), labels.to(evidence) - labels.mean()) > 0.4
    assert fit.value.name == "joy" and fit.background.name == "joy background"


def test_the_report_reads_as_text_html_and_json(tmp_path: Path) -> None:
    fit = fitted("lbfgs")
    assert f"{fit.report.heldout.steered:.4f}" in str(fit.report)
    assert "<table>" in fit._repr_html_() and "<script" not in fit._repr_html_()
    path = sl.save(fit.value, tmp_path / "steer.safetensors", report=fit.report)
    saved = sl.read_metadata(path)["report"]
    assert saved["heldout"]["steered"] == fit.report.heldout.steered
    assert saved["sign_margin"] == fit.report.heldout.sign_margin
    assert set(saved["by_label"]) == {"-1.0", "0.0", "1.0"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.report.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_natural_metric_is_that_of_the_positions() -> None:
    states = planted(30)
    metric = sl.natural_metric(states, weights="tokens")
    c = next(states.chunks(10**9)).hidden.double()
    assert_close(metric.C, c.mT @ c / len(c), rtol=1e-4, atol=1e-5)
    assert metric.damping == 0.0


def test_the_ridges_grow_where_the_texts_say_less() -> None:
    def ridges(states: States) -> tuple[float, float]:
        one, other = (sums_over(half, "labels") for half in states.split(0.5, seed=0))
        metric = Metric(*second_moments(states.readout.head, one.plus(other)))
        return best_ridges((one, other), metric.damped(0.1))

    told = ridges(planted(400))
    shuffled = planted(400).labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    untold = ridges(planted(400).relabel(shuffled))
    assert untold[0] > 10 * told[0]  # labels that say nothing ask for no steer
    assert untold[1] == told[1]  # the background does not read them


@pytest.mark.parametrize("solver", ["auto", "lbfgs"])
def test_steps_in_bfloat16_end_where_those_in_float32_do(
    solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(native: bool) -> sl.Fit:
        monkeypatch.setattr(logits, "multiplies_bfloat16", lambda _: native)
        return sl.fit_steer(planted(), solver=solver, seed=0, **GIVEN)

    exact, rough = fit(False), fit(True)
    assert not torch.equal(exact.value.W, rough.value.W)
    assert cosine(exact.value.W, rough.value.W) > 0.995
    gain = exact.report.heldout.base - exact.report.heldout.steered
    assert abs(exact.report.heldout.steered - rough.report.heldout.steered) < 3e-3 * gain
    if solver == "lbfgs":  # only the start is rough, the end is certified
        assert exact.report.objective == pytest.approx(rough.report.objective, abs=1e-4)


@pytest.mark.parametrize("rough", [False, True])
def test_a_step_on_another_device_stays_there(rough: bool) -> None:
    # tensors without numbers: a number that the host reads back is an error, and what is made on
    # the host would show
    def there(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    on = dataclasses.replace(ON, W_U=there(D, V), b_U=there(V))
    metric = Metric(there(D, D, dtype=torch.float64), there(D, D, dtype=torch.float64), damping=0.1)
    states = dataclasses.replace(planted(), readout=on)
    head = to_bfloat16(on.head) if rough else None
    problem = Problem(states, metric, there(9, 2), there(9), there(2, 1, 1))
    chunk = Shard(there(32, D), there(32, dtype=torch.long), there(32, dtype=torch.long))
    gradient = problem.gradient(chunk, there(2, D, D), head)
    assert gradient.device.type == "meta" and gradient.shape == (2, D, D)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(gradient.sum())


def test_chunks_go_to_a_device_by_the_shard() -> None:
    moved: list[int] = []

    class Moves(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            if (
                isinstance(made, torch.Tensor)
                and made.device.type == "meta"
                and args[0].device.type == "cpu"
            ):
                moved.append(made.numel())
            return made

    states = planted().select(torch.arange(600) % 3 > 0)
    with Moves():
        chunks = list(states.chunks(64, seed=0, device=torch.device("meta")))
    assert len(chunks) > 20 and all(
        tensor.device.type == "meta" for chunk in chunks for tensor in chunk
    )
    assert len(moved) == 4 * len(states.shards)  # hidden, next, text and the order, once a shard
    assert sum(len(chunk.next) for chunk in chunks) == states.n_positions


@pytest.mark.parametrize("by", range(1, 5))
def test_labels_that_say_nothing_leave_a_steer_of_unit_cost(by: int) -> None:
    states = planted().relabel(planted().labels.roll(by))  # all is noise
    found = explain(states, sl.natural_metric(states), torch.zeros(D, D), Asked(few=1.0))
    assert torch.linalg.matrix_rank(found.W) >= 1 and found.threshold > 0
    steer, _ = of_unit_cost(found, states, Asked(), "noise")
    assert kl_at_strength(steer, states, 1.0) == pytest.approx(0.05, rel=0.05)


def test_shuffled_fits_are_of_the_fits_own_model_and_some_number(unchecked: None) -> None:
    data = sl.toy.corpus("tone", n=40, seed=0)
    fit = sl.fit_steer(sl.load_model("toy-64"), data, solver="closed-form", progress=False)
    other = sl.collect(sl.load_model("toy-128"), data, progress=False)
    with pytest.raises(ValueError, match="states: they are of 'toy-128'"):
        fit_shuffled(other, fit, n=1, progress=False)
    own = sl.collect(sl.load_model("toy-64"), data, progress=False)
    for n in (0, -1, 2.5, "3"):
        with pytest.raises(ValueError, match="n: got"):
            fit_shuffled(own, fit, n=n, progress=False)  # pyright: ignore[reportArgumentType]


def test_shuffled_fits_do_not_part_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    few = sl.toy.corpus("tone", n=30, seed=0)
    data = sl.Labelled([*few.texts, *few.texts[:10]], [*few.labels, *few.labels[:10]])
    states = sl.collect(sl.load_model("toy-64"), data, progress=False)
    fit = sl.fit_steer(states, solver="closed-form")
    given, relabel = [], States.relabel
    monkeypatch.setattr(
        States, "relabel", lambda self, y: given.append(y.tolist()) or relabel(self, y)
    )
    fit_shuffled(states, fit, n=5, progress=False)
    orders = [y for y in given if any(y)]
    assert len(orders) >= 5
    assert all(y[:10] == y[30:] and sorted(y[:30]) == sorted(few.labels) for y in orders)
    assert any(y[:30] != list(few.labels) for y in orders)


def test_a_fit_is_divided_and_gated_like_its_value() -> None:
    data = sl.toy.corpus("tone", n=40, seed=0)
    fit = sl.fit_steer(sl.load_model("toy-64"), data, solver="closed-form", progress=False)
    assert torch.equal((fit / 2).W, (fit.value / 2).W)
    assert fit.when("from 2").name == fit.value.when("from 2").name
    over = fit.with_background(fit.background)
    assert torch.equal(over.steer.W, fit.value.W) and over.background is fit.background


def test_refits_cost_what_was_asked_for_whatever_held_out_texts_say_of_the_fit() -> None:
    data = sl.toy.corpus("tone", n=60, seed=0)
    states = sl.collect(sl.load_model("toy-64"), data, progress=False)
    fit = sl.fit_steer(states, kl=0.1)
    assert fit.report.asked_kl == 0.1 != sum(fit.report.kl) / 2
    measured = replace(fit, report=replace(fit.report, kl=(1e-4, 1e-4)))
    once, again = (fit_shuffled(states, f, n=1, progress=False)[0] for f in (fit, measured))
    assert torch.equal(once.W, again.W)
    before = replace(fit, report=replace(fit.report, asked_kl=None, kl=(1e-4, 1e-4)))
    shorter = fit_shuffled(states, before, n=1, progress=False)[0]
    assert float(shorter.W.norm()) < 0.1 * float(once.W.norm())


def test_refits_are_over_the_background_of_the_fit_and_at_its_ridge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = sl.toy.corpus("tone", n=90, seed=0)
    ups = [k for k, label in enumerate(texts.labels) if label > 0]
    skewed = texts.pick([*ups, *(k for k, label in enumerate(texts.labels) if label < 0)][:45])
    states = sl.collect(sl.load_model("toy-64"), skewed, progress=False)
    asked_for: list[tuple[torch.Tensor, float]] = []

    def noting(states: States, metric: Any, base: torch.Tensor, asked: Asked) -> Any:
        asked_for.append((base, asked.ridge))
        return explain(states, metric, base, asked)

    monkeypatch.setattr(solution, "explain", noting)
    monkeypatch.setattr(refit, "explain", noting)
    fit = sl.fit_steer(states, ridge=0.5)
    fit_shuffled(states, fit, n=1, progress=False)
    sl.fit_split_halves(states, fit, pairs=1, progress=False)
    (base, ridge), (again, same), *halves = asked_for
    assert abs(fit.report.mean_label) > 0.2 and len(halves) == 2
    # at the mean label, which is far from the background at label 0
    assert_close(again, base, rtol=0, atol=1e-5 * float(base.abs().max()))
    assert float((fit.background.W - base).norm()) > 1e-2 * float(base.norm())
    assert same == ridge > 0
    assert [half for _, half in halves] == pytest.approx([2 * ridge] * 2)
