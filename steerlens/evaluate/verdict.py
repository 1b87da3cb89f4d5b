"""Judge a fit by texts that it has not seen."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.stats import permute_labels, ratio_interval
from steerlens.values.losses import Measured
from steerlens.values.verdict import Verdict


def judge_heldout(
    measured: Measured,
    labels: Float[Tensor, " n_texts"],
    tokens: Int[Tensor, " n_texts"],
    mean_label: float,
    seed: int,
) -> Verdict | None:
    """Return what held-out texts say of a value: its margin around the mean label, against labels
    in random order.

    None where they hold no two labels, so that no order differs from another.

    Args:
        measured: the value's losses on the texts.
        labels, tokens: of each text; those that have 0 tokens are not held out.
    """
    there = tokens > 0
    y, units = (labels[there] - mean_label).double().numpy(), tokens[there].double().numpy()
    if len(y) < 2 or (y == y[0]).all():
        return None
    gains = (measured.by_text[there, 3] - measured.by_text[there, 2]).numpy()
    # what a unit of label is worth in a text; at the mean label it is not known, and multiplied by
    # nothing
    worth = np.divide(gains, y, out=np.zeros_like(gains), where=np.abs(y) > 1e-9)
    found = permute_labels(worth[None], y, seed=seed)
    margin, low, high = ratio_interval(gains, units, seed=seed)
    return Verdict(margin, low, high, found.p, sum(measured.kl) / 2, len(y), "held-out")
