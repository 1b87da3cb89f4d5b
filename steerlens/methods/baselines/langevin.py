"""Move whole texts by Langevin steps among a model's input embeddings, under a constraint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.numbers import as_count, as_floats, as_number
from steerlens.models.adapters import Model
from steerlens.models.embeddings import embeddings
from steerlens.models.hooks import add_hooks, run_until
from steerlens.values.hook_names import EMBED
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.readout import Readout

DAMPING, EVERY = 0.1, 50
"""Of the multiplier: the penalty that is added while the constraint is broken, and how often it is
updated while the text changes."""
RISE, LARGEST, AFTER = 0.04, 1.8, 0.01
"""Once a text was found: how much the step grows while nothing changes, up to how much, both in
units of the first step, and the noise that is left."""
PATIENCE, MORE = 40, 100
"""Steps after which a chain ends that stands still, and how many more where it found nothing."""


@dataclass(frozen=True)
class Langevin:
    """Say how a chain runs; the defaults are those of the authors' scripts, but for the step.

    Args:
        n_steps: at most; 300 for sentiment.
        step_size: `η`, in units of the total variance of the embedding table, so that a step of
            0.05 to a word at random must gain 20 nats. (The authors' is 0.25 in units of GPT-2
            large's own table.)
        noise: `σ` at the first step and after `cooling` steps, falling geometrically.
        cooling: steps, at least 2.
        margin: log-odds of the wanted side that strength 1 asks for, in nats; the authors': 2 for
            sentiment, 5 for toxicity.

    Raises:
        ValueError: a number out of range.
    """

    n_steps: int = 200
    step_size: float = 0.05
    noise: tuple[float, float] = (0.5, 0.05)
    cooling: int = 50
    margin: float = 2.0

    def __post_init__(self) -> None:
        as_count(self.n_steps, "n_steps")
        as_count(self.cooling, "cooling", "a whole number, at least 2", least=2)
        for name, given in (("step_size", self.step_size), ("margin", self.margin)):
            if not as_number(given, name, "a positive number") > 0:
                raise ValueError(f"{name}: got {given}, expected a positive number")
        noise = as_floats(self.noise, "noise")
        if len(noise) != 2 or not 0 < noise[1] <= noise[0]:
            raise ValueError(
                f"noise: got {self.noise}, expected two positive numbers, the larger first"
            )

    def sigma(self, step: int) -> float:
        """Return the noise at a step."""
        first, last = self.noise
        return max(last, first * (last / first) ** (step / (self.cooling - 1)))


USUAL = Langevin()


class Energy(NamedTuple):
    """What a chain goes down: a model, and the classifier `log-odds = x̄ w + b` of its states, with
    `x̄` the mean context of a text and, behind it, its mean embedding."""

    model: Model
    readout: Readout
    w: Float[Tensor, " d_both"]
    b: float


class Texts(NamedTuple):
    """Prompts and their texts, padded on the left; `new` are the last `width` tokens' that belong
    to a text, `free` those that may change: all but its end; `counts` whose contexts the classifier
    takes the mean of."""

    tokens: Int[Tensor, "rows pos"]
    mask: Int[Tensor, "rows pos"]
    counts: Bool[Tensor, "rows pos"]
    new: Bool[Tensor, "rows width"]
    free: Bool[Tensor, "rows width"]
    side: Float[Tensor, " rows"]
    wanted: Float[Tensor, " rows"]

    def at(self, rows: Int[Tensor, " some"]) -> "Texts":
        return Texts(*(t[rows] for t in self))


class Seen(NamedTuple):
    """What the model makes of texts: the logits that each of their tokens was drawn from, the
    token's probability, their NLL, and by how much the constraint is broken."""

    logits: Float[Tensor, "rows width vocab"]
    p: Float[Tensor, "rows width"]
    nll: Float[Tensor, " rows"]
    excess: Float[Tensor, " rows"]


def read(energy: Energy, texts: Texts, embedded: Float[Tensor, "rows pos d_model"]) -> Seen:
    """Return what the model makes of texts whose embeddings are these."""
    width = texts.new.shape[1]
    with add_hooks(energy.model, [(EMBED, lambda e: embedded.to(e.dtype))]):
        c = run_until(energy.model, UNEMBED_IN, texts.tokens, texts.mask).float()
    logits = energy.readout.logits(c[:, -width - 1 : -1])
    told = logits.log_softmax(-1).gather(2, texts.tokens[:, -width:, None])[..., 0]
    both = torch.where(texts.counts[..., None], torch.cat([c, embedded], 2), 0.0)
    mean = both.sum(1) / texts.counts.sum(1, keepdim=True)
    log_odds = mean @ energy.w.to(mean.device) + energy.b
    nll = -torch.where(texts.new, told, 0.0).sum(1)
    return Seen(logits, told.exp(), nll, texts.wanted - texts.side * log_odds)


def landing(
    texts: Texts,
    seen: Seen,
    slope: Float[Tensor, "rows pos d_model"],
    words: Float[Tensor, "n_tokens d_model"],
    step: Float[Tensor, " rows"],
    noise: Float[Tensor, "rows width d_model"],
) -> Float[Tensor, "rows width n_tokens"]:
    """Return for each place and token what the step makes of it, up to a constant of the place:

        ½ ‖E_v − (e − η g + noise)‖² − η (1 − p) z_v

    with `g` the slope of `U` by what the model reads there, and the last term that by what it
    writes there: `U` has the logit `z` of the token itself, with weight `1 − p`. Where both tables
    are one it is half the squared distance from the authors' step.
    """
    width = texts.new.shape[1]
    eta = step[:, None, None]
    to = words[texts.tokens[:, -width:]] - eta * slope[:, -width:] + noise
    own = (1 - seen.p)[..., None] * seen.logits[..., : len(words)]
    return words.square().sum(1) / 2 - to @ words.T - eta * own


def settle(
    energy: Energy, how: Langevin, texts: Texts, noise: Sequence[torch.Generator]
) -> tuple[Int[Tensor, "rows pos"], Bool[np.ndarray, " rows"]]:
    """Return the tokens of texts after their chains, and which meet the constraint."""
    device, width = texts.tokens.device, texts.new.shape[1]
    words = embeddings(energy.model).to(device)
    barred = torch.full((len(words),), torch.inf, device=device)
    barred[energy.readout.ordinary] = 0.0
    found, tokens = texts.tokens.clone(), texts.tokens.clone()
    with torch.no_grad():
        met = read(energy, texts, words[tokens]).excess <= 0
    done = met.clone()  # what meets it from the start is left alone
    multiplier, stood = torch.zeros_like(texts.wanted), torch.ones_like(texts.wanted)
    size = how.step_size * float(words[energy.readout.ordinary].var(0, correction=0).sum())
    step, least = (torch.full_like(texts.wanted, of) for of in (size, torch.inf))
    for k in range(how.n_steps):
        live = torch.nonzero(~done)[:, 0]
        if not len(live):
            break
        now = texts.at(live)._replace(tokens=tokens[live])
        leaf = words[now.tokens].requires_grad_()
        seen = read(energy, now, leaf)
        weight = _weight(multiplier[live], seen.excess.detach())
        (slope,) = torch.autograd.grad((seen.nll + weight * seen.excess).sum(), leaf)
        seen = Seen(*(t.detach() for t in seen))
        sigma = torch.where(met[live], AFTER, how.sigma(k))
        random = [noise[row] for row in live.tolist()]
        kick = ((2 * step[live]).sqrt() * sigma)[:, None, None] * _normal(random, now.free, words)
        nearest = (landing(now, seen, slope, words, step[live], kick) + barred).argmin(-1)
        after = now.tokens.clone()
        after[:, -width:][now.free] = nearest[now.free]

        broken, still = seen.excess > 0, stood[live] > 1
        best = ~broken & (seen.nll < least[live])
        found[live[best]], met[live[best]] = now.tokens[best], True
        least[live[best]] = seen.nll[best]
        grown = (step[live] + RISE * size * (still & met[live])).clamp_max(LARGEST * size)
        step[live] = torch.where(best, size, grown)
        due = torch.where(still, broken, (k % EVERY == 0) | (broken & (multiplier[live] == 0)))
        multiplier[live] = (multiplier[live] + due * seen.excess).clamp_min(0)
        stood[live] = torch.where((after == now.tokens).all(1), stood[live] + 1, 1.0)
        done[live] = stood[live] > PATIENCE + MORE * ~met[live]
        tokens[live] = after
    return found, met.cpu().numpy()


def _weight(
    multiplier: Float[Tensor, " rows"], excess: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Return the weight of the constraint: the multiplier, damped, and with a penalty where it is
    broken."""
    damp = -DAMPING * excess
    return torch.where((damp >= 0) & (multiplier <= damp), multiplier, multiplier - damp)


def _normal(
    random: Sequence[torch.Generator],
    free: Bool[Tensor, "rows width"],
    words: Float[Tensor, "n_tokens d_model"],
) -> Float[Tensor, "rows width d_model"]:
    """Return noise at the places that may change; a row's does not depend on what is beside it."""
    found = torch.zeros(*free.shape, words.shape[1])
    for row, at, one in zip(found, free.cpu(), random, strict=True):
        row[at] = torch.randn(int(at.sum()), words.shape[1], generator=one)
    return found.to(words.device)
