"""Truncation and powers against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from steerlens.maths.svd import svd, symmetric_power, truncate


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 4))
def test_no_matrix_of_that_rank_is_nearer_than_the_truncation(seed: int, rank: int) -> None:
    r = torch.Generator().manual_seed(seed)
    M = torch.randn(5, 6, generator=r).double()
    best = truncate(M, rank)
    s = torch.linalg.svdvals(M)
    assert torch.linalg.matrix_rank(best) == rank
    assert_close((M - best).norm(), s[rank:].norm())
    U, V = (
        torch.linalg.qr(torch.randn(5, rank, generator=r).double())[0],
        torch.randn(6, rank, generator=r).double(),
    )
    for left, right in ((U, V), (U, M.mT @ U)):  # any, and the best one in a random column space
        assert (M - left @ right.mT).norm() >= (M - best).norm()


def test_truncation_to_full_rank_changes_nothing() -> None:
    M = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(truncate(M, 4), M)
    assert truncate(M, 1).dtype == torch.float32


def positive(seed: int, d: int = 5) -> torch.Tensor:
    A = torch.randn(d, 2 * d, generator=torch.Generator().manual_seed(seed)).double()
    return A @ A.mT / d


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    power=st.sampled_from([0.5, 1.0, 2.0]),
    floor=st.sampled_from([0.0, 0.3]),
)
def test_opposite_powers_are_inverses(seed: int, power: float, floor: float) -> None:
    M = positive(seed)
    there, back = symmetric_power(M, power, floor), symmetric_power(M, -power, floor)
    assert_close(there @ back, torch.eye(5).double(), rtol=0.0, atol=1e-6)


def test_the_square_of_the_root_is_the_matrix() -> None:
    M = positive(3)
    root = symmetric_power(M, 0.5)
    assert_close(root, root.mT)
    assert_close(root @ root, M)
    assert_close(symmetric_power(M, 1.0, floor=2.0), M + 2 * torch.eye(5).double())


def test_eigenvalues_that_rounding_made_negative_count_as_zero() -> None:
    M = torch.diag(torch.tensor([1.0, -1e-9]))
    assert torch.isfinite(symmetric_power(M, -0.5, floor=1e-6)).all()
    assert float(symmetric_power(M, -0.5, floor=1e-6)[1, 1]) == pytest.approx(1e3)


class Decomposed(TorchDispatchMode):
    """Notes the shapes of which a singular value decomposition is made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket == torch.ops.aten._linalg_svd:
            self.shapes.append(args[0].shape)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rank", [0, 1, 40, 700])
def test_an_svd_is_one_whether_the_rank_is_low_or_not(rank: int) -> None:
    random = torch.Generator().manual_seed(rank)
    M = (
        torch.randn(700, rank, generator=random).double()
        @ torch.randn(rank, 640, generator=random).double()
    )
    with Decomposed() as seen:
        U, s, Vh = svd(M)
    assert_close(U * s @ Vh, M, atol=1e-8, rtol=1e-6)
    assert_close(U.mT @ U, torch.eye(len(s)).double(), atol=1e-8, rtol=0)
    assert_close(Vh @ Vh.mT, torch.eye(len(s)).double(), atol=1e-8, rtol=0)
    assert_close(s, torch.linalg.svdvals(M)[: len(s)], atol=1e-6, rtol=1e-8)
    assert (len(s) >= rank or rank == 700) and (seen.shapes[0] == (700, 640)) == (rank == 700)
