"""Judge a fit by texts that it has not seen."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import numpy_generator
from steerlens.maths.stats import permute_labels, ratio_interval
from steerlens.values.verdict import Verdict

NEAR = 1e-3
"""A label so near to its mirror image says what rounding says."""


class Heldout(NamedTuple):
    """What held-out texts say of values of which they chose one: the nats of each text at its own
    label and at its mirror image, by value.

    `labels` are less the one at which they were mirrored; texts with 0 tokens are not held out;
    `copy_of`: of each text one that stands for all that are the same, None: none is there twice.
    """

    right: Float[Tensor, "values n_texts"]
    wrong: Float[Tensor, "values n_texts"]
    labels: Float[Tensor, " n_texts"]
    tokens: Int[Tensor, " n_texts"]
    copy_of: Int[Tensor, " n_texts"] | None = None


def judge_heldout(heard: Heldout, kl: float, seed: int) -> Verdict | None:
    """Return what held-out texts say of a value: its margin around the mean label, against labels
    in random order.

    Whoever takes the best of many values by some texts finds it better there than it is. So each
    half of the texts judges the value that the other half would have taken, at the least NLL; and
    the p-value is of the largest of all values' margins. Of one value all texts judge it.

    None where they hold no two labels, so that no order differs from another. What a unit of label
    is worth to a text is asked at its own label and its mirror image, so that texts whose label is
    its own image do not say it: labels change hands among the others.

    Args:
        kl: what the value costs, nats per token; it is only passed on.
        seed: of the orders and the halves.
    """
    label, size = heard.labels.double(), heard.tokens.double()
    asked = ((label.abs() > NEAR) & (size > 0)).double()
    worth = (heard.wrong - heard.right) * asked / torch.where(asked > 0, label, 1.0)
    right = heard.right
    if heard.copy_of is not None:
        worth, _, asked = copies_as_one(heard.copy_of, worth, label, asked)
        right, label, size = copies_as_one(heard.copy_of, right, label, size)
    there = size > 0
    y, units, worth, asked, right = (
        x[..., there].numpy() for x in (label, size, worth, asked, right)
    )
    known = asked > 0
    if len(np.unique(y[known])) < 2:
        return None
    found = permute_labels(worth[:, known], y[known], seed=seed)
    gains, varied = np.zeros(worth.shape), np.zeros_like(y)
    gains[:, known] = found.gains
    varied[known] = (y[known] - y[known].mean()) ** 2 * units[known]
    margin, low, high = ratio_interval(
        _unchosen(gains, right, seed), units, variance=varied, seed=seed
    )
    return Verdict(margin, low, high, found.p, kl, len(y), "held-out")


def _unchosen(
    gains: Float[np.ndarray, "values n"], nats: Float[np.ndarray, "values n"], seed: int
) -> Float[np.ndarray, " n"]:
    """Return what each text gains by the value that the other half of the texts would have
    taken."""
    order = numpy_generator(seed).permutation(len(nats[0]))
    parts, found = (order[::2], order[1::2]), gains[0].copy()
    for here, there in (parts, parts[::-1]):
        if len(there):
            found[here] = gains[nats[:, there].sum(1).argmin(), here]
    return found


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
