"""What few texts are worth: the sign margin of every method against the number of texts, and what
its writing costs.

    python figures/few_texts.py          # writes figures/out/few_texts.{pdf,png,json}; some half an hour

On the toy world's sentiment, and on SST-5 with a small GPT-2 where both are beside the repository.
All methods are run by their defaults; margins are those of new texts at the strength that costs
0.05 nats of KL per token. "Shuffled labels" are fits of a steer to the labels in random order.
`nll` and `distinct_2` are of what is written at that strength, both signs, read by the plain model:
nats per token, and the share of different word pairs.
"""

import warnings
from collections.abc import Callable, Iterator

from _setting import OUT, SHARED

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.fluency import writing_cost
from steerlens.models.hooks import Model
from steerlens.show.few_texts import plot_few_texts
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records

SIZES, DRAWS, NEW = (30, 100, 300, 1000), 2, 400


def shuffled(data: sl.Labelled, seed: int) -> sl.Labelled:
    order = np.random.default_rng(seed).permutation(len(data))
    return sl.Labelled(data.texts, [data.labels[i] for i in order])


METHODS: dict[str, Callable[[Model, sl.Labelled, int], sl.Fit]] = {
    "steer": lambda model, data, seed: sl.fit_steer(model, data, seed=seed, progress=False),
    "LoReFT": lambda model, data, seed: sl.fit_reft(model, data, seed=seed, progress=False),
    "prefix": lambda model, data, seed: sl.fit_prompt(
        model, data, kind="kv", seed=seed, progress=False
    ),
    "shuffled labels": lambda model, data, seed: sl.fit_steer(
        model, shuffled(data, seed), seed=seed, progress=False
    ),
}


def worlds() -> Iterator[tuple[str, Model, Callable[[int, int], sl.Labelled], sl.Labelled, str]]:
    """Yield each world: its name, a model, texts by number and draw, new texts, and how writing
    begins."""
    name = "sentiment"
    new = sl.toy.corpus(name, n=NEW, seed=10_000)
    yield (
        "toy-128, sentiment",
        sl.load_model("toy-128"),
        lambda n, k: sl.toy.corpus(name, n=n, seed=k),
        new,
        "it was",
    )
    folder, files = (
        SHARED / "lms/reviews-192",
        [SHARED / f"data/sst5_{part}.jsonl" for part in ("train", "dev")],
    )
    if not all(path.exists() for path in (folder, *files)):
        print("reviews-192 or SST-5 is not beside the repository: its panel is left out")
        return
    train, dev = map(sl.read_labelled, files)

    def draw(n: int, k: int) -> sl.Labelled:
        return train.pick(np.random.default_rng(k).permutation(len(train))[:n].tolist())

    yield "reviews-192, SST-5", sl.load_model(folder), draw, dev.first(NEW), "the film"


def rows(
    model: Model, draw: Callable[[int, int], sl.Labelled], new: sl.Labelled, prompt: str
) -> Iterator[dict]:
    for n in SIZES:
        for k in range(DRAWS):
            for method, fit_to in METHODS.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that nothing was learnt is what is drawn here
                    fit = fit_to(model, draw(n, k), k)
                found = compare(model, {method: fit}, new).iloc[0]
                s = 0.0 if np.isnan(found.strength) else float(found.strength)
                written = sl.generate(
                    model, [prompt], fit, strengths=(-s, s), samples=20, seed=k, max_new_tokens=20
                )
                cost = writing_cost(model, written.assign(strength=s))
                verdict = fit.report.verdict
                yield {
                    "method": method, "texts": n, "draw": k, "found": verdict is not None and verdict.found,
                    "p": None if verdict is None else verdict.p, "seconds": fit.report.seconds,
                    **dict(found[["sign_margin", "low", "high", "strength"]]),
                    "nll": cost.nll[0], "distinct_2": cost.distinct_2[0],
                }  # fmt: skip


def main() -> None:
    tables = {
        name: pd.DataFrame(rows(model, draw, new, prompt))
        for name, model, draw, new, prompt in worlds()
    }
    with look():
        fig, panels = plt.subplots(
            1, len(tables), figsize=(len(tables) * COLUMN, 2.8), layout="constrained", squeeze=False
        )
        for ax, table in zip(panels[0], tables.values(), strict=True):
            plot_few_texts(table, ax=ax)
        label_panels(panels[0], list(tables))
    save_figure(fig, OUT, "few_texts", {name: records(table) for name, table in tables.items()})
    for name, table in tables.items():
        print(name)
        shown = ["sign_margin", "found", "nll", "distinct_2", "seconds"]
        print(table.groupby(["texts", "method"], sort=False)[shown].mean().round(3).to_string())


if __name__ == "__main__":
    main()
