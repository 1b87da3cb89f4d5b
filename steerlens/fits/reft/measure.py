"""Losses of an edit on kept texts, counted the same way as a steer's."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.head import post, token_nll
from steerlens.models.resume import Kept, batch_of, final_states
from steerlens.models.sites import Model, evaluating
from steerlens.values.intervention import Edit
from steerlens.values.losses import Measured, Ways, tally
from steerlens.values.reft import Reft, edits_at
from steerlens.values.steer import Steer

BATCH_TOKENS = 2048
"""Padded tokens a batch: six arrays of logits of them are held at once."""

Editing = Callable[[Sequence[int], Float[Tensor, " batch"]], tuple[Edit, ...]]
"""The edits of some texts, at a strength each."""


def editing(reft: Reft, rows: Float[Tensor, "n_texts rank"] | None) -> Editing:
    """The edits of a value; with `rows` each text has its own rows of the subspace."""
    if rows is None:
        return lambda texts, strength: reft.edits(strength)

    def of(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        used = rows[list(texts)].to(strength.device)[:, None]
        return edits_at(
            reft.layers,
            reft.positions,
            len(reft.R),
            lambda h, k, _: reft.change(h, k, used.expand(*h.shape[:2], -1)),
            strength,
        )

    return of


def nll(model: Model, kept: Kept, texts: Sequence[int], made: Editing, background: Steer) -> float:
    """Mean NLL in nats per token, each text edited at its own label, over the background."""
    head = kept.readout.head
    total, n = 0.0, 0
    with evaluating(model):
        for picked in kept.batches(texts):
            batch = batch_of(kept, picked)
            c = final_states(model, kept, batch, made(picked, batch.labels))
            z = (c + c @ background.W) @ head.W_U + head.b_U
            total += float(token_nll(post(head, z), batch.targets).double().sum())
            n += len(c)
    return total / n


def measure_edit(model: Model, kept: Kept, texts: Sequence[int], made: Editing, background: Steer) -> Measured:
    """Mean NLL in nats per token, base, background, edited and flipped, and KL at ±1; five passes above the layer."""
    head = kept.readout.head

    def ways() -> Iterator[Ways]:
        for picked in kept.batches(texts, BATCH_TOKENS):
            batch = batch_of(kept, picked)
            y, one = batch.labels, torch.ones_like(batch.labels)
            plain, right, wrong, up, down = (
                final_states(model, kept, batch, made(picked, s)) for s in (0 * one, y, -y, one, -one)
            )
            text = torch.tensor(picked, device=y.device)[:, None].expand_as(batch.real)[batch.real]
            over = [c + c @ background.W for c in (plain, right, wrong)]
            yield Ways(batch.targets, text, *(c @ head.W_U + head.b_U for c in (plain, *over, up, down)))

    counted = torch.zeros(len(kept), dtype=torch.long)
    for row in texts:
        counted[row] = len(kept.ids[row]) - int(kept.prompt[row])
    with evaluating(model):
        return tally(head, ways(), kept.labels, counted)
