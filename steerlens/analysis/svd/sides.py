"""The two sides of a singular direction: what words score on each, by logits or on a text."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.svd.directions import Directions
from steerlens.maths.logits import logits, softcap_gradient
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer


class Side(NamedTuple):
    """One side of a direction: a score a word, the share of contexts there, and which sign of the
    reading it is."""

    name: str
    reads: Float[Tensor, " words"]
    writes: Float[Tensor, " words"]
    used: float | None = None
    sign: int = 1


def logit_sides(found: Directions, on: Readout, columns: list[int]) -> list[tuple[Side, Side]]:
    """Return both sides of each direction, words scored by their logits alone."""
    E = on.scale * on.W_U[:, columns].double().cpu()
    sides = []
    for gain, read, write in zip(found.gains, found.reads @ E, found.writes @ E, strict=True):
        reads, writes = read - read.mean(), gain * (write - write.mean())
        size = writes.abs()
        # of words that are as strong, up to rounding, the first decides
        sign = 1.0 if writes[(size >= size.max() * (1 - 1e-9)).nonzero()[0, 0]] >= 0 else -1.0
        sides.append(
            (Side("+", sign * reads, sign * writes), Side("-", -sign * reads, -sign * writes))
        )
    return sides


def logit_features(on: Readout, columns: list[int], picked: list[int]) -> Float[Tensor, "picked d"]:
    """Return some words' `x` before the metric: their output embeddings less the mean word's."""
    W_U = on.scale * on.W_U.double().cpu()
    return (W_U[:, picked] - W_U[:, columns].mean(1, keepdim=True)).mT


def text_sides(
    found: Directions, steer: Steer, seen: list, columns: list[int]
) -> list[tuple[Side, Side]]:
    """Return both sides of each direction, words scored by what happens on a text."""
    head, rank = steer.readout.head, len(found.gains)
    probes = found.probes.to(head.W_U)
    shift = (found.gains[:, None] * found.writes).to(head.W_U) @ head.W_U
    count, total = torch.zeros(2, rank, 1), torch.zeros(rank, 1)
    with_reading = torch.zeros(rank, len(columns))
    q, change = torch.zeros(2, 2, rank, len(columns)).unbind()
    for c, _, _ in seen:
        c = c.to(head.W_U.device)
        z = logits(head, c)
        p, reading = torch.softmax(z, 1), c @ probes.mT
        bent = p * softcap_gradient(
            head, z
        )  # what a small shift moves is behind scale and soft cap
        surplus = bent @ shift.mT  # what each direction adds to a mean logit
        total += reading.sum(0)[:, None].cpu()
        with_reading += (reading.mT @ p[:, columns]).cpu()
        for side, sign in enumerate((1, -1)):
            on = (sign * reading > 0).to(p)
            weight = on * reading
            count[side] += on.sum(0)[:, None].cpu()
            q[side] += (on.mT @ p[:, columns]).cpu()
            change[side] += (
                shift[:, columns] * (weight.mT @ bent[:, columns])
                - (weight * surplus).mT @ p[:, columns]
            ).cpu()
    n = count.sum(0)
    p = (q.sum(0) / n).double()
    reads = ((with_reading - total * p.float()) / n).double() / p.clamp_min(1e-12).sqrt()
    q, change = ((x / count.clamp_min(1)).double() for x in (q, change))
    writes = change / q.clamp_min(1e-12).sqrt()
    used = (count / n).squeeze(2)
    effect = used * writes.square().sum(2)
    sides = []
    for k in range(rank):
        both = [
            Side("", s * reads[k], writes[i, k], float(used[i, k]), s)
            for i, s in enumerate((1, -1))
        ]
        first, second = both if effect[0, k] >= effect[1, k] else both[::-1]
        sides.append((first._replace(name="+"), second._replace(name="-")))
    return sides


class TextSeen(NamedTuple):
    """What a text needs to show of some words: contexts, mean output embeddings and the words'
    probabilities there.

    With the slope of scale and soft cap in `mean`, and in `bent`: the probabilities times the
    slope.
    """

    c: Float[Tensor, "n d"]
    mean: Float[Tensor, "n d"]
    p: Float[Tensor, "n picked"]
    bent: Float[Tensor, "n picked"]


def look(steer: Steer, seen: list, picked: list[int]) -> TextSeen:
    """Return what a text needs to show of some words, by one pass over its states."""
    head = steer.readout.head
    parts = []
    for c, _, _ in seen:
        z = logits(head, c.to(head.W_U.device))
        p = torch.softmax(z, 1)
        bent = p * softcap_gradient(head, z)
        mean = (bent @ head.W_U.mT).double().cpu()
        parts.append(
            (c.double(), mean, p[:, picked].double().cpu(), bent[:, picked].double().cpu())
        )
    return TextSeen(*(torch.cat(column) for column in zip(*parts, strict=True)))


def text_features(
    probe: Float[Tensor, " d"],
    side: Side,
    role: str,
    steer: Steer,
    text: TextSeen,
    rows: list[int],
    ids: list[int],
) -> Float[Tensor, "words d"]:
    """Return some words' `x` before the metric: `score = probe · x`, or `gain · write · x`."""
    p = text.p[:, rows]
    if role == "reads":
        covariance = (p - p.mean(0)).mT @ text.c / len(p)
        return side.sign * covariance / p.mean(0).clamp_min(1e-12).sqrt()[:, None]
    reading = text.c @ probe
    on = side.sign * reading > 0
    weight, n = torch.where(on, reading, 0.0), max(int(on.sum()), 1)
    E = steer.readout.W_U[:, ids].double().cpu().mT
    change = ((weight @ text.bent[:, rows])[:, None] * E - (weight[:, None] * p).mT @ text.mean) / n
    return change / (on.double() @ p / n).clamp_min(1e-12).sqrt()[:, None]
