"""Write any value in few words."""

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = 120
_SHORT.maxother = 80


def brief(value: Any) -> str:
    """Write a value as `repr` does, shortened in the middle: a model's would fill pages of a message.

    Example:
        >>> brief("stars")
        "'stars'"
        >>> len(brief("so dull . " * 1_000)), brief(range(0, 100, 7))
        (120, 'range(0, 100, 7)')
        >>> brief([0.5] * 1_000)
        '[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]'
    """
    return _SHORT.repr(value)
