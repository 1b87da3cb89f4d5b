"""The VAE of rows: bounds against exact densities, samples against the data, and collapse that is
noticed."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from steerlens.methods.prompt.priors import Prior, total_log_prob
from steerlens.methods.prompt.vae import (
    VAE,
    CollapseDiagnostics,
    Layers,
    diagnose_collapse,
    fit_vae,
)
from tests.values.make import random

D = 6


@cache
def mixture(n: int = 300) -> Tensor:
    """Rows about three points, far apart."""
    which = torch.randint(3, (n,), generator=torch.Generator().manual_seed(1))
    return 2 + 3 * random(3, D, seed=2)[which] + 0.3 * random(n, D, seed=3)


@cache
def plane(n: int = 300) -> Tensor:
    """Rows near a plane, which a linear VAE can be exact about."""
    return random(n, 2, seed=4) @ (3 * random(2, D, seed=5)) + 0.2 * random(n, D, seed=6) - 1


@cache
def fitted(data: str = "mixture", hidden: int = 32) -> VAE:
    rows = {"mixture": mixture, "plane": plane}[data]()
    return fit_vae(rows, latent=3, hidden=hidden, lr=0.02, batch_size=32, epochs=60, name=data)


def exact(vae: VAE) -> MultivariateNormal:
    """The density of a linear VAE: N(b, scale² (CᵀC + noise²))."""
    C = vae.decoder.C.double()
    covariance = vae.scale**2 * (C.mT @ C + torch.diag(vae.noise.double() ** 2))
    return MultivariateNormal((vae.mean + vae.scale * vae.decoder.b).double(), covariance)


# samples


def test_it_is_a_prior_with_a_seed_that_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    vae = fit_vae(mixture(), latent=2, hidden=4, epochs=2, seed=1)
    same, other = (fit_vae(mixture(), latent=2, hidden=4, epochs=2, seed=s) for s in (1, 2))
    one = vae.sample(5, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(vae, Prior) and vae.name == "vae" and vae.latent == 2
    assert one.shape == (5, D) and one.dtype == torch.float32 and not one.requires_grad
    assert torch.equal(one, vae.sample(5, 0)) and not torch.equal(one, vae.sample(5, 1))
    assert torch.equal(one, same.sample(5, 0)) and not torch.equal(one, other.sample(5, 0))
    with pytest.raises(ValueError, match="'vae' has no density"):
        total_log_prob(vae, one)


@pytest.mark.parametrize("data", ["mixture", "plane"])
def test_samples_spread_as_the_data_do_and_a_collapsed_one_says_that_its_do_not(data: str) -> None:
    rows = {"mixture": mixture, "plane": plane}[data]()
    alive = fitted(data)
    whole = float(rows.var(0).sum())
    share = float(alive.sample(4000, 1).var(0).sum()) / whole
    assert 0.75 < share < 1.25 and alive.health.samples_keep == pytest.approx(share, abs=0.1)
    assert alive.health.active >= 2 and alive.health.means_keep > 0.7 and not alive.health.collapsed
    assert "alive" in str(alive.health) and "alive" in repr(alive)
    assert (alive.sample(4000, 1).mean(0) - rows.mean(0)).norm() < 0.1 * rows.std() * D**0.5
    # a decoder that ignores its units, and an encoder that says nothing with them
    for part in ("decoder", "encoder"):
        still = replace(
            alive, **{part: Layers(*(torch.zeros_like(t) for t in getattr(alive, part)))}
        )
        health = diagnose_collapse(still, rows, rows[:50])
        assert health.collapsed and health.heldout_elbo < alive.health.heldout_elbo - 1
        assert (health.means_keep == 0) == (part == "decoder") and (health.active == 0) == (
            part == "encoder"
        )
        assert "collapsed" in repr(replace(still, health=health))
    assert diagnose_collapse(alive, rows, rows[:50]).unit_kl == pytest.approx(alive.health.unit_kl)


def test_a_large_beta_makes_units_fall_silent() -> None:
    loose, tight = (
        fit_vae(mixture(), latent=3, hidden=0, beta=b, lr=0.1, epochs=40) for b in (1.0, 100.0)
    )
    assert loose.health.active == 3 and tight.health.active == 0 and tight.health.collapsed


def test_the_bent_part_learns_what_a_linear_one_cannot() -> None:
    bent, linear = fitted(), fitted(hidden=0)
    assert bent.health.heldout_elbo > linear.health.heldout_elbo + 0.5
    # samples lie nearer to rows of the data
    far = [float(torch.cdist(v.sample(1000, 0), mixture()).amin(1).mean()) for v in (linear, bent)]
    assert far[1] < 0.95 * far[0]


def test_samples_are_the_decoders_means_and_the_noise() -> None:
    vae = fitted("plane")
    away = (vae.sample(20_000, 0) - vae.means(20_000, 0)) / vae.scale
    assert_close(away.std(0), vae.noise, rtol=0.05, atol=0)
    assert vae.noise.max() < 0.5  # of a standard deviation of the data


# bounds


def test_the_bound_of_a_linear_vae_is_below_its_exact_density_and_near() -> None:
    vae, rows = fitted("plane", hidden=0), torch.cat([plane()[:40], plane()[:40] + 1])
    density = exact(vae).log_prob(rows.double())
    found = vae.elbo(rows, 0, draws=2000).double()
    assert (found[:40] <= density[:40] + 0.1).all() and (
        found <= density + 0.5
    ).all()  # an average of draws
    assert (density - found)[:40].mean() < 0.3
    assert density[:40].mean() - density[40:].mean() > 3


def test_the_start_is_probabilistic_pca() -> None:
    """A step of no size: the exact density is that of the closed form, and the bound touches it."""
    rows = plane()
    vae = fit_vae(rows, latent=2, hidden=0, epochs=1, lr=1e-12)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    used = rows[order[30:]].double()
    centred = used - rows.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(used))
    rest = values[: D - 2].mean()
    top = vectors[:, D - 2 :]
    covariance = top @ torch.diag(values[D - 2 :] - rest) @ top.mT + rest * torch.eye(D)
    expected = MultivariateNormal(rows.double().mean(0), covariance)
    assert_close(exact(vae).covariance_matrix, covariance, rtol=1e-3, atol=1e-3)
    some = rows[:30]
    assert_close(
        vae.elbo(some, 0, draws=4000).double(), expected.log_prob(some.double()), rtol=0, atol=0.3
    )
    assert expected.log_prob(some.double()).std() > 1


def test_the_bound_is_in_the_units_of_the_data() -> None:
    """Rows that are ten times as large have a density that is 10^D times as thin."""
    one, ten = (fit_vae(k * plane(), latent=2, hidden=4, epochs=3) for k in (1, 10))
    lower = one.elbo(plane()[:9], 0) - ten.elbo(10 * plane()[:9], 0)
    assert_close(lower, torch.full((9,), D * math.log(10)), rtol=0.02, atol=0.1)


# health


def test_health_counts_units_and_says_so() -> None:
    health = CollapseDiagnostics((0.5, 0.009, 0.02), 0.5, 0.4, -1.0)
    assert health.active == 2 and not health.collapsed
    assert (
        "alive: 2 of 3 units active, samples keep 50% of the variance (40% without noise)"
        in str(health)
    )
    assert CollapseDiagnostics((0.0, 0.0), 0.9, 0.0, -1.0).collapsed
    assert CollapseDiagnostics((0.5, 0.0), 0.9, 0.001, -1.0).collapsed


def test_more_units_than_dimensions_are_allowed_and_fall_silent() -> None:
    health = fit_vae(plane(), latent=8, hidden=0, epochs=3).health
    assert len(health.unit_kl) == 8 and 2 <= health.active < 8


BAD = {
    "latent": ({"latent": 0}, "latent: got 0, expected at least 1"),
    "hidden": ({"hidden": -1}, "hidden: got -1"),
    "beta": ({"beta": 0.0}, "beta: got 0.0, expected a number > 0"),
    "epochs": ({"epochs": 0}, "epochs: got 0"),
    "lr": ({"lr": 0.0}, "lr: got 0.0"),
    "batch_size": ({"batch_size": 0}, "batch_size: got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused_by_name(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        fit_vae(plane(), **options)


def test_bad_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors: got 3 of them, expected at least 10"):
        fit_vae(plane()[:3])
    for rows in (torch.ones(20, D), torch.full((20, D), math.nan)):
        with pytest.raises(ValueError, match="all are the same, or some are NaN"):
            fit_vae(rows)
    with pytest.raises(ValueError, match="draws: got 0"):
        fitted("plane").elbo(plane()[:2], 0, draws=0)
