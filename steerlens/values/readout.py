"""The frozen read-out of a language model: final hidden states in, logits out."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.head import Head, logits

PART = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte of a character in the spelling of a token that holds part of it."""


@dataclass(frozen=True, eq=False)
class Readout:
    """The map from context vectors to logits that a steer lives on.

        logits = softcap · tanh(z / softcap)    with    z = scale · (c W_U + b_U)

    (no `tanh` where `softcap` is None). `c` is the input of the unembedding, after the final norm: TransformerLens'
    `unembed.hook_in`. Tensors are the model's own, not copies; nothing here writes to them.

    Args:
        W_U: unembedding, `[d_model, d_vocab]`; a column is an output word embedding.
        b_U: bias, `[d_vocab]`.
        tokens: the string of each token, a leading space kept, "" where no token has the id. There may be fewer than
            `d_vocab`: the rows beyond are padding. Neither is ever sampled or in word lists.
        special: ids of tokens that stand for no text (end of text, padding, …).
        scale, softcap: what the model does to the logits afterwards.
        model_id: the model's name, for messages and files.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"]
    tokens: tuple[str, ...]
    special: frozenset[int] = frozenset()
    scale: float = 1.0
    softcap: float | None = None
    model_id: str = "model"

    def __post_init__(self) -> None:
        if self.W_U.ndim != 2 or self.b_U.shape != self.W_U.shape[1:]:
            raise ValueError(
                f"W_U, b_U: got shapes {tuple(self.W_U.shape)} and {tuple(self.b_U.shape)}, expected [d_model, d_vocab] "
                "and [d_vocab]; W_U is the transpose of a torch Linear's weight"
            )
        if len(self.tokens) > self.W_U.shape[1]:
            raise ValueError(f"tokens: got {len(self.tokens)} strings for {self.W_U.shape[1]} columns of W_U")

    @property
    def d_model(self) -> int:
        return self.W_U.shape[0]

    @property
    def d_vocab(self) -> int:
        return self.W_U.shape[1]

    @property
    def ordinary(self) -> list[int]:
        """Ids of all tokens that are not special; padding rows and unused ids are no tokens."""
        return [i for i, token in enumerate(self.tokens) if token and i not in self.special]

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """Ids below `n_tokens` that no token has: holes in the vocabulary."""
        return tuple(i for i, token in enumerate(self.tokens) if not token)

    @property
    def n_tokens(self) -> int:
        """Columns of `W_U` up to the last that the tokenizer can produce; see `unused`."""
        return len(self.tokens)

    @property
    def convex(self) -> bool:
        """Whether the likelihood of a linear steer is convex: not under a soft cap."""
        return self.softcap is None

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the basis: equal for equal values of `W_U`, `b_U`, `scale` and `softcap` whatever the
        storage (a float16 checkpoint read as float32 keeps its digest)."""
        seen = hashlib.blake2b(digest_size=16)
        seen.update(repr((tuple(self.W_U.shape), float(self.scale), self.softcap)).encode())
        for rows in (*self.W_U.detach().split(256), self.b_U.detach()):
            seen.update(rows.float().cpu().contiguous().numpy().data)
        return seen.hexdigest()

    @cached_property
    def tokenizer_digest(self) -> str:
        return hashlib.blake2b("\0".join(self.tokens).encode(), digest_size=16).hexdigest()

    @cached_property
    def word_ids(self) -> Int[Tensor, " n_words"]:
        """Ids of the columns that stand for text: no padding rows, no special tokens, no parts of a character."""
        text = (i for i, token in enumerate(self.tokens) if token.strip() and not PART.search(token))
        keep = [i for i in text if i not in self.special]
        return torch.tensor(keep, dtype=torch.long)

    def same_as(self, other: "Readout") -> bool:
        """Whether a matrix on one means the same on the other."""
        return self is other or (self.W_U.shape == other.W_U.shape and self.digest == other.digest)

    @cached_property
    def head(self) -> Head:
        """Its numbers alone, in float32."""
        return Head(self.W_U.float(), self.b_U.float(), self.scale, self.softcap)

    def logits(self, c: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of context vectors, float32.

        Example:
            >>> import torch
            >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
            >>> r.logits(torch.tensor([1.0, 3.0]))
            tensor([1., 3.])
        """
        return logits(self.head, c.float())
