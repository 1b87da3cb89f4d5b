"""Derivatives along a line of logits are those of autograd; the climb finds tops."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from steerlens.maths.logits import UnembedWeights, apply_softcap, token_nll
from steerlens.maths.newton import log_prob_along, maximize_concave


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, None), (2.0, 3.0)])
def test_slope_is_the_derivative_and_information_minus_the_second(
    scale: float, softcap: float | None
):
    random = torch.Generator().manual_seed(0)
    z, u = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    target = torch.randint(5, (7,), generator=random)
    head = UnembedWeights(torch.eye(5).double(), torch.zeros(5).double(), scale, softcap)
    s = torch.randn(7, generator=random, dtype=torch.float64).requires_grad_()
    log_p = -token_nll(apply_softcap(head, z + s[:, None] * u), target)
    (slope,) = torch.autograd.grad(log_p.sum(), s, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), s)
    found = log_prob_along(head, z, u, s.detach(), target)
    torch.testing.assert_close(found.log_prob, log_p.detach())
    torch.testing.assert_close(found.slope, slope.detach())
    if softcap is None:
        torch.testing.assert_close(found.information, -second)
        return
    # under a soft cap: the expectation of the squared slope over targets
    p = torch.softmax(apply_softcap(head, z + s.detach()[:, None] * u), 1)
    slopes = torch.stack(
        [log_prob_along(head, z, u, s.detach(), torch.full((7,), v)).slope for v in range(5)], 1
    )
    torch.testing.assert_close(found.information, (p * slopes**2).sum(1))


def test_information_survives_logits_far_from_zero():
    z = torch.tensor([[1000.0, 999.0]])
    u = torch.tensor([[1000.0, 999.0]])
    found = log_prob_along(
        UnembedWeights(torch.eye(2), torch.zeros(2)), z, u, torch.zeros(1), torch.tensor([0])
    )
    p = 1 / (1 + math.exp(-1))
    assert found.information.item() == pytest.approx(p * (1 - p), rel=1e-3)


@example([(2.0, 1.0)], -0.6875)  # Newton alone swings to and fro
@given(
    st.lists(st.tuples(st.floats(-12, 12), st.floats(0.1, 20)), min_size=1, max_size=6),
    st.floats(-2, 1),
)
def test_a_climb_reaches_the_top_of_every_function(tops, skew):
    top, sharp = (torch.tensor(x, dtype=torch.float64) for x in zip(*tops, strict=True))

    def derivatives(s):
        """Of -sharp·log cosh(s - top), whose Newton steps overshoot far from the top; the curvature
        is given wrongly."""
        return -sharp * torch.tanh(s - top), sharp / torch.cosh(s - top) ** 2 * math.exp(skew)

    found, beyond = maximize_concave(derivatives, len(tops), limit=10.0)
    assert beyond.tolist() == (top.abs() > 10).tolist()
    torch.testing.assert_close(found, top.clamp(-10, 10), atol=1e-4, rtol=0)


def test_a_top_that_was_found_is_not_left_while_others_are_sought():
    calls = []

    def derivatives(s):
        """One quadratic, at once at its top; one whose curvature is given twice too large, which
        comes nearer by halves."""
        calls.append(s.clone())
        return torch.tensor([1 / 3, 5.0], dtype=torch.float64) - s, torch.tensor(
            [1.0, 2.0], dtype=torch.float64
        )

    found, _ = maximize_concave(derivatives, 2, limit=10.0)
    torch.testing.assert_close(
        found, torch.tensor([1 / 3, 5.0], dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert all(abs(float(s[0]) - 1 / 3) < 1e-12 for s in calls[1:]) and len(calls) < 30


def test_a_flat_function_stays_where_it_is():
    found, beyond = maximize_concave(
        lambda s: (torch.zeros(2).double(), torch.zeros(2).double()), 2, limit=5.0
    )
    assert found.tolist() == [0.0, 0.0] and not beyond.any()
