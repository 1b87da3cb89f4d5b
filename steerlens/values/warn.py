"""Warn the user in words, at the user's own line."""

import sys
import warnings


def warn_user(message: str) -> None:
    """Warn of what the caller's call came to, as if the first line outside this package had warned.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn_user("nothing was learnt")
        >>> caught[0].category
        <class 'UserWarning'>
    """
    frame, level = sys._getframe(), 1
    # a verb that is decorated is called by contextlib
    ours = ("steerlens.", "contextlib.")
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
