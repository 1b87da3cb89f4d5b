"""Cross-entropy through an unembedding against autograd, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths.logit_stats import logit_stats
from steerlens.maths.logits import (
    UnembedWeights,
    apply_softcap,
    blocks,
    logits,
    multiplies_bfloat16,
    nll_and_gradient,
    nll_gradient,
    to_bfloat16,
    token_nll,
)
from steerlens.maths.moments import moments

N, D, V = 7, 5, 11
HEADS = {
    "plain": (1.0, None),
    "scale": (0.25, None),
    "softcap": (1.0, 2.0),
    "scale and softcap": (3.0, 1.5),
}


def problem(
    seed: int, scale: float, softcap: float | None, size: float = 1.0
) -> tuple[UnembedWeights, Tensor, Tensor, Tensor]:
    """A head with a bias, contexts, targets and weights that differ, one of them 0."""
    r = torch.Generator().manual_seed(seed)
    head = UnembedWeights(
        torch.randn(D, V, generator=r).double(),
        torch.randn(V, generator=r).double(),
        scale=scale,
        softcap=softcap,
    )
    c = size * torch.randn(N, D, generator=r).double()
    weight = torch.rand(N, generator=r).double()
    weight[0] = 0.0
    return head, c, torch.randint(V, (N,), generator=r), weight


def by_autograd(
    head: UnembedWeights, c: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    c = c.clone().requires_grad_(True)
    z = head.scale * (c @ head.W_U + head.b_U)
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    loss = (weight * torch.nn.functional.cross_entropy(z, target, reduction="none")).sum()
    return loss.detach(), torch.autograd.grad(loss, c)[0]


@pytest.mark.parametrize("kind", HEADS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_value_and_gradient_are_those_of_autograd(kind: str, seed: int) -> None:
    found = nll_and_gradient(*problem(seed, *HEADS[kind]))
    loss, slope = by_autograd(*problem(seed, *HEADS[kind]))
    assert slope.norm() > 0
    assert_close(found, (loss, slope), rtol=1e-10, atol=1e-12)
    assert_close(nll_gradient(*problem(seed, *HEADS[kind])), slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "scale"])
def test_loss_stays_exact_where_the_target_has_no_probability_left(kind: str) -> None:
    head, c, target, weight = problem(0, *HEADS[kind], size=3000.0)
    assert (
        torch.softmax(logits(head, c), 1).gather(1, target[:, None]) == 0
    ).any()  # it underflows
    found, slope = nll_and_gradient(head, c, target, weight)
    assert found > 100
    assert_close((found, slope), by_autograd(head, c, target, weight), rtol=1e-10, atol=1e-9)


def test_loss_in_float32_is_finite_where_the_target_underflows() -> None:
    head, c, target, weight = problem(0, 1.0, None, size=200.0)
    single = UnembedWeights(head.W_U.float(), head.b_U.float())
    found, slope = nll_and_gradient(single, c.float(), target, weight.float())
    assert_close(found.double(), by_autograd(head, c, target, weight)[0], rtol=1e-5, atol=0.0)
    assert torch.isfinite(slope).all()


def test_gradient_leaves_its_arguments_alone() -> None:
    arguments = problem(1, 2.0, 3.0)
    before = [t.clone() for t in (arguments[0].W_U, arguments[0].b_U, *arguments[1:])]
    nll_and_gradient(*arguments)
    nll_gradient(*arguments)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (arguments[0].W_U, arguments[0].b_U, *arguments[1:]), strict=True)
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), share=st.floats(0.01, 0.99))
def test_loss_is_convex_along_chords_without_a_soft_cap(seed: int, share: float) -> None:
    head, c, target, weight = problem(seed, 2.0, None)
    other = problem(seed + 1, 2.0, None, size=5.0)[1]
    between = nll_and_gradient(head, (1 - share) * c + share * other, target, weight)[0]
    chord = (1 - share) * nll_and_gradient(head, c, target, weight)[0]
    chord += share * nll_and_gradient(head, other, target, weight)[0]
    assert between <= chord + 1e-9


def test_loss_is_not_convex_under_a_soft_cap() -> None:
    head = UnembedWeights(
        torch.tensor([[1.0, -1.0]]).double(), torch.zeros(2).double(), softcap=2.0
    )
    target, weight = torch.tensor([0]), torch.ones(1).double()
    ends = [
        nll_and_gradient(head, torch.tensor([[x]]).double(), target, weight)[0]
        for x in (-8.0, -4.0, 0.0)
    ]
    assert ends[1] > (ends[0] + ends[2]) / 2 + 0.1


def test_post_keeps_logits_below_the_cap_and_nearly_the_same_when_small() -> None:
    head = UnembedWeights(torch.eye(2), torch.zeros(2), scale=0.5, softcap=3.0)
    z = torch.tensor([[-1e4, 1e4], [-1e-3, 1e-3]])
    capped = apply_softcap(head, z)
    assert capped[0].tolist() == [-3.0, 3.0]
    assert_close(capped[1], 0.5 * z[1], rtol=1e-5, atol=0.0)


def test_token_nll_is_minus_log_softmax() -> None:
    z = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double() * 30
    target = torch.tensor([0, 8, 3, 3, 1])
    assert_close(token_nll(z, target), -torch.log_softmax(z, 1)[range(5), target])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("block, n", [(16, 4), (32, 2)])
def test_a_vocabulary_in_parts_says_what_it_says_in_one(
    kind: str, block: int, n: int, words_per_block
) -> None:
    r = torch.Generator().manual_seed(block)
    scale, softcap = HEADS[kind]
    head = UnembedWeights(
        torch.randn(D, 50, generator=r).double(),
        torch.randn(50, generator=r).double(),
        scale,
        softcap,
    )
    c, target, weight = (
        torch.randn(N, D, generator=r).double(),
        torch.arange(1, 50, N),
        torch.rand(N, generator=r).double(),
    )

    def everything() -> tuple[Tensor, ...]:
        one_each = torch.eye(3).tolist()
        told = logit_stats(head, target, (c, -c, 2 * c), one_each, others=2)
        return (
            nll_gradient(head, c, target, weight),
            *nll_and_gradient(head, c, target, weight),
            *told,
            *moments(head, c, target, weight, weight),
        )

    assert len(blocks(head)) == 1
    whole = everything()
    words_per_block(block)
    parts = blocks(head)
    assert len(parts) == n and sum(part.W_U.shape[1] for _, part in parts) == 50
    assert_close(everything(), whole, rtol=1e-10, atol=1e-12)


def single(kind: str, *, n: int = 4096) -> tuple[UnembedWeights, Tensor, Tensor, Tensor]:
    """A head in float32 whose logits have a spread of some 3, and what its model would write."""
    r = torch.Generator().manual_seed(5)
    head = UnembedWeights(
        3 * torch.randn(32, 300, generator=r) / 32**0.5, torch.randn(300, generator=r), *HEADS[kind]
    )
    c = torch.randn(n, 32, generator=r)
    target = torch.multinomial(logits(head, c).softmax(1), 1, generator=r).squeeze(1)
    return head, c, target, torch.full((n,), 1 / n)


def step(c: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in a matrix that acts on the context vectors, which is what a fit steps
    along."""
    return c.mT @ gradient


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("block", [4096, 128])
def test_rounding_a_gradient_is_nothing_beside_the_noise_of_its_minibatch(
    kind: str, block: int, words_per_block
) -> None:
    words_per_block(block)
    head, c, target, weight = single(kind)
    exact, found = (
        nll_gradient(head, c, target, weight),
        nll_gradient(to_bfloat16(head), c, target, weight),
    )
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    few = 512
    minibatch = len(c) / few * step(c[:few], exact[:few])
    noise, rounding = (
        float((other - step(c, exact)).norm()) for other in (minibatch, step(c, found))
    )
    assert 0 < 50 * rounding < noise


def test_logits_far_from_zero_are_moved_there_before_they_are_rounded() -> None:
    head, c, _, weight = single("plain")
    c[:, 0] = 10.0
    far = head._replace(W_U=head.W_U - 10 * torch.eye(32)[:, :1])
    target = torch.multinomial(
        logits(far, c).softmax(1), 1, generator=torch.Generator().manual_seed(0)
    ).squeeze(1)
    assert float(logits(far, c).mean()) < -90
    exact = nll_gradient(far, c, target, weight)
    plainly = nll_gradient(
        far._replace(W_U=far.W_U.bfloat16(), b_U=far.b_U.bfloat16()), c, target, weight
    )
    centred = nll_gradient(to_bfloat16(far), c, target, weight)
    assert step(c, centred - exact).norm() < 0.5 * step(c, plainly - exact).norm()


@pytest.mark.parametrize(
    "has, expected", [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_bfloat16_is_for_processors_that_multiply_it(
    has: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert multiplies_bfloat16(torch.device("cpu")) is expected
    assert multiplies_bfloat16(torch.device("meta")) is False
