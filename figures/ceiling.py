"""What the gap between a steered model and the truth consists of.

    python figures/ceiling.py            # writes figures/out/ceiling.{pdf,png,json}; some half an hour
    python figures/ceiling.py --model toy-128 --attribute sentiment

The best linear steer of each toy model is fitted to the exact next-word distribution of the grammar
that is told the grade, on 1,000 texts, and judged on 1,000 others. Then its sign margin, at 0.05 nats per
token over the plain model, on the texts of benchmarks/quality.py and on those of its `--fresh`: what
that benchmark's "margin alone" can be expected to reach.
"""

import argparse
import time
from typing import Literal

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.analysis.theory import (
    distil_truth,
    exact_truth,
    gap_parts,
    margin_at_kl,
    metric_of,
    truth_of,
)
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, look
from steerlens.show.tables import records
from steerlens.show.theory import plot_ceiling

NEW, FITTED = 1000, 2000
HELD = {"quality": 10_000, "fresh": 20_000}
"""Seeds of the texts that benchmarks/quality.py judges on."""


def study(
    name: str, attribute: Literal["sentiment", "tone"], texts: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the parts of the gap and the margins of one model and attribute."""
    model = sl.load_model(name)
    begun = time.perf_counter()
    data = sl.toy.corpus(attribute, n=texts, seed=1)
    states = sl.collect(model, data, progress=False)
    truth, metric = truth_of(model, data, attribute, states), metric_of(states)
    best = distil_truth(truth, metric)
    fit = sl.fit_steer(model, sl.toy.corpus(attribute, n=FITTED, seed=0), progress=False)
    new = exact_truth(model, attribute, n=NEW, seed=77)
    # at the strength that labels ask for, as the report has it
    parts = gap_parts(new, fit.report.strength * fit.value, best.steer)
    print(name, attribute, f"{time.perf_counter() - begun:.0f} s", best.optimality_gap, flush=True)
    print(parts.round(4).to_string(), flush=True)
    steers = {"fit": fit.value, "distilled": best.steer}
    rows = []
    for held_out, seed in HELD.items():
        held = sl.collect(model, sl.toy.corpus(attribute, n=500, seed=seed), progress=False)
        rows += [
            {"steer": key, "texts": held_out, **margin_at_kl(steer, held)._asdict()}
            for key, steer in steers.items()
        ]
    margins = pd.DataFrame(rows)
    print(margins.round(4).to_string(), f"{time.perf_counter() - begun:.0f} s", flush=True)
    where = {"model": name, "attribute": attribute}
    return parts.assign(**where, optimality_gap=best.optimality_gap), margins.assign(**where)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", nargs="+", default=["toy-128", "toy-64", "toy-96-llama"])
    asked.add_argument("--attribute", nargs="+", default=["sentiment", "tone"])
    asked.add_argument("--texts", type=int, default=1000, help="that the best steer is fitted on")
    given = asked.parse_args()
    found: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for name in given.model:
        for attribute in given.attribute:
            found.append(study(name, attribute, given.texts))
            write(found)  # after each, so that an interrupt loses one


def write(found: list[tuple[pd.DataFrame, pd.DataFrame]]) -> None:
    parts, margins = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    with look():
        fig, ax = plt.subplots(figsize=(COLUMN, 0.9 + 0.32 * len(found)), layout="constrained")
        plot_ceiling(parts, ax=ax)
    save_figure(fig, OUT, "ceiling", {"parts": records(parts), "margins": records(margins)})
    plt.close(fig)


if __name__ == "__main__":
    main()
