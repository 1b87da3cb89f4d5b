"""What a report says beyond one steer: the steer on another model, and beside edits of hidden
states and tuned prompts."""

from typing import Any, cast

from steerlens.analysis.prompts import nearest_tokens, readability
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.analysis.subspaces import compare_subspaces
from steerlens.analysis.transfer import transfer_report
from steerlens.evaluate.compare import compare
from steerlens.evaluate.writer import Method
from steerlens.methods.prompt.fit import fit_prompt
from steerlens.methods.prompt.soft_prompt import Kind, SoftPrompt
from steerlens.methods.reft.fit import fit_reft
from steerlens.methods.steer.fit import fit_steer
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.models.collect import collect
from steerlens.models.hooks import Model, adapter, model_id
from steerlens.models.load import load_model
from steerlens.models.pair import pair
from steerlens.show.report.study import Study
from steerlens.show.tables import records
from steerlens.toy.corpus import Attribute, corpus
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.metric import Metric
from steerlens.values.training import Training

RIVAL_TEXTS, RIVAL_TESTS = 300, 200
"""Texts that rivals are fitted to and tested on: enough to compare, few enough for the report's
time."""
TRAINING = Training(epochs=4)
"""Of edits and prompts: short, for the report's time."""
RANK = 4
ROWS = 8


def moved(lm: Model, one: Study, texts: int, seed: int) -> dict[str, Any]:
    """Measure a toy steer on another toy model by every rule.

    It stands beside one that is trained there on the same labels.
    """
    to = "toy-64" if model_id(lm) != "toy-64" else "toy-128"
    train, new, plain = (
        corpus(cast(Attribute, one.name), n=n, seed=seed + k)
        for k, n in enumerate((min(texts, 1500), max(texts // 4, 20), max(min(texts, 400), 20)))
    )
    target = load_model(to)
    trained = fit_steer(
        collect(target, train, progress=False), name=one.name, seed=seed, progress=False
    )
    pairs = pair(lm, target, plain, progress=False)
    found = transfer_report(
        one.fit, trained, collect(target, new, progress=False), pairs=pairs, seed=seed
    )
    return {
        "steer": one.name,
        "target": to,
        "kl": found.kl,
        "shared_tokens": len(found.alignment.tokens),
        "texts": len(plain),
        "rules": records(found.table),
    }


def rivals(
    lm: Model, one: Study, data: Labelled | None, texts: int, seed: int
) -> dict[str, Any] | None:
    """Compare edits of hidden states (ReFT), tuned prompts and a steer on the same texts.

    What they are worth at equal cost, and what they have in common.

    None where fewer than ten texts of either sign are there to fit to or to test on.
    """
    if data is None:
        train, test = (
            corpus(cast(Attribute, one.name), n=min(n, most), seed=seed + k)
            for k, (n, most) in enumerate(
                ((texts, RIVAL_TEXTS), (max(texts // 4, 30), RIVAL_TESTS))
            )
        )
    else:
        parts = zip(data.split(0.85, seed=seed), (RIVAL_TEXTS, RIVAL_TESTS), strict=True)
        train, test = (
            part if len(part) <= n else part.split(n / len(part), seed=seed)[0] for part, n in parts
        )
    if (
        min(sum(sign * y > 0 for y in part.labels) for part in (train, test) for sign in (1, -1))
        < 10
    ):
        return None
    states = collect(lm, train, progress=False)
    fit = fit_steer(states, name=one.name, seed=seed, progress=False)
    metric = natural_metric(states.sample(16_384, seed=seed), damping=fit.report.damping or 0.0)
    last = adapter(lm).n_layers - 1
    layers = sorted({last // 2, last})
    edits = {
        k: fit_reft(lm, train, layers=k, rank=RANK, training=TRAINING, seed=seed, progress=False)
        for k in layers
    }
    d = states.d_model
    values: dict[str, Method] = {
        "steer": fit.value,
        f"steer, rank {RANK}": fit.value.truncate(RANK, metric),
    }
    numbers = {
        "steer": (d * d, fit.report.seconds),
        f"steer, rank {RANK}": (2 * d * RANK, fit.report.seconds),
    }
    kinds: dict[str, Kind] = {"soft prompt": "soft", "key/value prefix": "kv"}
    prompts = {
        name: fit_prompt(
            lm, train, kind=kind, length=ROWS, training=TRAINING, seed=seed, progress=False
        )
        for name, kind in kinds.items()
    }
    fitted = {f"LoReFT, rank {RANK}, layer {layer}": found for layer, found in edits.items()}
    fitted |= {f"{name}, {ROWS} rows": found for name, found in prompts.items()}
    for name, found in fitted.items():
        values[name], numbers[name] = found.value, (found.value.n_parameters, found.report.seconds)
    table = compare(lm, values, test)
    table["parameters"], table["seconds"] = (
        list(column) for column in zip(*(numbers[n] for n in table.name), strict=True)
    )
    some = test.first(80)
    subspaces = compare_subspaces(
        lm,
        fit.value,
        {k: found.value for k, found in edits.items()},
        some,
        metric,
        rank=RANK,
        draws=6,
        seed=seed,
    )
    return {
        "steer": one.name, "kl": 0.05, "train": len(train), "test": len(test), "table": records(table),
        "subspaces": records(subspaces),
        "prompt": _prompt(lm, prompts["soft prompt"], fit, some, metric, test, seed),
    }  # fmt: skip


def _prompt(
    lm: Model,
    soft: Fit[SoftPrompt],
    steer: Fit,
    some: Labelled,
    metric: Metric,
    test: Labelled,
    seed: int,
) -> dict[str, Any]:
    """Return what a soft prompt says by its nearest words, and what these do in its place.

    It also says how the prompt moves the context.
    """
    value = soft.value
    idle = not float(value.directions.abs().max())
    ends = [nearest_tokens(lm, value.at(sign)[0], k=1) for sign in (1.0, -1.0)]
    return {
        "rows": value.prefix,
        "words": [list(words) for words in zip(*(end.token for end in ends), strict=True)],
        "distance": [float(end.distance.mean()) for end in ends],
        "readability": records(readability(lm, value, test, draws=3, seed=seed)),
        "moves": []
        if idle
        else records(
            state_shift_overlap(
                lm, value, steer.value, some, metric, rank=RANK, draws=20, seed=seed
            )
        ),
        "plain_nll": soft.report.settings["plain_nll"],
        "neutral_nll": soft.report.heldout.base,
    }
