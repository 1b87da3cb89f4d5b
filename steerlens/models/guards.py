"""What holds while a block runs a model: one thread has it, nothing compiled passes over hooks, they
are there at the end, and whatever was changed is put back.

Nothing here knows a library of models, so that adapters may use it too.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from threading import Lock, get_ident
from threading import enumerate as living
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch.utils.hooks import RemovableHandle

PAUSE = 0.002
"""Seconds between two looks at a model that another thread has."""

_NUMBERS = count()
_AROUND: ContextVar[frozenset[int]] = ContextVar("_AROUND", default=frozenset())
"""The numbers of the holds around this line. A task knows those that it was begun in, and none of
the tasks beside it."""


def of_this_thread() -> Callable[[], bool]:
    """Return what says whether it runs in the thread that this is called in: what a hook is to leave
    alone is run in another one.

    Example:
        >>> of_this_thread()()
        True
    """
    thread = get_ident()
    return lambda: get_ident() == thread


class _Hold:
    """That a thread has a model, for as long as this lives: a block that Ctrl-C ends before it can
    say so takes it along."""

    def __init__(self, by_user: bool, by_row: bool) -> None:
        self.thread, self.by_user, self.number = get_ident(), by_user, next(_NUMBERS)
        self.by_row, self.process = by_row, os.getpid()
        self.before = {thread.ident: thread for thread in living()} if by_user else {}
        self.over = False

    def admits(self) -> bool:
        """Return True for a pass of this block: of its own task, or of a task or thread that was
        begun inside.

        Raises:
            RuntimeError: its thread or task was there before the block, and would be steered by it
                unawares; or the block is over.
        """
        if self.over:
            raise RuntimeError(
                "model: a block `with steerlens.steered(...)` is over, but not what it steered: a part of the model that was "
                "copied inside (copy it outside), or a thread that was begun inside (wait for it there)"
            )
        thread = self.before.get(get_ident())  # dead, it left its number to a younger one
        if self.number not in _AROUND.get() and thread is not None and thread.is_alive():
            who = "task" if get_ident() == self.thread else "thread"
            raise RuntimeError(
                f"model: it was run while another {who} has it inside `with steerlens.steered(...)`, so its states are steered "
                f"there; leave that block first, begin this {who} inside of it to have it steered too, or load a second model"
            )
        return True

    @property
    def is_around(self) -> bool:
        return self.thread == get_ident() and self.number in _AROUND.get()


_HOLDS: WeakKeyDictionary[Any, WeakSet[_Hold]] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def exclusive(model: Any, *, by_user: bool = False, by_row: bool = False) -> Iterator[_Hold]:
    """Have a model to oneself inside the block; the same thread may enter again, and so may the
    tasks that are begun inside.

    Another thread's verb is waited for. Where another thread, or another task of the same thread's
    event loop, has a `steered` block open (`by_user`), which may wait for this one in its turn, it
    is an error at once. Ctrl-C may come before any line.

    Args:
        by_user: a `steered` block.
        by_row: it steers each row of a batch at a strength of its own.

    Raises:
        RuntimeError: another thread or task has the model inside `steerlens.steered`.
    """
    mine = _Hold(by_user, by_row)
    with _GUARD:
        holds = _HOLDS.setdefault(model, WeakSet())
    while not _take(holds, mine):
        time.sleep(PAUSE)
    try:
        _AROUND.set(_AROUND.get() | {mine.number})
        yield mine
        _check_innermost(holds, mine)
    finally:
        mine.over = True
        holds.discard(mine)
        _AROUND.set(_AROUND.get() - {mine.number})


def _around(model: Any) -> list[_Hold]:
    with _GUARD:
        return [hold for hold in _HOLDS.get(model, ()) if hold.is_around]


def is_steered(model: Any) -> bool:
    """Return whether this is inside a `steered` block of a model."""
    return any(hold.by_user for hold in _around(model))


def check_not_by_row(model: Any) -> None:
    """Raise inside a block that steers each row of a batch at a strength of its own: a verb puts
    texts into rows in an order of its own."""
    if any(hold.by_row for hold in _around(model)):
        raise RuntimeError(
            "model: inside `with steerlens.steered(...)` with a strength per row, where a verb puts texts into rows in an "
            "order of its own; give the intervention to the verb itself, with its strengths, or steer by one number"
        )


def _check_innermost(holds: WeakSet[_Hold], mine: _Hold) -> None:
    """Raise where a block is left before one that was entered after it: of two generators that take
    turns, each runs in the other's block too."""
    with _GUARD:
        younger = [hold for hold in holds if hold.by_user and hold.number > mine.number]
    if mine.by_user and any(hold.is_around for hold in younger):
        raise RuntimeError(
            "model: a block `with steerlens.steered(...)` was left before one that was entered after it, so what ran in the "
            "meantime was steered by both; run generators that hold a block each one after the other, or on two models"
        )


def _take(holds: WeakSet[_Hold], mine: _Hold) -> bool:
    """Take a model if no other thread has it, and return whether."""
    with _GUARD:
        others = [hold for hold in holds if not hold.is_around]
        if any(hold.process != os.getpid() for hold in others):
            raise RuntimeError(
                "model: this process was forked while another thread was running it, and that thread is not here to finish; "
                "fork before the thread begins, or start processes by 'spawn'"
            )
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


class _Block:
    """That a block is open, for as long as this lives."""


_OPEN: WeakSet[_Block] = WeakSet()
_STANCE_GUARD = Lock()
_stance: Any = None
"""What to leave when the last block ends; torch has one stance for all threads."""

if hasattr(os, "register_at_fork"):  # a child must not find one taken by a thread that it has not
    for _lock in (_GUARD, _STANCE_GUARD):
        os.register_at_fork(
            before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
        )


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
        with _STANCE_GUARD:
            if _stance is None:  # also where Ctrl-C kept the last block from leaving it
                _stance = torch.compiler.set_stance("force_eager")
            _OPEN.add(mine)
        yield
    finally:
        with _STANCE_GUARD:
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


def check_reached(sites: Sequence[str], reached: Collection[int]) -> None:
    """Raise where a pass ended without coming by a hook that was set for it: it was plain there.

    Args:
        sites: where there are hooks.
        reached: the numbers of those that were called.

    Example:
        >>> check_reached(["unembed.hook_in"], {0})
        >>> check_reached(["unembed.hook_in"], ())
        Traceback (most recent call last):
            ...
        RuntimeError: model: a pass ended without reaching 'unembed.hook_in', so it was not steered there. ...
    """
    missed = [site for k, site in enumerate(sites) if k not in reached]
    if missed:
        raise RuntimeError(
            f"model: a pass ended without reaching {missed[0]!r}, so it was not steered there. It leaves a module out, or "
            "multiplies by its weight past the module's hooks (a fused forward or loss, fast kernels for single tokens, an "
            "early exit), or hooks were taken away inside the block; leave that out, or fold the steer into the weights "
            "(steerlens.export.fold)"
        )


def check_still_there(hooks: Iterable[RemovableHandle]) -> None:
    """Raise where hooks of torch that were set for a block are gone at its end.

    What ran after they went was plain, and nothing in it would say so.

    Example:
        >>> import torch
        >>> handle = torch.nn.Linear(1, 1).register_forward_hook(lambda module, given, made: None)
        >>> check_still_there([])
        >>> check_still_there([handle])     # the module itself is gone
        Traceback (most recent call last):
            ...
        RuntimeError: model: hooks were taken away inside the block that had set them, so what ran after that was not steered. ...
    """
    if not all(hook.id in (hook.hooks_dict_ref() or ()) for hook in hooks):
        raise RuntimeError(
            "model: hooks were taken away inside the block that had set them, so what ran after that was not steered. "
            "model.reset_hooks() does it, and some libraries do at each call (pyvene); leave it out, or give them a "
            "folded copy of the model (steerlens.export.fold)"
        )
