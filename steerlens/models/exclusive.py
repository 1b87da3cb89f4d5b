"""One thread at a time in a model: hooks and modes are the model's own, so two at once would meet
each other's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

PAUSE = 0.002
"""Seconds between two looks at a model that another thread has."""


class _Hold:
    """That a thread has a model, for as long as this lives: a block that Ctrl-C ends before it can
    say so takes it along."""

    def __init__(self, by_user: bool) -> None:
        self.thread, self.by_user = get_ident(), by_user


_HOLDS: WeakKeyDictionary[Any, WeakSet[_Hold]] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def exclusive(model: Any, *, by_user: bool = False) -> Iterator[None]:
    """Have a model to oneself inside the block; the same thread may enter again.

    Another thread's verb is waited for. Where another thread has a `steered` block open
    (`by_user`), which may wait for this thread in its turn, it is an error at once. Ctrl-C may come
    before any line.

    Raises:
        RuntimeError: another thread has the model inside `steerlens.steered`.
    """
    mine = _Hold(by_user)
    with _GUARD:
        holds = _HOLDS.setdefault(model, WeakSet())
    while not _take(holds, mine):
        time.sleep(PAUSE)
    try:
        yield
    finally:
        holds.discard(mine)


def _take(holds: WeakSet[_Hold], mine: _Hold) -> bool:
    """Take a model if no other thread has it, and return whether."""
    with _GUARD:
        others = [hold.by_user for hold in holds if hold.thread != mine.thread]
        if any(others):
            raise RuntimeError(
                "model: another thread has it inside `with steerlens.steered(...)`, so its states are steered there; "
                "leave that block first, or load a second model for this thread"
            )
        if not others:
            holds.add(mine)
        return not others
