"""What a steer, a model's words and its states look like, a room per question.

`embeddings` (neighbours, components, lexicons and probes of the output words), `highlight` (spans of a text), `prompts` (where
tuned prompts end), `reft` (its size against its quality), `state_shift` (of states under an intervention), `subspaces`, `svd`
(directions of a steer and their words), `trajectories`, `transfer`. Each is loaded on first use.

Example:
    >>> import steerlens as sl
    >>> "neighbours" in dir(sl.analysis.embeddings)
    True
"""

from importlib import import_module
from typing import Any

ROOMS = (
    "embeddings", "highlight", "prompts", "reft", "state_shift", "subspaces", "svd", "trajectories", "transfer",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module 'steerlens.analysis' has no attribute {name!r}; it has {', '.join(ROOMS)}")
    return import_module(f"steerlens.analysis.{name}")


def __dir__() -> list[str]:
    return list(ROOMS)
