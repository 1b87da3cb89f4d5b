"""One thread at a time in a model, and one task of an event loop: hooks and modes are the model's own,
so two at once would meet each other's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from threading import Lock, get_ident
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

PAUSE = 0.002
"""Seconds between two looks at a model that another thread has."""


_NUMBERS = count()
_AROUND: ContextVar[frozenset[int]] = ContextVar("_AROUND", default=frozenset())
"""The numbers of the holds around this line. A task knows those that it was begun in, and none of
the tasks beside it."""


class _Hold:
    """That a thread has a model, for as long as this lives: a block that Ctrl-C ends before it can
    say so takes it along."""

    def __init__(self, by_user: bool) -> None:
        self.thread, self.by_user, self.number = get_ident(), by_user, next(_NUMBERS)

    @property
    def is_around(self) -> bool:
        return self.thread == get_ident() and self.number in _AROUND.get()


_HOLDS: WeakKeyDictionary[Any, WeakSet[_Hold]] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def exclusive(model: Any, *, by_user: bool = False) -> Iterator[None]:
    """Have a model to oneself inside the block; the same thread may enter again, and so may the
    tasks that are begun inside.

    Another thread's verb is waited for. Where another thread, or another task of the same thread's
    event loop, has a `steered` block open (`by_user`), which may wait for this one in its turn, it
    is an error at once. Ctrl-C may come before any line.

    Raises:
        RuntimeError: another thread or task has the model inside `steerlens.steered`.
    """
    mine = _Hold(by_user)
    with _GUARD:
        holds = _HOLDS.setdefault(model, WeakSet())
    while not _take(holds, mine):
        time.sleep(PAUSE)
    try:
        _AROUND.set(_AROUND.get() | {mine.number})
        yield
    finally:
        holds.discard(mine)
        _AROUND.set(_AROUND.get() - {mine.number})


def _take(holds: WeakSet[_Hold], mine: _Hold) -> bool:
    """Take a model if no other thread has it, and return whether."""
    with _GUARD:
        others = [hold for hold in holds if not hold.is_around]
        # what this very thread has open is never waited for
        open_ones = (hold for hold in others if hold.by_user or hold.thread == mine.thread)
        if (other := next(open_ones, None)) is not None:
            who = "task" if other.thread == mine.thread else "thread"
            raise RuntimeError(
                f"model: another {who} has it inside `with steerlens.steered(...)`, so its states are steered there; "
                f"leave that block first, or load a second model for this {who}"
            )
        if not others:
            holds.add(mine)
        return not others
