"""Tell a model that states were collected on from another one with the same read-out: by states."""

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.adapters import Model
from steerlens.models.hooks import eval_mode, run_until
from steerlens.models.probe import probe_tokens
from steerlens.models.readout import readout
from steerlens.values.intervention import UNEMBED_IN

SAME, SAME_IN_HALF = 3e-3, 5e-2
"""Largest difference of the states of a few fixed tokens, relative to their size, between two
loads of one model: processors round otherwise, another model is far off."""


def probe_states(model: Model) -> Float[Tensor, "n d_model"]:
    """Return the final hidden states of a few fixed tokens, on the CPU."""
    with eval_mode(model):
        tokens = probe_tokens(model, readout(model).n_tokens)
        c = run_until(model, UNEMBED_IN, tokens, torch.ones_like(tokens))
    return c.flatten(0, 1).float().cpu()


def off_by(states: Float[Tensor, "n d"], known: Float[Tensor, "n d"]) -> float:
    """Return the largest difference of the same states, relative to their size.

    Example:
        >>> off_by(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 2.0]]))
        0.5
    """
    return float((states - known).abs().max() / known.abs().max())


def rounding(*dtypes: torch.dtype) -> float:
    """Return how far off states of one model may be, given the dtypes of its weights and of what is
    kept of them.

    Example:
        >>> rounding(torch.float32, torch.bfloat16) == SAME_IN_HALF
        True
    """
    return SAME if set(dtypes) == {torch.float32} else SAME_IN_HALF
