"""Put back what a block changed, though Ctrl-C comes in between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def restoring(restore: Callable[[], None]) -> Iterator[None]:
    """Run the block, and restore afterwards, however it is left.

    It is done twice: Ctrl-C may come before any line, and where it comes in the midst of the one
    the other is whole.

    Args:
        restore: may be called again at no harm.

    Example:
        >>> here = [1]
        >>> with restoring(lambda: here.__setitem__(0, 1)):
        ...     here[0] = 2
        >>> here
        [1]
    """
    try:
        try:
            yield
        finally:
            restore()
    finally:
        restore()
