"""The frozen read-out of a language model: final hidden states in, logits out."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.brief import brief, class_name
from steerlens.maths.logits import UnembedWeights, logits
from steerlens.maths.numbers import as_number, check_tensor
from steerlens.values.texts import as_name

PART = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte of a character in the spelling of a token that holds part of it."""
NAME = re.compile(r"<[^<>\s]+>|\[[A-Za-z_]+\d*\]")
"""The spelling of a token that stands for no word: `<|reserved_special_token_0|>`, `[unused3]`, also
where the tokenizer does not say that it is special, and tags."""


@dataclass(frozen=True, eq=False)
class Readout:
    """The map from context vectors to logits that a steer lives on.

        logits = softcap · tanh(z / softcap)    with    z = scale · (c W_U + b_U)

    (no `tanh` where `softcap` is None). `c` is the input of the unembedding, after the final norm:
    TransformerLens' `unembed.hook_in`. Tensors are the model's own, not copies; nothing here writes
    to them.

    Args:
        W_U: unembedding, `[d_model, d_vocab]`; a column is an output word embedding.
        b_U: bias, `[d_vocab]`.
        tokens: the string of each token, a leading space kept, "" where no token has the id. There
            may be fewer than `d_vocab`: the rows beyond are padding. Neither is ever sampled or in
                word lists.
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
        check_tensor(self.W_U, "W_U", "[d_model, d_vocab]")
        check_tensor(self.b_U, "b_U", "[d_vocab]")
        if self.W_U.ndim != 2 or self.b_U.shape != self.W_U.shape[1:]:
            raise ValueError(
                f"W_U, b_U: got shapes {tuple(self.W_U.shape)} and {tuple(self.b_U.shape)}, expected [d_model, d_vocab] "
                "and [d_vocab]; W_U is the transpose of a torch Linear's weight"
            )
        kinds = set(map(type, self.tokens)) if isinstance(self.tokens, tuple) else {None}
        if not all(isinstance(kind, type) and issubclass(kind, str) for kind in kinds):
            raise ValueError(
                f"tokens: got {brief(self.tokens)}, expected a tuple with the string of each token"
            )
        if len(self.tokens) > self.W_U.shape[1]:
            raise ValueError(
                f"tokens: got {len(self.tokens)} strings for {self.W_U.shape[1]} columns of W_U"
            )
        if not isinstance(self.special, frozenset) or not all(
            isinstance(i, int) for i in self.special
        ):
            raise ValueError(
                f"special: got {brief(self.special)}, expected a frozenset of token ids"
            )
        if not as_number(self.scale, "scale", "a number but 0"):
            raise ValueError(f"scale: got {self.scale}, expected a number but 0")
        if self.softcap is not None and as_number(self.softcap, "softcap", "a number > 0") <= 0:
            raise ValueError(f"softcap: got {self.softcap}, expected a number > 0, or None")
        as_name(self.model_id, "model_id")
        # both are of the numbers as they are now: `W_U` is the model's own tensor and may be
        # trained on
        if not self.W_U.is_meta:  # tensors without numbers, on which only shapes are tried
            _ = self.checksum, self.digest

    def __repr__(self) -> str:
        after = "" if self.scale == 1 else f", scale={self.scale:.4g}"
        after += "" if self.softcap is None else f", softcap={self.softcap:g}"
        digest = "no numbers" if self.W_U.is_meta else self.digest[:8]
        sizes = f"d_model={self.d_model}, d_vocab={self.d_vocab}"
        return f"Readout({sizes}{after}, {self.W_U.dtype}, of {self.model_id!r} [{digest}])"

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
        """A fingerprint of the basis: equal for equal values of `W_U`, `b_U`, `scale` and `softcap`
        whatever the storage (a float16 checkpoint read as float32 keeps its digest). Taken when the
        read-out is made."""
        return self._digest_of(self.d_vocab)

    def _digest_of(self, n: int) -> str:
        """Return the fingerprint of the first `n` columns."""
        seen = hashlib.blake2b(digest_size=16)
        seen.update(repr(((self.d_model, n), float(self.scale), self.softcap)).encode())
        for rows in (*self.W_U[:, :n].detach().split(256), self.b_U[:n].detach()):
            seen.update(rows.float().cpu().contiguous().numpy().data)
        return seen.hexdigest()

    @cached_property
    def checksum(self) -> int:
        """The `bit_sum` of `W_U` and `b_U` when the read-out was made; far cheaper than the
        digest."""
        return bit_sum(self.W_U, self.b_U)

    def check_unchanged(self) -> None:
        """Raise where `W_U` or `b_U` was written to since the read-out was made.

        Raises:
            ValueError: it was, by an optimiser, an adapter that was merged, an edit of the model.
        """
        if not self.W_U.is_meta and bit_sum(self.W_U, self.b_U) != self.checksum:
            raise ValueError(
                f"W_U of {self.model_id!r} was changed in place (an optimiser step, a merged adapter, an edit) since "
                f"these numbers were made on it (digest {self.digest[:8]}); collect and fit anew on the model as it "
                "is now, or load the earlier one again"
            )

    def extends(self, digest: str, d_vocab: int) -> bool:
        """Return whether the first `d_vocab` columns are those of a digest.

        The vocabulary then only grew, and the basis is the same.
        """
        return d_vocab < self.d_vocab and self._digest_of(d_vocab) == digest

    @cached_property
    def tokenizer_digest(self) -> str:
        return hashlib.blake2b("\0".join(self.tokens).encode(), digest_size=16).hexdigest()

    @cached_property
    def word_ids(self) -> Int[Tensor, " n_words"]:
        """Ids of the columns that stand for text: no padding rows, no special tokens, no parts of a
        character."""
        text = (
            i
            for i, token in enumerate(self.tokens)
            if token.strip() and not PART.search(token) and not NAME.fullmatch(token.strip())
        )
        keep = [i for i in text if i not in self.special]
        return torch.tensor(keep, dtype=torch.long)

    def same_as(self, other: "Readout") -> bool:
        """Return whether a matrix on one means the same on the other.

        One vocabulary may have grown out of the other.
        """
        if self is other or self.digest == other.digest:
            return True
        small, large = sorted((self, other), key=lambda readout: readout.d_vocab)
        return small.d_model == large.d_model and large.extends(small.digest, small.d_vocab)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be worked out again, such as a copy of `W_U` in float32."""
        return {
            name: x for name, x in vars(self).items() if name not in ("head", "word_ids", "_copies")
        }

    @cached_property
    def head(self) -> UnembedWeights:
        """Its numbers alone, in float32."""
        return UnembedWeights(self.W_U.float(), self.b_U.float(), self.scale, self.softcap)

    def head_on(self, device: torch.device) -> UnembedWeights:
        """Return its numbers on a device: for a value that was made on another than its model's.

        Copied once per device.
        """
        if self.W_U.device == device:
            return self.head
        if device not in self._copies:
            head = self.head
            W_U, b_U = head.W_U.to(device), head.b_U.to(device)
            self._copies[device] = head._replace(W_U=W_U, b_U=b_U)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, UnembedWeights]:
        return {}

    def logits(self, c: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits of context vectors, float32.

        Example:
            >>> import torch
            >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
            >>> r.logits(torch.tensor([1.0, 3.0]))
            tensor([1., 3.])
        """
        return logits(self.head_on(c.device), c.float())


def check_readout(readout: object, name: str = "readout") -> None:
    """Raise, with the next step, where something else than a read-out was given."""
    if not isinstance(readout, Readout):
        raise ValueError(
            f"{name}: got {class_name(readout)}, expected a Readout; steerlens.readout(model) returns a model's"
        )


def bit_sum(*tensors: Float[Tensor, "..."]) -> int:
    """Return a sum over the bits of tensors, each row of storage with a weight of its own, modulo
    2⁶⁴.

    Any change that is not made to deceive changes it, also one that escapes torch's version counter
    (`p.data += 1`). One pass over the memory, some twenty times faster than a hash.

    Example:
        >>> x = torch.ones(2, 8)
        >>> before = bit_sum(x)
        >>> x.data[0, 0] += 1
        >>> bit_sum(x) == before
        False
    """
    total = 0
    for tensor in tensors:
        stored = tensor.detach()
        stored = stored.T if stored.ndim == 2 and stored.T.is_contiguous() else stored.contiguous()
        stored = stored if stored.numel() else stored.new_zeros(1, 8)
        wide = stored[0].numel() * stored.element_size() % 8 == 0
        # flat first: a row of one number may have any stride, which bits cannot be read through
        flat = stored.reshape(-1).view(torch.int64 if wide else torch.uint8)
        sums = flat.reshape(len(stored), -1).sum(1, dtype=torch.int64)
        weights = 2 * torch.arange(len(sums), device=sums.device) + 1
        total = (total * 31 + int((sums * (weights * 0x9E3779B1)).sum())) % (1 << 64)
    return total
