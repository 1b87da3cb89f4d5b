"""Additive sums against direct ones, and what follows from them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths.logits import UnembedWeights, blocks, logits, nll_and_gradient
from steerlens.maths.moments import costs, moments, second_moments

N, D, V = 23, 4, 9
Problem = tuple[UnembedWeights, Tensor, Tensor, Tensor, Tensor]


def problem(seed: int, softcap: float | None = None) -> Problem:
    r = torch.Generator().manual_seed(seed)
    W_U, b_U = torch.randn(D, V, generator=r).double(), torch.randn(V, generator=r).double()
    head = UnembedWeights(W_U, b_U, 1.5, softcap)
    c, label = torch.randn(N, D, generator=r).double(), 2 * torch.rand(N, generator=r).double() - 1
    return head, c, torch.randint(V, (N,), generator=r), label, torch.rand(N, generator=r).double()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, N - 1))
def test_sums_over_parts_add(seed: int, cut: int) -> None:
    head, *rows = problem(seed)
    parts = moments(head, *(r[:cut] for r in rows)).plus(moments(head, *(r[cut:] for r in rows)))
    assert_close(tuple(parts), tuple(moments(head, *rows)))


def test_second_moments_are_those_computed_position_by_position() -> None:
    head, c, target, label, weight = problem(0)
    C, S = second_moments(head, moments(head, c, target, label, weight))
    share = weight / weight.sum()
    e = 1.5 * head.W_U.mT
    covariances = []
    for row in c:
        p = torch.softmax(1.5 * (row @ head.W_U + head.b_U), 0)
        centred = e - p @ e
        covariances.append((centred.mT * p) @ centred)
    assert_close(C, sum(w * torch.outer(row, row) for w, row in zip(share, c, strict=True)))
    assert_close(S, torch.einsum("n,nij->ij", share, torch.stack(covariances)))
    assert_close(S, S.mT, rtol=0.0, atol=0.0)


def test_first_moments_are_minus_the_gradient_at_zero() -> None:
    head, c, target, label, weight = problem(1)
    sums = moments(head, c, target, label, weight)
    slope = nll_and_gradient(head, c, target, weight)[1]
    assert slope.norm() > 0.1
    assert_close(sums.steer, -(label[:, None] * c).mT @ slope)
    assert_close(sums.background, -c.mT @ slope)


def test_label_sums_are_weighted() -> None:
    head, c, target, label, weight = problem(2)
    sums = moments(head, c, target, label, weight)
    assert_close(
        (sums.weight, sums.label, sums.label2),
        (weight.sum(), weight @ label, weight @ label**2),
        rtol=1e-12,
        atol=1e-12,
    )


def test_sums_of_single_precision_states_are_kept_in_double() -> None:
    head, c, target, label, weight = problem(3)
    single = UnembedWeights(head.W_U.float(), head.b_U.float(), scale=head.scale)
    sums = moments(single, c.float(), target, label.float(), weight.float())
    assert {part.dtype for part in sums} == {torch.float64}


def autograd(
    head: UnembedWeights, c: Tensor, target: Tensor, label: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Minus the gradient of the weighted NLL in a steer and a background, at zero."""
    W, B = torch.zeros(2, D, D, dtype=torch.float64).requires_grad_().unbind()
    z = logits(head, c + label[:, None] * (c @ W) + c @ B)
    nll = torch.nn.functional.cross_entropy(z, target, reduction="none")
    found = torch.autograd.grad(-(weight * nll).sum(), (W, B))
    return found[0], found[1]


def covariance(head: UnembedWeights, c: Tensor, weight: Tensor) -> Tensor:
    """The mean over positions of the covariance of logit gradients, by autograd, word by word."""
    total = torch.zeros(D, D, dtype=torch.float64)
    for row, w in zip(c, weight, strict=True):
        e = torch.autograd.functional.jacobian(lambda x: logits(head, x), row)
        p = torch.softmax(logits(head, row), 0)
        centred = e - p @ e
        total += w * (centred.mT * p) @ centred
    return total / weight.sum()


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_sums_know_the_slope_of_the_soft_cap(softcap: float | None) -> None:
    head, c, target, label, weight = problem(4, softcap)
    sums = moments(head, c, target, label, weight)
    steer, background = autograd(head, c, target, label, weight)
    assert_close(sums.steer, steer)
    assert_close(sums.background, background)
    S, exact = second_moments(head, sums)[1], covariance(head, c, weight)
    assert_close(S, exact)
    if softcap is not None:  # what the cap does is not small
        uncapped = covariance(head._replace(softcap=None), c, weight)
        assert uncapped.trace() > 1.3 * exact.trace()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, N - 1))
def test_sums_over_parts_add_under_a_soft_cap(seed: int, cut: int) -> None:
    head, *rows = problem(seed, 4.0)
    parts = moments(head, *(r[:cut] for r in rows)).plus(moments(head, *(r[cut:] for r in rows)))
    assert_close(tuple(parts), tuple(moments(head, *rows)))


def directions(seed: int, rank: int = 3) -> tuple[Tensor, Tensor]:
    r = torch.Generator().manual_seed(100 + seed)
    probes, writes = torch.randn(2, rank, D, generator=r).double()
    return probes, writes


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("block", [4, 4096])
def test_costs_are_those_computed_position_by_position(
    softcap: float | None, block: int, words_per_block
) -> None:
    head, c, _, _, weight = problem(5, softcap)
    words_per_block(block)
    head = head._replace(W_U=head.W_U.repeat(1, 4), b_U=torch.arange(4 * V).double() / 20)
    assert len(blocks(head)) == (1 if block == 4096 else 3)
    probes, writes = directions(5)
    found = costs(head, c, probes, writes, weight)
    cross = torch.zeros(3, 3, dtype=torch.float64)
    for row, w in zip(c, weight, strict=True):
        e = torch.autograd.functional.jacobian(lambda x: logits(head, x), row)
        p = torch.softmax(logits(head, row), 0)
        shifts = (probes @ row)[:, None] * (writes @ e.mT)
        centred = shifts - (shifts @ p)[:, None]
        cross += w / 2 * (centred * p) @ centred.mT
    assert_close(found.weight, weight.sum())
    assert_close(found.total, cross.sum())
    assert_close(found.alone, cross.diagonal())
    assert_close(found.part, cross.sum(1))
    assert (found.part - found.alone).abs().max() > 0.02 * found.total  # the cross terms count


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, N - 1), softcap=st.sampled_from([None, 4.0]))
def test_costs_of_parts_add(seed: int, cut: int, softcap: float | None) -> None:
    head, c, _, _, weight = problem(seed, softcap)
    both = directions(seed % 1000)
    parts = costs(head, c[:cut], *both, weight[:cut]).plus(
        costs(head, c[cut:], *both, weight[cut:])
    )
    whole = costs(head, c, *both, weight)
    assert_close(tuple(parts), tuple(whole))
    assert_close(whole.part.sum(), whole.total)


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_costs_are_the_kl_of_a_small_strength_the_kronecker_number_is_not(
    softcap: float | None,
) -> None:
    """A steer that acts where the model is unsure: large contexts there, so context and covariance
    go together."""
    head, _, target, label, _ = problem(6, softcap)
    r = torch.Generator().manual_seed(6)
    unsure = torch.arange(N) % 2 == 0
    c = torch.randn(N, D, generator=r).double() * torch.where(unsure, 0.05, 3.0)[:, None]
    c[:, 0] = torch.where(unsure, 3.0, 0.0)  # read by the steer, and it says nothing of the word
    head = head._replace(
        W_U=torch.cat([torch.zeros(1, V), head.W_U[1:]]), b_U=torch.zeros(V).double()
    )
    probes, writes = torch.eye(D)[:1].double(), directions(6)[1][:1]
    weight = torch.ones(N).double()
    W = probes.mT @ writes

    def kl(strength: float) -> Tensor:
        log_p, log_q = (torch.log_softmax(logits(head, x), 1) for x in (c, c + strength * c @ W))
        return (log_p.exp() * (log_p - log_q)).sum() / strength**2

    exact = costs(head, c, probes, writes, weight).total
    errors = [float((kl(s) / exact - 1).abs()) for s in (1e-1, 1e-2, 1e-3)]
    assert errors[2] < 1e-3 and errors[0] > errors[1] > 5 * errors[2]
    C, S = second_moments(head, moments(head, c, target, label, weight))
    kronecker = N * 0.5 * torch.trace(W.mT @ C @ W @ S)
    assert float(exact / kronecker) > 1.4
