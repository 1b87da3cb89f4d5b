"""Attribute against cost: every method at the same KL, on the toy world, where the judge is exact.

    python figures/equal_kl.py          # writes figures/out/equal_kl.{pdf,png,json}; some fifteen minutes

toy-64, sentiment: each method is fitted to 400 texts by its defaults, held at three budgets of KL
on what it writes itself, and continues 30 prompts four times each. The grammar's posterior judges prompt and
continuation. Left: how far the mean score moved towards positive; right: how perplexing the texts
are to the model itself. `--quick` takes four methods, and a minute.
"""

import sys
import time
import warnings
from dataclasses import replace

from _setting import OUT

import matplotlib.pyplot as plt
from _tables import toy_methods
from sentiment_table import WORDS

import steerlens as sl
from steerlens.analysis.recipes import NAMES
from steerlens.evaluate.compare_writing import compare_writing
from steerlens.evaluate.protocols import sentiment
from steerlens.evaluate.scorers import oracle
from steerlens.evaluate.spend import OwnText
from steerlens.evaluate.verbs import Sampling
from steerlens.show import label_panels, look, plot_at_kl, save_figure
from steerlens.show.style import COLUMN
from steerlens.show.tables import records

BUDGETS = (0.03, 0.1, 0.3)
ALL = tuple(name for name in NAMES if name != "MuCoLa")
"""MuCoLa has no next-token distribution, so no KL to be equal."""
QUICK = ("steer", "logit bias", "mean difference", "prefix")


def main() -> None:
    quick, start = "--quick" in sys.argv, time.perf_counter()
    model = sl.load_model("toy-64")
    train, data, begun = (
        sl.toy.corpus("sentiment", n=n, seed=s) for n, s in ((400, 0), (60, 1), (30, 2))
    )
    prompts = {"any": [" ".join(text.split()[:4]) for text in begun.texts]}
    task = replace(sentiment(prompts, oracle("sentiment")), sampling=Sampling(samples=4))
    methods = toy_methods(model, WORDS, QUICK if quick else ALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a rival learned nothing is what is drawn
        table = compare_writing(model, methods, task, data, kl=OwnText(BUDGETS), train=train)
    # rivals share copies, and a shared machine is no clock: efficiency_table has the prices
    table = table.drop(columns=["seconds", "slowdown"])
    with look():
        fig, panels = plt.subplots(1, 2, figsize=(2.9 * COLUMN, 4.8), layout="constrained")
        plot_at_kl(table, "gain", ax=panels[0])
        plot_at_kl(table, "corpus_perplexity", ax=panels[1])
        label_panels(panels, ("towards positive", "fluency"))
    about = {
        "command": " ".join(["python figures/equal_kl.py", *sys.argv[1:]]),
        "scorer": str(task.scorer.card),
        "seconds": round(time.perf_counter() - start),
        "rows": records(table),
    }
    save_figure(fig, OUT, "equal_kl", about)
    shown = [
        "method",
        "kl",
        "strength",
        "own_kl",
        "given_kl",
        "gain",
        "gain_low",
        "gain_high",
        "corpus_perplexity",
    ]
    print(table[[*shown, "note"]].round(3).to_string())


if __name__ == "__main__":
    main()
