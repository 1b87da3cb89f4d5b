"""Dtypes of weights and of states, as they are given: torch's own, or their names."""

from collections.abc import Sequence

import torch

from steerlens.maths.brief import brief

FLOATS = ("float32", "bfloat16", "float16")
"""What models are loaded in and states are stored in."""


def as_dtype(given: str | torch.dtype, among: Sequence[str] = FLOATS) -> torch.dtype:
    """Return a dtype of floating-point numbers, given as it is or by its name.

    Args:
        given: e.g. `torch.bfloat16` or "bfloat16".
        among: names of those that can be used.

    Raises:
        ValueError: another dtype, or something that is none.

    Example:
        >>> as_dtype("bfloat16"), as_dtype(torch.float32)
        (torch.bfloat16, torch.float32)
    """
    name = str(given).removeprefix("torch.")
    if name not in among:
        raise ValueError(f"dtype: got {brief(given)}, expected one of {', '.join(among)}")
    return getattr(torch, name)
