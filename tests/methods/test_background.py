"""The background: few directions out of the noise, by descent under a penalty on singular values."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.maths.moments import Moments, second_moments
from steerlens.methods.steer import background
from steerlens.methods.steer.background import (
    background_problem,
    fit_background,
    fraction_of,
    noise_of,
    shrunk_sgd,
)
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import Problem, sgd, sums_over
from steerlens.methods.steer.selection import Setting
from steerlens.values.metric import Metric
from steerlens.values.states import States
from tests.values.make import make_readout, make_states, random

D = 24
ON = make_readout(d=D, vocab=200)
SHARED = 0.8 * random(D, 2, seed=5) @ random(2, D, seed=6) / D
"""A background of two directions."""


def states_of(n_texts: int, seed: int = 0) -> States:
    return make_states(n_texts, on=ON, background=SHARED, seed=seed)


def halves_of(states: States) -> tuple[tuple[Moments, Moments], Metric]:
    one, other = (sums_over(half, "labels") for half in states.split(0.5, seed=0))
    metric = Metric(*second_moments(states.readout.head, one.plus(other)))
    return (one, other), metric.damped(0.1)


def problem_of(states: States, ridge: float = 0.0) -> Problem:
    _, metric = halves_of(states)
    return background_problem(states, metric, Asked(), Setting(0.1, 0.0, ridge, 0.5))


def at(problem: Problem, penalty: float) -> torch.Tensor:
    return fit_background(problem, penalty, 0.5, 0, None).D


def nll_of(states: States, W: torch.Tensor) -> float:
    c, target, _ = next(states.chunks(10**9))
    z = (c + c @ W) @ ON.head.W_U + ON.head.b_U
    return float(torch.nn.functional.cross_entropy(z, target))


def test_few_directions_of_few_texts_are_nearer_the_truth_than_a_ridge_of_any_size() -> None:
    train, new = states_of(80), states_of(600, seed=1)
    noise = noise_of(*halves_of(train))

    def nll(W: torch.Tensor) -> float:
        return nll_of(new, W)

    found = fit_background(problem_of(train), 0.5 * noise / train.n_positions**0.5, 0.5, 0, new)
    ridges = []
    for ridge in (10.0, 100.0, 1e3, 1e4):
        problem = problem_of(train, ridge)
        V, _ = sgd(problem, 0.5, 0)
        ridges.append(nll(problem.metric.unwhiten(V[0])))
    assert nll(torch.zeros(D, D)) > min(ridges) > nll(found.D) > nll(SHARED)


def test_the_descent_ends_near_the_minimum_under_its_penalty() -> None:
    problem = problem_of(states_of(120))
    n = problem.states.n_positions
    penalty = 3.0 / n**0.5
    V, passes = shrunk_sgd(problem, penalty, 0.1, 0, None)
    assert 51_200 <= passes * n < 51_200 + n
    on, more = shrunk_sgd(problem, penalty, 0.1, 1, V)
    assert more == passes and (on - V).norm() < 0.2 * V.norm()

    def subgradient(V: torch.Tensor) -> tuple[float, float]:
        """Both are 1 at the minimum, where the slope is the penalty times a subgradient of |V|_*."""
        slope = problem.objective(V)[1][0]
        top = float(torch.linalg.matrix_norm(slope, 2)) / penalty
        along = -float((slope * V[0]).sum()) / penalty
        return top, along / max(float(torch.linalg.matrix_norm(V[0], "nuc")), 1e-9)

    before, _ = subgradient(torch.zeros_like(V))
    top, along = subgradient(V)
    assert before > 1.5
    assert top == pytest.approx(1, abs=0.15) and along == pytest.approx(1, abs=0.15)


def test_of_many_texts_one_pass_is_enough_to_begin_and_two_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = problem_of(states_of(120))
    penalty = 1.0 / problem.states.n_positions**0.5
    monkeypatch.setattr(background, "FEWEST", 1)
    start, first = shrunk_sgd(problem, 2 * penalty, 0.1, 0, None)
    going_on, more = shrunk_sgd(problem, penalty, 0.1, 1, start)
    assert (first, more) == (1, 2)
    anew, _ = shrunk_sgd(problem, penalty, 0.1, 1, None)

    def objective(V: torch.Tensor) -> float:
        return problem.objective(V)[0] + penalty * float(torch.linalg.matrix_norm(V[0], "nuc"))

    assert objective(going_on) < objective(anew) < objective(torch.zeros_like(anew))


def test_above_the_noise_and_the_signal_nothing_is_left() -> None:
    problem = problem_of(states_of(120))
    most = float(torch.linalg.matrix_norm(problem.objective(torch.zeros(1, D, D))[1][0], 2))
    none, some = (shrunk_sgd(problem, part * most, 0.1, 0, None)[0].norm() for part in (3.0, 0.1))
    assert none == 0 and some > 1


def test_noise_is_what_halves_do_not_share_whatever_their_number() -> None:
    (halves, metric), (many, metric_many) = halves_of(states_of(200)), halves_of(states_of(1_600))
    noise = noise_of(halves, metric)
    assert noise_of((halves[0], halves[0]), metric) == 0
    assert noise_of(many, metric_many) == pytest.approx(noise, rel=0.3)
    # without any background it is the same, and the gradient has nothing but it
    null, there = halves_of(make_states(200, on=ON))
    assert noise_of(null, there) == pytest.approx(noise, rel=0.3)
    n = float(null[0].weight + null[1].weight)
    whole = (null[0].background + null[1].background) / n
    size = torch.linalg.matrix_norm(
        there.C_inverse_root.double() @ whole @ there.S_inverse_root.double(), 2
    )
    assert float(size) * n**0.5 == pytest.approx(noise_of(null, there), rel=0.4)


def test_held_out_texts_choose_the_penalty_and_the_fraction() -> None:
    train, new = states_of(80), states_of(300, seed=1)
    problem, noise = problem_of(train), noise_of(*halves_of(train)) / train.n_positions**0.5
    asked = fit_background(problem, 3 * noise, 0.5, 0, new)
    assert asked.penalty < 3 * noise  # which leaves too little
    stages = [fraction_of(at(problem, part * 3 * noise), new)[0] for part in (1.0, 0.5)]
    assert stages[1] < stages[0]
    weak = 1e-4 * noise
    kept = fit_background(problem, weak, 0.5, 0, new)
    assert kept.penalty == weak  # what has learned the noise is cut, not learned further
    whole = fit_background(problem, weak, 0.5, 0, None)
    fraction = fraction_of(whole.D, new)[1]
    assert fraction < 1
    assert_close(kept.D, fraction * whole.D)


def test_a_fit_says_its_penalty_and_fits_of_halves_have_it_larger_by_the_root_of_two() -> None:
    states = states_of(200)
    report = sl.fit_steer(states, seed=0, damping=0.1).report
    train, _ = states.split(0.9, seed=0)
    noise = noise_of(*halves_of(train.sample(20_000, seed=0)))
    shares = report.background_threshold * train.n_positions**0.5 / noise
    assert min(abs(shares / share - 1) for share in (0.5, 0.25, 0.125)) < 0.1
    assert (
        "background, singular values lowered by",
        f"{report.background_threshold:.3g}",
    ) in report.rows()
    assert (
        sl.fit_steer(
            states, solver="lbfgs", ridge=0.1, damping=0.1, tolerance=1e-2
        ).report.background_threshold
        is None
    )
