"""Everything that a report says of one steer: fit it, then measure it on texts that the fit has not
seen."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from steerlens.analysis.highlight import Highlight, highlight
from steerlens.analysis.svd import (
    Spectrum,
    singular_scores,
    singular_words,
    spectrum,
    split_half_reliability,
)
from steerlens.evaluate.classify import classify_states
from steerlens.evaluate.fluency import strength_cost, writing_cost
from steerlens.evaluate.ground_truth import gap_closed, label_curve, written_attribute
from steerlens.evaluate.losses import measure
from steerlens.methods.steer.fit import fit_steer
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.methods.steer.refit import fit_split_halves
from steerlens.models.collect import collect
from steerlens.models.generate import generate
from steerlens.models.hooks import Model
from steerlens.show.report.openings import openings
from steerlens.show.tables import column, select
from steerlens.toy import default_grammar
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.states import States
from steerlens.values.steer import SteerWithBackground

KL_BUDGET = 0.4
"""Nats per token that the largest strength shown may cost: beyond, text comes apart."""
TOPS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
ENOUGH = 100
"""Texts from which on a steer is fitted to halves of them too."""
CURVE = tuple(np.linspace(-3, 3, 13).tolist())

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Study:
    """One steer, fitted and measured.

    `tables` holds DataFrames by name: losses, label_curve, kl, texts, writing, words, scores; with
    enough texts stability and, where labels have both signs, classify; on the toy world written,
    gap and real (what the same judge says of real texts of each label). `strengths` are the five
    that the texts are shown at, `highlights` new texts with their labels, `seconds` what each step
    took.
    """

    name: str
    attribute: str | None
    fit: Fit
    strengths: tuple[float, ...]
    tables: dict[str, pd.DataFrame]
    spectrum: Spectrum
    highlights: tuple[tuple[float, Highlight], ...]
    seconds: dict[str, float]
    n_test: int

    @property
    def doubt(self) -> str | None:
        """Why nothing of the steer is to be read, or None: words and texts of noise look like those
        of a steer."""
        report = self.fit.report
        if report.verdict is not None and not report.verdict.found:
            return "it is no better than labels in random order"
        if not any(report.kl):
            return "its length is 0, so it changes nothing"
        if round(report.strength, 2) <= 0:
            return "the strength that a label of 1 asks for is 0, so the labels ask for none of it"
        return None


def study(
    model: Model,
    train: Labelled,
    test: Labelled,
    *,
    name: str,
    attribute: str | None = None,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Study:
    """Fit a steer on `train` and measure it on `test`.

    Args:
        model: any; unchanged afterwards.
        train, test: of the same labels, no text in both.
        name: of the steer.
        attribute: "sentiment" or "tone" where the texts are the toy world's: adds what only the
            truth can say.
        seed: of the fit, of what is written and of what is drawn anew.
        say: takes lines of progress.

    Raises:
        ValueError: as from `fit_steer`.
    """
    clock: dict[str, float] = {}
    with _timed(clock, "collect", say, f"{name}: reading {len(train) + len(test):,} texts"):
        states = collect(model, train, progress=False)
        new = collect(model, test, progress=False)
    with _timed(clock, "fit", say, f"{name}: fitting on {states.n_positions:,} positions"):
        fit = fit_steer(states, name=name, seed=seed, progress=False)
    with _timed(clock, "measure", say, f"{name}: measuring on {new.n_texts:,} new texts"):
        tables = _measured(fit, new, seed)
        strengths = _five(tables["kl"])
        if attribute is not None and (
            between := set(_nine(strengths)) - set(tables["kl"].strength)
        ):
            more = strength_cost(new.sample(2_048, seed=seed), fit.value, strengths=sorted(between))
            tables["kl"] = pd.concat([tables["kl"], more]).sort_values(
                "strength", ignore_index=True
            )
    with _timed(clock, "read", say, f"{name}: reading the steer"):
        found, shown = _read(fit, (states, train), (new, test), seed)
        tables |= found
        highlights = _highlights(model, fit, test)
    with _timed(
        clock,
        "write",
        say,
        f"{name}: writing at strengths {', '.join(f'{s:g}' for s in strengths)}",
    ):
        tables |= _written(model, fit, attribute, strengths, test, seed)
    if attribute is not None:
        with _timed(clock, "truth", say, f"{name}: comparing with the exact grammar"):
            tables["gap"] = gap_closed(
                model,
                fit.report.strength * fit.value,
                attribute,
                n=min(1000, 2 * len(test)),
                seed=seed + 1_000_003,
            )
    return Study(name, attribute, fit, strengths, tables, shown, highlights, clock, len(test))


def explaining(fit: Fit) -> SteerWithBackground:
    """Return the model that explains a fit's texts: a label of 1 is strength 1, over the
    background."""
    return (fit.report.strength * fit.value).with_background(fit.background)


def _measured(fit: Fit, new: States, seed: int) -> dict[str, pd.DataFrame]:
    """Measure what the steer does to given texts: nothing is written here."""
    asked = fit.report
    found = measure(
        new, fit.value, fit.background, strength=asked.strength, mean_label=asked.mean_label
    )
    rows = [{"label": label, **asdict(losses)} for label, losses in found.by_label.items()]
    losses = pd.DataFrame([*rows, {"label": "all", **asdict(found.all)}])
    grid = sorted(
        {sign * s for top in TOPS for s in (0.0, top / 2, top) for sign in (-1, 1)}
    )  # all that _five may pick
    return {
        "losses": losses.assign(sign_margin=losses.flipped - losses.steered),
        "label_curve": label_curve(
            new.sample(16_384, seed=seed), fit.value, background=fit.background, strengths=CURVE
        ),
        "kl": strength_cost(new.sample(2_048, seed=seed), fit.value, strengths=grid),
    }


def _read(
    fit: Fit, train: tuple[States, Labelled], test: tuple[States, Labelled], seed: int
) -> tuple[dict[str, pd.DataFrame], Spectrum]:
    """Return what the matrix says.

    Directions with their words, which of them replicate, and the steer as a classifier.
    """
    states, known = train
    metric = natural_metric(states.sample(16_384, seed=seed), damping=fit.report.damping or 0.0)
    pairs = (
        fit_split_halves(states, fit, pairs=2, seed=seed, progress=False)
        if len(known) >= ENOUGH
        else ()
    )
    found = {
        "words": singular_words(
            fit.value, rank=3, tokens=10, metric=metric, states=states, refits=pairs
        ),
        "scores": singular_scores(fit.value, rank=3, tokens=10, metric=metric, states=states),
    }
    if pairs:
        found["stability"] = split_half_reliability(
            fit.value, pairs, rank=min(12, states.d_model), metric=metric
        )
    signs = [
        sum(sign * label > 0 for label in data.labels)
        for data in (known, test[1])
        for sign in (1, -1)
    ]
    if min(signs) >= 10:
        found["classify"] = classify_states(explaining(fit), train, test)
    return found, spectrum(fit.value, metric=metric, states=states.sample(4_096, seed=seed))


def _highlights(model: Model, fit: Fit, test: Labelled) -> tuple[tuple[float, Highlight], ...]:
    """Highlight the first texts of the highest and of the lowest label, and one between.

    They are texts that are long enough to have spans.
    """
    by_label = sorted(set(test.labels))
    found = []
    for label in dict.fromkeys((by_label[-1], by_label[0], by_label[len(by_label) // 2])):
        texts = [text for text, y in test if y == label]
        long = [text for text in texts if 12 <= len(text.split()) <= 45] or texts
        steer = explaining(fit)
        found += [(label, highlight(model, steer, text, spans=3, price=0.1)) for text in long[:2]]
    return tuple(found)


def _five(kl: pd.DataFrame) -> tuple[float, ...]:
    """Return five strengths around 0, as far out as the budget allows in both directions."""
    cost = kl.groupby(kl.strength.abs()).kl.max()
    top = max([t for t in TOPS if cost[t] <= KL_BUDGET], default=TOPS[0])
    return (-top, -top / 2, 0.0, top / 2, top)


def _nine(strengths: tuple[float, ...]) -> list[float]:
    """Return the strengths that many texts are written at."""
    return np.linspace(strengths[0], strengths[-1], 9).tolist()


def _written(
    model: Model,
    fit: Fit,
    attribute: str | None,
    strengths: tuple[float, ...],
    test: Labelled,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Write texts to look at, and more of them to count; fewer where there are few texts at all."""
    prompts = openings(test, 5)
    if attribute is None:
        many = generate(
            model,
            prompts,
            fit.value,
            strengths=strengths,
            samples=min(12, max(2, len(test) // 5)),
            seed=seed,
            max_new_tokens=30,
        )
        texts = select(many, column(many, "sample") == 0).reset_index(drop=True)
        return {"texts": texts, "writing": writing_cost(model, many)}
    texts = written_attribute(
        model,
        fit.value,
        attribute,
        strengths=strengths,
        prompts=prompts,
        samples=1,
        seed=seed,
        max_new_tokens=30,
    )
    many = written_attribute(
        model,
        fit.value,
        attribute,
        strengths=_nine(strengths),
        samples=min(80, max(5, len(test) // 6)),
        seed=seed + 1,
    )
    judged = default_grammar().attribute_mean(list(test.texts), attribute)
    real = (
        pd.DataFrame({"label": test.labels, "attribute": judged})
        .groupby("label", as_index=False)
        .agg(attribute=("attribute", "mean"), texts=("attribute", "size"))
    )
    return {"texts": texts, "written": many, "writing": writing_cost(model, many), "real": real}


@contextmanager
def _timed(clock: dict[str, float], step: str, say: Say, line: str) -> Iterator[None]:
    say(line)
    started = time.perf_counter()
    yield
    clock[step] = time.perf_counter() - started
