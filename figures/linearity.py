"""How straight steering is: strengths, sums, and the shift of the log-prior that it is read as.

    python figures/linearity.py          # writes figures/out/linearity.{pdf,png,json}; some minutes

Left: the L1 distance of a steer at half a strength from the mean of no steer and the whole strength,
mean and largest over contexts of toy-128, against a bound that always holds. The JSON has also k = 2
(extrapolated), sums of two steers, reviews-192 with SST-5 where both are beside the repository, and
the bounds of version 1 of the paper (arXiv 2305.12798v1, theorems 2 and 3). Right: what toy-128
writes at each strength, as the shift of the grammar's log-prior under which it is likeliest; the line
is fitted to |strength| ≤ 1, weighted by the errors.
"""

from _setting import OUT, SHARED

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import steerlens as sl
from steerlens.analysis import theory
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.show.theory import plot_bounds, plot_prior_shift

STRENGTHS, SAMPLES = (-1.5, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5), 120


def line_through(table: pd.DataFrame) -> tuple[float, float, float]:
    """Return the slope of κ in the strength, by weighted least squares with an intercept, its
    standard error, and χ² per degree of freedom."""
    x, y, w = table.strength.to_numpy(), table.kappa.to_numpy(), 1 / table.error.to_numpy() ** 2
    X = np.stack([np.ones_like(x), x], 1)
    cov = np.linalg.inv(X.T @ (w[:, None] * X))
    at = cov @ X.T @ (w * y)
    chi2 = float((w * (y - X @ at) ** 2).sum() / (len(x) - 2))
    return float(at[1]), float(cov[1, 1] ** 0.5), chi2


def prior_shifts(attribute: str, fit: sl.Fit) -> pd.DataFrame:
    model, rows = sl.load_model("toy-128"), []
    for s in STRENGTHS:
        written = sl.generate(
            model, [""], fit, strengths=(s,), samples=SAMPLES, seed=7, max_new_tokens=40
        )
        texts = [text for text in written.text if text.strip()]
        rows.append((attribute, s, *theory.prior_shift(texts, attribute)))
        print(rows[-1], flush=True)
    return pd.DataFrame(rows, columns=["attribute", "strength", "kappa", "error"])


def bounds(name: str, one: sl.Steer, other: sl.Steer, states: sl.States) -> pd.DataFrame:
    tables = [
        theory.interpolation_error(one, states).assign(what="k = 0.5"),
        theory.interpolation_error(one, states, k=2.0).assign(what="k = 2"),
        theory.composition_error(one, other, states).assign(what="sum of two"),
    ]
    table = pd.concat(tables, ignore_index=True).assign(model=name)
    print(table.drop(columns="k").to_string(float_format="{:.3g}".format), flush=True)
    return table


def main() -> None:
    model = sl.load_model("toy-128")
    fits, states = {}, {}
    for attribute in ("sentiment", "tone"):
        states[attribute] = sl.collect(
            model, sl.toy.corpus(attribute, n=2000, seed=0), progress=False
        )
        fits[attribute] = sl.fit_steer(states[attribute], progress=False)
    tables = [bounds("toy-128", fits["sentiment"].value, fits["tone"].value, states["sentiment"])]
    folder, file = SHARED / "lms/reviews-192", SHARED / "data/sst5_train.jsonl"
    if folder.exists() and file.exists():
        reviews, data = sl.load_model(folder), sl.read_labelled(file)
        halves = [
            sl.collect(reviews, data.pick(list(range(k, 2000, 2))), progress=False) for k in (0, 1)
        ]
        one, other = (sl.fit_steer(half, progress=False).value for half in halves)
        tables.append(bounds("reviews-192", one, other, halves[0]))
    else:
        print("reviews-192 or SST-5 is not beside the repository: left out")
    shifts = pd.concat([prior_shifts(a, fit) for a, fit in fits.items()], ignore_index=True)
    lines = []
    for attribute, rows in shifts.groupby("attribute", sort=False):
        slope, error, chi2 = line_through(rows[rows.strength.abs() <= 1])
        lines.append({"attribute": attribute, "slope": slope, "error": error, "chi2": chi2})
        print(lines[-1], flush=True)
    with look():
        fig, panels = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.5), layout="constrained")
        plot_bounds(tables[0][tables[0].what == "k = 0.5"], ax=panels[0])
        sentiment = shifts[(shifts.attribute == "sentiment") & (shifts.strength.abs() <= 1)]
        plot_prior_shift(sentiment, slope=lines[0]["slope"], ax=panels[1])
        label_panels(panels)
    numbers = {"bounds": records(pd.concat(tables)), "prior": records(shifts), "lines": lines}
    save_figure(fig, OUT, "linearity", numbers)


if __name__ == "__main__":
    main()
