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
    fitting, heldout = states.split(1 - HELDOUT, seed=seed)
    start = torch.zeros(2, 1, span.size, device=states.readout.W_U.device)
    found: dict[float, tuple[float, Tensor]] = {}
    for ridge in RIDGES:
        start = _minimise(fitting, span, ridge, start)
        found[ridge] = _objective(heldout, span, start)[0], start
        if found[ridge][0] > min(loss for loss, _ in found.values()):
            break  # the loss is convex along the path: a smaller ridge only does worse
    best = min(found, key=lambda ridge: found[ridge][0])
    return _minimise(states, span, best, found[best][1])[:, 0]


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
    states: States, span: Span, ridge: float, start: Float[Tensor, "2 1 size"]
) -> Float[Tensor, "2 1 size"]:
    def objective(V: Tensor) -> tuple[float, Tensor]:
        loss, gradient = _objective(states, span, V)
        return loss + float(ridge / 2 * V.square().sum()), gradient + ridge * V

    ridges = torch.full((2, 1, 1), ridge, device=start.device)
    convex = states.readout.convex
    return lbfgs(objective, start, ridges, TOLERANCE, convex=convex).V.to(start)


def _objective(
    states: States, span: Span, V: Float[Tensor, "2 1 size"]
) -> tuple[float, Float[Tensor, "2 1 size"]]:
    """Return the mean NLL in nats per token and its gradient in the coordinates."""
    head = states.readout.head
    along, always = span.expand(V[:, 0].to(head.W_U))
    slope = torch.zeros(2, head.W_U.shape[1], dtype=V.dtype, device=head.W_U.device)
    total = 0.0
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y = states.labels[text.cpu()].to(c)
        z = apply_softcap(head, torch.addmm(head.b_U + always, c, head.W_U) + torch.outer(y, along))
        total += float(token_nll(z, target).double().sum())
        bend = softcap_gradient(head, z)
        p = torch.softmax(z, 1)
        p[torch.arange(len(p), device=p.device), target] -= 1
        p = p * bend
        slope += torch.stack([y @ p, p.sum(0)]).to(slope)
    n = states.n_positions
    return total / n, span.reduce((slope / n).to(head.W_U)).to(V)[:, None]
