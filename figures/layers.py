"""Where in a model can its style be steered? The same map at every layer and site, at equal cost.

    python figures/layers.py                       # some ten minutes on one core that is free
    python figures/layers.py --model toy-64 --attribute tone
    python figures/layers.py --model reviews-192 --attribute SST-5

Writes figures/out/layers.{pdf,png,json}; other models' names follow in the file names. Each model and
attribute is kept when it is done, so that an interrupted run goes on. A map of rank 4 is fitted to 500
texts at the input embeddings, at what attention and MLP add, behind each layer and at the unembedding,
by a closed form and a short descent (`fit_hidden_steer`), and held at 0.05 nats of KL against the steer,
which is a convex fit at the unembedding. Means over three draws of the training texts, 95 % intervals
over 300 new texts; draws and texts chose nothing.
"""

import argparse
import shlex
import sys
from itertools import product

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
from _rows import kept_rows
from _worlds import world

from steerlens.analysis.layers import steer_by_site
from steerlens.show.figures import save_figure
from steerlens.show.layers import plot_sites
from steerlens.show.style import COLUMN, label_panels, look, title_above
from steerlens.show.tables import records

SETTINGS = {"draws": [101, 102, 103], "texts": 500, "judges": 300, "kl": 0.05, "rank": 4}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", nargs="+", default=["toy-128"])
    asked.add_argument("--attribute", nargs="+", default=["sentiment"])
    given = asked.parse_args()
    pairs = product(given.model, given.attribute)
    keys = [{"model": model, "attribute": attribute} | SETTINGS for model, attribute in pairs]
    rows = kept_rows("layers", keys, measured)
    tables = zip(rows.model, rows.attribute, map(pd.DataFrame, rows.table), strict=True)
    draw({(name, attribute): table for name, attribute, table in tables})


def measured(
    model: str, attribute: str, draws: list[int], texts: int, judges: int, kl: float, rank: int
) -> dict[str, list]:
    here = world(model, attribute)
    train = [here.texts(texts, seed) for seed in draws]
    table = steer_by_site(here.model, train, here.new(judges), rank=rank, kl=kl)
    return {"table": records(table.assign(model=model, attribute=attribute))}


def draw(found: dict[tuple[str, str], pd.DataFrame]) -> None:
    with look():
        size = (1.7 * COLUMN, 2.5 * len(found))
        fig, panels = plt.subplots(len(found), 1, figsize=size, layout="constrained", squeeze=False)
        for ax, table in zip(panels[:, 0], found.values(), strict=True):
            plot_sites(table, ax=ax)
        titles = [", ".join(pair) for pair in found]
        if len(found) > 1:
            label_panels(panels[:, 0], titles)
        else:
            title_above(panels[0, 0], titles[0])
    rows = [row for table in found.values() for row in records(table)]
    command = shlex.join(["python", "figures/layers.py", *sys.argv[1:]])
    about = {"command": command, "settings": SETTINGS, "rows": rows}
    names = sorted({model for model, _ in found})
    name = "layers" if names == ["toy-128"] else "_".join(["layers", *names])
    save_figure(fig, OUT, name, about)
    plt.close(fig)


if __name__ == "__main__":
    main()
