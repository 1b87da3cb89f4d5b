"""What a model reads for a token, and what it makes of rows that are given in its place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter, eval_mode, run_until
from steerlens.models.readout import readout
from steerlens.models.tokenization import batch_tokens, batches, pad
from steerlens.values.hook_names import EMBED


def states_at(
    model: Model, ids: Sequence[Sequence[int]], site: str
) -> list[Float[Tensor, "pos *width"]]:
    """Return the activation at a site of every token of some texts, float32, on the CPU.

    It takes one pass up to the site.
    """
    found: dict[int, Tensor] = {}
    W_U = adapter(model).W_U
    with eval_mode(model):
        for rows in batches([len(text) for text in ids], batch_tokens(W_U)):
            tokens, mask = (t.to(W_U.device) for t in pad([list(ids[row]) for row in rows]))
            h = run_until(model, site, tokens, mask).float()
            found |= {row: h[k, : len(ids[row])].cpu() for k, row in enumerate(rows)}
    return [found[row] for row in range(len(ids))]


def embeddings(model: Model) -> Float[Tensor, "n_tokens d_model"]:
    """Return what the model reads for each token of its vocabulary, at `hook_embed`."""
    n, found = readout(model).n_tokens, adapter(model)
    width = min(found.n_ctx, 256)
    ids = (
        torch.arange(-(-n // width) * width, device=found.W_U.device)
        .clamp(max=n - 1)
        .reshape(-1, width)
    )
    with eval_mode(model):
        return torch.cat(
            [run_until(model, EMBED, part, torch.ones_like(part))[0] for part in ids.split(1)]
        )[:n].float()
