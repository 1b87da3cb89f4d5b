"""The authors' training of a steer, and plain passes of a model: what the fit is held against."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import steerlens as sl
from steerlens.methods.baselines.lm_steer_recipe import MAX_LENGTH, Loss
from steerlens.models.hooks import convention
from steerlens.models.tokenization import batch_tokens, batches, encode, pad


def token_ids(model: object, data: sl.Labelled) -> list[list[int]]:
    return encode(
        model.tokenizer, list(data.texts), convention(model, sl.readout(model)), end=True
    ).ids


def through_model(model: object, data: sl.Labelled) -> Loss:
    """Run the whole model at every step, as the authors do."""
    ids, labels = [row[:MAX_LENGTH] for row in token_ids(model, data)], torch.tensor(data.labels)

    def loss(rows: list[int], W: Tensor, D: Tensor) -> Tensor:
        tokens, mask = pad([ids[row] for row in rows])
        y = labels[rows][:, None, None]
        with model.hooks(fwd_hooks=[("unembed.hook_in", lambda c, hook: c + y * (c @ W) + c @ D)]):
            logits = model(tokens, attention_mask=mask)
        real = mask[:, 1:].bool()
        return cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])

    return loss


def forward_pass(model: object, ids: list[list[int]], *, logits: bool = True) -> None:
    """Run one plain pass over texts, in the batches that `collect` makes.

    Without logits it is the layers alone, no hook.
    """
    run = model if logits else model.original_model.transformer
    with torch.no_grad():
        for batch in batches([len(i) for i in ids], batch_tokens(model.W_U)):
            tokens, mask = pad([ids[row] for row in batch])
            run(tokens, attention_mask=mask)
