"""The background: few directions out of the noise, by descent under a penalty on singular values."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.maths.moments import Moments, second_moments
from steerlens.methods.steer.background import fit_background, fraction_of, noise_of
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import Problem, sgd, shrunk_sgd, sums_over
from steerlens.methods.steer.selection import Setting, make_problem
from steerlens.methods.steer.solvers import Auto
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


def problem_of(states: States, penalty: float) -> Problem:
    """`penalty` is per root of a position, as a setting has it."""
    _, metric = halves_of(states)
    found = make_problem(states, metric, "labels", Setting(0.1, 0.0, 0.0, 0.5, penalty))
    return replace(found, labels=torch.zeros_like(found.labels))


def nll_of(states: States, W: torch.Tensor) -> float:
    c, target, _ = next(states.chunks(10**9))
    z = (c + c @ W) @ ON.head.W_U + ON.head.b_U
    return float(torch.nn.functional.cross_entropy(z, target))


def test_few_directions_of_few_texts_are_nearer_the_truth_than_a_ridge_of_any_size() -> None:
    train, new = states_of(80), states_of(600, seed=1)
    halves, metric = halves_of(train)
    noise = noise_of(halves, metric)

    def nll(W: torch.Tensor) -> float:
        return nll_of(new, W)

    found = fit_background(problem_of(train, 0.5 * noise), Auto(), 0.5, Asked(), new)
    ridges = []
    for ridge in (10.0, 100.0, 1e3, 1e4):
        problem = make_problem(train, metric, "labels", Setting(0.1, ridge, ridge, 0.5))
        V, _ = sgd(replace(problem, labels=torch.zeros_like(problem.labels)), 0.5, 0)
        ridges.append(nll(problem.metric.unwhiten(V[1])))
    assert nll(torch.zeros(D, D)) > min(ridges) > nll(found.D) > nll(SHARED)


def test_the_descent_ends_near_the_minimum_under_its_penalty() -> None:
    problem = problem_of(states_of(120), 3.0)
    V, passes, lr = shrunk_sgd(problem, 0.5, 0)
    assert passes == pytest.approx(51_200 / problem.states.n_positions, rel=0.05) and lr <= 0.5
    on, more, _ = shrunk_sgd(replace(problem, start=V), 0.5, 0)
    assert more == passes / 2 and (on - V).norm() < 0.2 * V.norm()

    def subgradient(V: torch.Tensor) -> tuple[float, float]:
        """Both are 1 at the minimum, where the slope is the penalty times a subgradient of |V|_*."""
        slope = problem.objective(V)[1][1]
        top = float(torch.linalg.matrix_norm(slope, 2)) / problem.penalty
        along = -float((slope * V[1]).sum()) / problem.penalty
        return top, along / max(float(torch.linalg.matrix_norm(V[1], "nuc")), 1e-9)

    before, _ = subgradient(torch.zeros_like(V))
    top, along = subgradient(V)
    assert before > 1.5
    assert top == pytest.approx(1, abs=0.15) and along == pytest.approx(1, abs=0.15)


def test_above_the_noise_and_the_signal_nothing_is_left() -> None:
    states = states_of(120)
    slope = problem_of(states, 0.0).objective(torch.zeros(2, D, D))[1][1]
    most = float(torch.linalg.matrix_norm(slope, 2)) * states.n_positions**0.5
    none, some = (
        shrunk_sgd(problem_of(states, part * most), 0.5, 0)[0].norm() for part in (3.0, 0.1)
    )
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


def test_held_out_texts_choose_half_the_penalty_and_the_fraction() -> None:
    train, new = states_of(80), states_of(300, seed=1)
    first = 3 * noise_of(*halves_of(train))
    problem = problem_of(train, first)
    asked = fit_background(problem, Auto(), 0.5, Asked(), new)
    assert asked.penalty == problem.penalty / 2  # the first leaves too little
    weak = problem_of(train, 1e-4)
    kept = fit_background(weak, Auto(), 0.5, Asked(), new)
    assert kept.penalty == weak.penalty  # what has learned the noise is cut, not learned further
    whole = fit_background(weak, Auto(), 0.5, Asked(), None)
    fraction = fraction_of(whole.D, new)[1]
    assert fraction < 1
    assert_close(kept.D, fraction * whole.D)


def test_a_fit_says_its_penalty_and_fits_of_halves_have_it_larger_by_the_root_of_two() -> None:
    states = states_of(200)
    report = sl.fit_steer(states, seed=0, damping=0.1).report
    train, _ = states.split(0.9, seed=0)
    noise = noise_of(*halves_of(train.sample(20_000, seed=0)))
    shares = report.background_threshold * train.n_positions**0.5 / noise
    assert min(abs(shares / share - 1) for share in (0.5, 0.25)) < 0.1
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
