"""What only a `TransformerBridge` does its own way: the cache of the model that it wraps."""

import inspect
from typing import Any

import torch
from torch import Tensor

from steerlens.models.adapters.protocol import Step, positions_of


def decoder(model: Any) -> Step:
    """Return a step with the cache of the wrapped model; one that keeps none is run anew on all
    tokens each time."""
    cache: Any = None
    seen: list[Tensor] = []

    def step(new: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        seen.append(new)
        tokens = new if cache is not None or len(seen) == 1 else torch.cat(seen, dim=1)
        logits, cache = read_behind(model, tokens, mask, cache, {"logits_to_keep": 1})
        return logits[:, -1]

    return step


def read_behind(
    model: Any, tokens: Tensor, mask: Tensor, cache: Any, options: dict[str, Any]
) -> tuple[Tensor, Any]:
    """Return the logits of tokens that are read behind a cache, and the cache with them."""
    accepted = inspect.signature(model.original_model.forward).parameters
    given = {name: value for name, value in options.items() if name in accepted}
    if "position_ids" in accepted:
        # 3.9 derives positions from the mask only without a cache
        given["position_ids"] = positions_of(mask)[:, -tokens.shape[1] :]
    return model(
        tokens,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        return_type="logits_and_cache",
        **given,
    )
