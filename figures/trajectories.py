"""States of a small model along what it writes: do tasks lie apart, and do the states walk?

    python figures/trajectories.py

Writes figures/out/trajectories.{pdf,png,json}.
"""

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.analysis.trajectories import (
    cluster_report,
    project,
    step_statistics,
    trajectories,
    write,
)
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.show.trajectories import plot_clusters, plot_map, plot_steps
from steerlens.toy.tasks import TASKS, task

MODEL = "toy-tasks"
SEEDS = range(5)
TEXTS = 50
MAPPED = 2
TITLES = (
    f"states behind layer {MAPPED}",
    "texts apart, by task",
    "spread along a text",
    "diffusion along a text",
)


def main() -> None:
    model = sl.load_model(MODEL)
    sites = {
        "emb.": "blocks.0.hook_resid_pre",
        **{str(layer): layer for layer in range(model.cfg.n_layers)},
    }
    clusters, steps, shown = [], [], None
    for seed in SEEDS:
        texts = write(
            model,
            {name: task(name, TEXTS, seed=seed) for name in TASKS},
            max_new_tokens=30,
            seed=seed,
        )
        for name, site in sites.items():
            found = trajectories(model, texts, layer=site, generated=False)
            here = {"layer": name, "seed": seed}
            clusters.append(
                cluster_report(found, permutations=199, draws=100, n_init=2, seed=seed).assign(
                    **here
                )
            )
            steps.append(step_statistics(found, walks=30, seed=seed).assign(**here))
            if seed == 0 and site == MAPPED:
                shown = found, project(found)
    clustered, stepped = pd.concat(clusters, ignore_index=True), pd.concat(steps, ignore_index=True)
    with look():
        fig, axes = plt.subplots(2, 2, figsize=(2.15 * COLUMN, 4.9), layout="constrained")
        plot_map(*shown, ax=axes[0, 0])
        plot_clusters(clustered, ax=axes[0, 1])
        plot_steps(stepped, statistic="spread", ax=axes[1, 0])
        plot_steps(stepped, statistic="exponent", ax=axes[1, 1])
        label_panels(axes.flat, TITLES)
    numbers = {
        "model": MODEL, "seeds": list(SEEDS), "texts": TEXTS, "explained": shown[1].explained, "clusters": records(clustered),
        "steps": records(stepped),
    }  # fmt: skip
    save_figure(fig, OUT, "trajectories", numbers)
    by = clustered.groupby(["layer", "tasks", "points", "measure"], sort=False)
    print(by.agg({"value": "mean", "null_high": "mean", "p": "max"}).round(3).to_string())
    by = stepped.groupby(["layer", "task", "statistic"], sort=False)
    print(by[["value", "walk", "shuffled"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
