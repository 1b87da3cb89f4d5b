"""How many texts a steer needs: our fit and the authors' recipe, and what their writing costs.

    python figures/data_efficiency.py    # writes figures/out/data_efficiency.{pdf,png,json}; some half an hour

toy-128, sentiment; draws of texts that chose no setting of the fit. Left: sign margin of new texts at the
strength that costs 0.05 nats of KL per token; the recipe is not stopped early. Middle: NLL, under the
plain model, of what is written at that strength, both signs, and right: its KL, nats per token, exact
along the written text. Dots are draws, lines their means. A run that was stopped goes on.
"""

import warnings
from itertools import product

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
from _rows import kept_rows

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.fluency import writing_cost
from steerlens.evaluate.sign_margin import written_kl
from steerlens.methods.baselines.lm_steer_recipe import fit_lm_steer_recipe
from steerlens.show import label_panels, look, save_figure
from steerlens.show.style import BLUE, COLUMN, GREY, RED, legend_above, log_scale
from steerlens.show.tables import records

SIZES, DRAWS, KL = (30, 100, 300, 1000, 3000), (100, 101, 102), 0.05
METHODS = ("fit_steer", "authors' recipe")
PANELS = {
    "sign_margin": "sign margin (nats per token)",
    "nll": "NLL of what is written",
    "written_kl": "KL of what is written",
}


def measured(texts: int, draw: int, method: str) -> dict[str, float]:
    model, data = sl.load_model("toy-128"), sl.toy.corpus("sentiment", n=texts, seed=draw)
    states = sl.collect(model, data, progress=False)
    if method == "fit_steer":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was learnt is seen in the margin
            steer = sl.fit_steer(states, seed=draw, progress=False).value
    else:
        steer = fit_lm_steer_recipe(states, seed=draw)[0]
    new = sl.toy.corpus("sentiment", n=400, seed=20_000)
    found = compare(model, {method: steer}, new, kl=KL).iloc[0]
    s = 0.0 if pd.isna(found.strength) else float(found.strength)
    prompts = ["it was", "the", "my", "we"]
    written = sl.generate(
        model, prompts, steer, strengths=(-s, s), samples=25, seed=draw, max_new_tokens=20
    )
    spent = pd.Series(written_kl(model, written, steer)).mean()
    cost = writing_cost(model, written.assign(strength=s)).iloc[0]
    return {
        "sign_margin": float(found.sign_margin), "low": float(found.low), "high": float(found.high),
        "strength": s, "nll": float(cost.nll), "written_kl": float(spent),
    }  # fmt: skip


def main() -> None:
    keys = [{"texts": n, "draw": k, "method": m} for k, n, m in product(DRAWS, SIZES, METHODS)]
    table = kept_rows("data_efficiency", keys, measured)
    plain = sl.generate(
        sl.load_model("toy-128"),
        ["it was", "the", "my", "we"],
        samples=25,
        seed=100,
        max_new_tokens=20,
    )
    base = {
        "sign_margin": 0.0,
        "nll": float(writing_cost(sl.load_model("toy-128"), plain).nll[0]),
        "written_kl": 0.0,
    }
    with look():
        fig, panels = plt.subplots(1, 3, figsize=(2.8 * COLUMN, 2.6), layout="constrained")
        for ax, (measure, label) in zip(panels, PANELS.items(), strict=True):
            for method, colour in zip(METHODS, (RED, BLUE), strict=True):
                rows = table[table.method == method]
                ax.plot(rows.texts, rows[measure], "o", ms=2.6, mfc="none", color=colour, alpha=0.7)
                means = rows.groupby("texts")[measure].mean()
                ax.plot(means.index, means, color=colour, label=method)
            ax.axhline(base[measure], color=GREY, lw=0.8, zorder=0)
            log_scale(ax, "x", subs=(1, 3))
            ax.set(xlabel="texts", ylabel=label)
        legend_above(panels[0])
        label_panels(panels)
    about = {"command": "python figures/data_efficiency.py", "kl": KL, "plain": base}
    save_figure(fig, OUT, "data_efficiency", about | {"rows": records(table)})
    shown = ["sign_margin", "low", "high", "nll", "written_kl", "strength"]
    print(
        base,
        table.groupby(["texts", "method"], sort=False)[shown].mean().round(4).to_string(),
        sep="\n",
    )


if __name__ == "__main__":
    main()
