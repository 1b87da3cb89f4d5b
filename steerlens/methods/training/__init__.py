"""Fitting an intervention by descent on the signed objective: what such fits share."""

from steerlens.methods.training.loop import (
    Schedule,
    Sized,
    build_fit,
    train_on_texts,
    training_loop,
    warn_untrained,
)
from steerlens.methods.training.texts import (
    BATCH_TOKENS,
    CHUNK,
    Data,
    Editing,
    backward,
    nll,
    split,
)

__all__ = [
    "BATCH_TOKENS",
    "CHUNK",
    "Data",
    "Editing",
    "Schedule",
    "Sized",
    "backward",
    "train_on_texts",
    "training_loop",
    "build_fit",
    "nll",
    "split",
    "warn_untrained",
]
