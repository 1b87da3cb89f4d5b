"""The natural metric is measured in nats, and no basis is special to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from tests.values.make import D, exact_metric, make_readout, make_steer, random


def measured_kl(on: Readout, c: torch.Tensor, W: torch.Tensor) -> float:
    """Mean KL(base ‖ steered), float64, from the definition."""
    W_U, b_U = on.W_U.double(), on.b_U.double()
    p, q = (
        torch.log_softmax(x @ W_U + b_U, 1)
        for x in (c.double(), c.double() + c.double() @ W.double())
    )
    return float((p.exp() * (p - q)).sum(1).mean())


@pytest.mark.parametrize("seed", range(3))
def test_kl_at_a_position_is_the_measured_one_to_second_order(seed: int) -> None:
    on, c, W = make_readout(), random(1, D, seed=seed), make_steer().W.double()
    metric = exact_metric(on, c)
    errors = [
        abs(measured_kl(on, c, s * W) / (s**2 * float(metric.kl(W))) - 1)
        for s in (1.0, 1e-2, 1e-3, 1e-4)
    ]
    assert errors[0] > 0.1  # large while the strength is
    assert errors[3] < 5e-3
    assert errors[1] > 5 * errors[2] > 25 * errors[3]  # the error falls like the strength


def test_kl_over_positions_takes_context_and_covariance_as_independent() -> None:
    on, c, W = make_readout(), random(400, D, seed=5), make_steer().W.double()
    exact = measured_kl(on, c, 1e-4 * W) / 1e-8
    assert 1e-3 < abs(float(exact_metric(on, c).kl(W)) / exact - 1) < 0.3  # near, and not the same


def test_half_the_squared_length_in_white_coordinates_is_the_kl() -> None:
    metric, W = exact_metric(make_readout(), random(50, D)), make_steer().W
    assert_close(metric.whiten(W).square().sum() / 2, metric.kl(W).float(), rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), damping=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_unwhiten_inverts_whiten(seed: int, damping: float) -> None:
    metric, W = (
        exact_metric(make_readout(seed % 7), random(50, D, seed=seed), damping),
        random(D, D, seed=seed),
    )
    assert not torch.allclose(metric.whiten(W), W, rtol=0.1)
    assert_close(metric.unwhiten(metric.whiten(W)), W, rtol=1e-3, atol=1e-3)


def test_natural_singular_values_do_not_depend_on_the_basis_and_plain_ones_do() -> None:
    on, c, W = make_readout(), random(60, D, seed=2), make_steer().W.double()
    A = torch.eye(D).double() + 0.4 * random(D, D, seed=8).double()  # e -> A e, c -> A⁻ᵀ c
    moved = Readout((A @ on.W_U.double()), on.b_U.double(), on.tokens)
    c_moved = c.double() @ torch.linalg.inv(A)
    assert_close(c_moved @ moved.W_U, c.double() @ on.W_U.double())  # the same model
    W_moved = A @ W @ torch.linalg.inv(A)
    assert_close(c_moved @ W_moved @ moved.W_U, c.double() @ W @ on.W_U.double())  # the same steer
    here, there = exact_metric(on, c), exact_metric(moved, c_moved)
    natural = [torch.linalg.svdvals(m.whiten(w)) for m, w in ((here, W), (there, W_moved))]
    assert_close(natural[0], natural[1], rtol=1e-3, atol=1e-3)
    plain = [torch.linalg.svdvals(w) for w in (W, W_moved)]
    assert (plain[0] - plain[1]).abs().max() > 0.1 * plain[0].max()


def test_damping_keeps_the_inverse_finite_where_a_direction_is_never_used() -> None:
    C = torch.diag(torch.tensor([1.0, 0.0])).double()
    white = Metric(C, torch.eye(2).double(), damping=1e-2).C_inverse_root
    assert_close(white, torch.diag(torch.tensor([1.01**-0.5, 10.0])), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(Metric(C, C, damping=0.0).C_inverse_root).all()


def test_kl_is_undamped() -> None:
    C, S = torch.eye(2).double() * 2, torch.eye(2).double() * 3
    assert float(Metric(C, S, damping=5.0).kl(torch.eye(2))) == 6.0


@pytest.mark.parametrize("damping", [0.0, 1e-2, 3.0])
def test_another_damping_is_that_of_a_metric_made_with_it(damping: float) -> None:
    metric = exact_metric(make_readout(), random(50, D), 0.1)
    there, made = metric.damped(damping), exact_metric(make_readout(), random(50, D), damping)
    assert there.damping == damping and metric.damping == 0.1
    assert not torch.allclose(metric.C_root, made.C_root, rtol=1e-2)
    for name in ("C_root", "S_root", "C_inverse_root", "S_inverse_root"):
        assert_close(getattr(there, name), getattr(made, name))
    assert there.dimensions == pytest.approx(made.dimensions)
    assert (there.dimensions[0] == pytest.approx(D)) == (damping == 0.0)
