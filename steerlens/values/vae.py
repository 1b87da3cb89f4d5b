"""A prior of rows with a network behind it: a variational autoencoder, and whether it has collapsed."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import generator

ACTIVE = 0.01
"""A latent unit that tells less than this of a row, in nats, says nothing."""
SAMPLES = 4096
"""Samples whose variance is compared with the data's."""


class Layers(NamedTuple):
    """`tanh(x A + a) B + b`, or without hidden units (`A` of no columns) `x C + b`; both parts are there and add."""

    A: Float[Tensor, "d_in hidden"]
    a: Float[Tensor, " hidden"]
    B: Float[Tensor, "hidden d_out"]
    b: Float[Tensor, " d_out"]
    C: Float[Tensor, "d_in d_out"]

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return torch.tanh(x @ self.A + self.a) @ self.B + x @ self.C + self.b


class Health(NamedTuple):
    """Whether a VAE has learned anything.

    Args:
        unit_kl: what each latent unit tells of a row, nats, mean over the data; below 0.01 it is not `active`.
        samples_keep: total variance of samples as a share of the data's.
        means_keep: the same of the decoder's means, without the observation noise: 0 where the decoder ignores its input and
            all samples are noise around one point.
        heldout_elbo: of rows that were not trained on, nats per row.
    """

    unit_kl: tuple[float, ...]
    samples_keep: float
    means_keep: float
    heldout_elbo: float

    @property
    def active(self) -> int:
        """Latent units that say something."""
        return sum(kl > ACTIVE for kl in self.unit_kl)

    @property
    def collapsed(self) -> bool:
        """No unit says anything, or what all say together moves samples by less than a hundredth of the data's variance."""
        return self.active == 0 or self.means_keep < 0.01

    def __str__(self) -> str:
        word = "collapsed" if self.collapsed else "alive"
        return (
            f"{word}: {self.active} of {len(self.unit_kl)} units active, samples keep {self.samples_keep:.0%} of the variance "
            f"({self.means_keep:.0%} without noise), held-out ELBO {self.heldout_elbo:.2f} nats per row"
        )


@dataclass(frozen=True, eq=False)
class VAE:
    """`z ~ N(0, I)`, `x = mean + scale · (decoder(z) + noise · ε)`: rows that lie near a bent surface, or near several.

    Made by `steerlens.fits.vae.fit_vae`. It has no density that could be computed, so it can start a fit and not be a term of
    its loss; `elbo` bounds the density from below.

    Args:
        encoder: to mean and log-variance of each latent unit.
        decoder: from the latent units.
        mean, scale: of the data; what goes through the network is `(x − mean) / scale`.
        noise: of the observation, one a dimension, in units of `scale`.
        health: whether it has collapsed.
    """

    encoder: Layers
    decoder: Layers
    mean: Float[Tensor, " d"]
    scale: float
    noise: Float[Tensor, " d"]
    health: Health
    name: str = "vae"

    @property
    def latent(self) -> int:
        return self.encoder.b.shape[0] // 2

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """Means of the decoder, with the observation noise."""
        random = generator(seed)
        z = torch.randn(n, self.latent, generator=random)
        return self.mean + self.scale * (
            self.decoder(z) + self.noise * torch.randn(n, len(self.mean), generator=random)
        )

    def means(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """The same without the noise."""
        z = torch.randn(n, self.latent, generator=generator(seed))
        return self.mean + self.scale * self.decoder(z)

    def elbo(self, rows: Float[Tensor, "n d"], seed: int, *, draws: int = 64) -> Float[Tensor, " n"]:
        """A lower bound of each row's log-density in nats: E log p(x | z) − KL(q(z | x) ‖ N(0, I)), over so many draws of z."""
        if draws < 1:
            raise ValueError(f"draws: got {draws}, expected at least 1")
        random = generator(seed)
        x = (rows - self.mean) / self.scale
        eps = torch.randn(draws, len(rows), self.latent, generator=random)
        fit, kl = bound(self.encoder, self.decoder, self.noise.log(), x, eps)
        return fit.mean(0) - kl.sum(1) - len(self.mean) * math.log(self.scale)

    def __repr__(self) -> str:
        return f"VAE({self.name!r}, {self.latent} units, {len(self.mean)} dimensions; {self.health})"


def examine(vae: VAE, rows: Float[Tensor, "m d"], heldout: Float[Tensor, "n d"]) -> Health:
    """The health of a VAE of some rows."""
    x = (rows - vae.mean) / vae.scale
    kl = bound(vae.encoder, vae.decoder, vae.noise.log(), x, torch.zeros(1, len(x), vae.latent))[1].mean(0)
    samples, means = (float(f(SAMPLES, 0).var(0).sum() / rows.var(0).sum()) for f in (vae.sample, vae.means))
    return Health(tuple(kl.tolist()), samples, means, float(vae.elbo(heldout, 0).mean()))


def bound(
    encoder: Layers,
    decoder: Layers,
    log_noise: Float[Tensor, " d"],
    x: Float[Tensor, "n d"],
    eps: Float[Tensor, "draws n latent"],
) -> tuple[Float[Tensor, "draws n"], Float[Tensor, "n latent"]]:
    """`log p(x | z)` at draws of `q(z | x)`, and the KL of each unit of `q` from a standard normal; nats."""
    mu, log_var = encoder(x).chunk(2, -1)
    away = (x - decoder(mu + (0.5 * log_var).exp() * eps)) / log_noise.exp()
    fit = -0.5 * away.square().sum(-1) - log_noise.sum() - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return fit, 0.5 * (mu.square() + log_var.exp() - 1 - log_var)
