"""What the two tables of the LM-Steer paper share: worlds, scorers, methods and how a table is
drawn. Imported after `_setting`."""

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

from _setting import OUT, SHARED

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.analysis.recipes import NAMES, Words, recipes
from steerlens.evaluate.compare_writing import Recipe, compare_writing
from steerlens.evaluate.controls import random_steer
from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.runs import Entrant, run_protocol, slug
from steerlens.evaluate.scorers import Scorer, fit_text_classifier
from steerlens.evaluate.summary import summarize
from steerlens.evaluate.verbs import cost_on, write
from steerlens.evaluate.writer import Method
from steerlens.methods.baselines.copies import FineTuning
from steerlens.models.hooks import Model
from steerlens.show import label_panels, look, plot_rows, save_figure
from steerlens.show.style import COLUMN
from steerlens.show.tables import records

DATA = SHARED / "data"
SMOLLM2 = Path.home() / ".cache/steerlens-lms/smollm2-135m"
KL, PAPER = 0.1, 5.0
"""Nats per token that every method spends, and the strength that the paper writes at."""
TUNING = FineTuning(lr=3e-4, epochs=4)
"""Of copies of a toy model, which learn nothing at the rate that suits large ones."""
SHOWN = (
    "method", "kind", "strength", "given_kl", "mean_score", "above_half", "expected_max", "any_above",
    "corpus_perplexity", "distinct_2", "own_kl",
)  # fmt: skip
"""What is printed of a table; all of it is in the JSON."""
CHEAP = ("steer", "logit bias", "log-odds", "mean difference")
"""What is fitted to a real model within minutes of two cores."""
RIVALS = ("values' LoRA", "DAPT", "CTRL", "GeDi", "DExperts", "instruction")
"""On a real model beside the cheap ones: four whose copies are fine-tuned, which takes minutes each."""


class World(NamedTuple):
    """A model with methods, the texts they are fitted to and those that set the cost."""

    name: str
    model: Model
    train: sl.Labelled
    data: sl.Labelled
    task: Protocol
    methods: Mapping[str, Recipe]


def toy_methods(model: Model, words: Words, names: tuple[str, ...] = NAMES) -> dict[str, Recipe]:
    """Return methods, each of which is fitted once to the same texts."""
    copies = OUT / "copies"
    made = recipes(model, names, words=words, tuning=TUNING, folder=copies)
    return {name: cache(recipe) for name, recipe in made.items()}


@dataclass(frozen=True)
class Kept:
    """A recipe whose fits are files in a folder: a run that was stopped fits nothing twice."""

    recipe: Recipe
    model: Model
    folder: Path
    name: str

    def path(self, data: sl.Labelled) -> Path:
        """Return the file of what is fitted to these texts and labels."""
        said = json.dumps([sl.readout(self.model).digest, data.texts, data.labels])
        digest = hashlib.blake2b(said.encode(), digest_size=6).hexdigest()
        return self.folder / f"{slug(self.name)}-{digest}.safetensors"

    def __call__(self, data: sl.Labelled) -> Method:
        path = self.path(data)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            sl.save(self.recipe(data), path)
        return sl.load(path, self.model)

    def label(self, data: sl.Labelled) -> float:
        """Return the strength that a label of 1 asks for."""
        report = sl.read_metadata(self.path(data))["report"]
        return 1.0 if report is None else report["strength"]


def kept_fits(model: Model, methods: Mapping[str, Recipe], folder: str) -> dict[str, Recipe]:
    """Return recipes whose fits are kept in figures/out/fits."""
    at = OUT / "fits" / folder
    return {name: Kept(recipe, model, at, name) for name, recipe in methods.items()}


def real_methods(
    model: Model, words: Words, folder: str, rivals: tuple[str, ...] = RIVALS
) -> dict[str, Recipe]:
    """Return what is run on a model of real text; fits are kept, copies too."""
    kept = kept_fits(model, recipes(model, CHEAP), folder)
    if not rivals:
        return kept
    more = recipes(model, rivals, words=words, tuning=FineTuning(), folder=OUT / "copies")
    return kept | {name: cache(recipe) for name, recipe in more.items()}


BY_GRADIENT = ("PPLM", "MuCoLa")
"""Methods that run the model backwards too, several times per token."""


def expected(world: World) -> str:
    """Return in a line what a world's table will take beside its fits, by a trial of a few texts."""
    method, sampling = random_steer(sl.readout(world.model)), world.task.sampling
    some, prompts = world.data.first(10), world.task.prompts[:2]
    start = time.perf_counter()
    cost_on(world.model, method, some)(0.1)  # reads them twice
    read = (time.perf_counter() - start) / (2 * len(some))
    start = time.perf_counter()
    write(world.model, None, prompts, strength=0.0, sampling=sampling)
    pace = (time.perf_counter() - start) / (len(prompts) * sampling.samples)
    methods, texts = len(world.methods) + 2, len(world.task.prompts) * sampling.samples
    # a strength takes some ten looks, a margin four; what is written is read three times, and
    # twenty texts are written six times more for the slowdown
    seconds = methods * 14 * len(world.data) * read
    seconds += (methods + 3) * texts * (pace + 3 * read) + methods * 6 * min(texts, 20) * pace
    slow = [name for name in world.methods if name in BY_GRADIENT]
    more = f"; {' and '.join(slow)} take many times as long" if slow else ""
    return (
        f"{world.name}: about {seconds / 60:.0f} min and the fits of {methods - 1} methods, of which "
        f"{sum(m.path(world.train).exists() for m in world.methods.values() if isinstance(m, Kept))} "
        f"are there ({read:.2f} s per text read, {pace:.2f} s per text written){more}"
    )


def asked(*known: str) -> set[str]:
    """Return the words of the command line; stop at one that the script does not know."""
    words = set(sys.argv[1:])
    if unknown := sorted(words - set(known)):
        sys.exit(f"got {', '.join(unknown)}, expected some of: {', '.join(known)}")
    return words


def toy_prompts(attribute: str, grades: tuple[float, ...], n: int) -> list[str]:
    """Return the first four words of toy texts of some grades."""
    texts = sl.toy.corpus(attribute, n=20 * n, seed=77)  # pyright: ignore[reportArgumentType]
    return [" ".join(text.split()[:4]) for text, y in texts if y in grades][:n]


def signed(data: sl.Labelled, n: int, seed: int) -> sl.Labelled:
    """Return n texts at random whose label has a sign and which are no longer than 25 words."""
    rows = [k for k, (text, y) in enumerate(data) if y and len(text.split()) <= 25]
    return data.pick(rows).split(min(n / len(rows), 1 - 1e-9), seed=seed)[0]


def toxicity_scorer() -> Scorer:
    """Fit the classifier of toxic texts to RealToxicityPrompts and Jigsaw; rows of the former that
    it never saw judge it."""
    lines = (DATA / "rtp_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    parts = [_rated(some) for some in (rows[:2000], rows[2000:])]
    jigsaw = sl.read_labelled(DATA / "jigsaw_train.jsonl")
    turned = sl.Labelled(jigsaw.texts, [-y for y in jigsaw.labels])
    return fit_text_classifier(
        parts[0] + turned, measures="how toxic", name="TF-IDF, toxicity", test=parts[1]
    )


def _rated(rows: list[dict]) -> sl.Labelled:
    rated = [row[part] for row in rows for part in ("prompt", "continuation")]
    kept = [x for x in rated if x["text"].strip() and x.get("toxicity") is not None]
    return sl.Labelled([x["text"] for x in kept], [2 * x["toxicity"] - 1 for x in kept])


def fill(script: str, world: World) -> pd.DataFrame:
    """Return the table of one world: all methods at one KL, then LM-Steer at the paper's strength.

    Texts are kept in figures/out/texts, so that a run that was stopped goes on. What it will take is
    said first.
    """
    print(expected(world), flush=True)
    kept = OUT / "texts" / script / slug(world.name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a rival learned nothing is seen in the table
        table = compare_writing(
            world.model,
            world.methods,
            world.task,
            world.data,
            kl=KL,
            train=world.train,
            folder=kept,
        )
        more = _at_paper_strength(world, kept)
    # worlds share fits, rivals share copies, and an hour of a shared machine is no clock
    return pd.concat([table, more], ignore_index=True).drop(columns=["seconds", "slowdown"])


def _at_paper_strength(world: World, kept: Path) -> pd.DataFrame:
    """Return LM-Steer as the paper uses it: five times the strength that a label of 1 asks for."""
    entrants, side = [Entrant("base", None, 0.0)], world.task.side
    for name in ("steer", "authors' recipe"):
        if name in world.methods:
            recipe = world.methods[name]
            fit = recipe(world.train)
            label = fit.report.strength if isinstance(fit, sl.Fit) else 1.0
            label = recipe.label(world.train) if isinstance(recipe, Kept) else label
            method = fit.value if isinstance(fit, sl.Fit) else fit
            entrants.append(Entrant(f"{name}, {PAPER:g} labels", method, side * PAPER * label))
    texts = run_protocol(world.model, entrants, world.task, folder=kept)
    found = summarize(texts, world.task).rename(columns={"entrant": "method"})
    found = cast(pd.DataFrame, found[found.method != "base"])
    about = {
        e.name: (e.strength, cost_on(world.model, e.method, world.data.first(100))(e.strength))
        for e in entrants
        if e.method is not None
    }
    strength, cost = zip(*(about[name] for name in found.method), strict=True)
    return found.assign(
        kl=float("nan"), strength=strength, given_kl=cost, note="the paper's strength"
    )


def draw(tables: Mapping[str, pd.DataFrame], measures: tuple[str, ...], kind: str) -> plt.Figure:
    """Return each world's table as a picture: a row of panels per world."""
    rows = [len(table[table.kind == kind]) for table in tables.values()]
    with look():
        fig, panels = plt.subplots(
            len(tables), len(measures), figsize=(3.1 * COLUMN, sum(0.9 + 0.17 * n for n in rows)),
            layout="constrained", squeeze=False, height_ratios=[1 + 0.17 * n for n in rows],
        )  # fmt: skip
        for line, table in zip(panels, tables.values(), strict=True):
            for k, (ax, measure) in enumerate(zip(line, measures, strict=True)):
                plot_rows(table, measure, kind=kind, names=k == 0, ax=ax)
        label_panels(panels[:, 0], list(tables))
    return fig


def publish(
    script: str,
    tables: Mapping[str, pd.DataFrame],
    worlds: list[World],
    start: float,
    fig: plt.Figure,
) -> None:
    """Write picture and numbers, and print the tables."""
    about = {
        "command": " ".join([f"python figures/{script}.py", *sys.argv[1:]]),
        "seconds": round(time.perf_counter() - start),
        "scorers": {world.name: str(world.task.scorer.card) for world in worlds},
        "texts": {
            world.name: {"train": len(world.train), "given": len(world.data)} for world in worlds
        },
        "tables": {name: records(table) for name, table in tables.items()},
    }
    save_figure(fig, OUT, "_".join([script, *sys.argv[1:]]), about)
    for name, table in tables.items():
        print(name)
        print(table[list(SHOWN)].round(3).to_string())


__all__ = [
    "RIVALS",
    "World",
    "asked",
    "draw",
    "fill",
    "kept_fits",
    "publish",
    "real_methods",
    "signed",
    "toxicity_scorer",
    "toy_methods",
    "toy_prompts",
]
