"""Losses of a steer and its background on states, four ways, from one pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, readings
from steerlens.values.losses import Losses, Measured
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground

CHUNK = 256


class Ways(NamedTuple):
    """Some positions, and their logits in a part of the vocabulary, six ways: plain, with the
    background, at the text's own label and at its opposite (both over the background), and at
    strengths +1 and -1 without it; before `post`."""

    target: Int[Tensor, " n"]
    text: Int[Tensor, " n"]
    logits: Callable[[UnembedWeights], Sequence[Float[Tensor, "n words"]]]


def tally(
    head: UnembedWeights,
    ways: Iterable[Ways],
    labels: Float[Tensor, " n_texts"],
    n: Int[Tensor, " n_texts"],
) -> Measured:
    """Return the mean NLL in nats per token, four ways, and KL, every position weighing the same.

    `n` is the number of positions of each text.
    """
    sums = torch.zeros(len(labels), 4, dtype=torch.float64)
    kl = torch.zeros(2, dtype=torch.float64)
    for way in ways:
        found = readings(head, way.target, way.logits, others=2)
        sums.index_add_(0, way.text.cpu(), found.nll[:4].mT.double().cpu())
        kl += found.kl.sum(1).double().cpu()
    by_label = {}
    for label in labels[n > 0].unique().tolist():
        rows = (n > 0) & (labels == label)
        by_label[label] = Losses(*(sums[rows].sum(0) / n[rows].sum()).tolist())
    up, down = (kl / n.sum()).tolist()
    return Measured(Losses(*(sums.sum(0) / n.sum()).tolist()), by_label, (up, down), sums)


def measure(
    states: States,
    steer: Steer,
    background: Steer,
    *,
    strength: float = 1.0,
    mean_label: float = 0.0,
) -> Measured:
    """Return the mean NLL in nats per token: base, background, steered and flipped.

    Every position weighs the same.

    A label `y` asks for `y · strength`, flipped for `(2 · mean_label − y) · strength`. Three
    products with `W_U` per chunk serve all six distributions.
    """
    head = states.readout.head

    def ways() -> Iterator[Ways]:
        for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
            right = strength * states.labels[text.cpu()].to(c)[:, None]
            wrong, behind, ahead = 2 * strength * mean_label - right, c @ background.W, c @ steer.W

            def logits(
                part: UnembedWeights, given: tuple[Tensor, Tensor, Tensor] = (c, behind, ahead),
                signs: tuple[Tensor, Tensor] = (right, wrong),
            ) -> list[Tensor]:  # fmt: skip
                c, behind, ahead = given
                z = torch.addmm(part.b_U, c, part.W_U)
                over, along = torch.addmm(z, behind, part.W_U), ahead @ part.W_U
                return [z, over, *(over + sign * along for sign in signs), z + along, z - along]

            yield Ways(target, text, logits)

    return tally(head, ways(), states.labels, states.lengths * states.keep)


def sign_margins(
    states: States, steers: Sequence[Steer], background: Steer
) -> Float[Tensor, "n_steers n_texts"]:
    """Return each text's summed NLL with the steer's sign turned, less that with the right sign.

    One pass for all steers.
    """
    head = states.readout.head
    total = torch.zeros(len(steers), len(states.labels), dtype=torch.float64)
    for c, target, text in states.chunks(CHUNK, device=head.W_U.device):
        y, over = states.labels[text.cpu()].to(c)[:, None], c + c @ background.W

        def ways(
            part: UnembedWeights, c: Tensor = c, y: Tensor = y, over: Tensor = over
        ) -> list[Tensor]:
            z = over @ part.W_U + part.b_U
            alongs = [y * ((c @ steer.W) @ part.W_U) for steer in steers]
            return [z - along for along in alongs] + [z + along for along in alongs]

        wrong, right = readings(head, target, ways).nll.double().cpu().chunk(2)
        total.index_add_(1, text.cpu(), wrong - right)
    return total


def kl_at_strengths(
    states: States, steer: Steer | SteerWithBackground, strengths: Sequence[float]
) -> Float[Tensor, " n_strengths"]:
    """Return KL(p_0 ‖ p_s) at each strength, mean over the positions, nats per token.

    A background belongs to p_0 too.
    """
    head = states.readout.head
    over = steer.background if isinstance(steer, SteerWithBackground) else None
    line = steer.steer if isinstance(steer, SteerWithBackground) else steer
    total = torch.zeros(len(strengths), dtype=torch.float64)
    for c, target, _ in states.chunks(CHUNK, device=head.W_U.device):
        start, ahead = c if over is None else c + c @ over.W, c @ line.W

        def ways(
            part: UnembedWeights, start: Tensor = start, ahead: Tensor = ahead
        ) -> list[Tensor]:
            z, along = start @ part.W_U + part.b_U, ahead @ part.W_U
            return [z, *(z + s * along for s in strengths)]

        total += readings(head, target, ways, others=len(strengths)).kl.double().sum(1).cpu()
    return total / states.n_positions
