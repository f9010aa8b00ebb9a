"""Threads that help with compiled code.

A helper gets a job and runs it; nobody waits for helpers here. A job is a call of compiled code, which lets a helper in
only while the caller is inside as well, and lets the caller out only when all helpers have left (see `gate`). So a
helper that comes too late, or that is asked by a call that was interrupted, touches no array.

What is interrupted by a signal must leave no thread behind that nobody knows of. So helpers are not objects with states
of their own: they are plain threads that take jobs from a queue, and each change here is one call of C.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import threading
from collections.abc import Callable

from ...environment import ENVIRONMENT

__all__ = ["ask_helpers", "get_num_threads", "set_num_threads"]

Job = Callable[[], None]


class _Pool:
    """The helpers of one process."""

    def __init__(self, count: int) -> None:
        self.count = count
        """How many threads a call may use, the caller's among them."""
        # A signal handler may make a call while its own thread holds the lock.
        self.lock = threading.RLock()
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.helpers: list[int] = []
        """The identities of the threads that wait for jobs, or do one."""


def _all_cores() -> int:
    # A container or a batch system may leave this process fewer cores than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_pool = _Pool(ENVIRONMENT.threads or _all_cores())


def _forget() -> None:
    """In a forked child there are no threads but its own, and the lock may be that of another."""
    global _pool
    _pool = _Pool(_pool.count)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def get_num_threads() -> int:
    """How many threads compiled code may use, the caller's among them."""
    return _pool.count


def set_num_threads(count: int) -> None:
    """Let compiled code use so many threads, the caller's among them. Results are the same bits for every number."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"set_num_threads: expected a whole number of at least 1, got {count!r}.")
    _pool.count = count


def ask_helpers(job: Job, tasks: int) -> None:
    """Ask helpers to run a job of so many tasks, of which the caller does some; returns at once."""
    # A fork in a signal handler would replace the pool in between.
    pool = _pool
    # The caller is one of the threads.
    helpers = min(tasks, pool.count) - 1
    if helpers > len(pool.helpers):
        _start_helpers(pool, helpers)
    for _ in range(min(helpers, len(pool.helpers))):
        pool.jobs.put(job)


def _start_helpers(pool: _Pool, count: int) -> None:
    """Have so many helpers, or as many as there can be."""
    # Without the lock, two calls that begin at the same moment would both start what is missing.
    with pool.lock:
        missing = count - len(pool.helpers)
        # RuntimeError: there can be no more threads, or the interpreter is shutting down.
        with contextlib.suppress(RuntimeError):
            # One call of C: no signal handler runs between the start of a thread and its entry in the list.
            pool.helpers.extend(map(_thread.start_new_thread, [_help] * missing, [(pool.jobs,)] * missing))


def _help(jobs: queue.SimpleQueue[Job]) -> None:
    """Run jobs for ever; the end of the process ends this thread."""
    while True:
        job = jobs.get()
        # There may be no memory for what a job needs: then the caller does all the work.
        with contextlib.suppress(BaseException):
            job()
        # A helper that waits keeps nothing alive: neither the call's memory nor the code.
        del job
