"""Fitting an intervention by descent on the signed objective: what such fits share."""

from steerlens.methods.training.loop import Schedule, Sized, descend, descend_on, described, warn_untrained
from steerlens.methods.training.texts import BATCH_TOKENS, CHUNK, Data, Editing, backward, nll, split

__all__ = [
    "BATCH_TOKENS",
    "CHUNK",
    "Data",
    "Editing",
    "Schedule",
    "Sized",
    "backward",
    "descend",
    "descend_on",
    "described",
    "nll",
    "split",
    "warn_untrained",
]
