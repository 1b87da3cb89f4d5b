"""A prior of rows with a network behind it: a variational autoencoder, and whether it has
collapsed."""

import math
from dataclasses import dataclass, replace
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
    """`tanh(x A + a) B + b`, or without hidden units (`A` of no columns) `x C + b`; both parts are
    there and add."""

    A: Float[Tensor, "d_in hidden"]
    a: Float[Tensor, " hidden"]
    B: Float[Tensor, "hidden d_out"]
    b: Float[Tensor, " d_out"]
    C: Float[Tensor, "d_in d_out"]

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return torch.tanh(x @ self.A + self.a) @ self.B + x @ self.C + self.b


class CollapseDiagnostics(NamedTuple):
    """Whether a VAE has learned anything.

    Args:
        unit_kl: what each latent unit tells of a row, nats, mean over the data; below 0.01 it is
            not `active`.
        samples_keep: total variance of samples as a share of the data's.
        means_keep: the same of the decoder's means, without the observation noise: 0 where the
            decoder ignores its input and all samples are noise around one point.
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
        """No unit says anything, or what all say together moves samples by less than a hundredth of
        the data's variance."""
        return self.active == 0 or self.means_keep < 0.01

    def __str__(self) -> str:
        word = "collapsed" if self.collapsed else "alive"
        return (
            f"{word}: {self.active} of {len(self.unit_kl)} units active, samples keep {self.samples_keep:.0%} of the variance "
            f"({self.means_keep:.0%} without noise), held-out ELBO {self.heldout_elbo:.2f} nats per row"
        )


@dataclass(frozen=True, eq=False)
class VAE:
    """`z ~ N(0, I)`, `x = mean + scale · (decoder(z) + noise · ε)`: rows that lie near a bent
    surface, or near several.

    Made by `fit_vae`. It has no density that could be computed, so it can start a fit and not be a
    term of its loss; `elbo` bounds the density from below.

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
    health: CollapseDiagnostics
    name: str = "vae"

    @property
    def latent(self) -> int:
        return self.encoder.b.shape[0] // 2

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """Return means of the decoder, with the observation noise."""
        random = generator(seed)
        z = torch.randn(n, self.latent, generator=random)
        return self.mean + self.scale * (
            self.decoder(z) + self.noise * torch.randn(n, len(self.mean), generator=random)
        )

    def means(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """Return the same as `sample` without the noise."""
        z = torch.randn(n, self.latent, generator=generator(seed))
        return self.mean + self.scale * self.decoder(z)

    def elbo(
        self, rows: Float[Tensor, "n d"], seed: int, *, draws: int = 64
    ) -> Float[Tensor, " n"]:
        """Return a lower bound of each row's log-density in nats, over so many draws of z.

        E log p(x | z) − KL(q(z | x) ‖ N(0, I)).
        """
        if draws < 1:
            raise ValueError(f"draws: got {draws}, expected at least 1")
        random = generator(seed)
        x = (rows - self.mean) / self.scale
        eps = torch.randn(draws, len(rows), self.latent, generator=random)
        fit, kl = bound(self.encoder, self.decoder, self.noise.log(), x, eps)
        return fit.mean(0) - kl.sum(1) - len(self.mean) * math.log(self.scale)

    def __repr__(self) -> str:
        return (
            f"VAE({self.name!r}, {self.latent} units, {len(self.mean)} dimensions; {self.health})"
        )


def diagnose_collapse(
    vae: VAE, rows: Float[Tensor, "m d"], heldout: Float[Tensor, "n d"]
) -> CollapseDiagnostics:
    """Return the health of a VAE of some rows."""
    x = (rows - vae.mean) / vae.scale
    kl = bound(vae.encoder, vae.decoder, vae.noise.log(), x, torch.zeros(1, len(x), vae.latent))[
        1
    ].mean(0)
    samples, means = (
        float(f(SAMPLES, 0).var(0).sum() / rows.var(0).sum()) for f in (vae.sample, vae.means)
    )
    return CollapseDiagnostics(
        tuple(kl.tolist()), samples, means, float(vae.elbo(heldout, 0).mean())
    )


def bound(
    encoder: Layers,
    decoder: Layers,
    log_noise: Float[Tensor, " d"],
    x: Float[Tensor, "n d"],
    eps: Float[Tensor, "draws n latent"],
) -> tuple[Float[Tensor, "draws n"], Float[Tensor, "n latent"]]:
    """Return `log p(x | z)` at draws of `q(z | x)`, and the KL of each unit of `q`; nats.

    The KL is from a standard normal.
    """
    mu, log_var = encoder(x).chunk(2, -1)
    away = (x - decoder(mu + (0.5 * log_var).exp() * eps)) / log_noise.exp()
    fit = -0.5 * away.square().sum(-1) - log_noise.sum() - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return fit, 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


LOWEST = -5.0
"""Of the logarithm of the noise: a dimension that the decoder gives exactly would have a density
without bound."""


def fit_vae(
    vectors: Float[Tensor, "m d"],
    *,
    latent: int = 16,
    hidden: int = 64,
    beta: float = 1.0,
    epochs: int = 100,
    lr: float = 1e-2,
    batch_size: int = 64,
    seed: int = 0,
    name: str = "vae",
) -> VAE:
    """Fit the VAE of given vectors, e.g. a model's token embeddings.

        maximise  mean over rows of  E_q log p(x | z) − β Σ_j KL_j

    On either side a linear map and beside it a hidden layer of tanh. It starts at probabilistic
    PCA, which is the best linear VAE in closed form, so no unit falls silent before the decoder has
    learned to use it. A tenth of the rows is held out and the epoch with the best objective there
    is kept. `health` says whether it has collapsed all the same, as with a large β.
    Source: Kingma and Welling (arXiv 1312.6114); Tipping and Bishop (1999) for the start; a
    collapsed VAE prior is reported by Sedov et al. (arXiv 2412.18582).

    Args:
        vectors: at least ten, not all the same.
        latent: units.
        hidden: of the network; 0: linear, factor analysis.
        beta: weight of the KL; above 1 units fall silent.
        epochs, lr, batch_size: of Adam, whose lr falls to zero.
        seed: of the held-out rows, the start and the draws.

    Raises:
        ValueError: an argument out of range, too few vectors, all the same, NaN.

    Example:
        >>> import torch
        >>> vae = fit_vae(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), latent=2, epochs=5)
        >>> vae.sample(4, seed=0).shape
        torch.Size([4, 3])
    """
    for label, got, good, expected in (
        ("latent", latent, latent >= 1, "at least 1"), ("hidden", hidden, hidden >= 0, "at least 0"),
        ("beta", beta, beta > 0, "a number > 0"), ("epochs", epochs, epochs >= 1, "at least 1"),
        ("lr", lr, lr > 0, "a number > 0"), ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("vectors", f"{len(vectors)} of them", len(vectors) >= 10, "at least 10, some hundreds for a fit worth having"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"{label}: got {got}, expected {expected}")
    random = generator(seed)
    rows = vectors.detach().float().cpu()
    mean, scale = rows.mean(0), float(rows.var(0).mean().sqrt())
    if not 0 < scale < float("inf"):
        raise ValueError(
            "vectors: all are the same, or some are NaN or infinite; a VAE needs finite rows that differ"
        )
    x = ((rows - mean) / scale)[torch.randperm(len(rows), generator=random)]
    held, x = x[: max(len(x) // 10, 1)], x[max(len(x) // 10, 1) :]
    encoder, decoder, log_noise = _start(x, latent, hidden, random)
    learned = [t.requires_grad_() for t in (*encoder, *decoder, log_noise)]
    fixed = torch.randn(16, len(held), latent, generator=random)

    def judged() -> float:
        with torch.no_grad():
            fit, kl = bound(encoder, decoder, log_noise, held, fixed)
            return float(fit.mean() - beta * kl.sum(1).mean())

    optimiser = torch.optim.Adam(learned, lr=lr)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1 - epoch / epochs)
    best, kept = judged(), [t.detach().clone() for t in learned]
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=random).split(batch_size):
            optimiser.zero_grad()
            eps = torch.randn(1, len(part), latent, generator=random)
            fit, kl = bound(encoder, decoder, log_noise, x[part], eps)
            (beta * kl.sum(1) - fit[0]).mean().backward()
            optimiser.step()
        falling.step()
        with torch.no_grad():
            log_noise.clamp_(min=LOWEST)
        if (found := judged()) > best:
            best, kept = found, [t.detach().clone() for t in learned]
    encoder, decoder, log_noise = Layers(*kept[:5]), Layers(*kept[5:10]), kept[10]
    vae = VAE(
        encoder,
        decoder,
        mean,
        scale,
        log_noise.exp(),
        CollapseDiagnostics((0.0,) * latent, 0.0, 0.0, 0.0),
        name,
    )
    return replace(vae, health=diagnose_collapse(vae, rows, mean + scale * held))


def _start(
    x: Float[Tensor, "m d"], latent: int, hidden: int, random: torch.Generator
) -> tuple[Layers, Layers, Float[Tensor, " d"]]:
    """Return probabilistic PCA as encoder, decoder and logarithm of the noise.

    The bent parts start at zero.
    """
    d = x.shape[1]
    values, vectors = torch.linalg.eigh(x.mT.double() @ x.double() / len(x))
    values, vectors = values.flip(0).clamp_min(math.exp(2 * LOWEST)), vectors.flip(1)
    used = min(latent, d - 1)
    rest = values[used:].mean()
    W, C, log_var = torch.zeros(latent, d), torch.zeros(d, 2 * latent), torch.zeros(latent)
    reach = (values[:used] - rest).clamp_min(0).sqrt()
    W[:used] = (reach * vectors[:, :used]).mT.float()
    C[:, :used] = (reach / values[:used] * vectors[:, :used]).float()
    log_var[:used] = (rest / values[:used]).log().float()

    def drawn(d_in: int) -> Tensor:
        return torch.randn(d_in, hidden, generator=random) / d_in**0.5

    def beside(linear: Tensor, b: Tensor) -> Layers:
        return Layers(
            drawn(len(linear)), torch.zeros(hidden), torch.zeros(hidden, len(b)), b, linear
        )

    encoder = beside(C, torch.cat([torch.zeros(latent), log_var]))
    return encoder, beside(W, torch.zeros(d)), torch.full((d,), 0.5 * float(rest.log()))
