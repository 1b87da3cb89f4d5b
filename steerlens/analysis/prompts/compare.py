"""Does it matter where a prompt starts?"""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd
from tqdm.auto import tqdm

from steerlens.analysis.prompts.rows import drift, embedding_geometry
from steerlens.analysis.prompts.words import of_words
from steerlens.evaluate.sign_margin import nll, sign_margin
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.maths.stats import mean_interval
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.prompt.fit import fit_prompt
from steerlens.methods.prompt.priors import Prior
from steerlens.methods.prompt.soft_prompt import Kind
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.progress import hidden
from steerlens.values.training import Training


@torch_defaults()
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
    progress: bool = True,
) -> pd.DataFrame:
    """Fit once for each prior and seed, and judge on new texts.

    Does it matter where a prompt starts?

    Args:
        train, test: labelled texts, no text in both.
        priors: by name, over token embeddings.
        seeds: of start, split and order together; at least five for an interval worth having (see
            `over_seeds`).
        length, kind, prior_weight, epochs: as in `fit_prompt`; the weight is used where a prior has
            a density.
        progress: show a bar of fits.

    Returns:
        One row per prior and seed: `prior`, `seed`; `start_nll` and `nll`, before and after (nats
        per token, texts of `test`
        that have a sign, at each one's label), `plain_nll` (without a prompt), `sign_margin` of the
        signs; `half_way` (epochs until half of the held-out gain was made), `seconds`; the columns
        of `embedding_geometry` for the rows at strength 0 against their start (`moved`, `nearest`,
        `effective_rank`, …); `drift`, their distance from their own prior, and `start_drift`.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.methods.prompt.priors import isotropic
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=40, seed=0)
        >>> found = compare_priors(model, data, data, {"small": isotropic(64)}, seeds=(0,), length=2, epochs=1, progress=False)
        >>> found.prior.tolist()
        ['small']
    """
    on, rows = readout(model), []
    some = with_nonzero_label(test)
    plain = nll(model, some, None)
    plan = list(product(priors.items(), seeds))
    for (name, prior), seed in tqdm(
        plan, unit="fit", desc="compare_priors", disable=hidden(progress)
    ):
        fit = fit_prompt(
            model, train, length=length, kind=kind, prior=prior,
            prior_weight=prior_weight if hasattr(prior, "log_prob") else 0.0,
            training=Training(epochs=epochs, patience=epochs), seed=seed, progress=False,
        )  # fmt: skip
        start, end = prior.sample(length, seed), fit.value.rows[0]
        begun = of_words(start.to(on.W_U), start.to(on.W_U), on)
        apart = [drift(x, {name: prior}, seed=seed).distance[0] for x in (start, end)]
        losses = [trial["heldout_nll"] for trial in fit.report.trials]
        goal = (losses[0] + min(losses)) / 2
        worth = sign_margin(model, test, fit.value)
        rows.append(
            {
                "prior": name, "seed": seed, "start_nll": nll(model, some, begun), "nll": worth.nll, "plain_nll": plain,
                "sign_margin": worth.sign_margin, "half_way": next(k for k, loss in enumerate(losses) if loss <= goal),
                "seconds": fit.report.seconds, **embedding_geometry(model, end, start=start, seed=seed), "start_drift": apart[0],
                "drift": apart[1],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@torch_defaults()
def over_seeds(table: pd.DataFrame, by: str = "prior") -> pd.DataFrame:
    """Return the mean of every number and the 95 % t interval of the mean over seeds.

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
