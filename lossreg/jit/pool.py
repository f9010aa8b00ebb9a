"""Threads for compiled code. It claims its work itself, so a thread that comes late finds nothing left to do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import concurrent.futures

__all__ = ["get_num_threads", "run_everywhere", "set_num_threads"]


def _default() -> int:
    """$LOSSREG_NUM_THREADS; else $OMP_NUM_THREADS, which pools of processes set for their workers; else all cores."""
    for variable in ("LOSSREG_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").partition(",")[0]  # a list has one number for each level of nesting
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text and variable == "LOSSREG_NUM_THREADS":
            raise ValueError(f"LOSSREG_NUM_THREADS: expected a whole number of at least 1, got {text!r}.")
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count: int | None = None
        self.executor: concurrent.futures.ThreadPoolExecutor | None = None


_pool = _Pool()


def _forget() -> None:
    """In a forked child there are no threads but its own."""
    global _pool
    count = _pool.count
    _pool = _Pool()
    _pool.count = count


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def get_num_threads() -> int:
    """How many threads compiled code may use, the caller's among them."""
    if _pool.count is None:
        _pool.count = _default()
    return _pool.count


def set_num_threads(count: int) -> None:
    """Let compiled code use so many threads, the caller's among them. Results are the same bits for every number."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"set_num_threads: expected a whole number of at least 1, got {count!r}.")
    with _pool.lock:
        if _pool.executor is not None:
            _pool.executor.shutdown(wait=False)
        _pool.executor, _pool.count = None, count


class _Runs:
    """Runs of a task: helpers begin while the caller's own lasts, and all that have begun are waited for."""

    def __init__(self, task: Callable[[], None]) -> None:
        self.task, self.changed, self.open, self.running = task, threading.Condition(), True, 0
        self.errors: list[BaseException] = []

    def help(self) -> None:
        with self.changed:
            if not self.open:
                return
            self.running += 1
        try:
            self.task()
        except BaseException as error:
            self.errors.append(error)
        with self.changed:
            self.running -= 1
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.open = False
            while self.running:
                self.changed.wait()
        if self.errors:
            raise self.errors[0]


def run_everywhere(task: Callable[[], None], most: int) -> None:
    """Run a task on the caller's thread, and on up to `most` in all; return when every run has ended."""
    helpers = min(most, get_num_threads()) - 1
    runs = _Runs(task)
    if helpers > 0:
        with _pool.lock, contextlib.suppress(RuntimeError):  # no more threads, or the interpreter is shutting down
            if _pool.executor is None:
                import concurrent.futures

                _pool.executor = concurrent.futures.ThreadPoolExecutor(
                    max(1, get_num_threads() - 1), thread_name_prefix="lossreg"
                )
            for _ in range(helpers):
                _pool.executor.submit(runs.help)
    try:
        task()
    finally:
        runs.end()
