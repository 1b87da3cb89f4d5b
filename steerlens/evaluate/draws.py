"""Methods fitted to several draws of texts, compared at the same cost, text by text."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from steerlens.evaluate.compare import is_idle
from steerlens.evaluate.matched_kl import check_kl
from steerlens.evaluate.sign_margin import (
    margin_interval,
    strength_on_texts,
    text_nll,
)
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.maths.brief import brief
from steerlens.maths.stats import even_weights
from steerlens.models.hooks import Model
from steerlens.values.arguments import check_labelled
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled


def compare_draws(
    model: Model,
    fits: Mapping[str, Sequence[Intervention | Fit]],
    test: Labelled,
    *,
    against: str,
    kl: float = 0.05,
) -> pd.DataFrame:
    """Return what methods are worth at the same cost, mean over draws of the texts that they were
    fitted to, and how far each is from one of them.

    All are judged by the same texts, so what a text says of two methods is compared within the text:
    the interval of a difference is narrower than those of both.

    Args:
        fits: by name, one per draw, each list in the order of the draws.
        test: labelled texts that none was fitted to; the cost is measured on the first hundred.
        against: the name that differences are taken from.
        kl: nats per token, mean of both signs.

    Returns:
        One row each: `name`, `sign_margin` (see `sign_margin`) in nats per token, mean over draws,
            with its 95 % interval over texts `low`, `high`; `difference` from `against`, `difference_low`,
            `difference_high`; `least` and `most` of the draws; `strength`, mean of those that cost
            `kl`. What does nothing at any strength has margin 0.

    Raises:
        ValueError: a name in `against` that is none of them, or methods with unequal numbers of
            draws.

    Example:
        >>> import steerlens as sl
        >>> model, test = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=9)
        >>> steers = [sl.fit_steer(model, sl.toy.corpus("tone", n=60, seed=k), progress=False) for k in (0, 1)]
        >>> table = compare_draws(model, {"steer": steers, "double": [2 * s for s in steers]}, test, against="steer")
        >>> bool(abs(table.difference).max() < 1e-3 * table.sign_margin.max())
        True
    """
    sizes = {name: len(values) for name, values in fits.items()}
    if against not in fits or len(set(sizes.values())) != 1 or not sizes[against]:
        raise ValueError(
            f"against, fits: got {brief(against)} and draws {sizes}, "
            "expected one of these names, and as many draws of each"
        )
    check_labelled(test, "test")
    check_kl(kl)
    signed, sample = with_nonzero_label(test), test.first(100)
    gains: dict[str, np.ndarray] = {}
    strengths: dict[str, float] = {}
    tokens = np.zeros(0)
    for name, values in fits.items():
        rows, at = [], []
        for given in values:
            value = value_of(given)
            idle = is_idle(model, value, sample)
            strength = 0.0 if idle else strength_on_texts(model, sample, value, kl=kl)
            (right, tokens), (wrong, _) = (
                text_nll(model, signed, value, strength=sign * strength) for sign in (1, -1)
            )
            rows.append(wrong - right)
            at.append(math.nan if idle else strength)
        gains[name], strengths[name] = np.stack(rows), _mean_of_known(at)
    table, weight = [], even_weights(tokens, np.array(signed.labels))
    for name, each in gains.items():
        mean, by_draw = each.mean(0), each @ weight / (tokens @ weight)
        margin, low, high = margin_interval(mean, tokens, signed)
        off, off_low, off_high = margin_interval(mean - gains[against].mean(0), tokens, signed)
        table.append(
            {
                "name": name, "sign_margin": margin, "low": low, "high": high, "difference": off,
                "difference_low": off_low, "difference_high": off_high, "least": by_draw.min(), "most": by_draw.max(),
                "strength": strengths[name],
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def _mean_of_known(values: Sequence[float]) -> float:
    """Return the mean of what is a number; NaN where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
