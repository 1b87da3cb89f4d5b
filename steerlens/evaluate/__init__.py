"""What an intervention is worth and what it costs, measured the same way for all; knows no way of fitting one.

`classify`, `compare` (everything at equal KL), `sign_margin` (of any intervention, with intervals), `fluency`, `ground_truth`
(what only a toy model's grammar can tell), `losses` (on kept states), `matched_kl` (strengths that cost as much), `strength`
(inferred from texts), `verdict`. Each is loaded on first use; those that need the toy world's truth are here by their
own names too.

Example:
    >>> import steerlens as sl
    >>> "label_curve" in dir(sl.evaluate)
    True
"""

from importlib import import_module
from typing import Any

ROOMS = (
    "classify", "compare", "sign_margin", "fluency", "ground_truth", "losses", "matched_kl", "strength", "verdict",
)  # fmt: skip
TRUTH = ("gap_closed", "label_curve", "written_attribute")


def __getattr__(name: str) -> Any:
    if name in TRUTH:
        return getattr(import_module("steerlens.evaluate.ground_truth"), name)
    if name not in ROOMS:
        known = ", ".join((*ROOMS, *TRUTH))
        raise AttributeError(f"module 'steerlens.evaluate' has no attribute {name!r}; it has {known}")
    return import_module(f"steerlens.evaluate.{name}")


def __dir__() -> list[str]:
    return [*ROOMS, *TRUTH]
