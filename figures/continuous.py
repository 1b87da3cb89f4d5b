"""Continuous steering: what a toy model writes at strengths −5 … 5, judged by the exact posterior
of its grammar.

The counterpart of the continuous-steering figure of Han et al. (arXiv 2305.12798), with the truth
in place of a classifier. Writes figures/out/continuous.{pdf,png,json}.
"""

from _setting import OUT

import matplotlib.pyplot as plt
import torch

import steerlens as sl
from steerlens.show.figures import plot_written_attribute, save_figure
from steerlens.show.style import COLUMN, look
from steerlens.show.tables import records

SEED = 0
STRENGTHS = tuple(range(-5, 6))
SAMPLES = 150


def main() -> None:
    torch.manual_seed(SEED)
    model = sl.load_model("toy-128")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=2000, seed=SEED), progress=False)
    steer = sl.fit_steer(states, name="sentiment", seed=SEED).value
    written = sl.written_attribute(
        model, steer, "sentiment", strengths=STRENGTHS, samples=SAMPLES, seed=SEED
    )
    with look():
        fig, ax = plt.subplots(figsize=(COLUMN, 3.4), layout="constrained")
        plot_written_attribute(written, name="sentiment", ax=ax)
    groups = written.groupby("strength")
    summary = (
        groups.attribute.agg(["mean", "std"])
        .assign(grammatical=groups.grammatical.mean())
        .reset_index()
    )
    numbers = {
        "model": "toy-128", "seed": SEED, "samples": SAMPLES, "summary": records(summary),
        "texts": records(written[["strength", "sample", "text", "attribute", "grammatical"]]),
    }  # fmt: skip
    save_figure(fig, OUT, "continuous", numbers)
    print(summary.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
