"""What any intervention is worth and what it costs, measured the same way for all."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from steerlens.fits.reft import fit_reft
from steerlens.fits.steer import fit_steer, natural_metric
from steerlens.maths.reft import Variant
from steerlens.models.collect import collect
from steerlens.models.score import state_log_probs
from steerlens.models.sites import Model
from steerlens.values.calibrate import strength_at
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.losses import kl_from
from steerlens.values.reft import Reft
from steerlens.values.states import States

CHUNK = 1024
DRAWS = 1_000
"""Bootstrap samples of the texts behind an interval."""


def contrast(model: Model, data: Labelled, intervention: Intervention, *, strength: float = 1.0) -> pd.Series:
    """What the sign of an intervention is worth on labelled texts: NLL at the wrong sign less that at the right one.

        Σ_texts (NLL at −s·y − NLL at s·y) / Σ_texts tokens        nats per token

    Two passes of the model; texts with label 0 have no sign and do not count.

    Returns:
        `contrast`, its 95 % interval over texts `low`, `high`, and `texts`.

    Raises:
        ValueError: no text has a sign.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=300, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> bool(contrast(model, sl.toy.corpus("tone", n=100, seed=1), tone).contrast > 0)
        True
    """
    signed = _signed(data)
    right, wrong = (
        _nll(
            collect(
                model,
                signed,
                intervention=intervention,
                strength=[sign * strength * y for y in signed.labels],
                progress=False,
            )
        )
        for sign in (1, -1)
    )
    n = right[1].double().numpy()
    gained = (wrong[0] - right[0]).double().numpy()
    pick = np.random.default_rng(0).integers(0, len(n), (DRAWS, len(n)))
    low, high = np.quantile(gained[pick].sum(1) / n[pick].sum(1), [0.025, 0.975])
    return pd.Series({"contrast": gained.sum() / n.sum(), "low": low, "high": high, "texts": float(len(n))})


def kl_cost(
    model: Model, data: Labelled | Sequence[str], intervention: Intervention, *, strength: float = 1.0
) -> float:
    """KL(at strength 0 ‖ under the intervention), mean over the positions of a text and over both signs, nats per token.

    Three passes of the model; for a steer `calibrate` and `strength_cost` need none.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> kl_cost(model, data, sl.fit_steer(sl.collect(model, data, progress=False)).value, strength=0.0)
        0.0
    """
    plain = collect(model, data, intervention=intervention, strength=0.0, progress=False)
    return _cost(model, data, intervention, strength, plain)


def _cost(
    model: Model, data: Labelled | Sequence[str], intervention: Intervention, strength: float, plain: States
) -> float:
    head = plain.readout.head
    total = 0.0
    for sign in (1, -1):
        moved = collect(model, data, intervention=intervention, strength=sign * strength, progress=False)
        for a, b in zip(plain.chunks(CHUNK), moved.chunks(CHUNK), strict=True):
            z, other = (x.hidden.to(head.W_U.device) @ head.W_U + head.b_U for x in (a, b))
            total += float(kl_from(head, z, other).double().sum()) / 2
    return total / plain.n_positions


def strength_for_kl(
    model: Model, data: Labelled | Sequence[str], intervention: Intervention, *, kl: float = 0.05
) -> float:
    """The strength at which any intervention costs `kl` nats per token: `calibrate` for what is no steer.

    Some twenty passes of the model, more where the cost is far from a square; a hundred texts are plenty. Where the cost does
    not grow steadily with the strength, one of the strengths that cost as much.

    Raises:
        ValueError: no strength up to a million costs as much.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> s = strength_for_kl(model, data, tone)
        >>> round(kl_cost(model, data, tone, strength=s), 3)
        0.05
    """
    return strength_at(
        lambda s: kl_cost(model, data, intervention, strength=s), kl, getattr(intervention, "name", "it")
    )


def at_equal_kl(
    model: Model, interventions: Mapping[str, Intervention], test: Labelled, *, kl: float = 0.05
) -> pd.DataFrame:
    """What each intervention is worth at the same cost, so that none looks better by being stronger.

    Args:
        interventions: by name.
        test: labelled texts that none was fitted to; the cost is measured on the first hundred.
        kl: nats per token, mean of both signs.

    Returns:
        One row each: `name`, `contrast` with `low` and `high` (see `contrast`), `strength` that costs as much. What does nothing
        at any strength has none (NaN) and contrast 0.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> table = at_equal_kl(model, {"steer": tone, "doubled": 2 * tone}, data)
        >>> [round(float(ratio), 3) for ratio in table.strength / table.strength[0]]
        [1.0, 0.5]
    """
    sample = Labelled(test.texts[:100], test.labels[:100], test.prompts[:100])
    rows = []
    for name, value in interventions.items():
        # a fit that found nothing better than nothing costs nothing at any strength
        idle = kl_cost(model, sample, value, strength=1.0) == 0
        strength = math.nan if idle else strength_for_kl(model, sample, value, kl=kl)
        found = contrast(model, test, value, strength=0.0 if idle else strength)
        rows.append({"name": name, **dict(found[["contrast", "low", "high"]]), "strength": strength})
    return pd.DataFrame(rows)


def reft_quality(
    model: Model,
    train: Labelled,
    test: Labelled,
    *,
    variants: Sequence[Variant] = ("loreft",),
    ranks: Sequence[int] = (1, 2, 4, 8),
    layers: Sequence[int | tuple[int, ...]] = (0,),
    kl: float = 0.05,
    epochs: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Numbers fitted against quality: ReFT of several ranks, layers and variants, beside steers of the same ranks.

    All are held at the same cost, so that none looks better by being stronger. Over no background.

    Args:
        train, test: labelled texts, no text in both.
        kl: nats per token that each may cost, mean of both signs, on a sample of `test`.

    Returns:
        One row a method, layer and rank: `method`, `layers` ("unembedding" for steers), `rank`, `parameters`, `contrast` at
        equal KL with `low` and `high` (see `contrast`), `strength` that costs as much, `seconds` of the fit.
    """
    started = time.perf_counter()
    states = collect(model, train, progress=False)
    fit = fit_steer(states, seed=seed)
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
                model, train, variant=variant, layers=at, rank=rank, epochs=epochs, seed=seed, progress=False
            )
            values.append(one.value)
            named = ", ".join(map(str, one.value.layers))
            rows.append((variant, named, rank, one.value.n_parameters, one.report.seconds))
    about = pd.DataFrame(rows, columns=["method", "layers", "rank", "parameters", "seconds"])
    found = at_equal_kl(model, {str(k): value for k, value in enumerate(values)}, test, kl=kl)
    order = ["method", "layers", "rank", "parameters", "contrast", "low", "high", "strength", "seconds"]
    return pd.concat([about, found], axis=1)[order]


def composition(model: Model, parts: Mapping[str, Reft], whole: Reft, tests: Mapping[str, Labelled]) -> pd.DataFrame:
    """What parts of one subspace are worth alone and together, on the texts of each task.

    Args:
        parts, whole: from `fit_reft_tasks`.
        tests: labelled texts of each task, by the same names.

    Returns:
        One row an edit (each part, and "together") and task: `edit`, `task`, `contrast`, `low`, `high`. The whole is as good as
        its parts where its row on a task is that of the task's own part; a part that says something of the other task is
        not separate from it.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.fits.reft import fit_reft_tasks
        >>> model = sl.load_model("toy-64")
        >>> tasks = {name: sl.toy.corpus(name, n=60, seed=0) for name in ("sentiment", "tone")}
        >>> fit, parts = fit_reft_tasks(model, tasks, rank=2, epochs=1, progress=False)
        >>> len(composition(model, parts, fit.value, tasks))
        6
    """
    if set(parts) != set(tests):
        raise ValueError(f"tests: got {sorted(tests)}, expected the tasks of the parts, {sorted(parts)}")
    rows = []
    for name, edit in [*parts.items(), ("together", whole)]:
        for task, data in tests.items():
            found = contrast(model, data, edit)
            rows.append({"edit": name, "task": task, **dict(found[["contrast", "low", "high"]])})
    return pd.DataFrame(rows)


def _signed(data: Labelled) -> Labelled:
    rows = [i for i, y in enumerate(data.labels) if y]
    if not rows:
        raise ValueError("data: every label is 0, so no text has a sign; add texts with labels above and below 0")
    prompts = tuple(data.prompts[i] for i in rows) if data.prompts else ()
    return replace(
        data, texts=tuple(data.texts[i] for i in rows), labels=tuple(data.labels[i] for i in rows), prompts=prompts
    )


def _nll(states: States) -> tuple[Float[Tensor, " n_texts"], Tensor]:
    """Summed NLL of each text, and its positions."""
    return -states.sum_by_text(state_log_probs(states, None, (0.0,))[0]), states.lengths
