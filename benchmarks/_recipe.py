"""The authors' training of a steer, and plain passes of a model: what the fit is held against."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import steerlens as sl
from steerlens.maths.logits import nll_gradient
from steerlens.models.hooks import convention
from steerlens.models.tokenization import batch_tokens, batches, encode, pad

UNIT = 1e-3
"""Their ε."""
STEPS, BATCH, RANK, MAX_LENGTH = 1000, 32, 1000, 256


class How(NamedTuple):
    """What a training learns, and how.

    Args:
        form: "factors": `W = ε P1 P2ᵀ` of rank 1,000, entries N(0, 1) · 1e-2 at the start, as the
            authors' code has it; "matrix": `W = ε U`, entries of variance 1e-3, as their paper has
            it.
        lr: step of Adam.
        l2: the price of the sum of all squared parameters.
    """

    form: Literal["factors", "matrix"] = "factors"
    lr: float = 1e-2
    l2: float = 0.0


OFFICIAL = How("factors", l2=1e-6)
"""The authors' command for SST-5; the one for toxicity has no L2."""
OF_PAPER = How("matrix")


def token_ids(model: object, data: sl.Labelled) -> list[list[int]]:
    return encode(
        model.tokenizer, list(data.texts), convention(model, sl.readout(model)), end=True
    ).ids


Loss = Callable[[list[int], Tensor, Tensor], Tensor]
"""From rows of texts, `W` and background to the mean NLL."""


def recipe(
    loss: Loss, data: sl.Labelled, d_model: int, how: How = OFFICIAL, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `W` and background after each step of the authors' training.

    Source: github.com/Glaciohound/LM-Steer (train.py, steers.py, README) and Han et al., appendix
    D: Adam with step 1e-2, 1,000 steps of 32 texts, the label the strength, a second steer (the
    dummy) always on. Two things are not theirs and can only help: padding counts for nothing here,
    where in their code it is in the loss; and the product of the factors is made once per step,
    where in their code every token, padding too, goes through both.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = start(how.form, d_model, random)
    optimiser = torch.optim.Adam(parameters, lr=how.lr)
    W, D = matrices(parameters)
    for rows in minibatches(len(data.texts), random):
        optimiser.zero_grad()
        (loss(rows, W, D) + how.l2 * sum(p.square().sum() for p in parameters)).backward()
        optimiser.step()
        W, D = matrices(parameters)
        yield W.detach(), D.detach()


def start(form: str, d_model: int, random: torch.Generator) -> list[Tensor]:
    """Draw the parameters of steer and background: factors of both, or both themselves."""
    if form == "factors":
        drawn = [1e-2 * torch.randn(2, d_model, RANK, generator=random) for _ in range(2)]
    else:
        drawn = [1e-3**0.5 * torch.randn(2, d_model, d_model, generator=random)]
    return [p.requires_grad_() for p in drawn]


def matrices(parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Make `W` and background of their parameters."""
    first, *second = parameters
    W, D = UNIT * (first @ second[0].mT if second else first)
    return W, D


def minibatches(n: int, random: torch.Generator) -> Iterator[list[int]]:
    """Deal out all texts in a new order each epoch, as the authors' loader does.

    The last batch of an epoch is smaller.
    """
    while True:
        yield from (rows.tolist() for rows in torch.randperm(n, generator=random).split(BATCH))


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


def through_states(states: sl.States) -> Loss:
    """Make the same steps from kept states, in a fraction of the time.

    The model below the unembedding never changes.
    """
    hidden, following, text = (
        torch.cat(parts) for parts in zip(*states.chunks(1 << 16), strict=True)
    )
    order = text.argsort(stable=True)
    counts = text.bincount(minlength=len(states.labels)).tolist()
    of_text = [at[: MAX_LENGTH - 1] for at in order.split(counts)]

    def loss(rows: list[int], W: Tensor, D: Tensor) -> Tensor:
        at = torch.cat([of_text[row] for row in rows])
        c, y = hidden[at], states.labels[text[at]][:, None]
        with torch.no_grad():
            moved = c + y * (c @ W) + c @ D
            share = torch.full((len(at),), 1 / len(at))
            slope = nll_gradient(states.readout.head, moved, following[at], share)
            to_W, to_D = (y * c).mT @ slope, c.mT @ slope
        return (W * to_W).sum() + (D * to_D).sum()  # another number with the loss's gradient

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
