"""The next words of a position at any strength, from few numbers, and what the strengths cost."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logit_stats import logit_stats
from steerlens.maths.logits import UnembedWeights, apply_softcap
from steerlens.show.explorer.chebyshev import Box
from steerlens.values.states import States
from steerlens.values.steer import Steer

TOLERANCE = 1e-3
"""Nats by which a log-probability of the page may differ from the model's, at most."""
NODES = {1: (7, 9, 11, 13, 17, 25), 2: (7, 9, 11, 13)}
"""Polynomials tried, until one is good enough, by the number of steers."""
PROBES = 6
CELLS = 1 << 22
"""Logits that are held at once."""


class Candidates(NamedTuple):
    """Some words of each position, and all others together.

    At strengths `s` the logit of a candidate is `post(logits + Σ_j s_j shifts_j)`, with the model's
    scale and soft cap as `post`; `rest` has the coefficients of `log Σ exp` of the logits of all
    other words, a polynomial over `box`. So the page's probabilities are those of the model, but
    for the polynomial, which changes no log-probability by more than `error` nats at the places
    where it was tried. The first candidate is the word that is written there; logits are less a
    constant per position.
    """

    box: Box
    ids: Int[np.ndarray, "n k"]
    logits: Float[np.ndarray, "n k"]
    shifts: Float[np.ndarray, "steers n k"]
    rest: Float[np.ndarray, "n m"]
    error: float

    def log_probs(
        self, head: UnembedWeights, strengths: Sequence[float]
    ) -> Float[np.ndarray, "n k"]:
        """Return the candidates' log-probabilities at some strengths, as the page computes them."""
        z = self.logits + np.tensordot(np.array(strengths), self.shifts, 1)
        z = apply_softcap(head, torch.from_numpy(z)).numpy()
        rest = self.rest @ self.box.basis(np.array([strengths], dtype=float))[0]
        total = np.logaddexp(np.logaddexp.reduce(z, axis=1), rest)
        return z - total[:, None]


class Cost(NamedTuple):
    """KL(plain ‖ steered) in nats per token over some text, as a polynomial over strengths."""

    box: Box
    coefficients: Float[np.ndarray, " m"]
    error: float
    n_positions: int
    n_texts: int

    def at(self, strengths: Sequence[float]) -> float:
        """Return what some strengths cost, as the page computes it."""
        basis = self.box.basis(np.array([strengths], dtype=float))[0]
        return max(0.0, float(basis @ self.coefficients))


def tabulate(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    chosen: Int[Tensor, " n"],
    steers: Sequence[Steer],
    ends: tuple[tuple[float, ...], tuple[float, ...]],
    k: int,
) -> Candidates:
    """Return the `k` words that are likeliest at any strength, and the mass of all others.

    Args:
        c: context vectors.
        chosen: the word that is written at each, always a candidate.
        steers: one or two.
        ends: the lowest and the highest strength of each.

    Raises:
        ValueError: no polynomial that was tried is within `TOLERANCE`.
    """
    rows = max(CELLS // head.W_U.shape[1], 1)
    error = np.inf
    for n in NODES[len(steers)]:
        box = Box(*ends, n)
        parts = [
            _part(head, c[start : start + rows], chosen[start : start + rows], steers, box, k)
            for start in range(0, len(c), rows)
        ]
        error = max(part.error for part in parts)
        if error <= TOLERANCE:
            return Candidates(
                box,
                np.concatenate([part.ids for part in parts]),
                np.concatenate([part.logits for part in parts]),
                np.concatenate([part.shifts for part in parts], axis=1),
                np.concatenate([part.rest for part in parts]),
                error,
            )
    raise ValueError(
        f"strengths: between {ends[0]} and {ends[1]} the words' probabilities change too much for a page to compute "
        f"them (off by {error:.2g} nats, at most {TOLERANCE:g}); take smaller strengths"
    )


def price(
    states: States, steers: Sequence[Steer], ends: tuple[tuple[float, ...], tuple[float, ...]]
) -> Cost:
    """Return what strengths cost on a text, as a polynomial.

    Raises:
        ValueError: no polynomial that was tried is within `TOLERANCE`.
    """
    error = np.inf
    for n in NODES[len(steers)]:
        box = Box(*ends, n)
        tried = box.probes(PROBES)
        kl = mean_kl(states, steers, np.concatenate([box.nodes, tried]))
        found = box.coefficients(kl[: len(box.nodes)])
        error = float(np.abs(box.basis(tried) @ found - kl[len(box.nodes) :]).max())
        if error <= TOLERANCE:
            return Cost(box, found, error, states.n_positions, states.n_texts)
    raise ValueError(
        f"strengths: between {ends[0]} and {ends[1]} the cost changes too much for a page to compute it "
        f"(off by {error:.2g} nats, at most {TOLERANCE:g}); take smaller strengths"
    )


def mean_kl(
    states: States, steers: Sequence[Steer], strengths: Float[np.ndarray, "q steers"]
) -> Float[np.ndarray, " q"]:
    """Return KL(plain ‖ steered) at each of some strengths, nats per token."""
    head = states.readout.head
    total = torch.zeros(len(strengths), dtype=torch.float64)
    mix = [[1.0] + [0.0] * len(steers), *([1.0, *s] for s in strengths.tolist())]
    # a set, and the sums on the way to it
    rows = max(CELLS // (4096 * (len(strengths) * len(steers) + 1)), 1)
    for c, target, _ in states.chunks(rows, device=head.W_U.device):
        terms = [c, *(c @ steer.W for steer in steers)]
        told = logit_stats(head, target, terms, mix, others=len(strengths))
        total += told.kl.double().sum(1).cpu()
    return (total / states.n_positions).numpy()


def _part(
    head: UnembedWeights,
    c: Float[Tensor, "n d"],
    chosen: Int[Tensor, " n"],
    steers: Sequence[Steer],
    box: Box,
    k: int,
) -> Candidates:
    """Tabulate some positions, as many as fit in memory."""
    c, chosen = c.to(head.W_U.device), chosen.to(head.W_U.device)[:, None]
    z, along = c @ head.W_U + head.b_U, [(c @ steer.W) @ head.W_U for steer in steers]
    if head.softcap is None:  # a constant changes no probability, and float32 holds small numbers
        z = z - z.amax(1, keepdim=True)

    def at(strengths: Float[np.ndarray, "q steers"]) -> Iterator[Tensor]:
        return (apply_softcap(head, z + _sum(s, along)) for s in strengths)

    best = torch.full_like(z, -torch.inf)
    for here in at(box.probes(PROBES)):
        best = torch.maximum(best, torch.log_softmax(here, 1))
    best.scatter_(1, chosen, torch.inf)
    ids = best.topk(min(k, z.shape[1] - 1), dim=1).indices
    others = [_others(here, ids) for here in at(box.nodes)]
    rest = box.coefficients(torch.stack(others, 1).numpy()).astype(np.float32)
    tried = box.probes(PROBES)
    drawn = rest.astype(np.float64) @ box.basis(tried).T
    error = 0.0
    for j, here in enumerate(at(tried)):
        shown = here.gather(1, ids).double().cpu().logsumexp(1).numpy()
        total = here.logsumexp(1).double().cpu().numpy()
        error = max(error, float(np.abs(np.logaddexp(shown, drawn[:, j]) - total).max()))
    kept = [x.gather(1, ids).cpu().numpy() for x in (z, *along)]
    return Candidates(box, ids.cpu().numpy(), kept[0], np.stack(kept[1:]), rest, error)


def _others(z: Float[Tensor, "n vocab"], ids: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return `log Σ exp` over all words but some."""
    return z.scatter(1, ids, -torch.inf).logsumexp(1).double().cpu()


def _sum(strengths: Float[np.ndarray, " steers"], along: list[Tensor]) -> Tensor:
    return sum(
        (float(s) * x for s, x in zip(strengths, along, strict=True)), torch.zeros(()).to(along[0])
    )
