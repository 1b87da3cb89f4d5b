"""What any intervention is worth and what it costs, measured the same way for all."""

import math
from collections.abc import Mapping

import pandas as pd

from steerlens.evaluate.sign_margin import kl_at_strength, sign_margin, strength_at_kl
from steerlens.models.hooks import Model
from steerlens.values.fit import Fit
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled


def compare(
    model: Model,
    interventions: Mapping[str, Intervention | Fit],
    test: Labelled,
    *,
    kl: float = 0.05,
) -> pd.DataFrame:
    """Return what each intervention is worth at the same cost.

    So none looks better by being stronger.

    Args:
        interventions: by name.
        test: labelled texts that none was fitted to; the cost is measured on the first hundred.
        kl: nats per token, mean of both signs.

    Returns:
        One row each: `name`, `sign_margin` with `low` and `high` (see `sign_margin`), `strength`
            that costs as much. What does
        nothing at any strength has none (NaN) and sign margin 0.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> table = compare(model, {"steer": tone, "doubled": 2 * tone}, data)
        >>> [round(float(ratio), 3) for ratio in table.strength / table.strength[0]]
        [1.0, 0.5]
    """
    sample, few = test.first(100), test.first(5)
    rows = []
    for name, value in interventions.items():
        # a fit that found nothing better than nothing costs nothing at any strength
        idle = kl_at_strength(model, few, value, strength=1.0) == 0
        strength = math.nan if idle else strength_at_kl(model, sample, value, kl=kl)
        found = sign_margin(model, test, value, strength=0.0 if idle else strength)
        rows.append(
            {"name": name, **dict(found[["sign_margin", "low", "high"]]), "strength": strength}
        )
    return pd.DataFrame(rows)
