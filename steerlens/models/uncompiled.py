"""Run what torch.compile made as it was written, so that hooks in it are heeded."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch


class _Block:
    """That a block is open, for as long as this lives."""


_OPEN: WeakSet[_Block] = WeakSet()
_GUARD = Lock()
_stance: Any = None
"""What to leave when the last block ends; torch has one stance for all threads."""


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run the block without compiled code.

    Code that was compiled without a hook passes over it in silence, and what is compiled with one
    keeps it when it is gone. Neither can be seen from outside (a `forward` that the user compiled,
    what `generate` compiles for a static cache), so while hooks of ours are set nothing compiled is
    run, and nothing is compiled.

    Example:
        >>> double = torch.compile(lambda x: 2 * x, backend="eager")
        >>> with uncompiled():
        ...     double(torch.ones(1))
        tensor([2.])
    """
    global _stance
    mine = _Block()
    try:
        with _GUARD:
            if _stance is None:  # also where Ctrl-C kept the last block from leaving it
                _stance = torch.compiler.set_stance("force_eager")
            _OPEN.add(mine)
        yield
    finally:
        with _GUARD:
            _OPEN.discard(mine)
            if not _OPEN and _stance is not None:
                _stance.__exit__(None, None, None)
                _stance = None


def as_written(model: Any) -> Any:
    """Return the model that `torch.compile(model)` holds, or the model itself.

    Example:
        >>> plain = torch.nn.Linear(1, 1)
        >>> as_written(torch.compile(plain)) is plain is as_written(plain)
        True
    """
    return getattr(model, "_orig_mod", model)
