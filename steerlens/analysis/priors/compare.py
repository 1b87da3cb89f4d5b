"""Does it matter where a prompt starts?"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from steerlens.analysis.priors.rows import drift, posterior
from steerlens.analysis.priors.words import of_words
from steerlens.fits.prompt import fit_prompt
from steerlens.models.measure import contrast, text_nll
from steerlens.models.sites import Model, readout
from steerlens.values.intervals import bootstrap_ratio, mean_interval
from steerlens.values.labelled import Labelled
from steerlens.values.priors import Prior
from steerlens.values.prompt import Kind


def compare_priors(
    model: Model,
    train: Labelled,
    test: Labelled,
    priors: Mapping[str, Prior],
    *,
    seeds: Sequence[int] = range(5),
    length: int = 8,
    kind: Kind = "soft",
    prior_weight: float = 0.0,
    epochs: int = 10,
) -> pd.DataFrame:
    """Does it matter where a prompt starts? One fit for each prior and seed, judged on new texts.

    Args:
        priors: by name, over token embeddings.
        seeds: of start, split and order together; at least five for an interval worth having (see `over_seeds`).
        length, kind, prior_weight, epochs: as in `fit_prompt`; the weight is used where a prior has a density.

    Returns:
        One row a prior and seed: `prior`, `seed`, `start_nll` and `nll` (nats per token on `test`, at each text's label, before
        and after), `plain_nll` (without a prompt), `contrast` of the signs, `half_way` (epochs until half of the held-out gain
        was made), `seconds`; the columns of `posterior` for the rows at strength 0 against their start (`moved`, `nearest`,
        `effective_rank`, …); `drift`, their distance from their own prior, and `start_drift`.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.values.priors import isotropic
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=40, seed=0)
        >>> found = compare_priors(model, data, data, {"small": isotropic(64)}, seeds=(0,), length=2, epochs=1)
        >>> found.prior.tolist()
        ['small']
    """
    on, rows = readout(model), []
    plain = bootstrap_ratio(*text_nll(model, test, None))[0]
    for name, prior in priors.items():
        weight = prior_weight if hasattr(prior, "log_prob") else 0.0
        for seed in seeds:
            fit = fit_prompt(
                model, train, length=length, kind=kind, prior=prior, prior_weight=weight, epochs=epochs, patience=epochs,
                seed=seed, progress=False,
            )  # fmt: skip
            start = prior.sample(length, seed)
            begun = of_words(start.to(on.W_U), start.to(on.W_U), on)
            end = fit.value.rows[0]
            apart = [drift(x, {name: prior}, seed=seed).distance[0] for x in (start, end)]
            losses = [trial["heldout_nll"] for trial in fit.report.trials]
            goal = (losses[0] + min(losses)) / 2
            rows.append(
                {
                    "prior": name, "seed": seed, "start_nll": bootstrap_ratio(*text_nll(model, test, begun))[0],
                    "nll": bootstrap_ratio(*text_nll(model, test, fit.value))[0], "plain_nll": plain,
                    "contrast": contrast(model, test, fit.value).contrast,
                    "half_way": next(k for k, loss in enumerate(losses) if loss <= goal), "seconds": fit.report.seconds,
                    **posterior(model, end, start=start, seed=seed), "start_drift": apart[0], "drift": apart[1],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame, by: str = "prior") -> pd.DataFrame:
    """Mean of every number and the 95 % t interval of the mean over seeds.

    Returns:
        One row a group and number: `by`, `number`, `mean`, `low`, `high`, `seeds`.
    """
    rows = []
    for name, group in table.groupby(by, sort=False):
        for number in group.columns.drop([by, "seed"], errors="ignore"):
            values = group[number].dropna().to_numpy(float)
            mean, low, high = mean_interval(values) if len(values) else (math.nan,) * 3
            rows.append((name, number, mean, low, high, len(values)))
    return pd.DataFrame(rows, columns=[by, "number", "mean", "low", "high", "seeds"])
