"""How to descend: what all fits by descent are asked in the same words."""

from dataclasses import dataclass, replace
from math import ceil, inf

from steerlens.maths.brief import class_name
from steerlens.maths.numbers import as_count, as_number

EPOCHS = 10
"""Fewest passes over the texts, where it is not said how many."""
STEPS = 150
"""Fewest steps then: few texts are read more often, as a pass over them is few steps."""


@dataclass(frozen=True)
class Training:
    """Say how to descend: AdamW with a learning rate that rises linearly, then falls linearly to
    zero.

    Each fit measures its learning rate in units of the size of what it changes, so that one number
    serves models whose states differ a hundredfold in size. The parameters of the best epoch are
    kept, by the texts that are held out.

    Args:
        lr: highest learning rate; None: the fit's own. 0 keeps the untrained start, as a control.
        epochs: most passes over the texts; None: ten, or as many as make 150 steps.
        batch_size: texts per step.
        patience: epochs without a better held-out loss before it stops; None: a third of all.
        warmup: fraction of the steps in which the learning rate rises.
        weight_decay: decoupled, per step and unit of learning rate.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Training(lr=0.02).planned(n_texts=400, lr=0.01)
        Training(lr=0.02, epochs=12, batch_size=32, patience=4, warmup=0.1, weight_decay=0.0)
    """

    lr: float | None = None
    epochs: int | None = None
    batch_size: int = 32
    patience: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most, expected in (
            ("lr", 0, inf, "a number ≥ 0, or None for the fit's own"),
            ("warmup", 0, 1, "a fraction of the steps, from 0 to 1"),
            ("weight_decay", 0, inf, "a number ≥ 0"),
        ):
            given = getattr(self, name)
            if name == "lr" and given is None:
                continue
            if not least <= as_number(given, name, expected) <= most:
                raise ValueError(f"{name}: got {given}, expected {expected}")
        for name, expected in (
            ("epochs", "at least 1, or None for as many as the texts need"),
            ("batch_size", "a whole number, at least 1"),
            ("patience", "at least 1, or None for a third of the epochs"),
        ):
            given = getattr(self, name)
            if name == "batch_size" or given is not None:
                as_count(given, name, expected)

    def planned(self, n_texts: int, lr: float) -> "Training":
        """Return it with nothing left open, for so many texts and a fit's own learning rate."""
        steps = ceil(n_texts / self.batch_size)
        epochs = max(EPOCHS, ceil(STEPS / steps)) if self.epochs is None else self.epochs
        return replace(
            self,
            lr=lr if self.lr is None else self.lr,
            epochs=epochs,
            patience=max(ceil(epochs / 3), 2) if self.patience is None else self.patience,
        )


def lasting(training: object, epochs: int | None) -> Training:
    """Return how to descend, with so many epochs where it is said how many.

    Raises:
        ValueError: something else than a `Training`, no number of epochs, or two of them.
    """
    if not isinstance(training, Training):
        raise ValueError(
            f"training: got {class_name(training)}, expected a Training, e.g. steerlens.Training(lr=0.02, epochs=20)"
        )
    if epochs is None:
        return training
    planned = replace(training, epochs=epochs)
    if training.epochs not in (None, epochs):
        raise ValueError(
            f"epochs: got {epochs}, and training=Training(epochs={training.epochs}) says otherwise; give one of them"
        )
    return planned


USUAL = Training()
"""Each fit's own learning rate, and as many passes as the texts need."""
