"""Write any value in few words."""

import re
import reprlib
import sys
from typing import Any

LINE_BREAK = re.compile(r"\s*\n\s*")

_SHORT = reprlib.Repr()
_SHORT.maxstring = 120
_SHORT.maxother = 80


def brief(value: Any) -> str:
    """Write a value as `repr` does, in one line and shortened in the middle: a model's would fill
    pages of a message.

    Example:
        >>> brief("stars")
        "'stars'"
        >>> len(brief("so dull . " * 1_000)), brief(range(0, 100, 7))
        (120, 'range(0, 100, 7)')
        >>> brief([0.5] * 1_000)
        '[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]'
        >>> import torch
        >>> brief(torch.zeros(2, 2))
        'tensor([[0., 0.], [0., 0.]])'
    """
    return LINE_BREAK.sub(" ", _SHORT.repr(value))


def class_name(value: Any) -> str:
    """Return the name of a value's class, and say where another has taken that name since the value
    was made, as reloading a package in a notebook does.

    Example:
        >>> class_name(0.5)
        'float'
    """
    made = type(value)
    now = getattr(sys.modules.get(made.__module__), made.__qualname__, made)
    if now is made:
        return made.__name__
    return f"{made.__name__} of before {made.__module__} was loaded anew (make it again, or restart the kernel)"
