"""What any intervention is worth and what it costs, measured the same way for all."""

import math
from collections.abc import Mapping

import pandas as pd

from steerlens.evaluate.matched_kl import check_kl
from steerlens.evaluate.sign_margin import (
    kl_on_texts,
    margin_interval,
    sign_margin,
    strength_on_texts,
)
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.evaluate.spend import spend
from steerlens.evaluate.verbs import cost_on, given_margins
from steerlens.evaluate.writer import Method, Writer, check_base, method_of
from steerlens.maths.brief import brief
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.values.arguments import check_labelled
from steerlens.values.fit import Fit
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled


@torch_defaults()
def compare(
    model: Model,
    interventions: Mapping[str, Method | Fit],
    test: Labelled,
    *,
    kl: float = 0.05,
) -> pd.DataFrame:
    """Return what each intervention is worth at the same cost.

    So none looks better by being stronger. What the methods *write* at the same cost, with
    controls, fluency and price, is `compare_writing`.

    Args:
        interventions: by name; writers too, those of one side excepted.
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
    if not isinstance(interventions, Mapping) or not interventions:
        raise ValueError(
            f"interventions: got {brief(interventions)}, expected at least one by name, e.g. {{'steer': joy}}"
        )
    check_labelled(test, "test")
    check_kl(kl)
    methods = {name: _named(name, given) for name, given in interventions.items()}
    sample = test.first(100)
    rows = []
    for name, value in methods.items():
        if isinstance(value, Writer) and not isinstance(value, Intervention):
            rows.append({"name": name, **_of_writer(model, value, test, sample, kl)})
            continue
        idle = is_idle(model, value, sample)
        strength = math.nan if idle else strength_on_texts(model, sample, value, kl=kl)
        found = sign_margin(model, test, value, strength=0.0 if idle else strength)
        rows.append(
            {"name": name, **dict(found[["sign_margin", "low", "high"]]), "strength": strength}
        )
    return pd.DataFrame(rows)


def is_idle(model: Model, value: Intervention, sample: Labelled) -> bool:
    """Return whether an intervention does nothing in some texts, such as a fit that found nothing
    better than nothing: it costs nothing at any strength."""
    few = sample.first(5)  # mostly enough to see that it is not
    return all(kl_on_texts(model, texts, value, strength=1.0) == 0 for texts in (few, sample))


def _named(name: str, given: object) -> Method:
    try:
        return method_of(given)
    except ValueError as error:
        raise ValueError(f"interventions[{name!r}]: {error}") from None


def _of_writer(
    model: Model, writer: Writer, test: Labelled, sample: Labelled, kl: float
) -> dict[str, float]:
    check_base(writer, model)
    cost = cost_on(model, writer, sample)
    spent = spend(lambda s: (cost(s) + cost(-s)) / 2, kl)
    if spent.note:
        raise ValueError(
            f"kl: {writer.name!r} {spent.note}; compare_writing holds such methods at what they can"
        )
    signed = with_nonzero_label(test)
    margins, tokens = given_margins(model, writer, signed, strength=spent.strength)
    found = margin_interval(margins, tokens, signed)
    return dict(zip(("sign_margin", "low", "high"), found, strict=True)) | {
        "strength": spent.strength
    }
