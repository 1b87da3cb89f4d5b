"""One thread at a time in a model: hooks and modes are the model's own, so two at once would meet
each other's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary


@dataclass(eq=False)
class _Turn:
    """Whose turn it is with a model; `blocks` counts the open `steered` blocks of the thread that
    has it."""

    lock: Any = field(default_factory=RLock)
    blocks: int = 0


_TURNS: WeakKeyDictionary[Any, _Turn] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def exclusive(model: Any, *, by_user: bool = False) -> Iterator[None]:
    """Have a model to oneself inside the block; the same thread may enter again.

    Another thread's verb is waited for. Where another thread has a `steered` block open
    (`by_user`), which may wait for this thread in its turn, it is an error at once.

    Raises:
        RuntimeError: another thread has the model inside `steerlens.steered`.
    """
    with _GUARD:
        turn = _TURNS.setdefault(model, _Turn())
    while not turn.lock.acquire(timeout=0.05):
        if turn.blocks:
            raise RuntimeError(
                "model: another thread has it inside `with steerlens.steered(...)`, so its states are steered there; "
                "leave that block first, or load a second model for this thread"
            )
    try:
        turn.blocks += by_user
        yield
    finally:
        turn.blocks -= by_user
        turn.lock.release()
