"""Two models' states at the same places of the same text."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.values.states import States


@dataclass(frozen=True, eq=False)
class Pairs:
    """The states of two models on one text without labels, and which of their positions stand at
    the same place.

    A place is a character offset: both models have read the text up to there and nothing beyond, so
    both contexts predict what comes next. Made by `steerlens.pair`; whatever is learned from it is
    learned from unlabelled text.

    Args:
        src, tgt: the states of the two models, on the same texts.
        rows: stored positions of the source and of the target at the same places, `[2, n]`.

    Raises:
        ValueError: states of different texts, states with labels, or no place in common.
    """

    src: States
    tgt: States
    rows: Int[Tensor, "2 n"]

    def __post_init__(self) -> None:
        if len(self.src.labels) != len(self.tgt.labels) or bool(
            self.src.labels.any() | self.tgt.labels.any()
        ):
            raise ValueError(
                "src, tgt: expected the states of two models on the same texts, without labels; collect both from a list of "
                "plain texts, or use steerlens.pair"
            )
        if not self.rows.shape[1]:
            raise ValueError(
                "rows: the two models' tokens end nowhere at the same place of these texts"
            )

    def __len__(self) -> int:
        return self.rows.shape[1]

    @cached_property
    def c_src(self) -> Float[Tensor, "n d_src"]:
        """The source's contexts, a row per place."""
        return hidden(self.src)[self.rows[0]]

    @cached_property
    def c_tgt(self) -> Float[Tensor, "n d_tgt"]:
        """The target's contexts, a row per place."""
        return hidden(self.tgt)[self.rows[1]]

    @property
    def share(self) -> float:
        """The part of the target's positions that have a counterpart; 1 with one tokenizer, or a
        little less."""
        return len(self) / self.tgt.n_positions

    def reverse(self) -> "Pairs":
        """Return the pairs with source and target exchanged."""
        return Pairs(self.tgt, self.src, self.rows.flip(0))

    def split(self, share: float, *, seed: int) -> tuple["Pairs", "Pairs"]:
        """Split at random by text, the first part with `share` of the texts.

        Both parts still hold the states of all texts.
        """
        text = torch.cat([chunk.text for chunk in self.tgt.chunks(1 << 16)])[self.rows[1]]
        found = text.unique()
        if len(found) < 2:
            raise ValueError(f"pairs: {len(found)} text cannot be split in two; give more texts")
        cut = min(max(round(share * len(found)), 1), len(found) - 1)
        picked = found[torch.randperm(len(found), generator=generator(seed))[:cut]]
        first = torch.isin(text, picked)
        return self._places(first), self._places(~first)

    def sample(self, n: int, *, seed: int) -> "Pairs":
        """Take `n` random places; all of them where there are no more."""
        keep = torch.zeros(len(self), dtype=torch.bool)
        keep[torch.randperm(len(self), generator=generator(seed))[:n]] = True
        return self._places(keep)

    def chunks(
        self, size: int
    ) -> Iterator[tuple[Float[Tensor, "some d_src"], Float[Tensor, "some d_tgt"]]]:
        """Yield `(c_src, c_tgt)`, at most `size` places at a time."""
        yield from zip(self.c_src.split(size), self.c_tgt.split(size), strict=True)

    def _places(self, keep: Bool[Tensor, " n"]) -> "Pairs":
        return replace(self, rows=self.rows[:, keep])

    def __repr__(self) -> str:
        return (
            f"Pairs({len(self)} places in {self.tgt.n_texts} texts, {self.src.readout.model_id!r} → "
            f"{self.tgt.readout.model_id!r}, {self.share:.0%} of the target's positions)"
        )


def hidden(states: States) -> Float[Tensor, "n d_model"]:
    """Return all contexts in stored order, float32."""
    return torch.cat([chunk.hidden for chunk in states.chunks(1 << 16)])
