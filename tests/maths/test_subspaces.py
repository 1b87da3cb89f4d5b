"""Angles of subspaces against scipy and sums of squares, correlations against scikit-learn and a
second route."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh, subspace_angles
from sklearn.cross_decomposition import CCA
from torch import Tensor
from torch.testing import assert_close

from steerlens.maths.subspaces import basis, canonical_correlations, overlap, principal_cosines

seeds = st.integers(0, 2**31)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def mixed(rows: Tensor, seed: int = 0) -> Tensor:
    """Other rows that span the same: a well-conditioned square matrix times the rows."""
    k = len(rows)
    turn = torch.linalg.qr(random(k, k, seed=seed)).Q
    return turn @ torch.diag(torch.linspace(0.2, 5.0, k).double()) @ rows


def related(n: int = 200, k: int = 4, m: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of numbers about means far from 0, of which some directions are shared and some are
    not."""
    shared = random(n, min(k, m), seed=seed) * torch.linspace(0, 2, min(k, m)).double()
    x = random(n, k, seed=seed + 1) + shared @ random(min(k, m), k, seed=seed + 2)
    y = random(n, m, seed=seed + 3) + shared @ random(min(k, m), m, seed=seed + 4)
    return x + 5, y - 7


@settings(max_examples=30)
@given(k=st.integers(1, 5), d=st.integers(5, 9), seed=seeds)
def test_a_basis_is_orthonormal_and_spans_what_the_rows_span(k: int, d: int, seed: int):
    rows = random(k, d, seed=seed)
    Q = basis(rows)
    assert Q.shape == (k, d) and Q.dtype == torch.float64
    assert_close(Q @ Q.mT, torch.eye(k).double())
    assert_close(rows @ Q.mT @ Q, rows, rtol=1e-9, atol=1e-9)


def test_rows_that_depend_on_others_are_not_in_the_basis():
    rows = random(3, 8)
    more = torch.cat([rows, rows[:1] - 2 * rows[1:2], torch.zeros(2, 8).double(), rows[2:] * 7])
    assert basis(rows).shape == basis(more).shape == (3, 8)
    assert_close(basis(more).mT @ basis(more), basis(rows).mT @ basis(rows))
    assert_close(principal_cosines(rows, more), torch.ones(3).double())
    assert overlap(more, rows) == pytest.approx(1)
    wide = torch.cat([random(12, 8, seed=1), rows])  # more rows than there are dimensions
    assert basis(wide).shape == (8, 8)


def test_rows_of_zeros_span_nothing_and_share_nothing():
    nothing, rows = torch.zeros(2, 6), random(3, 6).float()
    assert basis(nothing).shape == (0, 6)
    assert principal_cosines(nothing, rows).shape == (0,)
    assert overlap(nothing, rows) == overlap(rows, nothing) == 0.0
    assert overlap(nothing + rows[:2], rows) == pytest.approx(1)


@settings(max_examples=40)
@given(k=st.integers(1, 5), m=st.integers(1, 5), d=st.integers(5, 12), seed=seeds)
def test_principal_cosines_are_those_of_scipy(k: int, m: int, d: int, seed: int):
    a, b = random(k, d, seed=seed), random(m, d, seed=seed + 1)
    b[0] = b[0] / b[0].norm() + 2 * a[0] / a[0].norm()
    cosines = principal_cosines(a, b)
    expected = np.sort(np.cos(subspace_angles(a.mT.numpy(), b.mT.numpy())))[::-1]
    np.testing.assert_allclose(cosines, expected, rtol=1e-7, atol=1e-7)
    assert len(cosines) == min(k, m) and cosines.max() > 0.3
    assert_close(principal_cosines(b, a), cosines)
    assert overlap(a, b) == pytest.approx(np.square(expected).mean(), abs=1e-7)


def test_planted_angles_are_found_largest_cosine_first():
    eye, angles = torch.eye(9).double(), torch.tensor([0.2, 1.1, 0.7]).double()
    b = angles.cos()[:, None] * eye[:3] + angles.sin()[:, None] * eye[3:6]
    assert_close(
        principal_cosines(mixed(eye[:3]), mixed(b, seed=1)),
        angles.cos().sort(descending=True).values,
    )
    assert overlap(eye[:3], b) == pytest.approx(float(angles.cos().square().mean()))


@settings(max_examples=25)
@given(k=st.integers(1, 4), m=st.integers(1, 4), seed=seeds)
def test_the_choice_of_rows_does_not_matter(k: int, m: int, seed: int):
    a, b = random(k, 7, seed=seed), random(m, 7, seed=seed + 1)
    assert_close(
        principal_cosines(mixed(a, seed), 1e3 * mixed(b, seed + 2)), principal_cosines(a, b)
    )
    other = random(k, 7, seed=seed + 3)
    assert (
        abs(overlap(mixed(a, seed), mixed(b, seed)) - overlap(a, b))
        < 1e-9
        < abs(overlap(other, b) - overlap(a, b))
    )


def test_one_turn_of_the_whole_space_does_not_matter_and_a_turn_of_one_side_does():
    a, b, turn = random(2, 6), random(3, 6, seed=1), torch.linalg.qr(random(6, 6, seed=2)).Q
    assert_close(principal_cosines(a @ turn, b @ turn), principal_cosines(a, b))
    assert abs(overlap(a @ turn, b) - overlap(a, b)) > 0.01


@settings(max_examples=20)
@given(k=st.integers(1, 4), more=st.integers(0, 3), seed=seeds)
def test_the_overlap_is_one_for_contained_and_zero_for_orthogonal_spans(
    k: int, more: int, seed: int
):
    Q = torch.linalg.qr(random(9, 9, seed=seed)).Q
    inner, outer = mixed(Q[:k], seed), mixed(Q[: k + more], seed + 1)
    assert overlap(inner, outer) == pytest.approx(1) == overlap(outer, inner)
    orthogonal = mixed(Q[k + more :], seed + 2)
    assert overlap(inner, orthogonal) == pytest.approx(0, abs=1e-12)
    assert principal_cosines(inner, orthogonal).max() < 1e-6
    assert 0 < overlap(inner, random(2, 9, seed=seed + 3)) < 1


@pytest.mark.parametrize("k, m, d", [(1, 1, 6), (2, 3, 10), (4, 1, 8), (3, 3, 20)])
def test_two_random_spans_overlap_by_the_larger_dimension_over_all_of_them(k: int, m: int, d: int):
    draws = torch.tensor(
        [overlap(random(k, d, seed=2 * i), random(m, d, seed=2 * i + 1)) for i in range(800)]
    )
    error = float(draws.std()) / len(draws) ** 0.5
    assert 0 < error < 0.012
    assert float(draws.mean()) == pytest.approx(max(k, m) / d, abs=4 * error)


def by_eigenvalues(x: Tensor, y: Tensor) -> np.ndarray:
    """Canonical correlations as roots of `Sxy Syy⁻¹ Syx a = ρ² Sxx a`."""
    a, b = (t.numpy() - t.numpy().mean(0) for t in (x, y))
    values = eigh(a.T @ b @ np.linalg.solve(b.T @ b, b.T @ a), a.T @ a, eigvals_only=True)[::-1]
    return np.sqrt(values.clip(0))[: min(a.shape[1], b.shape[1])]


@settings(max_examples=25)
@given(k=st.integers(1, 5), m=st.integers(1, 5), seed=seeds)
def test_canonical_correlations_are_the_generalised_eigenvalues(k: int, m: int, seed: int):
    x, y = related(k=k, m=m, seed=seed)
    found = canonical_correlations(x, y)
    np.testing.assert_allclose(found, by_eigenvalues(x, y), rtol=1e-6, atol=1e-6)
    assert_close(canonical_correlations(y, x), found)
    assert (found[:-1] >= found[1:]).all() and found.max() <= 1


def test_the_largest_canonical_correlation_is_that_of_scikit_learn_and_of_its_scores():
    x, y = related(400)
    first, second = (
        t[:, 0] for t in CCA(1, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    )
    found = float(canonical_correlations(x, y)[0])
    assert found == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-6)
    plain = np.abs(
        np.corrcoef(x.numpy().T, y.numpy().T)[:4, 4:]
    ).max()  # no single pair of numbers says as much
    assert found > plain + 0.02 and plain > 0.1


def test_one_number_each_correlates_as_pearson_says():
    x, y = related(k=1, m=1)
    y = y + x
    expected = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    assert 0.1 < expected < 0.99
    assert float(canonical_correlations(x, -y)[0]) == pytest.approx(expected)


@settings(max_examples=25)
@given(seed=seeds)
def test_affine_coordinates_of_either_side_do_not_matter(seed: int):
    x, y = related(seed=seed)
    found = canonical_correlations(x, y)
    x2, y2 = mixed(x.mT, seed).mT + 100, 1e-2 * mixed(y.mT, seed + 1).mT - random(1, 3, seed=seed)
    assert_close(canonical_correlations(x2, y2), found, rtol=1e-6, atol=1e-7)
    torn = canonical_correlations(
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))], y
    )
    assert (torn - found).abs().max() > 1e-3  # what was read at other places is another thing


def test_copies_and_constants_say_nothing_new():
    x, y = related()
    more = torch.cat([x, x[:, :1], torch.ones(len(x), 1).double()], 1)
    assert_close(
        canonical_correlations(more, y), canonical_correlations(x, y), rtol=1e-6, atol=1e-7
    )
    assert canonical_correlations(torch.ones(len(x), 2), y).shape == (0,)
    assert canonical_correlations(x, x[:, :2] @ random(2, 2)).min() > 1 - 1e-9
