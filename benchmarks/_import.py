"""Importing the package beside importing torch, in fresh processes."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median

from _measure import Line, alternate, medians, number

LATE = ("transformer_lens", "seaborn", "sklearn", "matplotlib", "pandas", "scipy")


def fresh(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def lines(quick: bool) -> Iterator[Line]:
    ways = {name: partial(fresh, code) for name, code in {
        "torch": "import torch",
        "steerlens": "import torch, steerlens",
        "fit": "import torch, steerlens; steerlens.fit_steer, steerlens.collect, steerlens.generate",
    }.items()}  # fmt: skip
    use = ways.pop("fit")
    use()  # warms up
    seconds = alternate(ways, 2 if quick else 3, warm=0)
    if not quick:
        seconds |= alternate({"fit": use}, 1, warm=0)
    loaded = fresh(
        f"import sys, torch, steerlens; print([m for m in {LATE} if m in sys.modules])"
    ).strip()
    more = [
        number(
            "seconds more",
            [a - b for a, b in zip(seconds["steerlens"], seconds["torch"], strict=True)],
            most=0.2,
        )
    ]
    if "fit" in seconds:
        more.append(
            number(
                "with `fit_steer`, `collect`, `generate` used",
                [seconds["fit"][0] - median(seconds["torch"])],
            )
        )
    yield Line(
        "import", "`import steerlens`", "`import torch`", "0 s more", "≤ 0.2 s more", f"loaded with it: {loaded or 'nothing'}",
        tuple(more), medians(seconds),
    )  # fmt: skip
