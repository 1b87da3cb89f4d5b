"""Refuse a model that sees the token it predicts: whatever is fitted on it would be worthless."""

from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter, architecture

TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 3e-2
"""Largest change of a logit that is rounding, relative to the size of the logits."""


def check_causal(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    logits: Float[Tensor, "batch pos vocab"],
) -> None:
    """Raise where a later token moves an earlier logit, or a mask of ones moves any.

    A model is tried once: both follow from its class and configuration.

    Args:
        logits: of the tokens, under a mask of ones.

    Raises:
        ValueError: a masked language model, an encoder, a decoder whose mask is not its own.
    """
    asked = adapter(model)
    if asked.model in _CAUSAL:
        return
    ones, size = torch.ones_like(tokens), logits.float().abs().max().clamp_min(1e-6)
    coarse = asked.W_U.dtype != torch.float32
    tolerance = TOLERANCE_IN_HALF if coarse else TOLERANCE
    later = tokens.clone()
    later[:, -1] = (later[:, -1] + 1) % asked.W_U.shape[1]
    moved = (asked.logits(later, ones) - logits)[:, :-1].float().abs().max() / size
    if moved > tolerance:
        raise ValueError(
            f"model: {architecture(model)} is not causal: another last token moves the logits before it by "
            f"{float(moved):.2g} of their size, so it has seen the word that it is to predict. Take a causal language model; "
            "one of BERT's kind may be one with is_decoder=True in its configuration"
        )
    masked = (asked.logits(tokens, None) - logits).float().abs().max() / size
    if masked > tolerance:
        raise ValueError(
            f"model: an attention mask of ones moves the logits of {architecture(model)} by {float(masked):.2g} of their size, "
            "so texts of several lengths cannot be read together; load it as a plain Hugging Face model "
            "(steerlens.load_model(name, plain=True)), or update TransformerLens"
        )
    _CAUSAL.add(asked.model)


_CAUSAL: WeakSet[Model] = WeakSet()
"""Models that were found to be causal."""
