"""ReFT by size and by task: numbers fitted against quality, parts of one subspace against the
whole."""

import time
from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.reft.fit import fit_reft
from steerlens.methods.reft.formulas import Variant
from steerlens.methods.reft.reft import Reft
from steerlens.methods.steer.fit import fit_steer
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.training import USUAL, Training


@torch_defaults()
def reft_quality(
    model: Model,
    train: Labelled,
    test: Labelled,
    *,
    variants: Sequence[Variant] = ("loreft",),
    ranks: Sequence[int] = (1, 2, 4, 8),
    layers: Sequence[int | tuple[int, ...]] = (0,),
    kl: float = 0.05,
    training: Training = USUAL,
    seed: int = 0,
) -> pd.DataFrame:
    """Set the quality of ReFT and of steers against how many numbers are fitted.

    ReFT of several ranks, layers and variants, beside steers of the same ranks.

    All are held at the same cost, so that none looks better by being stronger. Over no background.

    Args:
        model: unchanged afterwards.
        train, test: labelled texts, no text in both.
        variants, ranks, layers: of ReFT, each with each; the steers have the same ranks.
        kl: nats per token that each may cost, mean of both signs, on a sample of `test`.
        training: of every ReFT.
        seed: of all fits.

    Returns:
        One row per method, layer and rank: `method`, `layers` ("unembedding" for steers), `rank`,
        `parameters`, `sign_margin` at
        equal KL with `low` and `high` (see `sign_margin`), `strength` that costs as much, `seconds`
        of the fit.
    """
    started = time.perf_counter()
    states = collect(model, train, progress=False)
    fit = fit_steer(states, seed=seed, progress=False)
    metric = natural_metric(states.sample(16_384, seed=seed), damping=fit.report.damping or 0.0)
    spent, d = time.perf_counter() - started, states.d_model
    values: list[Intervention] = []
    rows = []
    for rank in [*ranks, d]:
        values.append(fit.value if rank == d else fit.value.truncate(rank, metric))
        rows.append(("steer", "unembedding", rank, min(2 * d * rank, d * d), spent))
    for variant, at in product(variants, layers):
        for rank in ranks if variant != "r1" else (1,):
            one = fit_reft(
                model,
                train,
                variant=variant,
                layers=at,
                rank=rank,
                training=training,
                seed=seed,
                progress=False,
            )
            values.append(one.value)
            named = ", ".join(map(str, one.value.layers))
            rows.append((variant, named, rank, one.value.n_parameters, one.report.seconds))
    about = pd.DataFrame(rows, columns=["method", "layers", "rank", "parameters", "seconds"])
    found = compare(model, {str(k): value for k, value in enumerate(values)}, test, kl=kl)
    order = [
        "method",
        "layers",
        "rank",
        "parameters",
        "sign_margin",
        "low",
        "high",
        "strength",
        "seconds",
    ]
    return pd.DataFrame(pd.concat([about, found], axis=1)[order])


@torch_defaults()
def composition(
    model: Model,
    parts: Mapping[str, Reft | Fit[Reft]],
    whole: Reft | Fit[Reft],
    tests: Mapping[str, Labelled],
) -> pd.DataFrame:
    """Measure what parts of one subspace are worth alone and together, on the texts of each task.

    Args:
        parts, whole: from `fit_reft_tasks`.
        tests: labelled texts of each task, by the same names.

    Returns:
        One row per edit (each part, and "together") and task: `edit`, `task`, `sign_margin`, `low`,
        `high`. The whole is as good as its parts where its row on a task is that of the task's own
        part; a part that says something of the other task is not separate from it.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.methods.reft.fit import fit_reft_tasks
        >>> model = sl.load_model("toy-64")
        >>> tasks = {name: sl.toy.corpus(name, n=60, seed=0) for name in ("sentiment", "tone")}
        >>> fit, parts = fit_reft_tasks(model, tasks, rank=2, training=Training(epochs=1), progress=False)
        >>> len(composition(model, parts, fit.value, tasks))
        6
    """
    if set(parts) != set(tests):
        raise ValueError(
            f"tests: got {sorted(tests)}, expected the tasks of the parts, {sorted(parts)}"
        )
    rows = []
    for name, edit in [*parts.items(), ("together", whole)]:
        for task, data in tests.items():
            found = sign_margin(model, data, value_of(edit))
            rows.append({"edit": name, "task": task, **dict(found[["sign_margin", "low", "high"]])})
    return pd.DataFrame(rows)
