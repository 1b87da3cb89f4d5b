"""Does a larger model steer better? The toy models, and two models of reviews.

    python figures/model_size.py         # writes figures/out/model_size.{pdf,png,json}; some half an hour

A thousand texts of sentiment per fit, and draws that chose no setting of it: of the toy world, and of SST-5
where reviews-128 and reviews-192 are beside the repository (judged on a thousand of its training
sentences that are set aside). Sign margin at 0.05 nats of KL per token, in nats per token; bars are 95 %
over new texts, means of the draws' ends. Sizes differ in layers, training and kind too, and each
model has an NLL of its own, which the JSON has: a size is not all that two points differ by.
"""

from itertools import product

from _setting import OUT, SHARED

import matplotlib.pyplot as plt
import torch
from _rows import kept_rows

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import nll
from steerlens.show import label_panels, look, save_figure
from steerlens.show.style import COLUMN, GREY, RED
from steerlens.show.tables import records

TOYS, REVIEWS = ("toy-64", "toy-96-llama", "toy-128"), ("reviews-128", "reviews-192")
TEXTS, NEW, DRAWS = 1000, 1000, (100, 101, 102)


def texts(model: str, draw: int) -> tuple[sl.Labelled, sl.Labelled]:
    """Return texts to fit to, and new ones."""
    if model in TOYS:
        draws = (TEXTS, draw), (NEW, 20_000)
        train, new = (sl.toy.corpus("sentiment", n=n, seed=k) for n, k in draws)
        return train, new
    data = sl.read_labelled(SHARED / "data/sst5_train.jsonl")
    apart = torch.randperm(len(data), generator=torch.Generator().manual_seed(20_000)).tolist()
    rest = data.pick(apart[NEW:])
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(draw)).tolist()
    return rest.pick(order[:TEXTS]), data.pick(apart[:NEW])


def measured(model: str, draw: int) -> dict[str, float]:
    lm = sl.load_model(model if model in TOYS else SHARED / "lms" / model)
    train, new = texts(model, draw)
    states = sl.collect(lm, train, progress=False)
    steer = sl.fit_steer(states, seed=draw, progress=False)
    found = compare(lm, {"steer": steer}, new).iloc[0]
    return {
        "d_model": states.d_model, "sign_margin": float(found.sign_margin), "low": float(found.low),
        "high": float(found.high), "strength": float(found.strength), "nll": float(nll(lm, new, None)),
    }  # fmt: skip


def main() -> None:
    there = all((SHARED / "lms" / name).is_dir() for name in REVIEWS)
    if not there:
        print("reviews-128 and reviews-192 are not beside the repository: left out")
    models = TOYS + (REVIEWS if there else ())
    keys = [{"model": m, "draw": k} for m, k in product(models, DRAWS)]
    table = kept_rows("model_size", keys, measured)
    with look():
        fig, panels = plt.subplots(
            1, 1 + there, figsize=((1 + there) * COLUMN, 2.6), layout="constrained", squeeze=False
        )
        for ax, names in zip(panels[0], (TOYS, REVIEWS), strict=False):
            rows = table[table.model.isin(names)]
            means = rows.groupby("model", sort=False)[["sign_margin", "low", "high"]].mean()
            ax.vlines(means.index, means.low, means.high, color=RED)
            ax.plot(means.index, means.sign_margin, "o-", ms=4, color=RED)
            ax.plot(rows.model, rows.sign_margin, "o", ms=2.6, mfc="none", color=RED, alpha=0.7)
            ax.axhline(0, color=GREY, lw=0.8)
            ax.set(xlim=(-0.5, len(names) - 0.5), ylabel="sign margin (nats per token)")
        label_panels(panels[0], ["toy world", "SST-5"])
    save_figure(
        fig, OUT, "model_size", {"command": "python figures/model_size.py", "rows": records(table)}
    )
    shown = ["sign_margin", "low", "high", "nll", "strength"]
    print(table.groupby("model", sort=False)[shown].mean().round(4).to_string())


if __name__ == "__main__":
    main()
