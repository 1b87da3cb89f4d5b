"""What a fit needs from a language model, computed once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerlens.maths.brief import brief, class_name
from steerlens.maths.logits import apply_softcap
from steerlens.maths.numbers import as_count, as_number, generator
from steerlens.values.copies import group_rows
from steerlens.values.readout import Readout
from steerlens.values.texts import as_list, label_fault, plain_labels

LogitEdit = Callable[
    [Float[Tensor, "n vocab"], Int[Tensor, " n"], Float[Tensor, "n d_model"]],
    Float[Tensor, "n vocab"],
]
"""From logits of some positions, before scale and soft cap, the text of each and its context vector,
to what stands in their place."""


class Shard(NamedTuple):
    """Some positions: `hidden [n, d_model]`, the `next` token `[n]` and the index of their `text`
    `[n]`."""

    hidden: Float[Tensor, "n d_model"]
    next: Int[Tensor, " n"]
    text: Int[Tensor, " n"]


class StoredShard(NamedTuple):
    """A shard in a file, whose texts are counted on from those of other files.

    Args:
        path: of the file.
        first: is added to the index of each of its texts.
    """

    path: Path
    first: int = 0


def load_shard(stored: "Shard | Path | StoredShard") -> Shard:
    """Return a shard as it is, or from its file."""
    if isinstance(stored, Shard):
        return stored
    path, first = stored if isinstance(stored, StoredShard) else (stored, 0)
    shard = read_shard(path)
    return shard._replace(text=shard.text.long() + first) if first else shard


def read_shard(path: Path) -> Shard:
    """Return a shard from its file; the tensors are mapped, not read, until they are used."""
    try:
        with safe_open(str(path), framework="pt") as file:
            found = Shard(*(file.get_tensor(name) for name in Shard._fields))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: is not there any more, and states are read from it; was the folder moved? Put it back, or collect again"
        ) from None
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole shard of states ({error}); delete it and collect again"
        ) from None
    if min(int(part.min()) if len(part) else 0 for part in (found.next, found.text)) < 0:
        raise ValueError(f"{path}: was changed after it was written; delete it and collect again")
    return found


@dataclass(frozen=True, eq=False)
class States:
    """The final hidden states of a frozen model over labelled texts, with the token that follows
    each.

    A position is a context vector `c` (the input of the unembedding) and the token it should
    predict. Padding and tokens without a context are not among them. Shards in memory and on disk
    behave as one; sums over them add. Made by `steerlens.collect`.

    Args:
        readout: the read-out of the model they come from.
        shards: in memory (`Shard`) or on disk (the path of a safetensors file, or a `StoredShard`).
        labels: one per text, `[n_texts]`; the strength at which a steer should explain the text.
        lengths: positions per text, `[n_texts]`.
        keep: which texts count, `[n_texts]`; see `select`.
        n_truncated: texts that were longer than the model's context and were cut.
        copy_of: of each text the first that has the same tokens, itself where there is none,
            `[n_texts]`; None: no text is there twice. Copies stay together in `split`, and count
            once in a verdict.
        logit_edit: what the intervention they were read under does behind the unembedding, which
            `logits` carries out; None: nothing. `steerlens.collect` makes no such states.
    """

    readout: Readout
    shards: tuple[Shard | Path | StoredShard, ...]
    labels: Float[Tensor, " n_texts"]
    lengths: Int[Tensor, " n_texts"]
    keep: Bool[Tensor, " n_texts"]
    n_truncated: int = 0
    copy_of: Int[Tensor, " n_texts"] | None = None
    logit_edit: LogitEdit | None = None

    @property
    def d_model(self) -> int:
        return self.readout.d_model

    @property
    def n_texts(self) -> int:
        return int(self.keep.sum())

    @cached_property
    def n_positions(self) -> int:
        return int(self.lengths[self.keep].sum())

    def select(self, texts: Bool[Tensor, " n_texts"] | Iterable[bool]) -> "States":
        """Take the states of some texts only, named by a mask over all of them; nothing is
        copied.

        Raises:
            ValueError: no mask, or one over another number of texts.
        """
        mask = texts if isinstance(texts, Tensor) else torch.tensor(as_list("texts", texts))
        if mask.dtype != torch.bool or mask.ndim != 1:
            raise ValueError(
                f"texts: got {brief(texts)}, expected a mask, one truth value for each of {len(self.keep)} texts"
            )
        if len(mask) != len(self.keep):
            raise ValueError(f"texts: got a mask over {len(mask)} texts, expected {len(self.keep)}")
        return replace(self, keep=self.keep & mask)

    def relabel(self, labels: Iterable[Any]) -> "States":
        """Return the same states under other labels, one per text in any sequence.

        So a second attribute needs no second pass of the model.

        Raises:
            ValueError: another number of labels than texts, a label that is no number in [-1, 1].
        """
        values = as_list("labels", labels)
        if len(values) != len(self.labels):
            raise ValueError(
                f"labels: got {len(values)}, expected {len(self.labels)} numbers in [-1, 1], one per text"
            )
        plain = plain_labels(values, lambda row, label: label_fault(row, label, values))
        return replace(self, labels=torch.tensor(plain, dtype=torch.float32))

    def chunks(
        self, size: int, *, seed: int | None = None, device: torch.device | None = None
    ) -> Iterator[Shard]:
        """Yield all positions, at most `size` at a time, in stored order, or shuffled by a seed.

        Shuffling goes shard by shard; shards are random samples of the texts, so this is as good as
        shuffling all. With a device each shard goes there whole, so that a loop over its chunks
        never waits for the host.
        """
        random = None if seed is None else generator(seed)
        n = len(self.shards)
        for index in range(n) if random is None else torch.randperm(n, generator=random).tolist():
            shard = load_shard(self.shards[index])
            rows = None if bool(self.keep.all()) else self.keep[shard.text].nonzero().squeeze(1)
            if random is not None:
                count = len(shard.text) if rows is None else len(rows)
                order = torch.randperm(count, generator=random)
                rows = order if rows is None else rows[order]
            if device is not None:
                shard = Shard(*(tensor.to(device) for tensor in shard))
                rows = None if rows is None else rows.to(device)
            for start in range(0, len(shard.text) if rows is None else len(rows), size):
                pick = slice(start, start + size) if rows is None else rows[start : start + size]
                yield Shard(
                    shard.hidden[pick].float(), shard.next[pick].long(), shard.text[pick].long()
                )

    def sample(self, n_positions: int, *, seed: int) -> "States":
        """Take random texts that hold about `n_positions` positions; all where there are no
        more."""
        as_count(n_positions, "n_positions", "a whole number, at least 1, e.g. 16_384")
        kept = self.keep.nonzero().squeeze(1)
        order = kept[torch.randperm(len(kept), generator=generator(seed))]
        n = int((self.lengths[order].cumsum(0) < n_positions).sum()) + 1
        mask = torch.zeros_like(self.keep)
        mask[order[:n]] = True
        return self.select(mask)

    def split(self, share: float, *, seed: int) -> tuple["States", "States"]:
        """Split at random by text, the first part with `share` of the texts (at least one each).

        Copies are in one part.
        """
        expected = "a part of 1, e.g. 0.8"
        if not 0 <= as_number(share, "share", expected) <= 1:
            raise ValueError(f"share: got {share}, expected {expected}")
        kept = self.keep.nonzero().squeeze(1)
        if len(kept) < 2:
            raise ValueError(f"states: {len(kept)} text cannot be split in two; collect more texts")
        groups = kept if self.copy_of is None else self.copy_of[kept].unique()
        if len(groups) < 2:
            raise ValueError(
                f"states: all {len(kept)} texts are copies of one, which cannot be split; collect other texts"
            )
        cut = min(max(round(share * len(groups)), 1), len(groups) - 1)
        order = groups[torch.randperm(len(groups), generator=generator(seed))]
        mask = torch.zeros_like(self.keep)
        mask[order[:cut]] = True
        mask = mask if self.copy_of is None else mask[self.copy_of]
        return self.select(mask), self.select(~mask)

    def copies(self, *, by_label: bool = False) -> list[list[int]]:
        """Return the rows of each text (of each of its labels), of those that are kept."""
        kept = self.keep.nonzero().squeeze(1)
        texts = kept if self.copy_of is None else self.copy_of[kept]
        others = self.labels[kept] if by_label else texts
        groups = group_rows(zip(texts.tolist(), others.tolist(), strict=True))
        return [kept[rows].tolist() for rows in groups]

    def logits(self, positions: Shard) -> Float[Tensor, "n vocab"]:
        """Return the logits of some of the positions, on the read-out's device.

        What an intervention did behind the unembedding is done.
        """
        head = self.readout.head
        c = positions.hidden.to(head.W_U.device)
        z = c @ head.W_U + head.b_U
        if self.logit_edit is not None:
            z = self.logit_edit(z, positions.text.cpu(), c)
        return apply_softcap(head, z)

    def sum_by_text(self, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n_texts"]:
        """Return sums over the positions of each text, float64; positions in stored order."""
        text = torch.cat([chunk.text for chunk in self.chunks(1 << 16)])
        total = torch.zeros(*x.shape[:-1], len(self.labels), dtype=torch.float64)
        return total.index_add_(-1, text, x.double().cpu())

    def __repr__(self) -> str:
        memory = all(isinstance(shard, Shard) for shard in self.shards)
        where = "in memory" if memory else "on disk"
        return (
            f"States({self.n_texts} texts, {self.n_positions} positions, d_model={self.d_model}, {where}, "
            f"{self.n_truncated} truncated, from {self.readout.model_id!r})"
        )


def check_states(states: object, name: str = "states") -> None:
    """Raise, with the next step, where something else than states was given.

    Raises:
        ValueError: a model, texts, a fit; states of which no text is selected.
    """
    if not isinstance(states, States):
        raise ValueError(
            f"{name}: got {class_name(states)}, expected States; read the texts first: steerlens.collect(model, data)"
        )
    if not states.n_texts:
        raise ValueError(f"{name}: none of {len(states.labels)} texts is selected; select some")
