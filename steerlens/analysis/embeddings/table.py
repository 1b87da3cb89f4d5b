"""Word embeddings of a model as a value, in the plain or in the causal inner product."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Literal, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief, class_name
from steerlens.maths.svd import symmetric_power
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model, adapter
from steerlens.models.readout import readout
from steerlens.values.arguments import check_kind
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.words import word_columns

Which = Literal["W_U", "W_E"]
Inner = Literal["plain", "causal"]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Embedding:
    """Words with their vectors, made by `embedding`.

    Args:
        words: each once up to case, which `find` does not see; `embedding` gives them in lower
            case.
        vectors: a row per word, float32, in coordinates in which the inner product is the usual
            one.
        name: for tables.

    Raises:
        ValueError: another number of words than of rows, a word twice, a vector with NaN or
            infinity.

    Example:
        >>> Embedding(("cat", "dog"), torch.eye(2)).find(["dog", "cow"])
        ([1], ('cow',))
    """

    words: tuple[str, ...]
    vectors: Float[Tensor, "words d"]
    name: str = "embedding"

    def __post_init__(self) -> None:
        different = len({word.lower() for word in self.words})
        if len(self.words) != len(self.vectors) or different != len(self.words):
            raise ValueError(
                f"words: got {len(self.words)} ({different} different up to case) for {len(self.vectors)} rows of vectors, "
                "expected each row's word once"
            )
        if not bool(self.vectors.isfinite().all()):
            at = int((~self.vectors.isfinite()).any(1).nonzero()[0, 0])
            raise ValueError(
                f"vectors: that of {self.words[at]!r} is not finite; look at the model's weights"
            )

    @cached_property
    def place(self) -> dict[str, int]:
        return {word.lower(): i for i, word in enumerate(self.words)}

    @cached_property
    def unit(self) -> Float[Tensor, "words d"]:
        """The vectors at length 1."""
        return torch.nn.functional.normalize(self.vectors, dim=1)

    def find(self, words: Iterable[str]) -> tuple[list[int], tuple[str, ...]]:
        """Return the rows of the words that are here, up to case, and the words that are not.

        The latter are no single token.
        """
        asked = list(words)
        rows = [self.place[w.lower()] for w in asked if w.lower() in self.place]
        return rows, tuple(dict.fromkeys(w for w in asked if w.lower() not in self.place))

    def given(
        self, name: str, values: Mapping[str, T]
    ) -> tuple[list[int], list[T], tuple[str, ...]]:
        """Return rows and values of the words that are here, each row once, and those that are not.

        Raises:
            ValueError: two spellings of a word with different values; `name` is the argument's, for
                the message.

        Example:
            >>> Embedding(("cat", "dog"), torch.eye(2)).given("labels", {"Dog": 1, "dog": 1, "cow": 0})
            ([1], [1], ('cow',))
        """
        if not hasattr(values, "items"):
            raise ValueError(
                f"{name}: got {class_name(values)}, expected a number for each word, e.g. {{'good': 1.0, 'bad': -1.0}}"
            )
        values = dict(values.items())  # a Series iterates over numbers, not words
        found: dict[int, T] = {}
        for word, value in values.items():
            i = self.place.get(word.lower())
            if i is not None and found.setdefault(i, value) is not value and found[i] != value:
                raise ValueError(
                    f"{name}: {self.words[i]!r} comes in two spellings with {found[i]!r} and {value!r}; give it once"
                )
        return list(found), list(found.values()), self.find(values)[1]

    def __repr__(self) -> str:
        return f"Embedding({self.name!r}, {len(self.words)} words, d={self.vectors.shape[1]})"


def check_embedding(emb: object, name: str = "emb") -> None:
    """Raise, with the next step, where something else than an embedding was given."""
    check_kind(
        emb,
        name,
        Embedding,
        "an Embedding; steerlens.analysis.embeddings.embedding(model) makes one",
    )


@dataclass(frozen=True, eq=False)
class ResultTable:
    """A table, and the words that had to be left out because they are no single token of the
    model."""

    table: pd.DataFrame
    dropped: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return self.table.round(3).to_html(index=False, escape=True) + self._note()

    def _note(self) -> str:
        if not self.dropped:
            return ""
        some = ", ".join(self.dropped[:12]) + (", …" if len(self.dropped) > 12 else "")
        return f"<p>Left out, as they are no single token ({len(self.dropped)}): {escape(some)}</p>"


@torch_defaults()
def embedding(
    model: Model | Readout,
    which: Which = "W_U",
    inner: Inner = "plain",
    *,
    states: States | None = None,
) -> Embedding:
    """Return the whole words of a vocabulary with their output (`W_U`) or input (`W_E`) embeddings.

        plain:   e                                causal:   Cov(e)^{-1/2} (e − E e)

    Logits are defined up to `e → Ae + b` with contexts to match, so the plain inner product of two
    output embeddings means nothing by itself: the causal one, `eᵀ Cov(e)⁻¹ e'`, does not depend on
    that choice (Park et al., arXiv 2311.03658). The covariance is taken over all tokens that stand
    for text, every one the same; for `W_E` over its own rows (the paper speaks of the unembedding
    alone). Whitening gives rare directions the weight of common ones: what it takes away with the
    choice of basis it pays for in noise (on a GPT-2 of d_model 192, analogies 0.39 plain and 0.24
    causal, WordSim 0.44 and 0.34), and principal components mean little afterwards. Many models tie
    their embeddings; then `W_E` holds the same rows as `W_U` and there is nothing to compare.

    Args:
        model: or its `Readout`, which has no `W_E`.
        which: the unembedding's columns or the embedding's rows.
        states: of a text; pieces of words that it mostly goes on with are then no words, see
            `word_columns`.
        inner: see above. A covariance with (nearly) empty directions is floored at 1e-6 of its
            largest eigenvalue.

    Raises:
        ValueError: `W_E` of a read-out, a name that is none of these, a vocabulary without whole
            words.

    Example:
        >>> import steerlens as sl
        >>> embedding(sl.load_model("toy-64"), "W_E").vectors.shape[1]
        64
    """
    if which not in ("W_U", "W_E") or inner not in ("plain", "causal"):
        raise ValueError(
            f"which, inner: got {brief(which)}, {inner!r}, expected 'W_U' or 'W_E', and 'plain' or 'causal'"
        )
    if which == "W_E" and isinstance(model, Readout):
        raise ValueError(
            "which: a Readout has no input embeddings; give the model itself for 'W_E'"
        )
    if isinstance(model, Readout):
        on, rows = model, model.W_U.mT
    else:
        on = readout(model)
        rows = on.W_U.mT if which == "W_U" else adapter(model).W_E
    rows = rows.detach().double().cpu()
    columns = word_columns(on, states)
    if not columns:
        raise ValueError(f"model: {on.model_id!r} has no token that is a whole word")
    if inner == "causal":
        text = rows[on.word_ids]
        covariance = (text - text.mean(0)).mT @ (text - text.mean(0)) / len(text)
        floor = 1e-6 * float(torch.linalg.eigvalsh(covariance)[-1])
        rows = (rows - text.mean(0)) @ symmetric_power(covariance, -0.5, floor)
    words = tuple(on.tokens[i].strip().lower() for i in columns)
    return Embedding(
        words,
        rows[columns].float(),
        f"{on.model_id} {which}{' causal' if inner == 'causal' else ''}",
    )


def require_at_least(
    name: str, kept: Sequence[object], least: int, dropped: tuple[str, ...]
) -> None:
    """Raise where too few of what was given is left."""
    if len(kept) < least:
        some = (
            f"; left out, as they are no single token: {', '.join(dropped[:8])}" if dropped else ""
        )
        raise ValueError(
            f"{name}: {len(kept)} of them can be used, expected at least {least}{some}"
        )
