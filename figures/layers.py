"""Where in a model can its style be steered? The same map at every layer and site, at equal cost.

    python figures/layers.py                       # some eight minutes on one core
    python figures/layers.py --model toy-64 --attribute tone

Writes figures/out/layers.{pdf,png,json}. A map of rank 4 is fitted to 500 texts at the input
embeddings, at what attention and MLP add, behind each layer and at the unembedding, by a closed form
and a short descent (`fit_hidden_steer`), and held at 0.05 nats of KL against the steer, which is a
convex fit at the unembedding. Means over three draws of the training texts, 95 % intervals over 300
new texts; draws and texts chose nothing.
"""

import argparse
import time

from _setting import OUT

import matplotlib.pyplot as plt

import steerlens as sl
from steerlens.analysis.layers import steer_by_site
from steerlens.show.figures import records, save_figure
from steerlens.show.layers import plot_sites
from steerlens.show.style import COLUMN, label_panels, look

DRAWS, TEXTS, JUDGES = (101, 102, 103), 500, 300


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", nargs="+", default=["toy-128"])
    asked.add_argument("--attribute", nargs="+", default=["sentiment", "tone"])
    given = asked.parse_args()
    pairs = [(name, attribute) for name in given.model for attribute in given.attribute]
    found, start = [], time.perf_counter()
    for name, attribute in pairs:
        draws = [sl.toy.corpus(attribute, n=TEXTS, seed=seed) for seed in DRAWS]
        test = sl.toy.corpus(attribute, n=JUDGES, seed=20_000)
        table = steer_by_site(sl.load_model(name), draws, test)
        found.append(table.assign(model=name, attribute=attribute))
        print(found[-1].round(4).to_string(), flush=True)
    with look():
        size = (1.7 * COLUMN, 2.7 * len(found))
        fig, panels = plt.subplots(len(found), 1, figsize=size, layout="constrained", squeeze=False)
        for ax, table in zip(panels[:, 0], found, strict=True):
            plot_sites(table, ax=ax)
        label_panels(panels[:, 0], [f"{name}, {attribute}" for name, attribute in pairs])
    numbers = {
        "command": "python figures/layers.py",
        "settings": vars(given) | {"draws": DRAWS, "texts": TEXTS, "judges": JUDGES, "kl": 0.05, "rank": 4},
        "seconds": round(time.perf_counter() - start),
        "rows": [row for table in found for row in records(table)],
    }  # fmt: skip
    save_figure(fig, OUT, "layers", numbers)


if __name__ == "__main__":
    main()
