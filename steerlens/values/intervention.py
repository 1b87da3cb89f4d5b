"""What can be put into a running model."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import is_number
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout

UNEMBED_IN = "unembed.hook_in"
"""The site of a steer: the input of the unembedding, after the final norm, in every TransformerLens
class."""
UNEMBED_OUT = "unembed.hook_out"
"""The site of what changes logits, before scale and soft cap."""


class Remembered:
    """An edit at the unembedding's input that changes nothing, and keeps what it saw.

    For an edit at `unembed.hook_out` of the same `edits` that has to know the context vectors. Each
    call of `edits` makes its own. Whoever gives logits to states that were read once shows it these
    states first.
    """

    def __init__(self) -> None:
        self._seen: Tensor | None = None

    def __call__(self, c: Tensor, places: TokenIndex) -> Tensor:
        self._seen = c
        return c

    def of(self, z: Tensor) -> Tensor:
        """Return the context vectors of these logits.

        Raises:
            RuntimeError: it saw none, or those of other positions.
        """
        if self._seen is None or self._seen.shape[:-1] != z.shape[:-1]:
            seen = None if self._seen is None else tuple(self._seen.shape)
            raise RuntimeError(
                f"an edit of logits {tuple(z.shape)} asks for their context vectors, and saw {seen}; run both edits of the "
                "intervention in one pass"
            )
        return self._seen


Edit = tuple[str, Callable[[Tensor, TokenIndex], Tensor]]
Strength = float | Tensor


@runtime_checkable
class Intervention(Protocol):
    """A frozen value that says which activations to replace by what, at a strength.

    `readout` is where it lives: a model with another `W_U` is refused. `edits(strength)` gives
    pairs of a TransformerLens hook name and a pure function from the activation `[batch, pos, …]`
    and its `TokenIndex` (whoever runs the model knows which tokens these are) to its replacement,
    of the same shape, dtype and device. `strength` is a number, or a tensor with one value per row
    of the batch. Several hooks on one site run in the order given. An edit at `unembed.hook_out`
    changes logits, `[batch, pos, vocab]`; it must not ask where in its text a token is, as texts
    that were read once are given their logits position by position. `prefix` is how many tokens it
    needs before the input, begin-of-text included; whoever runs the model puts fillers there.
    """

    @property
    def readout(self) -> Readout: ...

    @property
    def prefix(self) -> int: ...

    def edits(self, strength: Strength) -> tuple[Edit, ...]: ...


Part = tuple[str, float, str]
"""A term of a sum: name, coefficient, and what tells its matrix from others of that name."""


def check_parts(terms: Any) -> None:
    """Raise where something else than the terms of a sum was given."""
    if not isinstance(terms, tuple) or not all(
        isinstance(term, tuple)
        and len(term) == 3
        and isinstance(term[0], str)
        and is_number(term[1])
        and isinstance(term[2], str)
        for term in terms
    ):
        raise ValueError(
            f"terms: got {brief(terms)}, expected (name, coefficient, digest) each; algebra makes them"
        )


def added_name(name: str, other: str) -> str:
    """Return the name of the sum of two named things; what is called `-a` is taken away.

    Example:
        >>> added_name("joy", "-rude"), added_name("joy", "rude")
        ('joy - rude', 'joy + rude')
    """
    less = other.startswith("-") and " " not in other
    return sum_name(((name, 1.0), (other[1:], -1.0) if less else (other, 1.0)))


def scaled_name(name: str, factor: float) -> str:
    """Return the name of a multiple of a named thing.

    Example:
        >>> scaled_name("joy", 0.5), scaled_name("joy - rude", 2.0)
        ('0.5·joy', '2·(joy - rude)')
    """
    return sum_name(((f"({name})" if " " in name else name, factor),))


def sum_name(terms: Sequence[tuple[str, float]]) -> str:
    """Return the name of a sum of named things; different things of one name are told apart.

    Example:
        >>> sum_name((("joy", 0.7), ("rude", -0.3)))
        '0.7·joy - 0.3·rude'
        >>> sum_name((("steer", 1.0), ("steer", -1.0), ("a + b", -1.0)))
        'steer - steer′ - (a + b)'
    """
    text, times = "", Counter[str]()
    for name, k in terms:
        primes, size = "′" * times[name], "" if abs(k) == 1 else f"{abs(k):.3g}·"
        times[name] += 1
        parted = " " in name if size or primes else k < 0 and (" + " in name or " - " in name)
        wrapped = f"({name})" if parted and name[0] != "(" else name
        sign = (" - " if k < 0 else " + ") if text else ("-" if k < 0 else "")
        text += f"{sign}{size}{wrapped}{primes}"
    return text or "0"
