"""When an intervention acts: conditions on where a token is, and on what the model is about to
say."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.maths.numbers import as_count
from steerlens.values.readout import Readout

BLOCK = 512
"""Positions whose logits are held at once."""

Asks = Literal["place", "context", "words"]


class Seen(NamedTuple):
    """What a condition may look at, for each token of a batch.

    `new` numbers the tokens: 1 is the first new one, 0 and below are the prompt's, last first. At
    the unembedding a state counts as the token that it predicts, in a layer as the token that was
    read. Padding is not `real`. `c` are the plain context vectors, at the unembedding alone, and
    `z` their logits before scale and soft cap, where they are known.
    """

    new: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    readout: Readout
    c: Float[Tensor, "batch pos d_model"] | None = None
    z: Float[Tensor, "batch pos vocab"] | None = None

    def context(self) -> Float[Tensor, "batch pos d_model"]:
        """Return the plain context vectors, which whoever asks for them is given."""
        assert self.c is not None
        return self.c


@runtime_checkable
class Condition(Protocol):
    """A frozen value that says how much of an intervention a token gets: 0 none, 1 all of it.

    `asks` says what it looks at: the `place` of a token, its `context` vector, or single `words`,
    for which `weight` has one number per word. `kind` names it in files and `pack` gives plain
    JSON; a class of one's own with these is a condition too, but for files.
    """

    kind: ClassVar[str]
    asks: ClassVar[Asks]

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos *words"]: ...


@dataclass(frozen=True)
class PromptTokens:
    """Holds in the prompt, begin-of-text included.

    What a model writes depends on its steered logits alone, and those of the prompt are not used:
    a *steer* under this condition changes nothing that is written. An intervention in a layer
    does.
    """

    kind: ClassVar[str] = "prompt tokens"
    asks: ClassVar[Asks] = "place"

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos"]:
        return (seen.real & (seen.new < 1)).float()

    def __str__(self) -> str:
        return "prompt"


@dataclass(frozen=True)
class NewTokens:
    """Holds at new tokens, from the `first`-th on, at every `every`-th of them.

    Example:
        >>> str(NewTokens(first=5)), str(NewTokens(every=3))
        ('from new token 5', 'every 3rd new token')
    """

    first: int = 1
    every: int = 1
    kind: ClassVar[str] = "new tokens"
    asks: ClassVar[Asks] = "place"

    def __post_init__(self) -> None:
        for name in ("first", "every"):
            object.__setattr__(self, name, as_count(getattr(self, name), name))

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos"]:
        since = seen.new - self.first
        return (seen.real & (since >= 0) & (since % self.every == 0)).float()

    def __str__(self) -> str:
        start = f"from new token {self.first}" if self.first > 1 else ""
        often = f"every {_ordinal(self.every)} new token" if self.every > 1 else ""
        return " ".join(filter(None, (often, start))) or "new tokens"


@dataclass(frozen=True)
class Schedule:
    """Lets the strength run from `start` at the first new token to `end`, `tokens` tokens later.

        weight = start + (end − start) · min((n − 1) / tokens, 1)        n = 1 the first new token

    The prompt has the weight `start`, everything later `end`. `Schedule(1, 0, 20)` fades out,
    `Schedule(0, 1, 20)` sets in.
    """

    start: float
    end: float
    tokens: int
    kind: ClassVar[str] = "schedule"
    asks: ClassVar[Asks] = "place"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected a weight from 0 (none of the steer) to 1 (all of it); "
                    "for more give a higher strength"
                )
        object.__setattr__(self, "tokens", as_count(self.tokens, "tokens"))

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos"]:
        gone = ((seen.new - 1).clamp_min(0) / self.tokens).clamp_max(1)
        return torch.where(seen.real, self.start + (self.end - self.start) * gone, 0.0)

    def __str__(self) -> str:
        return f"from {self.start:g} to {self.end:g} over {self.tokens} new tokens"


@dataclass(frozen=True)
class Entropy:
    """Holds where the plain model's prediction has an entropy above or below a bound, in nats.

    Where the entropy is low the next word is nearly settled (the rest of a word, a full stop), and
    where it is high the model has a choice. Costs one more product with `W_U` per token. Between
    both bounds where both are given.

    Example:
        >>> str(Entropy(above=1.5))
        'entropy > 1.5'
    """

    above: float | None = None
    below: float | None = None
    kind: ClassVar[str] = "entropy"
    asks: ClassVar[Asks] = "context"

    def __post_init__(self) -> None:
        given = [bound for bound in (self.above, self.below) if bound is not None]
        if not given or not all(math.isfinite(bound) for bound in given):
            raise ValueError(
                f"above, below: got {self.above} and {self.below}, expected a bound in nats, e.g. Entropy(above=1.5)"
            )
        if len(given) == 2 and not given[0] < given[1]:
            raise ValueError(
                f"above, below: got {self.above} and {self.below}, between which no entropy lies"
            )

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos"]:
        rows = seen.context().flatten(0, -2).split(BLOCK)
        found = torch.cat([plain_entropy(seen.readout, c) for c in rows])
        found = found.reshape(seen.new.shape)
        holds = torch.ones_like(found, dtype=torch.bool)
        if self.above is not None:
            holds &= found > self.above
        if self.below is not None:
            holds &= found < self.below
        return holds.float()

    def __str__(self) -> str:
        parts = [(">", self.above), ("<", self.below)]
        return " and ".join(
            f"entropy {sign} {bound:g}" for sign, bound in parts if bound is not None
        )


def plain_entropy(readout: Readout, c: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """Return the entropy of the prediction at context vectors, nats.

    Example:
        >>> r = Readout(torch.zeros(2, 4), torch.zeros(4), tuple("abcd"))
        >>> round(float(plain_entropy(r, torch.ones(1, 2)).exp()), 4)      # four words alike
        4.0
    """
    log_p = torch.log_softmax(readout.logits(c), -1)
    # a word that is barred has log 0, and adds nothing
    return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0).sum(-1)


@dataclass(frozen=True)
class Candidates:
    """Holds for the plain model's likeliest `top` words at each token, and for no other word.

    The logits of the others stay as they are, so that a steer cannot bring up a word the model had
    no use for. Of equal logits all are in.
    """

    top: int
    kind: ClassVar[str] = "candidates"
    asks: ClassVar[Asks] = "words"

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", as_count(self.top, "top"))

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos vocab"]:
        assert seen.z is not None
        if self.top >= seen.z.shape[-1]:
            return torch.ones_like(seen.z)
        return (seen.z >= seen.z.topk(self.top).values[..., -1:]).float()

    def __str__(self) -> str:
        return f"among the top {self.top}"


@dataclass(frozen=True, eq=False)
class About:
    """Holds where the context vector lies on one side of a plane: `c · vector > threshold`.

    Fitted from labelled texts ("where the text is about films") by
    `steerlens.methods.steer.about.fit_about`.

    Args:
        vector: `[d_model]`, in the basis of the read-out.
        threshold: what `c · vector` has to be above.
        readout: the read-out it lives on.
        name: what the text is about.

    Raises:
        ValueError: a vector of another width, or one that is not finite.
    """

    vector: Float[Tensor, " d_model"]
    threshold: float
    readout: Readout
    name: str = "it"
    kind: ClassVar[str] = "about"
    asks: ClassVar[Asks] = "context"

    def __post_init__(self) -> None:
        if self.vector.shape != (self.readout.d_model,):
            raise ValueError(
                f"vector: got shape {tuple(self.vector.shape)}, expected ({self.readout.d_model},)"
            )
        if not bool(torch.isfinite(self.vector).all()) or not math.isfinite(self.threshold):
            raise ValueError(f"vector, threshold of {self.name!r}: NaN or infinity")

    def weight(self, seen: Seen) -> Float[Tensor, "batch pos"]:
        c = seen.context()
        return (c.float() @ self.vector.to(c.device, torch.float32) > self.threshold).float()

    def __str__(self) -> str:
        return f"about {self.name}"


def _ordinal(n: int) -> str:
    last = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{last}"
