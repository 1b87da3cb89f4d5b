"""What a steer of one attribute does to another that goes with it in the texts: fitted alone, and
together.

    python figures/leaks.py          # writes figures/out/leaks.{pdf,png,json}; some three minutes

In texts of the toy world praise is polite: the labels of sentiment and tone have a correlation of 0.8.
Steers of toy-64 are fitted to 600 of them, each alone, both together (`fit_steers`), and each alone less
its part along the other (`orthogonal_to`). Each is held at 0.05 nats of KL on 240 new texts in which both
attributes are independent. Means over five draws of all texts with 95 % intervals over the draws, which
chose nothing.
"""

from itertools import product

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

import steerlens as sl
from steerlens.evaluate.leak import leak
from steerlens.methods.steer.several import fit_steers, orthogonal_to
from steerlens.models.hooks import Model
from steerlens.show.figures import records, save_figure
from steerlens.show.style import AMBER, BLUE, COLUMN, label_panels, look
from steerlens.toy import Condition, grammar

DRAWS, CORRELATION, FITTED, JUDGES = range(101, 106), 0.8, 600, 240
ATTRIBUTES = ("sentiment", "tone")
WAYS = ("alone", "together", "alone, less the other")


def drawn(n: int, correlation: float, seed: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return texts whose two labels, of ±1, have a correlation, and both labels."""
    texts, labels = [], []
    for k, (a, b) in enumerate(product((-1.0, 1.0), repeat=2)):
        some = round(n * (1 + correlation * a * b) / 4)
        texts += grammar.sample(some, Condition(sentiment=a, tone=b), seed=10 * seed + k)
        labels += [(a, b)] * some
    columns = torch.tensor(labels).unbind(1)
    return texts, dict(zip(ATTRIBUTES, columns, strict=True))


def measured(model: Model, seed: int) -> pd.DataFrame:
    """Return the sign margin of both attributes under every steer of one draw."""
    texts, labels = drawn(FITTED, CORRELATION, seed)
    states = sl.collect(model, texts, progress=False)
    alone = [sl.fit_steer(states.relabel(y), progress=False).value for y in labels.values()]
    together = list(fit_steers(states, labels).steers.values())
    metric = sl.natural_metric(states, damping=0.03)
    less = [orthogonal_to(one, [other], metric) for one, other in (alone, alone[::-1])]
    steers = {
        f"{name}: {way}": steer
        for way, both in zip(WAYS, (alone, together, less), strict=True)
        for name, steer in zip(ATTRIBUTES, both, strict=True)
    }
    new, told = drawn(JUDGES, 0.0, seed + 1000)
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
    with look():
        fig, panels = plt.subplots(
            1, 2, figsize=(2.2 * COLUMN, 1.9), layout="constrained", sharey=True
        )
        for ax, of in zip(panels, ATTRIBUTES, strict=True):
            for k, attribute in enumerate(ATTRIBUTES):
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
        label_panels(panels, [f"steers of {of}" for of in ATTRIBUTES])
    return fig


def main() -> None:
    model = sl.load_model("toy-64")
    table = pd.concat([measured(model, seed) for seed in DRAWS], ignore_index=True)
    found = interval(table)
    about = {"command": "python figures/leaks.py", "means": records(found), "draws": records(table)}
    save_figure(draw(found), OUT, "leaks", about)
    print(found.round(4).to_string())


if __name__ == "__main__":
    main()
