"""Texts as a model will read them: encoded, counted and put in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter, convention
from steerlens.models.readout import readout
from steerlens.models.rows import check_prefix
from steerlens.models.steering import check_lives_on
from steerlens.models.tokenization import Encoded, encode, with_prefix
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.texts import as_texts


@dataclass(frozen=True, eq=False)
class PreparedTexts:
    """Texts as a model will read them."""

    readout: Readout
    encoded: Encoded
    labels: Float[Tensor, " n_texts"]
    lengths: Int[Tensor, " n_texts"]
    order: list[int]

    def states(self, shards: tuple[Shard | Path, ...]) -> States:
        """Return the states of these texts, given their shards."""
        keep = torch.ones(len(self.labels), dtype=torch.bool)
        first: dict[tuple[int, ...], int] = {}
        copies = [first.setdefault(tuple(ids), row) for row, ids in enumerate(self.encoded.ids)]
        copy_of = None if len(first) == len(copies) else torch.tensor(copies)
        return States(
            self.readout, shards, self.labels, self.lengths, keep, self.encoded.n_truncated, copy_of
        )


def prepare_texts(
    model: Model,
    data: Labelled | Iterable[str],
    intervention: Intervention | None,
    end: bool,
    seed: int,
    apart: bool = True,
) -> PreparedTexts:
    """Return texts as a model will read them under an intervention; `apart` as in `encode`.

    Raises:
        ValueError: no texts, none that holds a token to predict; an intervention of another model,
            or rows that this one does not read as tokens.
    """
    data = _labelled(data)
    on = readout(model)
    if intervention is not None:
        check_lives_on(intervention, model)
        check_prefix(intervention, model)
    prefix = 0 if intervention is None else intervention.prefix
    how = convention(model, on)
    how = how._replace(n_ctx=how.n_ctx - prefix)
    tokenizer = adapter(model).tokenizer
    encoded = encode(tokenizer, list(data.texts), how, end=end, prompts=data.prompts, apart=apart)
    encoded = with_prefix(encoded, prefix, tokenizer)
    lengths = torch.tensor([encoded.predicted(row) for row in range(len(encoded.ids))])
    order = torch.randperm(len(lengths), generator=generator(seed)).tolist()
    order = [row for row in order if lengths[row] > 0]
    if not order:
        raise ValueError("data: no text holds a token to predict")
    return PreparedTexts(on, encoded, torch.tensor(data.labels), lengths, order)


def _labelled(data: Labelled | Iterable[str]) -> Labelled:
    if isinstance(data, Labelled):
        return data
    texts = tuple(as_texts(data, "data"))
    return Labelled(texts, (0.0,) * len(texts))
