"""What labels change in logits by a constant: the convex problem that `offset` and `add` share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import apply_softcap, softcap_gradient, token_nll
from steerlens.maths.moments import Moments, moments
from steerlens.maths.solvers import lbfgs
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_labels_differ
from steerlens.values.states import States, check_states

CHUNK = 1024
RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Tried one after the other, from where the last one ended; nats at strength 1, to second order."""
HELDOUT = 0.15
"""Share of the texts by which the ridge is chosen."""
TOLERANCE = 1e-4
"""Nats per token by which a solution may miss the minimum, certified where the problem is convex."""
EXPONENT = 60.0
"""Nats between offsets beyond which their exponentials are no longer safe in float32."""
KEPT = 2**30
"""Probabilities that are kept in memory at most (4 GB); of more, every pass takes them anew."""


class Span(NamedTuple):
    """Constant offsets of logits as linear functions of few or many coordinates, in which the
    likelihood is near isotropic: `expand` makes the offsets, `reduce` takes gradients back."""

    size: int
    expand: Callable[[Float[Tensor, "n size"]], Float[Tensor, "n vocab"]]
    reduce: Callable[[Float[Tensor, "n vocab"]], Float[Tensor, "n size"]]


@torch_defaults()
def fit_offsets(states: States, span: Span, seed: int) -> Float[Tensor, "2 size"]:
    """Return the offset that a label of 1 adds to logits, and the one that is always on, as
    coordinates.

        minimise  mean CE(softmax(z + y·o + d), next token) + ridge/2 · (|o|² + |d|²)

    with lengths in the coordinates of `span`. The second, `d`, takes up how the texts differ from
    what the model was trained on, as the paper's dummy steer does. Of the ridges the one that
    serves held-out texts best; then all texts at that one.

    Raises:
        ValueError: states with a single label, or of a single text.
    """
    check_states(states)
    check_labels_differ(states.labels[states.keep], "states")
    best, start = _ridge(states, span, seed)
    return _minimise(likelihood(states), states.readout.convex, span, best, start)[:, 0]


def _ridge(states: States, span: Span, seed: int) -> tuple[float, Float[Tensor, "2 1 size"]]:
    """Return the ridge that serves held-out texts best, and where the others have their minimum."""
    fitting, heldout = (likelihood(part) for part in states.split(1 - HELDOUT, seed=seed))
    start = torch.zeros(2, 1, span.size, device=states.readout.W_U.device)
    found: dict[float, tuple[float, Tensor]] = {}
    for ridge in RIDGES:
        start = _minimise(fitting, states.readout.convex, span, ridge, start)
        found[ridge] = heldout(span.expand(start[:, 0].to(states.readout.W_U)))[0], start
        if found[ridge][0] > min(loss for loss, _ in found.values()):
            break  # the loss is convex along the path: a smaller ridge only does worse
    best = min(found, key=lambda ridge: found[ridge][0])
    return best, found[best][1]


def text_moments(states: States) -> Moments:
    """Return the additive sums of some states, each position weighing the same."""
    head, total = states.readout.head, None
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y = states.labels[text.cpu()].to(c)
        part = moments(head, c, target, y, torch.ones_like(y))
        total = part if total is None else total.plus(part)
    assert total is not None  # states hold a position at least
    return total


def _minimise(
    loss: "Likelihood", convex: bool, span: Span, ridge: float, start: Float[Tensor, "2 1 size"]
) -> Float[Tensor, "2 1 size"]:
    def objective(V: Tensor) -> tuple[float, Tensor]:
        value, slope = loss(span.expand(V[:, 0].to(start)))
        gradient = span.reduce(slope).to(V)[:, None]
        return value + float(ridge / 2 * V.square().sum()), gradient + ridge * V

    ridges = torch.full((2, 1, 1), ridge, device=start.device)
    return lbfgs(objective, start, ridges, TOLERANCE, convex=convex).V.to(start)


# ---- the likelihood ----

Likelihood = Callable[[Float[Tensor, "2 vocab"]], tuple[float, Float[Tensor, "2 vocab"]]]
"""From offsets, along the label and always, to the mean NLL in nats per token and its slope."""


def likelihood(states: States) -> Likelihood:
    """Return the quickest exact likelihood of some states that memory allows."""
    if states.readout.convex and states.n_positions * states.readout.d_vocab <= KEPT:
        return reweighed(states)
    return lambda offsets: from_logits(states, offsets)


def from_logits(
    states: States, offsets: Float[Tensor, "2 vocab"]
) -> tuple[float, Float[Tensor, "2 vocab"]]:
    """Return the mean NLL and its slope by every position's logits."""
    head, (along, always) = states.readout.head, offsets
    slope, total = torch.zeros_like(offsets), 0.0
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y = states.labels[text.cpu()].to(c)
        z = apply_softcap(head, torch.addmm(head.b_U + always, c, head.W_U) + torch.outer(y, along))
        total += float(token_nll(z, target).double().sum())
        bend = softcap_gradient(head, z)
        p = torch.softmax(z, 1)
        p[torch.arange(len(p), device=p.device), target] -= 1
        p = p * bend
        slope += torch.stack([y @ p, p.sum(0)])
    return total / states.n_positions, slope / states.n_positions


class Alike(NamedTuple):
    """What the model predicts at positions of one label."""

    label: float
    p: Float[Tensor, "n vocab"]


def reweighed(states: States) -> Likelihood:
    """Return the likelihood as what offsets make of the model's own predictions, kept for all
    passes.

        p_u(v) = p(v) e^{u_v} / Z,  Z = Σ_v p(v) e^{u_v},  u = scale · (d + y·o)

    `Z` of all positions of a label is one product of a matrix and a vector, and so is the slope,
    where logits take a product of two matrices and an exponential for each of their entries.
    """
    head = states.readout.head
    alike, seen, base = [], torch.zeros(2, head.W_U.shape[1], device=head.W_U.device), 0.0
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y = states.labels[text.cpu()].to(c)
        z = apply_softcap(head, torch.addmm(head.b_U, c, head.W_U))
        base += float(token_nll(z, target).double().sum())
        seen.index_add_(1, target, torch.stack([y, torch.ones_like(y)]))
        p = torch.softmax(z, 1)
        alike += [Alike(label, p[y == label]) for label in y.unique().tolist()]
    n, scale = states.n_positions, head.scale

    def mean_nll(offsets: Float[Tensor, "2 vocab"]) -> tuple[float, Float[Tensor, "2 vocab"]]:
        total = base - scale * float((offsets.double() * seen).sum())
        slope = -seen.clone()
        for label, p in alike:
            u = scale * (offsets[1] + label * offsets[0])
            top = u.max()
            if float(top - u.min()) > EXPONENT:
                return from_logits(states, offsets)
            weight = torch.exp(u - top)
            Z = p @ weight
            total += float((Z.log() + top).double().sum())
            predicted = weight * (p.mT @ Z.reciprocal())
            slope += torch.stack([label * predicted, predicted])
        return total / n, scale / n * slope

    return mean_nll
