"""What methods write at the same cost: attribute against KL, with fluency, variety and price."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from steerlens.evaluate.controls import random_steer, shuffle_labels
from steerlens.evaluate.price import n_parameters, slowdown
from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.run_folder import open_folder
from steerlens.evaluate.run_settings import Entrant, settings_of
from steerlens.evaluate.runs import run_protocol
from steerlens.evaluate.sign_margin import margin_interval
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.evaluate.spend import OwnText, Spent, cost_or_inf, remembered, spend
from steerlens.evaluate.summary import summarize
from steerlens.evaluate.verbs import cost_in_writing, cost_on, given_margins
from steerlens.evaluate.writer import Method, Writer, check_base, method_of
from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_floats
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.arguments import check_labelled
from steerlens.values.copies import by_distinct_text
from steerlens.values.fit import Fit
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled

Recipe = Callable[[Labelled], Method | Fit]
"""How a method is fitted to labelled texts."""

BASE, RANDOM = "base", "random direction"
SAMPLE, WRITTEN = 100, 300
"""Texts on which a cost is measured: given ones, and at most so many that a method writes."""


class Candidate(NamedTuple):
    """A method that was fitted, and the seconds that took (NaN where that is not known)."""

    method: Method
    seconds: float


@torch_defaults()
def compare_writing(
    model: Model,
    methods: Mapping[str, Method | Fit | Recipe],
    protocol: Protocol,
    data: Labelled,
    *,
    kl: float | Iterable[float] | OwnText = (0.02, 0.05, 0.1),
    train: Labelled | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Let all methods write at the same costs, and judge what they wrote.

    At each budget each method gets the strength, of the protocol's side, at which it costs

        KL(model ‖ method) = kl        nats per token, mean over the tokens of given texts

    found by bisection, so that no method looks better by being pushed harder, and none is judged at
    one point alone. What cannot spend the budget says so in `note` and writes at the most it can;
    what has no next-token distribution, so no cost, writes once, at strength 1 and without a `kl`.
    What given texts cost is not what a method's own texts cost. Both are told (`given_kl`,
    `own_kl`), either can be held equal: with `kl=OwnText(…)` the mean is over the tokens that the
    method writes, which is the fair one for what puts words before a text. There is always a row of
    the model itself, one of a random direction per budget, and one of the first recipe fitted to
    labels in random order.

    Args:
        methods: by name: values, fits, or recipes, functions from labelled texts to either, which
            are fitted here, on `train`, and timed.
        protocol: what is written and what judges it.
        data: labelled texts that nothing was fitted to: on the first hundred `given_kl` is measured,
            on all of them `sign_margin`.
        kl: one budget or several, on given texts; `OwnText` of them, on what each method writes.
        train: labelled texts for the recipes; without recipes there is no control by shuffled
            labels, and a warning says so.
        folder: to keep what was written, so that an interrupted run goes on; see `run_protocol`.

    Returns:
        One row per method, budget and kind of prompts: `method`, `kl` (the budget, 0 for the
        model), `kl_on` ("given" or "own", the texts that it holds for), `strength`, `given_kl`
        (what it costs on given texts), `note`, the columns of `summarize`,
        `sign_margin` with `_low` and `_high` (what the right sign is worth on `data`, nats per token)
        and `wrong_sign` (share of its texts that the sign moves the wrong way), in both positive and
        negative labels weigh the same, both NaN for a method of one side; `parameters`, `seconds`
        (to fit), `slowdown` (of writing, by the model's own time in the same process).

    Raises:
        ValueError: a recipe without `train`, a name that a control has, a method of another model,
            a budget that is not positive.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.protocols import detoxification
        >>> from steerlens.evaluate.scorers import oracle
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=1)
        >>> tone = sl.fit_steer(model, sl.toy.corpus("tone", n=100, seed=0), progress=False)
        >>> task = detoxification(["you are"], oracle("tone", sign=-1))
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     found = compare_writing(model, {"steer": tone}, task, data, kl=0.05, progress=False)
        >>> found.method.tolist()
        ['base', 'steer', 'random direction']
    """
    own = isinstance(kl, OwnText)
    budgets = as_floats(kl.kl if own else kl, "kl")
    if len(set(budgets)) < len(budgets):
        raise ValueError(f"kl: got {brief(budgets)}, expected each budget once")
    check_labelled(data)
    if train is not None:
        check_labelled(train, "train")
    if folder is not None:  # one of other settings is refused before anything is fitted
        open_folder(folder, settings_of(model, protocol), "a run")
    fitted = _candidates(model, methods, train)
    sample = data.first(SAMPLE)
    entrants, spent = [Entrant(BASE, None, 0.0)], {BASE: (BASE, 0.0, Spent(0.0, 0.0, ""))}
    given_kl = {BASE: 0.0}
    for name, candidate in fitted.items():
        on_given = remembered(cost_on(model, candidate.method, sample))
        cost = remembered(_cost_of_writing(model, candidate.method, protocol)) if own else on_given
        cost = on_given if math.isnan(cost_or_inf(on_given, protocol.side)) else cost
        for budget in budgets:
            found = spend(cost, budget, side=protocol.side)
            budget = math.nan if math.isnan(found.cost) else budget
            entrant = Entrant(f"{name} at {budget:g}", candidate.method, found.strength)
            entrants.append(entrant)
            spent[entrant.name] = (name, budget, found)
            given_kl[entrant.name] = cost_or_inf(on_given, found.strength)
            if math.isnan(budget):  # once, at its own setting
                break
    texts = run_protocol(model, entrants, protocol, folder=folder, progress=progress)
    table = summarize(texts, protocol)
    given = {e.name: _given(model, e, data) for e in entrants}
    names = {name for name, *_ in spent.values()}
    price = {name: _price(model, name, fitted, spent, protocol) for name in names}
    rows = []
    for row in table.to_dict("records"):
        key = row.pop("entrant")
        name, budget, found = spent[key]
        head = {
            "method": name, "kl": budget, "kl_on": "own" if own else "given",
            "strength": found.strength, "given_kl": given_kl[key], "note": found.note,
        }  # fmt: skip
        rows.append(head | row | given[key] | price[name])
    return pd.DataFrame(rows)


def _candidates(
    model: Model, methods: Mapping[str, Method | Fit | Recipe], train: Labelled | None
) -> dict[str, Candidate]:
    """Return all that is held against each other, fitted, controls last."""
    recipes = {name: m for name, m in methods.items() if _is_recipe(m)}
    shuffled = f"shuffled labels ({next(iter(recipes), '')})"
    for name in (BASE, RANDOM, shuffled):
        if name in methods:
            raise ValueError(f"methods: {name!r} is the name of a control; choose another")
    found = {name: _fitted(m, train) for name, m in methods.items()}
    for candidate in found.values():
        check_base(candidate.method, model)
    found[RANDOM] = Candidate(random_steer(readout(model)), 0.0)
    if train is None or not recipes:
        warnings.warn(
            "no control by shuffled labels: a method that is given as a function of labelled texts, "
            "with train=, can be fitted to labels in random order",
            stacklevel=3,
        )
        return found
    return found | {shuffled: _fitted(next(iter(recipes.values())), shuffle_labels(train))}


def _is_recipe(method: Any) -> bool:
    return callable(method) and not isinstance(method, Intervention | Writer | Fit)


def _fitted(method: Any, train: Labelled | None) -> Candidate:
    start = time.perf_counter()
    found, recipe = fit_recipe(method, train)
    if recipe is not None:
        return Candidate(found, time.perf_counter() - start)
    return Candidate(found, method.report.seconds if isinstance(method, Fit) else float("nan"))


def fit_recipe(
    method: Method | Fit | Recipe, train: Labelled | None
) -> tuple[Method, Recipe | None]:
    """Return a method and the recipe it came from: a recipe is fitted, a value has none.

    Raises:
        ValueError: a recipe without `train`.
    """
    if isinstance(method, Intervention | Writer | Fit) or not callable(method):
        return method_of(method), None
    if train is None:
        raise ValueError("train: got none, expected labelled texts to fit a recipe to")
    return method_of(method(train)), method


def _cost_of_writing(model: Model, method: Method, protocol: Protocol) -> Callable[[float], float]:
    """Return the cost on some of the texts that a protocol lets a method write, evenly spread over
    its prompts; on all of them where they are few."""
    prompts = protocol.prompts[:: math.ceil(len(protocol.prompts) / WRITTEN)]
    samples = min(protocol.sampling.samples, math.ceil(WRITTEN / len(prompts)))
    return cost_in_writing(
        model, method, prompts, sampling=replace(protocol.sampling, samples=samples)
    )


def _given(model: Model, entrant: Entrant, data: Labelled) -> dict[str, float]:
    """Return what the sign is worth on given texts; a method of one side has no sign."""
    names = ("sign_margin", "sign_margin_low", "sign_margin_high", "wrong_sign")
    if entrant.method is None:
        return dict.fromkeys(names, 0.0)
    some, strength = with_nonzero_label(data), abs(entrant.strength)
    try:
        margins, tokens = given_margins(model, entrant.method, some, strength=strength)
    except ValueError:
        if isinstance(entrant.method, Intervention):
            raise
        return dict.fromkeys(names, float("nan"))
    by_text, labels = by_distinct_text(margins, some)
    wrong = np.where(np.isnan(by_text), np.nan, by_text < 0)  # NaN is on neither side
    signs = np.sign(labels)
    share = float(np.mean([wrong[signs == sign].mean() for sign in set(signs)]))
    return dict(zip(names, (*margin_interval(margins, tokens, some), share), strict=True))


def _price(
    model: Model,
    name: str,
    fitted: Mapping[str, Candidate],
    spent: Mapping[str, tuple[str, float, Spent]],
    protocol: Protocol,
) -> dict[str, float]:
    if name == BASE:
        return {"parameters": 0, "seconds": 0.0, "slowdown": 1.0}
    candidate = fitted[name]
    strength = next(found.strength for of, _, found in spent.values() if of == name)
    return {
        "parameters": 0 if name == RANDOM else n_parameters(candidate.method),
        "seconds": candidate.seconds,
        "slowdown": slowdown(model, candidate.method, protocol, strength=strength),
    }
