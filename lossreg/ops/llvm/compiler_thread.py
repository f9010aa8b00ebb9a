"""Work that must not be interrupted: imports of the compiler, and compiling.

Python runs signal handlers on the main thread, between any two steps of what it does there. A handler that raises would
leave the compiler's own locks and modules half way, and one that makes a call of its own would wait for what its thread
holds. So this work runs on a thread of its own, one piece at a time. The caller waits, and may be interrupted: then the
work goes on, and its result is there for the next call.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import functools
import os
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["undisturbed"]

Result = TypeVar("Result")

LOOK_AGAIN = 0.05
"""Seconds after which a waiting caller looks whether it is in a forked child, where nobody works for it."""


def undisturbed(work: Callable[[], Result]) -> Result:
    """The result of work that no signal handler interrupts; one piece of work is done at a time."""
    # A finalizer makes a call on the thread that works: waiting for itself, it would wait for ever.
    if _turn.owner == _thread.get_ident():
        return work()
    # A finalizer makes a call when the interpreter ends: no other thread runs any more.
    if sys.is_finalizing():
        return work()

    task, process = _Task(work), os.getpid()
    arguments = (_Token(),)
    token = weakref.ref(arguments[0])
    try:
        _thread.start_new_thread(task.run, arguments)
    except RuntimeError:
        # No more threads, or the interpreter is shutting down: this is the one case in which signals may disturb.
        task.run(*arguments)
    # Now the thread alone holds the token: it is there as long as the thread lives.
    del arguments

    while not task.done.acquire(timeout=LOOK_AGAIN):
        # Forked by a signal handler: the thread is the parent's.
        if os.getpid() != process:
            return undisturbed(work)
        if token() is None:
            # It may have ended between these two looks; if not, there was no memory for even its first step.
            if task.done.acquire(blocking=False):
                break
            raise MemoryError("no memory for the thread that compiles")
    return task.result()


class _Token:
    """What a thread holds as long as it lives."""


class _Task(Generic[Result]):
    """A piece of work, and what came of it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.results: list[Result] = []
        self.error: BaseException | None = None
        # A plain lock, which is released once: the objects of `threading` take several steps, and can be interrupted.
        self.done = _thread.allocate_lock()
        self.done.acquire()

    def run(self, token: _Token) -> None:
        """Work when it is this task's turn."""
        try:
            _turn.acquire()
            try:
                _turn.owner = _thread.get_ident()
                self.results.append(self.work())
            finally:
                _turn.owner = None
                _turn.release()
        # The caller raises it.
        except BaseException as error:
            self.error = error
            _clear_frames(error)
        finally:
            self.done.release()

    def result(self) -> Result:
        """The result, or the error as one of the caller's."""
        if self.error is not None:
            raise self.error
        return self.results[0]


def _clear_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold: objects of the compiler, whose end is work for this thread."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class _Turn:
    """A lock that is held by the thread that works, and over a fork: a child could not go on with half of the work.

    Python ignores what is raised in the hook of a fork, and would fork without the lock. So where there are forks, this
    is the lock of Python's C interface: waiting for it cannot be interrupted.
    """

    def __init__(self) -> None:
        self.owner: int | None = None
        self.acquire: Callable[[], Any]
        self.release: Callable[[], Any]
        if not hasattr(os, "register_at_fork"):
            lock = _thread.allocate_lock()
            self.acquire, self.release = lock.acquire, lock.release
            return

        # Other Python threads run while one waits, unlike with ctypes.pythonapi, which keeps the GIL.
        functions = ctypes.CDLL(None)
        functions.PyThread_allocate_lock.restype = ctypes.c_void_p
        functions.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
        functions.PyThread_release_lock.argtypes = [ctypes.c_void_p]
        functions.PyThread_release_lock.restype = None
        lock = functions.PyThread_allocate_lock()
        self.acquire = functools.partial(functions.PyThread_acquire_lock, lock, True)
        self.release = functools.partial(functions.PyThread_release_lock, lock)
        os.register_at_fork(before=self.acquire, after_in_parent=self.release, after_in_child=self.release)

    def wait(self) -> None:
        """Return when nobody works. What LLVM holds is destroyed at the end of the process: nobody may use it then."""
        self.acquire()
        self.release()


_turn = _Turn()
atexit.register(_turn.wait)
