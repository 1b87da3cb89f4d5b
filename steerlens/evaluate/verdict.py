"""Judge a fit by texts that it has not seen."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.stats import permute_labels, ratio_interval
from steerlens.values.losses import Measured
from steerlens.values.verdict import Verdict

NEAR = 1e-3
"""A label so near to its mirror image says what rounding says."""


def judge_heldout(
    measured: Measured,
    labels: Float[Tensor, " n_texts"],
    tokens: Int[Tensor, " n_texts"],
    mean_label: float,
    seed: int,
    copy_of: Int[Tensor, " n_texts"] | None = None,
) -> Verdict | None:
    """Return what held-out texts say of a value: its margin around the mean label, against labels
    in random order.

    None where they hold no two labels, so that no order differs from another. What a unit of label
    is worth to a text is asked at its own label and its mirror image, so that texts whose label is
    its own image do not say it: labels change hands among the others.

    Args:
        measured: the value's losses on the texts.
        mean_label: at which labels were mirrored.
        labels, tokens: of each text; those that have 0 tokens are not held out.
        copy_of: of each text the first that is the same; None: no text is there twice.
    """
    gain = measured.by_text[:, 3] - measured.by_text[:, 2]
    label, size = labels.double() - mean_label, tokens.double()
    asked = ((label.abs() > NEAR) & (size > 0)).double()
    worth = gain * asked / torch.where(asked > 0, label, 1.0)
    if copy_of is not None:
        worth, _, asked = copies_as_one(copy_of, worth, label, asked)
        _, label, size = copies_as_one(copy_of, gain, label, size)
    there = size > 0
    y, units, worth, asked = (x[there].numpy() for x in (label, size, worth, asked))
    known = asked > 0
    if len(np.unique(y[known])) < 2:
        return None
    found = permute_labels(worth[None, known], y[known], seed=seed)
    gains, varied = np.zeros_like(y), np.zeros_like(y)
    gains[known] = found.gains[0]
    varied[known] = (y[known] - y[known].mean()) ** 2 * units[known]
    margin, low, high = ratio_interval(gains, units, variance=varied, seed=seed)
    return Verdict(margin, low, high, found.p, sum(measured.kl) / 2, len(y), "held-out")


def copies_as_one(
    copy_of: Int[Tensor, " n_texts"],
    gains: Float[Tensor, "*ways n_texts"],
    labels: Float[Tensor, " n_texts"],
    tokens: Float[Tensor, " n_texts"],
) -> tuple[Float[Tensor, "*ways n_texts"], Float[Tensor, " n_texts"], Float[Tensor, " n_texts"]]:
    """Put what copies of a text say at the first of them: the mean of it, of their labels and of
    their tokens.

    Copies are no evidence of their own: labels in random order must not part them, and a text that
    is there ten times (a rare label's, to make it as frequent as the other) weighs no more than one
    that is there once, or few texts would pass for many. Texts without tokens do not count, and
    copies have none afterwards.
    """

    def total(x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_add_(-1, copy_of, x)

    there = (tokens > 0).to(labels)
    n = total(there).clamp_min(1)
    return total(gains) / n, total(labels * there) / n, total(tokens) / n
