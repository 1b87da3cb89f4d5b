"""The small values that a grammar takes and gives."""

from dataclasses import dataclass
from typing import NamedTuple

from steerlens.toy.tables import Level


@dataclass(frozen=True)
class Condition:
    """Levels of the three factors of a text; None means summed over (or drawn, when sampling)."""

    sentiment: float | None = None
    tone: float | None = None
    topic: str | None = None


class WordFactor(NamedTuple):
    """The truth about a word: the factor that it depends on and its level there."""

    factor: str | None
    level: Level


class EntropyRate(NamedTuple):
    """Entropy in nats per token (the end of a text is one), its standard error, both given the
    condition."""

    nats: float
    error: float
    given_condition: float
    given_condition_error: float
