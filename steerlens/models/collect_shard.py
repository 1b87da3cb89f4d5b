"""Run a model over prepared texts, and keep the final hidden states."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.maths.numbers import as_floats
from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter, apply_edits, read_out_states
from steerlens.models.prepared_texts import PreparedTexts
from steerlens.models.tokenization import Encoded, batch_tokens, batches, pad
from steerlens.values.intervention import UNEMBED_OUT, Intervention, Remembered
from steerlens.values.positions import TokenIndex, places_of
from steerlens.values.states import LogitEdit, Shard


class Under(NamedTuple):
    """The intervention that states are collected under, and its strength for each text."""

    intervention: Intervention | None
    strength: Float[Tensor, " n_texts"]

    def logit_edit(self, given: PreparedTexts) -> LogitEdit | None:
        """Return what it does to the logits of positions of these texts, None if nothing.

        Each position is a row of its own, as in cached generation.
        """
        if self.intervention is None:
            return None
        intervention, prompt = self.intervention, torch.tensor(given.encoded.prompt)
        if not any(site == UNEMBED_OUT for site, _ in intervention.edits(self.strength)):
            return None

        def edit(z: Tensor, text: Tensor, c: Tensor) -> Tensor:
            here = TokenIndex(*(t.to(z.device) for t in (prompt[text][:, None], prompt[text])))
            z = z[:, None]
            for site, function in intervention.edits(self.strength[text].to(z.device)):
                if isinstance(function, Remembered):
                    function(c[:, None], here)
                elif site == UNEMBED_OUT:
                    z = function(z, here)
            return z[:, 0]

        return edit


def strengths_of(strength: float | Sequence[float], n: int) -> Float[Tensor, " n_texts"]:
    """Return a strength per text, of one for all or of as many as there are texts."""
    given = as_floats(strength, "strength")
    if len(given) not in (1, n):
        raise ValueError(
            f"strength: got {len(given)} for {n} texts, expected one number, or one per text"
        )
    return torch.tensor(given).expand(n)


def collect_shard(
    model: Model, rows: list[int], encoded: Encoded, under: Under, dtype: torch.dtype, bar: tqdm
) -> Shard:
    """Return the states of some texts as one shard.

    Args:
        model: in evaluation mode.
        rows: of the texts, in the order of the shard's batches.
        encoded: all texts.
        under: the intervention, and the strength for each of all texts.
        dtype: of the stored states.
        bar: is told how many positions are done.

    Raises:
        ValueError: a state that is NaN or infinite.
    """
    W_U = adapter(model).W_U
    device = W_U.device
    n = sum(map(encoded.predicted, rows))
    # room for all at once: states that come to lie between what the layers leave behind would
    # scatter the memory
    shard = Shard(
        torch.empty(n, W_U.shape[0], dtype=dtype),
        *(torch.empty(n, dtype=torch.int32) for _ in range(2)),
    )
    start = 0
    for batch in batches([len(encoded.ids[row]) for row in rows], batch_tokens(W_U)):
        picked = [rows[i] for i in batch]
        tokens, mask = pad([encoded.ids[row] for row in picked])
        places = places_of(mask, torch.tensor([encoded.prompt[row] for row in picked]))
        edits = (
            ()
            if under.intervention is None
            else under.intervention.edits(under.strength[picked].to(device))
        )
        here = TokenIndex(*(t.to(device) for t in places))
        with apply_edits(model, edits, lambda _, t, here=here: here):
            c = read_out_states(model, tokens.to(device), mask.to(device))
        # a position counts where the token after it is real and to be predicted
        real = places.index[:, 1:] >= places.prompt[:, None]
        found = slice(start, start + int(real.sum()))
        shard.hidden[found] = c[:, :-1][real.to(device)].to(device="cpu", dtype=dtype)
        shard.next[found] = tokens[:, 1:][real].int()
        shard.text[found] = torch.tensor(picked, dtype=torch.int32)[:, None].expand_as(real)[real]
        bar.update(found.stop - start)
        start = found.stop
    if not bool(shard.hidden.isfinite().all()):
        row = int(shard.text[~shard.hidden.isfinite().all(1)][0])
        wider = "store them as bfloat16, " if dtype == torch.float16 else ""
        raise ValueError(
            f"model: its states over text {row} hold NaN or infinity (dtype {W_U.dtype}, strength "
            f"{float(under.strength[row]):g}); {wider}take a smaller strength, or load the model with dtype='float32'"
        )
    return shard
