"""What a model reads for a token, and what it makes of rows that are given in its place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.readout import readout
from steerlens.models.sites import Model, edited, evaluating, run_to
from steerlens.models.tokens import batch_tokens, batches, pad
from steerlens.values.positions import Places
from steerlens.values.prompt import EMBED, prompt_edits
from steerlens.values.readout import Readout


def states_at(model: Model, ids: Sequence[Sequence[int]], site: str) -> list[Float[Tensor, "pos *width"]]:
    """The activation at a site of every token of some texts, float32, on the CPU; one pass up to the site."""
    found: dict[int, Tensor] = {}
    with evaluating(model):
        for rows in batches([len(text) for text in ids], batch_tokens(model.W_U)):
            tokens, mask = (t.to(model.W_U.device) for t in pad([list(ids[row]) for row in rows]))
            h = run_to(model, site, tokens, mask).float()
            found |= {row: h[k, : len(ids[row])].cpu() for k, row in enumerate(rows)}
    return [found[row] for row in range(len(ids))]


def embeddings(model: Model) -> Float[Tensor, "n_tokens d_model"]:
    """What the model reads for each token of its vocabulary, at `hook_embed`."""
    n = readout(model).n_tokens
    width = min(int(model.cfg.n_ctx), 256)
    ids = torch.arange(-(-n // width) * width, device=model.W_U.device).clamp(max=n - 1).reshape(-1, width)
    with evaluating(model):
        return torch.cat([run_to(model, EMBED, part, torch.ones_like(part))[0] for part in ids.split(1)])[:n].float()


def states_of(
    model: Model, on: Readout, embedded: Float[Tensor, "n d_model"], sites: Sequence[str]
) -> Float[Tensor, "n_sites n width"]:
    """Return what the model makes of given token embeddings at some sites.

    Raises:
        ValueError: sites of different widths, as the keys of layers that differ in heads or head size.
    """
    n = len(embedded)
    tokens = torch.zeros(1, n, dtype=torch.long, device=on.W_U.device)
    here = Places(torch.arange(n, device=tokens.device)[None], torch.tensor([n], device=tokens.device))
    edits = prompt_edits(embedded[None], torch.zeros_like(embedded[None]), "soft", (), 0.0)
    found = []
    with evaluating(model), edited(model, edits, lambda _, t: here):
        for site in sites:
            state = embedded if site == EMBED else run_to(model, site, tokens, torch.ones_like(tokens))[0].flatten(1)
            found.append(state.float())
    widths = {state.shape[1]: site for state, site in zip(found, sites, strict=True)}
    if len(widths) > 1:
        each = ", ".join(f"{width} at {site}" for width, site in widths.items())
        raise ValueError(
            f"layers: states have different widths there ({each}), and rows one width for all; pass layers= with those of "
            "one width, or kind='soft' or 'deep'"
        )
    return torch.stack(found)
