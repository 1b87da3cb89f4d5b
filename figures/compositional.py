"""Two steers at once: what sentiment and tone do to each other, and why one would raise the other.

    python figures/compositional.py      # writes figures/out/compositional.{pdf,png,json}; some minutes

toy-128 writes 150 texts at each of 25 pairs of strengths of a steer for sentiment and one for tone,
added; the exact grammar judges tone. Left: the steer for sentiment was fitted to texts whose tone is
independent of it. Middle: to texts of which half have the tone of their sentiment, rude where it is
negative. Right: tone of the written texts as a linear function of tone strength, sentiment strength,
their product, and tone strength times the square of sentiment strength (how far one steer crowds out
the other), strengths counted in labels; 95 % over samples, which all pairs share.
"""

from itertools import product

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import steerlens as sl
from steerlens.show import label_panels, look, save_figure
from steerlens.show.style import BLUE, COLUMN, DIVERGING, GREY, RED, legend_above
from steerlens.show.tables import records
from steerlens.toy.condition import Condition

MODEL = sl.load_model("toy-128")
STRENGTHS, SAMPLES, TEXTS = (-2, -1, 0, 1, 2), 150, 2000
TERMS = ("tone", "sentiment", "product", "crowding")


def entangled(n: int, seed: int) -> sl.Labelled:
    """Draw texts by sentiment, half of which have its sign as their tone, the others any tone."""
    plain, texts = sl.toy.corpus("sentiment", n=n // 2, seed=seed), []
    for k, y in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
        both = Condition(sentiment=y, tone=float(np.sign(y)))
        texts += [(text, y) for text in sl.toy.grammar.sample(n // 10, both, seed=1000 + k)]
    return plain + sl.Labelled(*zip(*texts, strict=True))


def steer(data: sl.Labelled) -> sl.Steer:
    """Fit a steer, as long as a label of 1 asks for."""
    fit = sl.fit_steer(MODEL, data, progress=False)
    return fit.report.strength * fit.value


def plane(sentiment: sl.Steer, tone: sl.Steer) -> pd.DataFrame:
    parts = []
    for s, t in product(STRENGTHS, STRENGTHS):
        both = s * sentiment + t * tone
        written = sl.generate(MODEL, [""], both, samples=SAMPLES, seed=7, max_new_tokens=40)
        found = sl.toy.grammar.posteriors([text.strip() for text in written.text])
        means = {name: found.mean(name) for name in ("sentiment", "tone")}
        parts.append(written[["sample"]].assign(s=s, t=t, **means, grammatical=found.grammatical))
    return pd.concat(parts, ignore_index=True)


def terms(table: pd.DataFrame) -> pd.DataFrame:
    """Fit the tone of each sample's 25 texts, and take means and intervals over samples."""
    y = table.pivot(index="sample", columns=["s", "t"], values="tone")
    s, t = (y.columns.get_level_values(name).to_numpy(float) for name in ("s", "t"))
    X = np.stack([np.ones_like(s), t, s, t * s, t * s**2], 1)
    found = (y.to_numpy() @ np.linalg.pinv(X).T)[:, 1:]
    pick = np.random.default_rng(0).integers(0, len(found), (1000, len(found)))
    low, high = np.quantile(found[pick].mean(1), [0.025, 0.975], axis=0)
    return pd.DataFrame({"term": TERMS, "mean": found.mean(0), "low": low, "high": high})


def main() -> None:
    sources = {
        "independent": sl.toy.corpus("sentiment", n=TEXTS, seed=100),
        "entangled": entangled(TEXTS, 100),
    }
    tone = steer(sl.toy.corpus("tone", n=TEXTS, seed=101))
    planes = {name: plane(steer(data), tone) for name, data in sources.items()}
    found = {name: terms(table) for name, table in planes.items()}
    means = {
        name: table.groupby(["s", "t"])[["tone", "sentiment", "grammatical"]].mean().reset_index()
        for name, table in planes.items()
    }
    draw(found, means)
    numbers = {k: {"terms": records(found[k]), "means": records(means[k])} for k in found}
    about = {"command": "python figures/compositional.py"}
    save_figure(plt.gcf(), OUT, "compositional", about | numbers)
    for name, table in found.items():
        print(name, table.round(3).to_string(), means[name].round(2).to_string(), sep="\n")


@look()
def draw(found: dict[str, pd.DataFrame], means: dict[str, pd.DataFrame]) -> None:
    _, panels = plt.subplots(1, 3, figsize=(2.9 * COLUMN, 2.7), layout="constrained")
    for ax, table in zip(panels, means.values(), strict=False):
        grid = table.pivot(index="t", columns="s", values="tone").sort_index(ascending=False)
        ax.imshow(grid, cmap=DIVERGING, vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center", color="w", fontsize=7)
        ax.set_xticks(range(5), [f"{s:+d}" if s else "0" for s in grid.columns])
        ax.set_yticks(range(5), [f"{t:+d}" if t else "0" for t in grid.index])
        ax.set(xlabel="strength of sentiment", ylabel="strength of tone")
    panels[2].axvline(0, color=GREY, lw=0.8)
    for k, (name, table) in enumerate(found.items()):
        y = np.arange(len(table)) + 0.2 * k - 0.1
        panels[2].hlines(y, table.low, table.high, color=(BLUE, RED)[k])
        panels[2].plot(table["mean"], y, "o", ms=4, color=(BLUE, RED)[k], label=f"{name} texts")
    panels[2].set_yticks(range(len(TERMS)), TERMS)
    panels[2].set(xlabel="change of tone", ylim=(len(TERMS) - 0.5, -0.5))
    legend_above(panels[2])
    label_panels(panels, ["tone, independent texts", "tone, entangled texts"])


if __name__ == "__main__":
    main()
