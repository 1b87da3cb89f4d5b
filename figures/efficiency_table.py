"""What each method costs to have and to use: numbers learned, seconds to fit, slowdown of writing.

    python figures/efficiency_table.py     # reads the numbers of equal_kl; writes figures/out/efficiency_table.{pdf,png,json}

All of it was measured in one process by `figures/equal_kl.py`; run that first, or the committed
numbers are read.
"""

import json
from pathlib import Path

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

from steerlens.show import look, plot_rows, save_figure
from steerlens.show.style import COLUMN

GALLERY = Path(__file__).parent / "gallery"


def main() -> None:
    source = next(f for f in (OUT / "equal_kl.json", GALLERY / "equal_kl.json") if f.is_file())
    found = json.loads(source.read_text(encoding="utf-8"))
    table = pd.DataFrame(found["rows"]).drop_duplicates("method")
    table = table[["method", "kind", "parameters", "seconds", "slowdown"]]
    with look():
        fig, panels = plt.subplots(
            1, 3, figsize=(2.6 * COLUMN, 0.8 + 0.17 * len(table)), layout="constrained"
        )
        for k, measure in enumerate(("parameters", "seconds", "slowdown")):
            plot_rows(table, measure, names=k == 0, ax=panels[k])
    numbers = {"command": found["command"], "rows": json.loads(table.to_json(orient="records"))}
    save_figure(fig, OUT, "efficiency_table", numbers)
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
