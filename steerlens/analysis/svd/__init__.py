"""What a steer reads and what it writes: its singular directions as words, and how far to believe
them."""

from steerlens.analysis.svd.directions import (
    Directions,
    Spectrum,
    directions,
    spectrum,
    split_half_reliability,
)
from steerlens.analysis.svd.scores import singular_scores
from steerlens.analysis.svd.words import singular_words

__all__ = [
    "Directions",
    "Spectrum",
    "directions",
    "singular_scores",
    "singular_words",
    "spectrum",
    "split_half_reliability",
]
