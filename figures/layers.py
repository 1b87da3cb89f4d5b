"""Where in a model can its style be steered? The same map at every layer and site, at equal cost.

    python figures/layers.py                       # some ten minutes on one core that is free
    python figures/layers.py --model toy-64 --attribute tone

Writes figures/out/layers.{pdf,png,json}, after each model and attribute, and goes on from what is there
already. A map of rank 4 is fitted to 500 texts at the input embeddings, at what attention and MLP add,
behind each layer and at the unembedding, by a closed form and a short descent (`fit_hidden_steer`), and
held at 0.05 nats of KL against the steer, which is a convex fit at the unembedding. Means over three
draws of the training texts, 95 % intervals over 300 new texts; draws and texts chose nothing.
"""

import argparse
import json

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.analysis.layers import steer_by_site
from steerlens.show.figures import records, save_figure
from steerlens.show.layers import plot_sites
from steerlens.show.style import COLUMN, label_panels, look, title_above

DRAWS, TEXTS, JUDGES, KL, RANK = (101, 102, 103), 500, 300, 0.05, 4
SETTINGS = {"draws": list(DRAWS), "texts": TEXTS, "judges": JUDGES, "kl": KL, "rank": RANK}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", nargs="+", default=["toy-128"])
    asked.add_argument("--attribute", nargs="+", default=["sentiment"])
    given = asked.parse_args()
    found = kept()
    for name in given.model:
        for attribute in given.attribute:
            if (name, attribute) not in found:
                found[name, attribute] = measured(name, attribute)
                draw(found)


def kept() -> dict[tuple[str, str], pd.DataFrame]:
    """Return the tables of an earlier run with the same settings, by model and attribute."""
    path = OUT / "layers.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("settings") != SETTINGS:
        return {}
    rows = pd.DataFrame(before["rows"])
    return dict(list(rows.groupby(["model", "attribute"], sort=False)))


def measured(name: str, attribute: str) -> pd.DataFrame:
    draws = [sl.toy.corpus(attribute, n=TEXTS, seed=seed) for seed in DRAWS]
    test = sl.toy.corpus(attribute, n=JUDGES, seed=20_000)
    table = steer_by_site(sl.load_model(name), draws, test, rank=RANK, kl=KL)
    print(name, attribute, table.round(4).to_string(), sep="\n", flush=True)
    return table.assign(model=name, attribute=attribute)


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
    about = {"command": "python figures/layers.py", "settings": SETTINGS, "rows": rows}
    save_figure(fig, OUT, "layers", about)
    plt.close(fig)


if __name__ == "__main__":
    main()
