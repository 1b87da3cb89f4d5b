"""Least squares from sums against solvers that see the rows, and held-out error against an explicit
loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths import least_squares
from steerlens.maths.least_squares import gram, procrustes, pseudo_inverse, regress


def clouds(
    n: int = 60, d_x: int = 5, d_y: int = 3, *, noise: float = 0.5, seed: int = 0
) -> tuple[Tensor, ...]:
    """Rows, what a planted map with a bias and noise makes of them, weights of which some are 0,
    and the map."""
    r = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d_x, generator=r).double() * torch.logspace(0, 1, d_x).double()
    M = torch.randn(d_x, d_y, generator=r).double()
    Y = X @ M + noise * (1 + torch.randn(n, d_y, generator=r).double())
    weight = torch.rand(n, generator=r).double()
    weight[::7] = 0.0
    return X, Y, weight, M


def by_rows(X: Tensor, Y: Tensor, weight: Tensor | None = None, ridge: float = 0.0) -> Tensor:
    """numpy's solver on the rows themselves, weights and ridge as further rows."""
    root = torch.ones(len(X)).double() if weight is None else weight.sqrt()
    A, B = root[:, None] * X, root[:, None] * Y
    d = X.shape[1]
    extra = math.sqrt(ridge * float(A.square().sum()) / d) * torch.eye(d).double()
    found = np.linalg.lstsq(
        torch.cat([A, extra]).numpy(), torch.cat([B, torch.zeros(d, Y.shape[1]).double()]).numpy()
    )
    return torch.from_numpy(found[0])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), weighted=st.booleans(), ridge=st.sampled_from([0.0, 1e-3, 0.3]))
def test_the_map_is_that_of_a_solver_that_sees_the_rows(
    seed: int, weighted: bool, ridge: float
) -> None:
    X, Y, weight, planted = clouds(seed=seed)
    found = regress(X, Y, weight if weighted else None, ridge=ridge)
    assert_close(found.M, by_rows(X, Y, weight if weighted else None, ridge), rtol=1e-7, atol=1e-8)
    assert (found.M - planted).norm() > 1e-3  # the noise is felt
    assert (found.ridge, found.rank) == (ridge, 5)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_a_cholesky_factor_judges_folds_as_eigenvectors_do(
    ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, Y, weight, _ = clouds()
    by_factor = regress(X, Y, weight, ridge=ridge)
    monkeypatch.setattr(least_squares, "FIRM", float("inf"))
    by_vectors = regress(X, Y, weight, ridge=ridge)
    assert by_factor.r2 == pytest.approx(by_vectors.r2, rel=1e-12)
    assert by_factor.r2 != by_vectors.r2  # two ways indeed


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_the_ridge_is_that_of_scikit_learn_in_units_of_the_mean_eigenvalue(ridge: float) -> None:
    X, Y, weight, _ = clouds()
    alpha = ridge * float((weight[:, None] * X.square()).sum()) / X.shape[1]
    other = Ridge(alpha, fit_intercept=False, solver="cholesky").fit(
        X.numpy(), Y.numpy(), weight.numpy()
    )
    assert_close(
        regress(X, Y, weight, ridge=ridge).M,
        torch.from_numpy(other.coef_).mT,
        rtol=1e-8,
        atol=1e-10,
    )


def test_a_planted_map_is_recovered_and_with_a_ridge_is_not() -> None:
    X, Y, weight, planted = clouds(noise=0.0)
    for w in (None, weight):
        found = regress(X, Y, w)
        assert_close(found.M, planted, rtol=1e-8, atol=1e-9)
        assert found.r2 == pytest.approx(1.0, abs=1e-12)
    assert (regress(X, Y, ridge=0.3).M - planted).norm() > 0.05 * planted.norm()


def test_units_of_data_and_weights_do_not_matter() -> None:
    X, Y, weight, _ = clouds()
    here, there = (
        regress(X, Y, weight, ridge=0.1),
        regress(1e3 * X, 10 * Y, 1e-3 * weight, ridge=0.1),
    )
    assert_close(here.M, 100 * there.M)
    assert (here.r2, here.condition) == pytest.approx((there.r2, there.condition))


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_of_all_maps_that_fit_equally_the_smallest_is_taken(ridge: float) -> None:
    X, Y, weight, _ = clouds(d_x=4)
    twice = torch.cat([X, X[:, :2], X[:, :1] - 3 * X[:, 1:2]], 1)
    found = regress(twice, Y, weight, ridge=ridge)
    assert (found.rank, found.M.shape[0]) == (4, 7)
    assert_close(found.M, by_rows(twice, Y, weight, ridge), rtol=1e-6, atol=1e-7)
    if not ridge:
        assert_close(twice @ found.M, X @ regress(X, Y, weight).M, rtol=1e-6, atol=1e-7)
        assert found.M.norm() < regress(X, Y, weight).M.norm()
        s = torch.linalg.svdvals(weight.sqrt()[:, None] * twice)
        assert found.condition == pytest.approx(
            float(s[0] / s[3]), rel=1e-6
        )  # among those that are not 0


def test_fewer_rows_than_columns_have_a_rank_and_are_met_exactly() -> None:
    X, Y, _, _ = clouds(n=12, d_x=20)
    found = regress(X, Y)
    assert found.rank == 12 < X.shape[1]
    assert_close(X @ found.M, Y, rtol=1e-6, atol=1e-6)
    assert_close(found.M, by_rows(X, Y), rtol=1e-6, atol=1e-7)
    assert found.r2 < 0.9  # and say little of other rows


@pytest.mark.parametrize("spread", [0.0, 2.0, 4.0])
def test_the_condition_is_that_of_numpy(spread: float) -> None:
    X = clouds(n=80)[0] @ torch.diag(torch.logspace(0, spread, 5).double())
    found = regress(X, X[:, :1])
    assert found.condition == pytest.approx(np.linalg.cond(X.numpy()), rel=1e-5)
    assert found.rank == np.linalg.matrix_rank(X.numpy()) == 5


def test_rows_of_zeros_give_the_zero_map() -> None:
    found = regress(torch.zeros(20, 3), torch.ones(20, 2))
    assert found.M.tolist() == [[0.0, 0.0]] * 3
    assert (found.rank, math.isnan(found.condition)) == (0, True)


def five_folds(X: Tensor, Y: Tensor, weight: Tensor, ridge: float, seed: int) -> float:
    """Held-out R², row by row."""
    fold = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed)) % 5
    error, spread = 0.0, 0.0
    for k in range(5):
        fit, held = fold != k, fold == k
        M = by_rows(X[fit], Y[fit], weight[fit], ridge)
        mean = (weight[fit] @ Y[fit]) / weight[fit].sum()
        error += float((weight[held] * (Y[held] - X[held] @ M).square().sum(1)).sum())
        spread += float((weight[held] * (Y[held] - mean).square().sum(1)).sum())
    return 1 - error / spread


@settings(max_examples=20)
@given(
    n=st.integers(10, 90),
    seed=st.integers(0, 2**31),
    weighted=st.booleans(),
    ridge=st.sampled_from([0.0, 1e-2, 1.0]),
)
def test_the_held_out_r2_is_that_of_an_explicit_loop(
    n: int, seed: int, weighted: bool, ridge: float
) -> None:
    X, Y, weight, _ = clouds(n, noise=3.0, seed=seed)
    Y = Y + 10  # about a mean far from 0
    weight = weight if weighted else torch.ones(n).double()
    expected = five_folds(X, Y, weight, ridge, seed % 1000)
    assert regress(X, Y, weight, ridge=ridge, seed=seed % 1000).r2 == pytest.approx(
        expected, rel=1e-4, abs=1e-6
    )


def test_another_seed_gives_other_folds_and_the_same_map() -> None:
    X, Y, weight, _ = clouds()
    one, again, other = (regress(X, Y, weight, seed=seed) for seed in (1, 1, 2))
    assert one.r2 == again.r2 != other.r2
    assert_close(one.M, other.M, rtol=1e-9, atol=1e-9)


def test_r2_is_near_one_for_a_planted_map_and_not_above_zero_for_noise() -> None:
    X, Y, _, _ = clouds(400, noise=0.3)
    assert regress(X, Y - Y.mean(0)).r2 > 0.98
    noise = torch.randn(400, 3, generator=torch.Generator().manual_seed(9)).double()
    assert -0.1 < regress(X, noise).r2 < 0.02
    wide = torch.randn(400, 250, generator=torch.Generator().manual_seed(10)).double()
    assert regress(wide, noise).r2 < -1  # fitted to noise, and it is seen


def test_the_chosen_ridge_repairs_what_noise_in_a_wide_problem_spoils() -> None:
    r = torch.Generator().manual_seed(0)
    X = torch.randn(110, 85, generator=r).double()
    planted = torch.randn(85, 4, generator=r).double()
    Y = X @ planted + 12 * torch.randn(110, 4, generator=r).double()
    plain, chosen = regress(X, Y), regress(X, Y, ridge=None)
    assert plain.r2 < -1 and (plain.M - planted).norm() > planted.norm()  # was large before
    assert chosen.r2 > 0 and chosen.ridge > 0
    assert (chosen.M - planted).norm() < planted.norm()
    assert chosen.r2 == max(regress(X, Y, ridge=ridge).r2 for ridge in least_squares.RIDGES)
    assert_close(chosen.M, regress(X, Y, ridge=chosen.ridge).M)


def test_without_noise_no_ridge_is_chosen() -> None:
    X, Y, _, _ = clouds(noise=0.0)
    assert regress(X, Y, ridge=None).ridge <= 1e-6


@pytest.mark.parametrize("n, known", [(1, False), (4, False), (9, False), (10, True)])
def test_with_fewer_than_two_rows_a_fold_there_is_no_held_out_r2(n: int, known: bool) -> None:
    X, Y, _, _ = clouds(n, d_x=2)
    found = regress(X, Y)
    assert math.isfinite(found.r2) == known
    assert torch.isfinite(found.M).all() and found.M.norm() > 0
    if not known:
        with pytest.raises(
            ValueError, match=f"got {n} rows, expected at least 10 to choose a ridge"
        ):
            regress(X, Y, ridge=None)


def test_rows_of_weight_zero_are_as_good_as_left_out() -> None:
    X, Y, weight, _ = clouds()
    X[weight == 0] *= 50
    here, there = regress(X, Y, weight), regress(X[weight > 0], Y[weight > 0], weight[weight > 0])
    assert_close(here.M, there.M, rtol=1e-9, atol=1e-10)
    assert (here.rank, here.condition) == (there.rank, pytest.approx(there.condition, rel=1e-9))
    assert (regress(X, Y).M - here.M).norm() > 1e-3
    turns = [procrustes(X, Y, weight), procrustes(X[weight > 0], Y[weight > 0], weight[weight > 0])]
    assert_close(turns[0], turns[1])


def test_a_row_of_weight_two_is_the_row_twice() -> None:
    X, Y, _, _ = clouds()
    weight = 1 + (torch.arange(60) % 2).double()
    twice = torch.cat([torch.arange(60), torch.arange(1, 60, 2)])
    assert_close(regress(X, Y, weight, ridge=0.1).M, regress(X[twice], Y[twice], ridge=0.1).M)
    assert_close(procrustes(X, Y, weight), procrustes(X[twice], Y[twice]))


def test_sums_over_chunks_are_those_of_all_rows() -> None:
    X, Y, weight, _ = clouds(6 * least_squares.CHUNK)  # a fifth of them is more than one chunk
    found = regress(X, Y, weight, ridge=1e-2)
    assert_close(found.M, by_rows(X, Y, weight, 1e-2), rtol=1e-7, atol=1e-8)
    assert found.r2 == pytest.approx(five_folds(X, Y, weight, 1e-2, seed=0), rel=1e-9)
    chosen = regress(X, Y, weight, ridge=None)
    assert chosen.M.allclose(by_rows(X, Y, weight, chosen.ridge), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 9, 14])
def test_half_of_the_product_mirrored_is_the_whole(d: int) -> None:
    X = torch.randn(6, d, generator=torch.Generator().manual_seed(d)).double()
    assert_close(gram(X), X.mT @ X)
    assert torch.equal(gram(X[:0]), torch.zeros(d, d).double())


def test_single_precision_is_summed_in_double() -> None:
    X, Y, weight, _ = clouds()
    found = regress(X.float(), Y.float(), weight.float())
    assert found.M.dtype == torch.float64
    assert_close(
        found.M,
        regress(X.float().double(), Y.float().double(), weight.float().double()).M,
        rtol=1e-12,
        atol=1e-12,
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), weighted=st.booleans())
def test_procrustes_is_that_of_scipy(seed: int, weighted: bool) -> None:
    X, Y, weight, _ = clouds(d_y=5, seed=seed)
    root = weight.sqrt()[:, None] if weighted else 1.0
    expected = torch.from_numpy(orthogonal_procrustes((root * X).numpy(), (root * Y).numpy())[0])
    assert_close(procrustes(X, Y, weight if weighted else None), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("d_x, d_y", [(5, 3), (3, 5), (4, 4)])
def test_procrustes_is_the_partial_isometry_that_fits_best(d_x: int, d_y: int) -> None:
    X, Y, weight, _ = clouds(d_x=d_x, d_y=d_y)
    M = procrustes(X, Y, weight)
    assert M.shape == (d_x, d_y)
    assert_close(M @ M.mT if d_x <= d_y else M.mT @ M, torch.eye(min(d_x, d_y)).double())
    assert_close(M @ M.mT @ M, M)
    for seed in range(20):
        random = torch.randn(d_y, d_y, generator=torch.Generator().manual_seed(seed)).double()
        other = M @ torch.linalg.matrix_exp(0.05 * (random - random.mT))
        here, there = (float((weight * (Y * (X @ A)).sum(1)).sum()) for A in (M, other))
        assert here > there
        if (
            d_x <= d_y
        ):  # then |xM| is the same for all, so the nearest is the one of the largest product
            here, there = (float((weight * (Y - X @ A).square().sum(1)).sum()) for A in (M, other))
            assert here < there


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), d_y=st.integers(4, 6), noise=st.sampled_from([0.0, 0.1]))
def test_procrustes_recovers_a_planted_turn(seed: int, d_y: int, noise: float) -> None:
    r = torch.Generator().manual_seed(seed)
    X = torch.randn(300, 4, generator=r).double()
    turn = torch.linalg.qr(torch.randn(d_y, 4, generator=r).double())[0].mT
    Y = X @ turn + noise * torch.randn(300, d_y, generator=r).double()
    found = procrustes(X, Y)
    assert_close(found, turn, rtol=0, atol=1e-9 if noise == 0 else 0.1)
    assert noise == 0 or (found - turn).norm() > 1e-6


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    rank=st.integers(0, 6),
)
def test_the_pseudo_inverse_meets_the_conditions_of_penrose(
    seed: int, rows: int, cols: int, rank: int
) -> None:
    r = torch.Generator().manual_seed(seed)
    M = (
        torch.randn(rows, rank, generator=r).double()
        @ torch.randn(rank, cols, generator=r).double()
    )
    P = pseudo_inverse(M)
    scale = 1e-8 * (1 + float(P.norm())) * (1 + float(M.norm()))
    for left, right in ((M @ P @ M, M), (P @ M @ P, P), (M @ P, (M @ P).mT), (P @ M, (P @ M).mT)):
        assert_close(left, right, rtol=1e-6, atol=scale)


def test_the_pseudo_inverse_of_small_singular_values_is_exact_down_to_rounding() -> None:
    found = pseudo_inverse(torch.diag(torch.tensor([1.0, 1e-6, 0.0])))
    assert found.dtype == torch.float64
    assert_close(found, torch.diag(torch.tensor([1.0, 1e6, 0.0]).double()), rtol=1e-6, atol=1e-6)
    assert float(pseudo_inverse(torch.diag(torch.tensor([1.0, 1e-12]).double()))[1, 1]) == 0.0
