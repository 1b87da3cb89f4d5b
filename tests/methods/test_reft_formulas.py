"""Edits inside a subspace: the papers' formulas, written out with columns in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from steerlens.methods.reft.formulas import ACTIVATIONS, FORMS, change, top_mean
from tests.values.make import random

D, RANK = 5, 2
KINDS = [
    (variant, activation)
    for variant, form in FORMS.items()
    for activation in (None, *(ACTIVATIONS if form.reads else ()))
]


def numbers(variant: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """`R`, `A` and `b` of a variant, float64."""
    form, rank = FORMS[variant], 1 if variant == "r1" else RANK
    R = random(rank, D, seed=1).double()
    if form.orthonormal:
        R = torch.linalg.qr(R.T).Q.T
    return (
        R,
        random(rank, D, seed=2).double() if form.reads else None,
        random(rank, seed=3).double(),
    )


def activated(kind: str | None, x: Tensor) -> Tensor:
    if kind is None:
        return x
    by_hand = {
        "relu": lambda: x * (x > 0),
        "gelu": lambda: x * (1 + torch.erf(x / 2**0.5)) / 2,
        "silu": lambda: x / (1 + torch.exp(-x)),
        "tanh": lambda: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    }
    return by_hand[kind]()


def by_hand(variant: str, h: Tensor, R: Tensor, A: Any, b: Tensor, kind: str | None) -> Tensor:
    """What is added to one column `h`."""
    if variant in ("loreft", "noreft"):
        return R.T @ (activated(kind, A @ h + b) - R @ h)
    if variant in ("direft", "nodireft"):
        return R.T @ activated(kind, A @ h + b)
    if variant == "consreft":
        return R.T @ (b - R @ h)
    if variant == "lobireft":
        return R.T @ b
    assert variant == "r1"
    return b[0] * R[0]


@pytest.mark.parametrize("variant, activation", KINDS)
def test_each_variant_is_its_formula(variant: str, activation: Any) -> None:
    (R, A, b), h = numbers(variant), 2 * random(3, 4, D, seed=4).double()
    found = change(h, R, A, b, FORMS[variant].replaces, activation)
    assert found.shape == h.shape and found.abs().max() > 0.1
    for i in range(3):
        for j in range(4):
            assert_close(
                found[i, j], by_hand(variant, h[i, j], R, A, b, activation), rtol=1e-10, atol=1e-10
            )


def test_variants_and_activations_are_all_different() -> None:
    h = random(D, seed=4).double()
    R, A, b = numbers("loreft")
    found = [
        change(h, R, A if FORMS[v].reads else None, b, FORMS[v].replaces, activation)
        for v, activation in KINDS
        if v in ("loreft", "direft", "consreft", "lobireft")
    ]
    assert len(found) == 12
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


@pytest.mark.parametrize("variant, activation", KINDS)
def test_gradients_are_those_of_finite_differences(variant: str, activation: Any) -> None:
    R, A, b = numbers(variant)
    h = random(2, 3, D, seed=5).double()
    inputs = [t.requires_grad_() for t in (h, R, *([] if A is None else [A]), b)]

    def run(*given: Tensor) -> Tensor:
        h, R, *between, b = given
        return change(h, R, between[0] if between else None, b, FORMS[variant].replaces, activation)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("variant", [v for v in FORMS if v != "r1"])
def test_the_rows_of_a_subspace_make_changes_that_add_up(variant: str) -> None:
    (R, A, b), h = numbers(variant), random(3, 4, D, seed=4).double()
    form = FORMS[variant]
    whole = change(h, R, A, b, form.replaces)
    eye = torch.eye(RANK).double()
    parts = [change(h, R, A, b, form.replaces, rows=eye[k].expand(3, 4, -1)) for k in range(RANK)]
    assert_close(parts[0] + parts[1], whole, rtol=1e-10, atol=1e-10)
    for k, part in enumerate(parts):
        # leaving a row out of the sum is leaving it out of the subspace
        alone = change(h, R[[k]], None if A is None else A[[k]], b[[k]], form.replaces)
        assert_close(part, alone, rtol=1e-10, atol=1e-10)
        assert part.abs().max() > 0.1 and (part - whole).abs().max() > 0.1
    assert change(h, R, A, b, form.replaces, rows=torch.zeros(3, 4, RANK).double()).abs().max() == 0


def test_rows_weigh_every_token_by_itself_and_the_gradients_too() -> None:
    (R, A, b), h = numbers("loreft"), random(3, 4, D, seed=4).double()
    weight = random(3, 4, RANK, seed=6).double()
    found = change(h, R, A, b, True, rows=weight)
    assert A is not None
    for i in range(3):
        for j in range(4):
            expected = R.T @ torch.diag(weight[i, j]) @ (A @ h[i, j] + b - R @ h[i, j])
            assert_close(found[i, j], expected, rtol=1e-10, atol=1e-10)
    inputs = [t.requires_grad_() for t in (h, R, A, b)]
    assert torch.autograd.gradcheck(
        lambda h, R, A, b: change(h, R, A, b, True, rows=weight), inputs
    )


@pytest.mark.parametrize("variant", ["loreft", "consreft"])
def test_an_orthonormal_edit_that_replaces_writes_the_subspace_and_nothing_else(
    variant: str,
) -> None:
    (R, A, b), h = numbers(variant), random(20, D, seed=4).double()
    after = h + change(h, R, A, b, True)
    target = b.expand(20, -1) if A is None else h @ A.T + b
    assert (h @ R.T - target).abs().max() > 0.5
    assert_close(after @ R.T, target, rtol=1e-10, atol=1e-10)
    outside = torch.eye(D).double() - R.T @ R
    assert_close(after @ outside, h @ outside, rtol=1e-10, atol=1e-10)


def test_where_A_is_R_and_b_nothing_an_edit_that_replaces_changes_nothing() -> None:
    (R, _, b), h = numbers("noreft"), random(20, D, seed=4).double()
    assert change(h, R, R, b, True).abs().max() > 0.1
    assert_close(
        change(h, R, R, torch.zeros_like(b), True), torch.zeros_like(h), rtol=0, atol=1e-12
    )


def top_mean_by_hand(h: Tensor, v: Tensor, real: Tensor, k: int) -> tuple[list[float], list[float]]:
    means, rests = [], []
    for row, held in zip(h, real, strict=True):
        sizes = sorted(
            (max(float(x @ v), 0.0) for x, there in zip(row, held, strict=True) if there),
            reverse=True,
        )
        n = max(len(sizes), 1)
        means.append(sum(sizes[:k]) / min(n, k))
        rests.append(sum(sizes[k:]) / n)
    return means, rests


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_mean_is_the_mean_of_the_largest_and_what_the_others_are(k: int) -> None:
    v = random(D, seed=8).double()
    h = 3 * random(4, 6, D, seed=7).double() + v
    real = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 4 + [1] * 2, [0] * 6]).double()
    h[real == 0] = 100 * v  # padding would be by far the largest
    mean, rest = top_mean(h, v, real, k)
    means, rests = top_mean_by_hand(h, v, real, k)
    assert mean.tolist() == pytest.approx(means) and rest.tolist() == pytest.approx(rests)
    assert min(means[:3]) > 0.2 and means[3] == rests[3] == 0
    assert (rests[0] > 0.1) == (k < 8)


def test_top_mean_has_no_size_where_nothing_points_along_the_vector() -> None:
    v = random(D, seed=8)
    h, real = -v.expand(2, 3, -1), torch.ones(2, 3)
    assert [t.tolist() for t in top_mean(h, v, real, 2)] == [[0.0, 0.0]] * 2
    mean, rest = top_mean(-h, v, real, 2)
    assert mean.tolist() == pytest.approx([float(v @ v)] * 2)
    assert rest.tolist() == pytest.approx([float(v @ v) / 3] * 2)


def test_gradients_of_top_mean_are_those_of_finite_differences() -> None:
    h, v = 3 * random(2, 6, D, seed=7).double(), random(D, seed=8).double()
    real = torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2]).double()
    assert torch.autograd.gradcheck(
        lambda h, v: top_mean(h, v, real, 3), [h.requires_grad_(), v.requires_grad_()]
    )
