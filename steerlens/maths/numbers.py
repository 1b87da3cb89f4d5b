"""Numbers as users give them: one, several or a tensor, of Python, NumPy, pandas or torch."""

import hashlib
import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief

LARGEST = torch.finfo(torch.float32).max
"""What a number must not be beyond that multiplies tensors."""


def as_seed(seed: Any) -> int:
    """Return a seed as a plain integer, NumPy's and torch's too.

    Raises:
        ValueError: something else, such as None or 1.5, which would make a result that cannot be
            had again.

    Example:
        >>> as_seed(torch.tensor(3))
        3
    """
    try:
        found = operator.index(seed)
        torch.Generator().manual_seed(found)  # 64 bits hold it
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"seed: got {brief(seed)}, expected an integer of 64 bits, e.g. 0"
        ) from None
    return found


def generator(seed: Any) -> torch.Generator:
    """Return a random generator for a seed, any integer.

    Raises:
        ValueError: as from `as_seed`.

    Example:
        >>> bool(torch.rand(1, generator=generator(3)) == torch.rand(1, generator=generator(3)))
        True
    """
    return torch.Generator().manual_seed(as_seed(seed))


def generator_of(key: str) -> torch.Generator:
    """Return a random generator for a text: other words, other numbers.

    Example:
        >>> bool(torch.rand(1, generator=generator_of("a")) == torch.rand(1, generator=generator_of("b")))
        False
    """
    return generator(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest()))


def as_count(
    given: Any,
    name: str,
    expected: str = "a whole number, at least 1",
    *,
    least: int = 1,
    most: int | None = None,
) -> int:
    """Return one whole number as a plain int.

    Raises:
        ValueError: a fraction, text, a truth value, or one out of range; the message names the
            argument.

    Example:
        >>> as_count(torch.tensor(2), "samples")
        2
    """
    try:
        found = None if isinstance(given, bool) else operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found < least or (most is not None and found > most):
        raise ValueError(f"{name}: got {brief(given)}, expected {expected}")
    return found


def as_numpy_seed(seed: Any) -> int:
    """Return a seed in the form that NumPy takes, which has none below 0.

    Raises:
        ValueError: as from `as_seed`.

    Example:
        >>> as_numpy_seed(torch.tensor(3)), as_numpy_seed(-1) == 2**64 - 1
        (3, True)
    """
    return as_seed(seed) % 2**64


def numpy_generator(seed: Any) -> np.random.Generator:
    """Return NumPy's random generator for a seed, any integer.

    Raises:
        ValueError: as from `as_seed`.

    Example:
        >>> bool(numpy_generator(-1).random() == numpy_generator(-1).random())
        True
    """
    return np.random.default_rng(as_numpy_seed(seed))


def decimal(x: float) -> float:
    """Return the shortest decimal that float32 holds as the same number, as whoever wrote it down
    knows it.

    Example:
        >>> x = torch.tensor(0.2).item()
        >>> x == 0.2, decimal(x) == 0.2
        (False, True)
    """
    exact = torch.tensor(x, dtype=torch.float32)
    found = (float(f"{x:.{digits}g}") for digits in (6, 7, 8, 9))
    return next(y for y in found if torch.tensor(y, dtype=torch.float32) == exact)


def is_number(given: Any) -> bool:
    """Return whether something is one number, in whatever form.

    Example:
        >>> [is_number(x) for x in (2, torch.tensor(2.0), torch.ones(2), "2")]
        [True, True, False, False]
    """
    return isinstance(given, Real) or getattr(given, "ndim", None) == 0


def is_amount(given: Any) -> bool:
    """Return False for text and truth values, of which `float` makes numbers though they say none.

    Example:
        >>> [is_amount(x) for x in (2, "2", True, torch.tensor(True), np.ones(2))]
        [True, False, False, False, True]
    """
    dtype = str(getattr(given, "dtype", ""))
    return not isinstance(given, str | bytes | bool) and dtype not in ("bool", "torch.bool")


def as_number(given: Any, name: str, expected: str = "a finite number") -> float:
    """Return one finite number as a plain float.

    Raises:
        ValueError: text, a truth value, several numbers, NaN or infinity; the message names the argument.

    Example:
        >>> as_number(torch.tensor(2), "kl")
        2.0
    """
    try:
        if not is_amount(given):
            raise TypeError("what float() would read all the same")
        found = float(given.detach() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name}: got {brief(given)}, expected {expected}")
    return found


def as_floats(given: Any, name: str, *, least: int = 1) -> tuple[float, ...]:
    """Return one number or several as plain finite floats, in their order.

    Args:
        least: how many there have to be.

    Raises:
        ValueError: none at all, text, truth values, NaN or infinity; the message names the argument.

    Example:
        >>> as_floats(2, "strengths"), as_floats(torch.tensor([-1.0, 1.0]), "strengths")
        ((2.0,), (-1.0, 1.0))
    """
    try:
        numbers = (
            [given]
            if getattr(given, "ndim", 1) == 0 or not isinstance(given, Iterable)
            else list(given)
        )
        if not all(is_amount(x) for x in (given, *numbers)):
            raise TypeError("what float() would read all the same")
        found = tuple(float(x) for x in numbers)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name}: got {brief(given)}, expected a number or several, e.g. (-2, 0, 2)"
        ) from None
    if len(found) < least:
        raise ValueError(f"{name}: got none, expected at least one, e.g. (-2, 0, 2)")
    if not all(abs(x) <= LARGEST for x in found):
        raise ValueError(
            f"{name}: got {list(found)}, expected finite numbers, as float32 holds them"
        )
    return found


def as_numbers(given: Any, name: str, expected: str) -> Float[Tensor, "..."]:
    """Return numbers of any shape and form in float64.

    Raises:
        ValueError: text, NaN or infinity; the message names the argument.

    Example:
        >>> as_numbers([[1, 2]], "labels", "one row per text")
        tensor([[1., 2.]], dtype=torch.float64)
    """
    try:
        found = torch.as_tensor(given).double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = torch.tensor(math.nan)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: got {brief(given)}, expected {expected}, all finite")
    return found


def check_tensor(given: Any, name: str, expected: str) -> None:
    """Raise where something else than a tensor of floating-point numbers was given.

    Raises:
        ValueError: it was, an array of NumPy too, or a tensor that is not dense; the message names
            the argument.

    Example:
        >>> check_tensor(torch.ones(2, 2), "W", "[d_model, d_model]")
    """
    dense = isinstance(given, Tensor) and given.layout == torch.strided
    if not dense or not given.is_floating_point():
        got = type(given).__name__
        if isinstance(given, Tensor):
            got = str(given.dtype) if dense else f"a tensor of layout {given.layout}"
        raise ValueError(
            f"{name}: got {got}, expected a torch tensor of floating-point numbers, {expected}; "
            "torch.as_tensor(x).float() makes one"
        )
