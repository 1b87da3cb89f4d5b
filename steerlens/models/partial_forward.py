"""Run a model from behind a layer on, on states that were kept: what lies below is run once, not
once per step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.models.adapters import Model
from steerlens.models.embeddings import states_at
from steerlens.models.guards import of_this_thread, restoring
from steerlens.models.hooks import (
    adapter,
    apply_edits,
    convention,
    eval_mode,
    read_out_states,
    run_until,
)
from steerlens.models.readout import readout
from steerlens.models.tokenization import Encoded, batch_tokens, batches, encode, pad
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import UNEMBED_IN, Edit
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex, places_of
from steerlens.values.readout import Readout

AGREES = 1e-4
"""Largest difference between a resumed and a whole pass, relative to the size of the states."""


@dataclass(frozen=True, eq=False)
class ResidualCache:
    """Texts as a model has read them up to a layer: tokens, and the residual stream behind the
    layer.

    Args:
        readout: of the model.
        layer: that `resid` is behind; -1 where passes cannot be resumed on this model and start
            from the tokens.
        ids: token ids of each text.
        prompt: how many tokens of each text are only read.
        labels: one per text.
        resid: of all texts, one after the other, `[n_tokens, d_model]`; empty for layer -1.
        starts: where each text begins in it.
        n_truncated: texts that were cut to the context.
    """

    readout: Readout
    layer: int
    ids: tuple[tuple[int, ...], ...]
    prompt: Int[Tensor, " n_texts"]
    labels: Float[Tensor, " n_texts"]
    resid: Float[Tensor, "n_tokens d"]
    starts: Int[Tensor, " n_texts"]
    n_truncated: int

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, rows: Sequence[int], max_tokens: int | None = None) -> list[list[int]]:
        """Put texts of similar length together, in batches of at most `max_tokens` padded
        tokens."""
        picked, size = list(rows), batch_tokens(self.readout.W_U)
        lengths = [len(self.ids[row]) for row in picked]
        return [
            [picked[i] for i in batch] for batch in batches(lengths, min(size, max_tokens or size))
        ]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some kept texts, padded on the right; `real` marks the tokens whose successor is to be
    predicted."""

    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    places: TokenIndex
    labels: Float[Tensor, " batch"]
    resid: Float[Tensor, "batch pos d"] | None

    @property
    def real(self) -> Tensor:
        return self.places.index[:, 1:] >= self.places.prompt[:, None]

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:][self.real]

    def owners(self, texts: Sequence[int]) -> Tensor:
        """Return to which of the texts that it was made of each real position belongs."""
        return torch.tensor(texts, device=self.real.device)[:, None].expand_as(self.real)[self.real]


def cache_residuals(model: Model, data: Labelled, layer: int, *, end: bool = True) -> ResidualCache:
    """Read texts once, up to a layer.

    Whether a pass that is resumed there gives what a whole pass gives is tried first; where it does
    not (a model whose blocks are called in some other way), everything is run from the tokens,
    which costs more and gives the same.
    """
    how = convention(model, readout(model))
    encoded = encode(adapter(model).tokenizer, list(data.texts), how, end=end, prompts=data.prompts)
    return cache_residuals_of_tokens(model, encoded, torch.tensor(data.labels), layer)


def cache_residuals_of_tokens(
    model: Model, encoded: Encoded, labels: Float[Tensor, " n_texts"], layer: int
) -> ResidualCache:
    """Read tokens once, up to a layer, as `cache_residuals` does texts.

    With layer -1 nothing is kept and passes start from the tokens.
    """
    on = readout(model)
    lengths = torch.tensor([len(ids) for ids in encoded.ids])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)[:-1]])
    can = layer >= 0 and resumes(model, layer)
    resid = torch.empty(0, on.d_model)
    if can:
        resid = torch.cat(states_at(model, encoded.ids, resid_post(layer)))
    ids = tuple(tuple(ids) for ids in encoded.ids)
    return ResidualCache(
        on,
        layer if can else -1,
        ids,
        torch.tensor(encoded.prompt),
        labels,
        resid,
        starts,
        encoded.n_truncated,
    )


def batch_of(kept: ResidualCache, rows: Sequence[int]) -> Batch:
    """Return some of the texts, on the model's device."""
    device = kept.readout.W_U.device
    tokens, mask = pad([list(kept.ids[row]) for row in rows])
    resid = None
    if kept.layer >= 0:
        parts = [
            kept.resid[kept.starts[row] : kept.starts[row] + len(kept.ids[row])] for row in rows
        ]
        resid = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device)
    index, prompt = places_of(mask, kept.prompt[list(rows)])
    places = TokenIndex(index.to(device), prompt.to(device))
    return Batch(
        tokens.to(device), mask.to(device), places, kept.labels[list(rows)].to(device), resid
    )


def final_states(
    model: Model, kept: ResidualCache, batch: Batch, edits: Sequence[Edit]
) -> Float[Tensor, "n d_model"]:
    """Return the final hidden states of a batch's predicting positions under some edits.

    Gradients flow to what the edits hold.

    Edits behind the kept layer are made on the kept states, later ones where they belong.
    """
    here = resid_post(kept.layer)
    dtype = next(adapter(model).module.parameters()).dtype
    later = list(edits)
    if batch.resid is None:
        with apply_edits(model, later, lambda _, t: batch.places):
            c = read_out_states(model, batch.tokens, batch.mask)
    else:
        start = batch.resid
        for edit in [edit for site, edit in edits if site == here]:
            start = edit(start, batch.places)
        later = [one for one in edits if one[0] != here]
        with (
            resumed(model, kept.layer, start.to(dtype)),
            apply_edits(model, later, lambda _, t: batch.places),
        ):
            c = read_out_states(model, batch.tokens, batch.mask)
    return c[:, :-1][batch.real].float()


@contextmanager
def resumed(model: Model, layer: int, resid: Float[Tensor, "batch pos d"]) -> Iterator[None]:
    """Run the block with the model's blocks up to `layer` passed over.

    What comes out of the last of them is `resid`.

    Embedding, positions and masks are the model's own. Hooks of the blocks that are passed over do
    not run.

    Raises:
        IndexError: the model does not show so many layers.
    """
    found = adapter(model)
    passed, alone = list(found.blocks[: layer + 1]), found.states_alone
    is_ours = of_this_thread()

    def passing(block: Any, given: Tensor | None) -> Callable[..., Any]:
        whole = block._call_impl  # for what the user runs in another thread meanwhile

        def made(hidden: Tensor) -> Any:
            states = hidden if given is None else given
            return states if alone else (states,)

        return lambda *args, **kwargs: (
            made(args[0] if args else kwargs["hidden_states"])
            if is_ours()
            else whole(*args, **kwargs)
        )

    if len(passed) <= layer:
        raise IndexError(f"layer: {layer}, of which the model shows {len(passed)}")
    # torch calls the second in the place of the first where a block was compiled
    calls = ("_call_impl", "_compiled_call_impl")
    before = [{k: block.__dict__[k] for k in calls if k in block.__dict__} for block in passed]

    def restore() -> None:
        for block, own in zip(passed, before, strict=True):
            for name in calls:
                block.__dict__.pop(name, None)
            block.__dict__.update(own)

    with restoring(restore):
        for block in passed:
            # in the instance's own dictionary it goes before the class's method, and comes out
            # again without a trace
            block.__dict__["_call_impl"] = passing(block, resid if block is passed[-1] else None)
            block.__dict__["_compiled_call_impl"] = None
        yield


def resumes(model: Model, layer: int) -> bool:
    """Return whether a resumed pass gives what a whole one gives, tried on a few random tokens."""
    random = generator(0)
    W_U = adapter(model).W_U
    tokens = torch.randint(W_U.shape[1], (2, 5), generator=random).to(W_U.device)
    mask = torch.ones_like(tokens)
    with eval_mode(model):
        try:
            whole = run_until(model, UNEMBED_IN, tokens, mask)
            resid = run_until(model, resid_post(layer), tokens, mask)
            with resumed(model, layer, resid):
                found = run_until(model, UNEMBED_IN, tokens, mask)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):
            return False
    tolerance = AGREES if whole.dtype == torch.float32 else 100 * AGREES
    return bool((found - whole).abs().max() <= tolerance * whole.abs().max())
