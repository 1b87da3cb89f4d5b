"""Where the rows of a prompt start: densities against torch's, samples against what was asked
for."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from steerlens.methods.prompt.priors import (
    Exclusion,
    FixedRows,
    FixedThenPrior,
    Gaussian,
    Interpolation,
    Prior,
    Vocabulary,
    Xavier,
    fit_gaussian,
    isotropic,
    total_log_prob,
)
from tests.values.make import random

D = 5
WIDE = 128


def gaussian(d: int = D, seed: int = 0) -> Gaussian:
    """A Gaussian away from the origin whose axes are neither equal nor the coordinates'."""
    root = random(d, d, seed=seed) / d**0.5 + torch.diag(torch.linspace(0.5, 2.0, d))
    return Gaussian(3 + random(d, seed=seed + 1), root)


def density(g: Gaussian) -> MultivariateNormal:
    root = g.root.double()
    return MultivariateNormal(g.mean.double(), root @ root.mT)


PRIORS: dict[str, Callable[[], Any]] = {
    "isotropic": lambda: isotropic(D),
    "gaussian": gaussian,
    "fitted": lambda: fit_gaussian(random(40, D)),
    "xavier": lambda: Xavier(D),
    "radius": lambda: Exclusion(gaussian()),
    "published": lambda: Exclusion(gaussian(), rule="published"),
    "interpolation": lambda: Interpolation(gaussian(), Vocabulary(random(40, D))),
    "vocabulary": lambda: Vocabulary(random(40, D)),
    "filled": lambda: FixedThenPrior(random(2, D, seed=8), Vocabulary(random(40, D))),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_the_same_seed_gives_the_same_rows_and_the_global_generator_is_left_alone(
    kind: str,
) -> None:
    prior = PRIORS[kind]()
    assert isinstance(prior, Prior) and prior.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        one = prior.sample(7, 0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(4)
        same, other = prior.sample(7, 0), prior.sample(7, 1)
    assert one.shape == (7, D) and one.dtype == torch.float32 and one.isfinite().all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({tuple(row) for row in one.tolist()}) == 7


# densities


@pytest.mark.parametrize("kind", ["isotropic", "gaussian", "fitted"])
def test_the_density_of_a_gaussian_is_that_of_torch(kind: str) -> None:
    g = PRIORS[kind]()
    rows = torch.cat([g.sample(4, 0), 3 * random(4, D, seed=9)])
    found = g.log_prob(rows)
    assert_close(found, density(g).log_prob(rows.double()), rtol=1e-5, atol=1e-4)
    assert found.max() - found.min() > 1


def test_the_isotropic_prior_is_independent_normals() -> None:
    prior, rows = isotropic(D, std=0.3), random(6, D)
    assert_close(
        prior.log_prob(rows), Normal(0.0, 0.3).log_prob(rows).sum(1).double(), rtol=1e-5, atol=1e-4
    )
    assert prior.sample(4000, 0).std() == pytest.approx(0.3, rel=0.03)
    assert isotropic(D).sample(4000, 0).std() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize("n", [3, 60])
def test_xavier_has_a_spread_by_the_number_of_rows(n: int) -> None:
    prior, rows = Xavier(D), random(n, D)
    expected = Normal(0.0, math.sqrt(2 / (n + D))).log_prob(rows).sum(1).double()
    assert_close(prior.log_prob(rows), expected, rtol=1e-5, atol=1e-4)
    wrong = Normal(0.0, math.sqrt(2 / (n + D + 1))).log_prob(rows).sum(1).double()
    assert (wrong - expected).abs().max() > 1e-2
    spread = torch.cat([prior.sample(n, seed) for seed in range(6000 // n)]).std()
    assert spread == pytest.approx(math.sqrt(2 / (n + D)), rel=0.03)


@pytest.mark.parametrize("prior", [gaussian(), Xavier(D)], ids=["gaussian", "xavier"])
def test_the_whole_density_is_the_sum_and_has_gradients(prior: Any) -> None:
    rows = random(4, D).requires_grad_()
    total = total_log_prob(prior, rows)
    assert total.shape == () and float(total.detach()) == pytest.approx(
        float(prior.log_prob(rows).sum().detach())
    )
    (found,) = torch.autograd.grad(total, rows)
    if isinstance(prior, Gaussian):
        covariance = prior.root.double() @ prior.root.double().mT
        expected = -torch.linalg.solve(covariance, (rows.detach() - prior.mean).double().mT).mT
    else:
        expected = -rows.detach().double() / (2 / (4 + D))
    assert expected.abs().max() > 0.5
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["radius", "published", "interpolation", "vocabulary"])
def test_a_prior_without_a_density_starts_a_fit_only(kind: str) -> None:
    prior = PRIORS[kind]()
    with pytest.raises(ValueError, match=f"prior: '{prior.name}' has no density.*use a Gaussian"):
        total_log_prob(prior, random(2, D))
    with pytest.raises(ValueError, match="prior: 'object' has no density"):
        total_log_prob(object(), random(2, D))


# Gaussians


def test_samples_of_a_gaussian_have_its_mean_and_covariance() -> None:
    g = gaussian()
    covariance = g.root @ g.root.mT
    rows = g.sample(20_000, 0)
    assert (
        g.mean.norm() > 1 and (covariance - torch.eye(D)).norm() > 1
    )  # a standard normal's would be far
    assert (rows.mean(0) - g.mean).norm() < 0.1
    assert (torch.cov(rows.mT) - covariance).norm() / covariance.norm() < 0.05


def test_a_fitted_gaussian_is_that_of_its_vectors() -> None:
    g = gaussian(seed=4)
    few, many = (fit_gaussian(g.sample(n, 1), shrink=1e-4) for n in (8, 20_000))
    covariance = g.root @ g.root.mT

    def far(fitted: Gaussian) -> float:
        return float((fitted.root @ fitted.root.mT - covariance).norm() / covariance.norm())

    assert far(few) > 0.2 and far(many) < 0.05
    assert (few.mean - g.mean).norm() > 0.2 > 4 * (many.mean - g.mean).norm()


@pytest.mark.parametrize("shrink", [0.01, 0.5, 1.0])
def test_a_share_of_the_covariance_is_a_multiple_of_the_identity_with_the_same_trace(
    shrink: float,
) -> None:
    vectors = random(3, D)  # fewer than dimensions: no inverse without it
    raw = torch.cov(vectors.double().mT)
    assert torch.linalg.matrix_rank(raw) == 2
    g = fit_gaussian(vectors, shrink=shrink, name="three")
    found = g.root.double() @ g.root.double().mT
    assert_close(
        found,
        (1 - shrink) * raw + shrink * raw.trace() / D * torch.eye(D).double(),
        rtol=1e-5,
        atol=1e-5,
    )
    assert_close(found.trace(), raw.trace(), rtol=1e-5, atol=1e-5)
    assert g.log_prob(vectors).isfinite().all() and g.name == "three"
    assert_close(g.mean, vectors.mean(0), rtol=1e-5, atol=1e-6)


def test_the_distance_is_in_standard_deviations_and_a_sample_lies_at_the_root_of_the_dimension() -> (
    None
):
    g = gaussian(WIDE)
    found = g.distance(g.sample(400, 0))
    assert_close(found.mean() / math.sqrt(WIDE), torch.tensor(1.0).double(), rtol=0.02, atol=0)
    assert found.std() < 0.1 * math.sqrt(WIDE)
    along = g.mean + 7 * g.root[:, 3]
    assert_close(g.distance(along[None]), torch.tensor([7.0]).double(), rtol=1e-3, atol=1e-3)
    assert float((along - g.mean).norm()) != pytest.approx(7, abs=0.5)
    assert g.distance(g.mean[None]) == 0


# exclusion


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_rows_by_radius_lie_exactly_at_so_many_times_the_typical_distance(factor: float) -> None:
    g = gaussian(WIDE)
    rows = Exclusion(g, factor=factor).sample(50, 0)
    assert_close(
        g.distance(rows) / math.sqrt(WIDE), torch.full((50,), factor).double(), rtol=1e-3, atol=0
    )
    plain = g.distance(g.sample(50, 0)) / math.sqrt(WIDE)
    assert (plain - factor).abs().min() > 0.2
    # in all directions
    directions = torch.linalg.solve(g.root, (rows - g.mean).mT).mT
    assert directions.mean(0).norm() < 0.3 * directions.norm(dim=1).mean()


def test_the_published_rule_excludes_next_to_nothing_in_many_dimensions() -> None:
    g = gaussian(WIDE)
    rule, plain = Exclusion(g, rule="published").sample(200, 0), g.sample(200, 0)
    relative = [float(g.distance(rows).mean()) / math.sqrt(WIDE) for rows in (plain, rule)]
    assert relative[0] + 0.03 < relative[1] < 1.2
    low = gaussian(2)
    there = float(low.distance(Exclusion(low, rule="published").sample(200, 0)).mean()) / math.sqrt(
        2
    )
    assert there > 1.5  # where there are few, it does


def test_the_published_rule_never_accepts_where_the_gaussian_is_denser() -> None:
    g, c = gaussian(2), 5.0
    rows = Exclusion(g, rule="published", c=c).sample(200, 0)
    wide = Gaussian(g.mean, g.root * c ** (1 / 2))
    assert (g.log_prob(rows) < wide.log_prob(rows)).all()
    proposals = wide.sample(200, 0)
    assert (g.log_prob(proposals) > wide.log_prob(proposals)).sum() > 20


def test_a_rule_that_accepts_next_to_nothing_says_so() -> None:
    narrow = Exclusion(isotropic(WIDE), rule="published", c=1.0001)
    with pytest.raises(
        ValueError, match="c: of 200000 draws .* were accepted, 200 are needed; take a larger c"
    ):
        narrow.sample(200, 0)


# rows of given vectors


def test_interpolated_rows_lie_between_two_and_are_spread() -> None:
    first, second = (
        FixedRows(torch.zeros(1, D), "zero"),
        FixedRows(torch.arange(1.0, D + 1)[None], "one"),
    )
    rows = Interpolation(first, second).sample(300, 0)
    share = 1 - rows / second.vectors
    assert_close(share, share[:, :1].expand(-1, D), rtol=1e-4, atol=1e-5)
    assert 0 <= share.min() < 0.05 and 0.95 < share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.05)


def test_the_two_ends_of_an_interpolation_are_drawn_apart() -> None:
    g = isotropic(WIDE, std=1.0)
    rows = Interpolation(g, g).sample(50, 0)
    both = Interpolation(g, FixedRows(g.sample(50, 0))).sample(50, 0)
    # αx + (1−α)y of two that are apart is shorter than either; of twice the same it would be as
    # long
    assert rows.norm(dim=1).mean() < 0.9 * math.sqrt(WIDE)
    assert_close(both, g.sample(50, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n, most", [(4, 1), (10, 1), (11, 2), (30, 3), (34, 4)])
def test_vocabulary_rows_are_of_it_and_do_not_repeat_before_all_are_used(n: int, most: int) -> None:
    vectors = random(10, D)
    for seed in range(3):
        rows = Vocabulary(vectors).sample(n, seed)
        counts = (rows[:, None] == vectors).all(2).sum(0)
        assert int(counts.sum()) == n
        assert counts.max() == most and counts.min() >= n // 10
    assert not torch.equal(rows, FixedRows(vectors).sample(n, 0))


def test_given_rows_are_always_the_same_and_repeat_in_order() -> None:
    vectors = random(3, D)
    prior = FixedRows(vectors, "labels")
    assert torch.equal(prior.sample(2, 0), vectors[:2]) and torch.equal(prior.sample(3, 5), vectors)
    assert torch.equal(prior.sample(7, 1), torch.cat([vectors, vectors, vectors[:1]]))
    assert (prior.name, Vocabulary(vectors).name) == ("labels", "vocabulary") and isinstance(
        prior, Prior
    )


# bad arguments


BAD: dict[str, tuple[Callable[[], Tensor | object], str]] = {
    "std 0": (lambda: isotropic(3, std=0.0), "std: got 0.0, expected a number > 0"),
    "std below 0": (lambda: isotropic(3, std=-1.0), "std: got -1.0"),
    "std NaN": (lambda: isotropic(3, std=math.nan), "std: got nan"),
    "one vector": (lambda: fit_gaussian(random(1, D)), "vectors, shrink: got 1 vectors and 0.01"),
    "shrink 0": (
        lambda: fit_gaussian(random(9, D), shrink=0.0),
        "vectors, shrink: got 9 vectors and 0.0",
    ),
    "shrink above 1": (
        lambda: fit_gaussian(random(9, D), shrink=1.1),
        r"expected at least 2, and a share in \(0, 1\]",
    ),
    "rule": (
        lambda: Exclusion(gaussian(), rule="none"),
        "rule: got 'none', expected 'radius' or 'published'",
    ),
    "factor 1": (
        lambda: Exclusion(gaussian(), factor=1.0),
        "factor, c: got 1.0 and 5.0, expected numbers > 1",
    ),
    "c below 1": (lambda: Exclusion(gaussian(), c=0.5), "factor, c: got 2.0 and 0.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
