"""Evidence against cost: the even KL beside brute force and autograd, nuclear steps beside
oracles."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from steerlens.maths.evidence import (
    MOST,
    even_kl,
    nuclear_descent,
    predicted,
    soft_threshold_singular_values,
)
from steerlens.maths.logits import UnembedWeights
from tests.values.make import random

HEAD = UnembedWeights(random(6, 30, seed=1), random(30, seed=2), scale=0.7)


def logits(head: UnembedWeights, c: torch.Tensor) -> torch.Tensor:
    z = head.scale * (c @ head.W_U.double() + head.b_U.double())
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def brute(head: UnembedWeights, c: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
    p = torch.log_softmax(logits(head, c), 1)
    kls = [
        (p.exp() * (p - torch.log_softmax(logits(head, c + sign * move), 1))).sum(1)
        for sign in (1, -1)
    ]
    return (kls[0] + kls[1]) / 2


@pytest.mark.parametrize("times", [1, 70])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_even_kl_is_the_mean_of_both_signs_and_its_gradient_is_autograds(
    times: int, softcap: float | None
) -> None:
    head = HEAD._replace(softcap=softcap)
    c, move = (random(9, 6, seed=seed).repeat(times, 1) for seed in (3, 4))
    assert (len(c) > MOST) == (times > 1)  # in one part, and in two
    wanted = move.double().requires_grad_(True)
    exact = brute(head, c.double(), wanted)
    exact.sum().backward()
    kl, slope = even_kl(head, c, move)
    assert exact.min() > 0.1
    assert_close(kl.double(), exact, atol=1e-5, rtol=1e-5)
    assert_close(slope.double(), wanted.grad, atol=1e-5, rtol=1e-5)
    back, turned = even_kl(head, c, -move)
    assert_close(back, kl)
    assert_close(turned, -slope)
    assert even_kl(head, c, 0 * move)[0].abs().max() < 1e-5


@pytest.mark.parametrize("size", [1e-3, 1.0, 40.0])
def test_what_is_known_of_a_position_saves_work_and_changes_nothing(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, move = (random(700, 6, seed=seed) for seed in (3, 4))
    known = predicted(HEAD, c)
    assert_close(known.p.double(), torch.softmax(logits(HEAD, c.double()), 1), atol=1e-6, rtol=1e-5)
    exact = brute(HEAD, c.double(), size * move.double())
    _, pull = even_kl(HEAD, c, size * move)
    monkeypatch.setattr(
        "steerlens.maths.evidence.log_sum_exp", None
    )  # what does not know asks that
    far = size > 10  # a move whose exponential is beyond float32
    if far:
        with pytest.raises(TypeError, match="not callable"):
            even_kl(HEAD, c, size * move, None, known)
        monkeypatch.undo()
    kl, slope = even_kl(HEAD, c, size * move, None, known)
    assert_close(kl.double(), exact, atol=3e-7, rtol=1e-5)
    assert_close(slope, pull, atol=2e-6, rtol=2e-4)
    part = slice(100, 300)
    assert_close(even_kl(HEAD, c[part], size * move[part], None, known.rows(part))[0], kl[part])


def quadratic(target: torch.Tensor, curvature: float = 1.0):
    def f(V: torch.Tensor) -> tuple[float, torch.Tensor]:
        return float(curvature * (V - target).square().sum() / 2), curvature * (V - target)

    return f


def test_of_a_quadratic_the_minimum_has_every_singular_value_lowered() -> None:
    target = random(7, 7, seed=5)
    U, s, Vh = torch.linalg.svd(target)
    threshold = float(s[3])
    point = nuclear_descent(quadratic(target), torch.zeros(7, 7), threshold - 1e-4, 1.0)
    assert_close(point, (U * (s - threshold).clamp_min(0)) @ Vh, atol=1e-3, rtol=1e-3)
    assert torch.linalg.matrix_rank(point, rtol=1e-5) == 4 < torch.linalg.matrix_rank(target)
    assert nuclear_descent(quadratic(target), target, 1.01 * float(s[0]), 1.0).norm() == 0


@pytest.mark.parametrize("rank", [None, 2])
def test_lowered_singular_values_gain_their_square(rank: int | None) -> None:
    M = random(7, 7, seed=8)
    threshold = float(torch.linalg.svdvals(M)[4])
    V = soft_threshold_singular_values(M, threshold, rank)
    assert torch.linalg.matrix_rank(V, rtol=1e-5) == (rank or 4)
    gain = (V * M).sum() - threshold * torch.linalg.matrix_norm(V, "nuc")
    assert_close(gain, V.square().sum())


class NoDecomposition(TorchDispatchMode):
    """Inside the block torch takes no matrix apart."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(part in func.name() for part in ("svd", "eig", "qr")), func.name()
        return func(*args, **(kwargs or {}))


def test_nothing_is_decomposed_where_nothing_is_lowered() -> None:
    target = random(7, 7, seed=5)
    lowered = soft_threshold_singular_values(target, 1e-6)
    assert_close(lowered, target, atol=1e-5, rtol=1e-5)
    with NoDecomposition():
        assert soft_threshold_singular_values(target, 0.0) is target
        found = nuclear_descent(quadratic(target), torch.zeros(7, 7), 0.0, 1.0)
    assert_close(found, target)
    with NoDecomposition(), pytest.raises(AssertionError, match="svd"):
        soft_threshold_singular_values(target, 1e-6)


def test_a_curvature_taken_too_small_is_noticed_and_the_rank_is_kept_to() -> None:
    target = random(7, 7, seed=6)
    found = nuclear_descent(quadratic(target, 30.0), torch.zeros(7, 7), 1e-3, 1.0, n_steps=60)
    assert (found - target).norm() < 0.01 * target.norm()
    U, s, Vh = torch.linalg.svd(target)
    cut = nuclear_descent(quadratic(target), torch.zeros(7, 7), 0.0, 1.0, rank=2, n_steps=30)
    assert_close(cut, (U[:, :2] * s[:2]) @ Vh[:2], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="does the gradient belong"):
        nuclear_descent(
            lambda V: (float(V.abs().sum()), -torch.ones(7, 7)), torch.zeros(7, 7), 0.0, 1.0
        )


def test_a_start_at_the_minimum_stays_there_though_sums_are_rounded() -> None:
    target, calls = random(5, 5, seed=4), []

    def rounded(V: torch.Tensor) -> tuple[float, torch.Tensor]:
        calls.append(None)
        exact = float((V - target).double().square().sum() / 2) - 0.05
        return exact + 1e-7 * len(
            calls
        ), V - target  # as sums in float32 come out, a little more each time

    found = nuclear_descent(rounded, target, threshold=0.0, curvature=1.0, n_steps=6)
    assert_close(found, target)
    assert len(calls) == 6  # nothing was begun anew
    far = nuclear_descent(rounded, torch.zeros(5, 5), threshold=0.0, curvature=1.0, n_steps=6)
    assert_close(far, target)
