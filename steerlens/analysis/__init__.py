"""What a steer, a model's words and its states look like, a room per question.

`embeddings` (neighbours, components, lexicons and probes of the output words), `evaluate` (label curves, the toy world's truth),
`highlight`, `cost`, `moves` (of states under an intervention), `priors` (of prompts), `rivals` (everything at equal KL),
`singular` (directions of a steer and their words), `strength` (inferred from texts), `subspaces`, `trajectories`, `transfer`.
Each is loaded on first use.

Example:
    >>> import steerlens as sl
    >>> "neighbours" in dir(sl.analysis.embeddings)
    True
"""

from importlib import import_module
from typing import Any

ROOMS = (
    "cost", "embeddings", "evaluate", "highlight", "moves", "priors", "rivals", "singular", "strength", "subspaces",
    "trajectories", "transfer",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module 'steerlens.analysis' has no attribute {name!r}; it has {', '.join(ROOMS)}")
    return import_module(f"steerlens.analysis.{name}")


def __dir__() -> list[str]:
    return list(ROOMS)
