"""Gates at equal KL: is a steer cheaper for the same effect where it acts in places alone?

    python figures/gates.py          # writes figures/out/gates.{pdf,png,json}; a minute or two
    python figures/gates.py --model reviews-192 --texts 3000      # gates_reviews-192.*; SST-5

Sentiment: five draws of the training texts (toy-64: 400), which chose nothing, and the new texts of labels −1
and 1. The same fitted steer behind each gate, at twelve strengths; KL and sign margin on the test texts
at each, between them by a monotone cubic. Left: the margin at equal KL, as a part of the ungated
steer's in the same draw. Right: the KL at which a gate has the margin that the ungated steer has at
0.05 nats, as a multiple of that; gates that never reach it are named. Means and 95 % intervals over the
draws (Student's t). Bounds of entropy are quantiles over the training texts.
"""

import argparse
import shlex
import sys
import time

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from _worlds import World, world
from scipy.interpolate import PchipInterpolator
from scipy.stats import t as student

import steerlens as sl
from steerlens.show import label_panels, look, save_figure
from steerlens.show.style import (
    AMBER,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    LINE,
    PURPLE,
    RED,
    TEAL,
    axes,
    neutral,
)
from steerlens.show.tables import records
from steerlens.values.conditions import Candidates, Condition, Entropy, NewTokens, plain_entropy
from steerlens.values.gate import seen_at
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.positions import TokenIndex

DRAWS, JUDGES, BUDGETS, ANCHOR = 5, 700, (0.02, 0.05, 0.1, 0.2), 0.05
STRENGTHS = np.geomspace(0.25, 12, 12)
COLOURS = {
    "entropy > lower quartile": TEAL, "entropy > median": BLUE, "entropy > upper quartile": PURPLE,
    "entropy < median": GREY, "top 20 words": GREEN, "top 5 words": AMBER, "every 2nd token": RED,
}  # fmt: skip


def gates(states: sl.States) -> dict[str, Condition | None]:
    """Return the conditions; their bounds are quartiles of the plain entropy."""
    c = torch.cat([chunk.hidden for chunk in states.sample(8192, seed=0).chunks(1 << 12)])
    entropy = plain_entropy(states.readout, c)
    low, middle, high = entropy.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    bounds = (
        Entropy(above=low), Entropy(above=middle), Entropy(above=high), Entropy(below=middle),
        Candidates(20), Candidates(5), NewTokens(every=2),
    )  # fmt: skip
    return {"steer": None} | dict(zip(COLOURS, bounds, strict=True))


def curve(
    states: sl.States, steer: sl.Steer, condition: Condition | None
) -> list[tuple[float, float, float, float]]:
    """Return strength, KL (mean of both signs), sign margin and the share of tokens that are open."""
    part = next(states.chunks(states.n_positions))
    head, c = states.readout.head, part.hidden
    z, u = c @ head.W_U + head.b_U, (c @ steer.W) @ head.W_U
    # the texts have no prompts: the first token that is predicted is the first new one
    counts = pd.Series(part.text.numpy()).groupby(part.text.numpy()).cumcount().to_numpy()
    places = TokenIndex(torch.tensor(counts)[None], torch.ones(1, dtype=torch.long))
    g = torch.ones(len(c), 1)
    if condition is not None:
        seen = seen_at(UNEMBED_IN, places, states.readout, c=c[None], z=z[None])
        g = condition.weight(seen)[0].reshape(len(c), -1)
    plain, y = z.log_softmax(1), states.labels[part.text]
    p, target, rows = plain.exp(), part.next, []
    for s in STRENGTHS.tolist():
        up, down = ((z + sign * s * g * u).log_softmax(1) for sign in (1, -1))
        kl = sum(float((p * (plain - q)).sum(1).double().mean()) for q in (up, down)) / 2
        right = (up - down).gather(1, target[:, None]).squeeze(1)
        rows.append((s, kl, float((y * right).double().mean()), float(g.mean())))
    return rows


def measured(here: World, texts: int, judged: sl.States, draw: int) -> pd.DataFrame:
    """Return the curve of every gate in one draw of texts."""
    states = sl.collect(here.model, here.texts(texts, 200 + draw), progress=False)
    steer = sl.fit_steer(states, seed=draw, progress=False).value
    parts = [
        pd.DataFrame(curve(judged, steer, condition), columns=["strength", "kl", "sign_margin", "open"]).assign(name=name)
        for name, condition in gates(states).items()
    ]  # fmt: skip
    found = pd.concat(parts, ignore_index=True).assign(draw=draw)
    print(f"draw {draw} done", flush=True)
    return found


def beside(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return margins at equal KL, and KL at equal margin, as parts of the ungated steer's."""
    margins, costs = [], []
    for draw, some in table.groupby("draw"):
        at = {name: rows.sort_values("kl") for name, rows in some.groupby("name")}
        by_kl = {n: PchipInterpolator(np.log(r.kl), r.sign_margin, extrapolate=False) for n, r in at.items()}  # fmt: skip
        aim = float(by_kl["steer"](np.log(ANCHOR)))
        own = _cost_of(at["steer"], aim)
        for name in COLOURS:
            for kl in BUDGETS:
                share = float(by_kl[name](np.log(kl)) / by_kl["steer"](np.log(kl)))
                margins.append((name, kl, draw, share))
            costs.append((name, ANCHOR, draw, _cost_of(at[name], aim) / own))
    columns = ["name", "kl", "draw", "part"]
    return pd.DataFrame(margins, columns=columns), pd.DataFrame(costs, columns=columns)


def _cost_of(rows: pd.DataFrame, aim: float) -> float:
    """Return the KL at which a curve has a margin; NaN where it never has."""
    rows = rows.iloc[: int(rows.sign_margin.argmax()) + 1]  # up to its top it grows with the cost
    if len(rows) < 2 or not rows.sign_margin.iloc[0] < aim < rows.sign_margin.iloc[-1]:
        return np.nan
    return float(np.exp(PchipInterpolator(rows.sign_margin, np.log(rows.kl))(aim)))


def interval(table: pd.DataFrame) -> pd.DataFrame:
    found = table.groupby(["name", "kl"], sort=False).part.agg(["mean", "std", "count"])
    half = student.ppf(0.975, np.maximum(found["count"] - 1, 1)) * found["std"] / np.sqrt(found["count"])  # fmt: skip
    return found.assign(low=found["mean"] - half, high=found["mean"] + half).reset_index()


def draw_panels(margins: pd.DataFrame, costs: pd.DataFrame) -> plt.Figure:
    with look():
        fig, panels = plt.subplots(1, 2, figsize=(2.6 * COLUMN, 3.2), layout="constrained")
        left, right = (axes(ax) for ax in panels)
        left.axhline(1, color=neutral(LINE), zorder=0)
        right.axvline(1, color=neutral(LINE), zorder=0)
        for k, (name, colour) in enumerate(COLOURS.items()):
            rows = margins[margins.name == name]
            x = rows.kl * np.exp(0.04 * (k - 3))  # side by side
            errors = [rows["mean"] - rows.low, rows.high - rows["mean"]]
            left.errorbar(x, rows["mean"], yerr=errors, color=colour, marker="o", ms=3.5, lw=1.2)
            row = costs[costs.name == name].iloc[0]
            if row["count"] == DRAWS:
                errors = [[row["mean"] - row.low], [row.high - row["mean"]]]
                right.errorbar([row["mean"]], [-k], xerr=errors, color=colour, marker="o", ms=4)
            else:
                said = f"not reached in {DRAWS - int(row['count'])} of {DRAWS} draws"
                right.text(1.06, -k, said, va="center", fontsize=7, color=colour)
        left.set(
            xscale="log", xlabel="KL, nats per token", ylabel="sign margin, part of the steer's"
        )
        left.set_xticks(BUDGETS, [f"{kl:g}" for kl in BUDGETS])
        left.minorticks_off()
        right.set(xlabel="KL for the steer's margin at 0.05 nats, multiple", ylim=(-6.6, 0.6))
        right.set_yticks([-k for k in range(len(COLOURS))], list(COLOURS))
        for tick, colour in zip(right.get_yticklabels(), COLOURS.values(), strict=True):
            tick.set_color(colour)
        label_panels((left, right), ("effect at equal cost", "cost of equal effect"))
    return fig


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", default="toy-64")
    asked.add_argument("--texts", type=int, default=400)
    given = asked.parse_args()
    start, here = time.perf_counter(), world(given.model)
    new = here.new(JUDGES)
    ends = new.pick([row for row, y in enumerate(new.labels) if abs(y) == 1])
    judged = sl.collect(here.model, ends, progress=False)
    table = pd.concat(
        [measured(here, given.texts, judged, draw) for draw in range(DRAWS)], ignore_index=True
    )
    margins, costs = map(interval, beside(table))
    about = {
        "command": shlex.join(["python", "figures/gates.py", *sys.argv[1:]]),
        "seconds": round(time.perf_counter() - start),
        "margins": records(margins),
        "costs": records(costs),
        "curves": records(table),
    }
    name = "gates" if given.model == "toy-64" else f"gates_{given.model}"
    save_figure(draw_panels(margins, costs), OUT, name, about)
    opened = table.groupby("name").open.mean().round(3)
    print(margins.round(3).to_string(), costs.round(3).to_string(), opened.to_string(), sep="\n")


if __name__ == "__main__":
    main()
