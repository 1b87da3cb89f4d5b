"""How much nearer to the ceiling more texts bring a steer.

    python figures/more_texts.py      # writes figures/out/more_texts.{pdf,png,json}; some ten minutes

toy-128: the share of the gap to the exact grammar that a fit closes on 1,000 new texts, at the strength
that labels ask for, by the number of texts it was fitted to. The line is what the best linear steer
closes, which figures/ceiling.py fits to the grammar itself. Draws of the training texts are others
than those on which the fit's defaults were chosen; intervals are 95 %, over the new texts.
"""

import json
import sys
from pathlib import Path

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.show.figures import save_figure
from steerlens.show.style import BLUE, COLUMN, GREY, RED, look
from steerlens.show.tables import records

SIZES, DRAWS = (500, 2_000, 8_000, 32_000), (100, 101)
ATTRIBUTES = ("sentiment", "tone")
CEILING = Path(__file__).parent / "gallery" / "ceiling.json"


def ceiling(attribute: str) -> float:
    """Return the share that the best linear steer of toy-128 closes."""
    parts = json.loads(CEILING.read_text(encoding="utf-8"))["parts"]
    mine = [p for p in parts if (p["model"], p["attribute"]) == ("toy-128", attribute)]
    return sum(p["share"] for p in mine if p["part"] in ("closed by the fit", "not in the data"))


def closed(model: object, attribute: str, n: int, draw: int) -> dict[str, float]:
    fit = sl.fit_steer(model, sl.toy.corpus(attribute, n=n, seed=draw), progress=False)
    table = sl.gap_closed(model, fit.report.strength * fit.value, attribute, strengths=(1,))
    whole = table.set_index("grade").loc["all"]
    seconds = fit.report.seconds
    return {"n": n, "draw": draw, "seconds": seconds, **whole[["gap_closed", "low", "high"]]}


def main() -> None:
    sizes = SIZES[:1] if "--quick" in sys.argv else SIZES
    model, rows = sl.load_model("toy-128"), []
    for attribute in ATTRIBUTES:
        for n in sizes:
            for draw in DRAWS[: 1 if n > 8_000 else None]:
                rows.append({"attribute": attribute, **closed(model, attribute, n, draw)})
                print(rows[-1], flush=True)
    found = pd.DataFrame(rows)
    with look():
        fig, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
        for attribute, colour in zip(ATTRIBUTES, (BLUE, RED), strict=True):
            mean = found[found.attribute == attribute].groupby("n")[["gap_closed", "low", "high"]]
            line = mean.mean()
            ax.fill_between(line.index, line.low, line.high, color=colour, alpha=0.2, lw=0)
            ax.plot(line.index, line.gap_closed, "o-", ms=3, color=colour, label=attribute)
            ax.axhline(ceiling(attribute), color=colour, ls="--", lw=1)
        ax.annotate(
            "best linear steer", (sizes[0], ceiling(ATTRIBUTES[0])), color=GREY, va="bottom"
        )
        ax.set(xscale="log", xlabel="texts of the fit", ylabel="share of the gap closed")
        ax.set_ylim(0, None)
        ax.legend(loc="lower right")
    about = {"command": " ".join(["python figures/more_texts.py", *sys.argv[1:]])}
    save_figure(fig, OUT, "more_texts", {**about, "rows": records(found)})


if __name__ == "__main__":
    main()
