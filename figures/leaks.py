"""What a steer of one attribute does to another that goes with it in the texts: fitted alone, and
together.

    python figures/leaks.py          # writes figures/out/leaks.{pdf,png,json}; some three minutes
    python figures/leaks.py reviews  # leaks_reviews.*: reviews-192, where it and SST-5 are at hand

In texts of the toy world praise is polite: the labels of sentiment and tone have a correlation of 0.8.
Steers of toy-64 are fitted to 600 of them, each alone, both together (`fit_steers`), and each alone less
its part along the other (`orthogonal_to`). Each is held at 0.05 nats of KL on 240 new texts in which both
attributes are independent. Of SST-5, praise is long there: sentences of at least 22 words, against those
of at most 14; steers are fitted to sentences of the training file and judged on others of it. Means over five draws of all
texts with 95 % intervals over the draws, which chose nothing.
"""

import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from _tables import DATA, asked
from scipy.stats import t as student

import steerlens as sl
from steerlens.evaluate.leak import leak
from steerlens.methods.steer.several import fit_steers, orthogonal_to
from steerlens.models.hooks import Model
from steerlens.show.figures import save_figure
from steerlens.show.style import AMBER, BLUE, COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.toy import Condition, grammar

DRAWS, CORRELATION, FITTED, JUDGES = range(101, 106), 0.8, 600, 240
WAYS = ("alone", "together", "alone, less the other")
REVIEWS = DATA.parent / "lms/reviews-192"
SHORT, LONG = 14, 22
"""Words of a sentence, at most and at least."""


class World(NamedTuple):
    """A model, two attributes, and what draws texts of both signs: `n` of each pair in one draw's
    part for fitting (0) or judging (1)."""

    model: Model
    attributes: tuple[str, str]
    sample: Callable[[int, tuple[float, float], int, int], list[str]]


def toy(n: int, signs: tuple[float, float], seed: int, part: int) -> list[str]:
    k = list(product((-1.0, 1.0), repeat=2)).index(signs)
    condition = Condition(sentiment=signs[0], tone=signs[1])
    return list(grammar.sample(n, condition, seed=10 * (seed + 1000 * part) + k))


@cache
def sentences() -> dict[tuple[float, float], list[str]]:
    """Return the sentences of SST-5's training file by the signs of sentiment and length."""
    found: dict[tuple[float, float], list[str]] = {
        (a, b): [] for a, b in product((-1.0, 1.0), repeat=2)
    }
    for text, label in sl.read_labelled(DATA / "sst5_train.jsonl"):
        words = len(text.split())
        if label and not SHORT < words < LONG:
            found[(1.0 if label > 0 else -1.0, 1.0 if words >= LONG else -1.0)].append(text)
    return found


def reviews(n: int, signs: tuple[float, float], seed: int, part: int) -> list[str]:
    """Return sentences in an order of the draw's own, those for judging from the end of it."""
    some = sentences()[signs]
    order = np.random.default_rng(seed).permutation(len(some))[:: -1 if part else 1]
    return [some[i] for i in order[:n]]


def drawn(
    world: World, n: int, correlation: float, seed: int, part: int
) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return texts whose two labels, of ±1, have a correlation, and both labels."""
    texts, labels = [], []
    for a, b in product((-1.0, 1.0), repeat=2):
        some = round(n * (1 + correlation * a * b) / 4)
        texts += world.sample(some, (a, b), seed, part)
        labels += [(a, b)] * some
    columns = torch.tensor(labels).unbind(1)
    return texts, dict(zip(world.attributes, columns, strict=True))


def measured(world: World, seed: int) -> pd.DataFrame:
    """Return the sign margin of both attributes under every steer of one draw."""
    model = world.model
    texts, labels = drawn(world, FITTED, CORRELATION, seed, 0)
    states = sl.collect(model, texts, progress=False)
    alone = [sl.fit_steer(states.relabel(y), progress=False).value for y in labels.values()]
    together = list(fit_steers(states, labels).steers.values())
    metric = sl.natural_metric(states, damping=0.03)
    less = [orthogonal_to(one, [other], metric) for one, other in (alone, alone[::-1])]
    steers = {
        f"{name}: {way}": steer
        for way, both in zip(WAYS, (alone, together, less), strict=True)
        for name, steer in zip(world.attributes, both, strict=True)
    }
    new, told = drawn(world, JUDGES, 0.0, seed, 1)
    tests = {name: sl.Labelled(new, y.tolist()) for name, y in told.items()}
    table = leak(model, steers, tests)
    table[["of", "way"]] = table.steer.str.split(": ", n=1, expand=True).to_numpy()
    return table.assign(draw=seed)


def interval(table: pd.DataFrame) -> pd.DataFrame:
    found = table.groupby(["of", "way", "attribute"], sort=False).sign_margin.agg(
        ["mean", "std", "count"]
    )
    half = student.ppf(0.975, found["count"] - 1) * found["std"] / np.sqrt(found["count"])
    return found.assign(low=found["mean"] - half, high=found["mean"] + half).reset_index()


def draw(found: pd.DataFrame) -> plt.Figure:
    attributes = found.of.unique().tolist()
    with look():
        fig, panels = plt.subplots(
            1, 2, figsize=(2.2 * COLUMN, 1.9), layout="constrained", sharey=True
        )
        for ax, of in zip(panels, attributes, strict=True):
            for k, attribute in enumerate(attributes):
                rows = found[(found.of == of) & (found.attribute == attribute)]
                at = np.arange(len(rows)) + 0.15 * (2 * k - 1)
                error = [rows["mean"] - rows.low, rows.high - rows["mean"]]
                ax.errorbar(
                    rows["mean"],
                    at,
                    xerr=error,
                    fmt="os"[k],
                    ms=4,
                    color=(BLUE, AMBER)[k],
                    label=f"of {attribute}",
                )
            ax.axvline(0, color="0.5", lw=0.8, zorder=0)
            ax.set(yticks=range(len(WAYS)), yticklabels=WAYS, xlabel="sign margin (nats per token)")
        panels[0].invert_yaxis()
        panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        label_panels(panels, [f"steers of {of}" for of in attributes])
    return fig


def main() -> None:
    real = asked("reviews")
    if real and not (REVIEWS.is_dir() and DATA.is_dir()):
        sys.exit("reviews-192 or the data are not at hand")
    world = (
        World(sl.load_model(REVIEWS), ("sentiment", "length"), reviews)
        if real
        else World(sl.load_model("toy-64"), ("sentiment", "tone"), toy)
    )
    table = pd.concat([measured(world, seed) for seed in DRAWS], ignore_index=True)
    found = interval(table)
    about = {
        "command": " ".join(["python figures/leaks.py", *sorted(real)]),
        "means": records(found),
        "draws": records(table),
    }
    save_figure(draw(found), OUT, "_".join(["leaks", *sorted(real)]), about)
    print(found.round(4).to_string())


if __name__ == "__main__":
    main()
