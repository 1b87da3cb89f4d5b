"""The paper's training, written from its text, and plain passes of a model: what the fit is held against."""

from collections.abc import Iterator

import torch
from torch import Tensor

import steerlens as sl
from steerlens.models.collect import batch_tokens
from steerlens.models.sites import convention
from steerlens.models.tokens import batches, encode, pad

UNIT = 1e-3
STEPS = 1000


def token_ids(model: object, data: sl.Labelled) -> list[list[int]]:
    return encode(model.tokenizer, list(data.texts), convention(model, sl.readout(model)), end=True).ids


def recipe(model: object, data: sl.Labelled, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`W` and background after each step of the paper's training, through the model at every step.

    Source: Han et al., appendix D: Adam with step 1e-2 on `W` and a background, in units of 1e-3, 1,000 steps of 32 texts,
    the label the strength. Padding counts for nothing here; in the authors' code it is in the loss.
    """
    ids, labels = token_ids(model, data), torch.tensor(data.labels)
    d = sl.readout(model).d_model
    W, D = (torch.zeros(d, d, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([W, D], lr=1e-2)
    random = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(ids), (32,), generator=random).tolist()
        tokens, mask = pad([ids[row] for row in rows])
        y = labels[rows][:, None, None]
        edit = lambda c, hook, y=y: c + UNIT * (y * (c @ W) + c @ D)  # noqa: E731
        with model.hooks(fwd_hooks=[("unembed.hook_in", edit)]):
            logits = model(tokens, attention_mask=mask)
        real = mask[:, 1:].bool()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield UNIT * W.detach(), UNIT * D.detach()


def forward_pass(model: object, ids: list[list[int]], *, logits: bool = True) -> None:
    """One plain pass over texts, in the batches that `collect` makes; without logits it is the layers alone, no hook."""
    run = model if logits else model.original_model.transformer
    with torch.no_grad():
        for batch in batches([len(i) for i in ids], batch_tokens(torch.device("cpu"))):
            tokens, mask = pad([ids[row] for row in batch])
            run(tokens, attention_mask=mask)
