"""What each method costs to have and to use: numbers learned, seconds to fit, slowdown of writing.

    python figures/efficiency_table.py     # writes figures/out/efficiency_table.{pdf,png,json}; some five minutes

toy-64, sentiment, methods and texts of `figures/equal_kl.py`, each at the strength that it has there
at 0.1 nats (MuCoLa, which has no KL, at its own). All in one process and one thread: each fit is timed
alone, none uses a copy that another one made; then the model itself and the method write the same 20
texts in turn, five times. Seconds are of the processor, so that other jobs on the machine do not count;
the slowdown is the median of five ratios, with the smallest and the largest.
"""

import json
import time
import warnings
from pathlib import Path

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _tables import TUNING
from sentiment_table import WORDS

import steerlens as sl
from steerlens.analysis.recipes import recipes
from steerlens.evaluate.price import n_parameters
from steerlens.evaluate.verbs import Sampling, write
from steerlens.evaluate.writer import method_of
from steerlens.models.hooks import Model
from steerlens.show import look, plot_rows, save_figure
from steerlens.show.style import COLUMN
from steerlens.show.tables import records

KL, ROUNDS = 0.1, 5
SAMPLING = Sampling(samples=4)


def main() -> None:
    rows = json.loads((Path(__file__).parent / "gallery/equal_kl.json").read_text("utf-8"))["rows"]
    strengths = {row["method"]: row["strength"] for row in rows if row["kl"] == KL}
    model, train = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=400, seed=0)
    begun = [" ".join(text.split()[:4]) for text in sl.toy.corpus("sentiment", n=5, seed=2).texts]
    found = [{"method": "base", "parameters": 0, "seconds": 0.0, "slowdown": 1.0}]
    for name, recipe in recipes(model, words=WORDS, tuning=TUNING).items():
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a rival learned nothing is seen in equal_kl
            method = method_of(recipe(train))
        took = time.process_time() - start
        ratios = [_ratio(model, method, begun, strengths.get(name, 1.0)) for _ in range(ROUNDS)]
        found.append(
            {
                "method": name, "parameters": n_parameters(method), "seconds": took,
                "slowdown": float(np.median(ratios)), "slowdown_low": min(ratios),
                "slowdown_high": max(ratios),
            }
        )  # fmt: skip
        print(found[-1], flush=True)
    table = pd.DataFrame(found).assign(kind="any")
    numbers = {"command": "python figures/efficiency_table.py", "rows": records(table)}
    save_figure(draw(table), OUT, "efficiency_table", numbers)
    print(table.round(2).to_string(index=False))


def draw(table: pd.DataFrame) -> plt.Figure:
    """Return the three columns as a picture."""
    with look():
        fig, panels = plt.subplots(
            1, 3, figsize=(2.6 * COLUMN, 0.8 + 0.17 * len(table)), layout="constrained"
        )
        for k, measure in enumerate(("parameters", "seconds", "slowdown")):
            plot_rows(table, measure, names=k == 0, ax=panels[k])
        panels[0].set_xscale("symlog", linthresh=10)
        ticks = (0, 100, 10_000, 1_000_000)
        panels[0].set_xticks(ticks, [f"{n:,}" for n in ticks])
        panels[0].set_xlim(-4, 2_000_000)
        panels[0].minorticks_off()
    return fig


def _ratio(model: Model, method: object, begun: list[str], strength: float) -> float:
    """Return how many times longer a method writes than the model, by the processor's clock."""
    seconds = []
    for who in (None, method_of(method)):
        start = time.process_time()
        write(model, who, begun, strength=strength if who else 0.0, sampling=SAMPLING)
        seconds.append(time.process_time() - start)
    return seconds[1] / seconds[0]


if __name__ == "__main__":
    main()
