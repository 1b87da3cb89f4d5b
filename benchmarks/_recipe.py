"""The paper's training, written from its text, and plain passes of a model: what the fit is held against."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import steerlens as sl
from steerlens.maths.head import nll_gradient
from steerlens.models.sites import convention
from steerlens.models.tokens import batch_tokens, batches, encode, pad

UNIT = 1e-3
STEPS = 1000


def token_ids(model: object, data: sl.Labelled) -> list[list[int]]:
    return encode(model.tokenizer, list(data.texts), convention(model, sl.readout(model)), end=True).ids


Loss = Callable[[list[int], Tensor, Tensor], Tensor]
"""From rows of texts, `W` and background to the mean NLL."""


def recipe(loss: Loss, data: sl.Labelled, d_model: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`W` and background after each step of the paper's training.

    Source: Han et al., appendix D: Adam with step 1e-2 on `W` and a background, in units of 1e-3, 1,000 steps of 32 texts,
    the label the strength. Padding counts for nothing here; in the authors' code it is in the loss.
    """
    W, D = (torch.zeros(d_model, d_model, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([W, D], lr=1e-2)
    random = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(data.texts), (32,), generator=random).tolist()
        optimiser.zero_grad()
        loss(rows, UNIT * W, UNIT * D).backward()
        optimiser.step()
        yield UNIT * W.detach(), UNIT * D.detach()


def through_model(model: object, data: sl.Labelled) -> Loss:
    """As the paper has it: the whole model runs at every step."""
    ids, labels = token_ids(model, data), torch.tensor(data.labels)

    def loss(rows: list[int], W: Tensor, D: Tensor) -> Tensor:
        tokens, mask = pad([ids[row] for row in rows])
        y = labels[rows][:, None, None]
        with model.hooks(fwd_hooks=[("unembed.hook_in", lambda c, hook: c + y * (c @ W) + c @ D)]):
            logits = model(tokens, attention_mask=mask)
        real = mask[:, 1:].bool()
        return cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])

    return loss


def through_states(states: sl.States) -> Loss:
    """The same steps from states that were kept, in a fraction of the time: the model below the unembedding never changes."""
    hidden, following, text = (torch.cat(parts) for parts in zip(*states.chunks(1 << 16), strict=True))
    order = text.argsort(stable=True)
    of_text = order.split(text.bincount(minlength=len(states.labels)).tolist())

    def loss(rows: list[int], W: Tensor, D: Tensor) -> Tensor:
        at = torch.cat([of_text[row] for row in rows])
        c, y = hidden[at], states.labels[text[at]][:, None]
        moved = c + y * (c @ W) + c @ D
        slope = nll_gradient(states.readout.head, moved.detach(), following[at], torch.full((len(at),), 1 / len(at)))
        return (moved * slope).sum()  # another number with the loss's gradient

    return loss


def forward_pass(model: object, ids: list[list[int]], *, logits: bool = True) -> None:
    """One plain pass over texts, in the batches that `collect` makes; without logits it is the layers alone, no hook."""
    run = model if logits else model.original_model.transformer
    with torch.no_grad():
        for batch in batches([len(i) for i in ids], batch_tokens(model.W_U)):
            tokens, mask = pad([ids[row] for row in batch])
            run(tokens, attention_mask=mask)
