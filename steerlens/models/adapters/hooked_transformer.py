"""What only a `HookedTransformer` of TransformerLens 3.x does its own way: its cache."""

from typing import Any

from torch import Tensor

from steerlens.models.adapters.protocol import Step


def decoder(model: Any) -> Step:
    """Return a step with TransformerLens' own cache of keys and values."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache  # 3.x

    cache: Any = None

    def step(new: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        if cache is None:
            cache = TransformerLensKeyValueCache.init_cache(model.cfg, new.device, new.shape[0])
        return model(new, attention_mask=mask[:, -new.shape[1] :], past_kv_cache=cache)[:, -1]

    return step
