"""Fit a variational autoencoder to rows, as a prior of prompts."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.values.vae import VAE, Health, Layers, bound, examine

LOWEST = -5.0
"""Of the logarithm of the noise: a dimension that the decoder gives exactly would have a density without bound."""


def fit_vae(
    vectors: Float[Tensor, "m d"],
    *,
    latent: int = 16,
    hidden: int = 64,
    beta: float = 1.0,
    epochs: int = 100,
    step: float = 1e-2,
    batch: int = 64,
    seed: int = 0,
    name: str = "vae",
) -> VAE:
    """The VAE of given vectors, e.g. a model's token embeddings.

        maximise  mean over rows of  E_q log p(x | z) − β Σ_j KL_j

    On either side a linear map and beside it a hidden layer of tanh. It starts at probabilistic PCA, which is the best linear
    VAE in closed form, so no unit falls silent before the decoder has learned to use it. A tenth of the rows is held out
    and the epoch with the best objective there is kept. `health` says whether it has collapsed all the same, as with a
    large β.
    Source: Kingma and Welling (arXiv 1312.6114); Tipping and Bishop (1999) for the start; a collapsed VAE prior is reported by
    Sedov et al. (arXiv 2412.18582).

    Args:
        vectors: at least ten, not all the same.
        latent: units.
        hidden: of the network; 0: linear, factor analysis.
        beta: weight of the KL; above 1 units fall silent.
        epochs, step, batch: of Adam, whose step falls to zero.
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
        ("step", step, step > 0, "a number > 0"), ("batch", batch, batch >= 1, "at least 1"),
        ("vectors", f"{len(vectors)} of them", len(vectors) >= 10, "at least 10, some hundreds for a fit worth having"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"{label}: got {got}, expected {expected}")
    random = generator(seed)
    rows = vectors.detach().float().cpu()
    mean, scale = rows.mean(0), float(rows.var(0).mean().sqrt())
    if not 0 < scale < float("inf"):
        raise ValueError("vectors: all are the same, or some are NaN or infinite; a VAE needs finite rows that differ")
    x = ((rows - mean) / scale)[torch.randperm(len(rows), generator=random)]
    held, x = x[: max(len(x) // 10, 1)], x[max(len(x) // 10, 1) :]
    encoder, decoder, log_noise = _start(x, latent, hidden, random)
    learned = [t.requires_grad_() for t in (*encoder, *decoder, log_noise)]
    fixed = torch.randn(16, len(held), latent, generator=random)

    def judged() -> float:
        with torch.no_grad():
            fit, kl = bound(encoder, decoder, log_noise, held, fixed)
            return float(fit.mean() - beta * kl.sum(1).mean())

    optimiser = torch.optim.Adam(learned, lr=step)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1 - epoch / epochs)
    best, kept = judged(), [t.detach().clone() for t in learned]
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=random).split(batch):
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
    vae = VAE(encoder, decoder, mean, scale, log_noise.exp(), Health((0.0,) * latent, 0.0, 0.0, 0.0), name)
    return replace(vae, health=examine(vae, rows, mean + scale * held))


def _start(
    x: Float[Tensor, "m d"], latent: int, hidden: int, random: torch.Generator
) -> tuple[Layers, Layers, Float[Tensor, " d"]]:
    """Probabilistic PCA as encoder, decoder and logarithm of the noise; the bent parts start at zero."""
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
        return Layers(drawn(len(linear)), torch.zeros(hidden), torch.zeros(hidden, len(b)), b, linear)

    encoder = beside(C, torch.cat([torch.zeros(latent), log_var]))
    return encoder, beside(W, torch.zeros(d)), torch.full((d,), 0.5 * float(rest.log()))
