"""Losses of texts, four ways."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Mean NLL in nats per token of texts read at their own label, four ways.

    `base` without any steer, `background` with the background alone, `steered` with background and
    steer, `flipped` with background and the label mirrored at the report's mean label, which for balanced
    labels is the steer's sign turned.
    """

    base: float
    background: float
    steered: float
    flipped: float

    @property
    def sign_margin(self) -> float:
        """`flipped − steered`: what the sign is worth, free of what the background explains and of
        what all texts share."""
        return self.flipped - self.steered


class Measured(NamedTuple):
    """Losses over all positions and for each label, KL(base ‖ steer alone) at strengths +1 and -1,
    and summed NLL by text."""

    all: Losses
    by_label: dict[float, Losses]
    kl: tuple[float, float]
    by_text: Float[Tensor, "n_texts 4"]
    """Nats, four ways, of each text; 0 where it was not measured."""
