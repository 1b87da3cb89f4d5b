"""What only a `TransformerBridge` does its own way: the cache of the model that it wraps."""

import inspect
from typing import Any

import torch
from torch import Tensor

from steerlens.models.adapters.protocol import Step, positions_of


def decoder(model: Any) -> Step:
    """Return a step with the cache of the wrapped model; one that keeps none is run anew on all
    tokens each time."""
    accepted = inspect.signature(model.original_model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    cache: Any = None
    seen: list[Tensor] = []

    def step(new: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        seen.append(new)
        tokens = new if cache is not None or len(seen) == 1 else torch.cat(seen, dim=1)
        if "position_ids" in accepted:
            # 3.9 derives positions from the mask only without a cache
            options["position_ids"] = positions_of(mask)[:, -tokens.shape[1] :]
        logits, cache = model(
            tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            return_type="logits_and_cache",
            **options,
        )
        return logits[:, -1]

    return step
