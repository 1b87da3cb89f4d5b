"""What a fit of an edit has to know of the states it edits."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.methods.reft.formulas import top_mean
from steerlens.methods.reft.parameters import TOP
from steerlens.models.hooks import Model, eval_mode, run_until
from steerlens.models.partial_forward import Batch, ResidualCache, batch_of
from steerlens.values.hook_names import resid_post


def survey(
    model: Model, kept: ResidualCache, texts: Sequence[int], layers: Sequence[int]
) -> tuple[Float[Tensor, "n_layers d"], list[float]]:
    """Return the mean state behind each layer, and the median norm of a state.

    Over the first of some texts.
    """
    some = kept.batches(texts[:64])
    means, sizes = [], []
    with eval_mode(model):
        for layer in layers:
            batches = (batch_of(kept, picked) for picked in some)
            h = torch.cat(
                [_states(model, kept, batch, layer)[batch.mask.bool()] for batch in batches]
            )
            means.append(h.mean(0))
            # begin-of-text may be hundreds of times as long as any other state
            sizes.append(float(h.norm(dim=1).median()))
    return torch.stack(means), sizes


def activations(
    model: Model, kept: ResidualCache, texts: Sequence[int], layer: int, v: Float[Tensor, " d"]
) -> tuple[float, float]:
    """Return the mean over texts of what r1 adds in training, and a token's largest activation."""
    sizes, largest = [], 0.0
    with eval_mode(model):
        for picked in kept.batches(texts):
            batch = batch_of(kept, picked)
            h = _states(model, kept, batch, layer)
            sizes.append(top_mean(h, v.to(h), batch.mask.to(h), TOP)[0])
            largest = max(largest, float((torch.relu(h @ v.to(h)) * batch.mask).max()))
    return float(torch.cat(sizes).mean()), largest


def _states(
    model: Model, kept: ResidualCache, batch: Batch, layer: int
) -> Float[Tensor, "batch pos d"]:
    """Return the states behind a layer, kept or run anew."""
    if batch.resid is not None and layer == kept.layer:
        return batch.resid
    return run_until(model, resid_post(layer), batch.tokens, batch.mask).float()
