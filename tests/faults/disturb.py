"""Errors at random moments, memory that tells who writes to it, and children that may hang."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .report import Report

__all__ = [
    "Canaries", "Failure", "Injected", "Interrupt", "Outcome", "Shortage", "Timeout", "Timer", "busy_threads",
    "count_inside", "fork", "outcome_of", "show_threads", "status_name", "wait_for_child", "watch_for_signals", "where_of",
]  # fmt: skip


class Injected:
    """Marks the errors that this harness raises."""


class Interrupt(Injected, KeyboardInterrupt):
    """As Ctrl-C."""


class Timeout(Injected, TimeoutError):
    """As a time limit by SIGALRM, which programs catch with `except Exception`."""


class Shortage(Injected, MemoryError):
    """As a system without memory."""


class Failure(Injected, RuntimeError):
    """As a compiler that fails."""


class Outcome:
    """How a call ended. It holds no traceback, whose frames would keep the arrays of the call alive."""

    def __init__(self, result: Any = None, injected: bool = False, other: str | None = None) -> None:
        self.result, self.injected, self.other = result, injected, other


def outcome_of(call: Callable[[], Any], allowed: tuple[type[BaseException], ...] = ()) -> Outcome:
    """Call, and tell an injected error from others."""
    try:
        return Outcome(_disturbed(call))
    except BaseException as error:
        # An error that merely follows an injected one is a finding; one that was raised from it is a translation.
        if isinstance(error, (Injected, *allowed)) or isinstance(error.__cause__, Injected):
            return Outcome(injected=True)
        return Outcome(other=f"{type(error).__name__}: {error} ({where_of(error)})")


def where_of(error: BaseException) -> str:
    """The innermost place in lossreg, or else anywhere, that an error came from."""
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places if "lossreg" in Path(place.filename).parts] or places
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "nowhere"


def _disturbed(call: Callable[[], Any]) -> Any:
    """The frame within which the timer raises: never in the code of the harness around it."""
    return call()


class Timer:
    """SIGALRM and SIGINT of the main thread, whose handler raises or does something else within a call."""

    def __init__(self, report: Report, chance: random.Random) -> None:
        self.report, self.chance = report, chance
        self.shots = 0
        self.action: Callable[[], None] = self.raise_error
        signal.signal(signal.SIGALRM, self._handler)
        signal.signal(signal.SIGINT, self._handler)

    def call(self, call: Callable[[], Any], seconds: float, allowed: tuple[type[BaseException], ...] = ()) -> Outcome:
        """Call with signals at random moments of about so many seconds; several, where cleaning up is hit as well."""
        chance = self.chance
        within = chance.random() < 0.7
        delay = chance.uniform(1e-5, 1.2 * seconds) if within else 10 ** chance.uniform(-5.0, -2.0)
        self.shots = chance.randint(2, 5) if chance.random() < 0.4 else 1
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            return outcome_of(call, allowed)
        finally:
            self.shots = 0
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def raise_error(self) -> None:
        raise self.chance.choice([Interrupt, Timeout])

    def _handler(self, number: int, frame: Any) -> None:
        if self.shots <= 0 or not _within_call(frame):
            return
        self.shots -= 1
        self.report.count("interrupts")
        count_inside(self.report, frame)
        # Looking at threads takes longer than what is left of a kernel, so this is a sample.
        if self.chance.random() < 0.1:
            self.report.count("sampled")
            self.report.count("helping", busy_threads() > 0)
        # Armed by the handler itself: a timer with a period could fire faster than the handler runs.
        if self.shots > 0 and number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, 10 ** self.chance.uniform(-4.7, -2.7))
        self.action()


def count_inside(report: Report, frame: Any) -> None:
    """Count an interrupt that hit compiled code: the code around kernels, or what that calls."""
    while frame is not None and frame.f_code is not _disturbed.__code__:
        if frame.f_code.co_filename.rpartition("/lossreg/")[2].startswith(("ops/",)):
            report.count("inside")
            return
        frame = frame.f_back


def _within_call(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code is _disturbed.__code__:
            return True
        frame = frame.f_back
    return False


def busy_threads() -> int:
    """How many other threads of this process run at this moment, whoever started them. Linux only; 0 elsewhere."""
    busy, own = 0, str(threading.get_native_id())
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                state = Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
                busy += task != own and state == "R"
    return busy


class Canaries:
    """Fresh memory of the sizes that a call has just given back: whoever still writes there is seen."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def check(self, name: str, sizes: Iterable[int], seconds: float, out: np.ndarray | None = None) -> None:
        """Allocate at once, wait, and look. `out` belongs to the caller again, who fills it with something else."""
        # Zeros of the system cost nothing until they are touched: there is no moment in which a write goes unseen.
        arrays = [np.zeros(size, np.uint8) for size in sizes for _ in range(2 if size > 2**20 else 6)]
        if out is not None:
            out.fill(-77.25)
        time.sleep(seconds)
        hits = [x.nbytes for x in arrays if _has_bytes(x)]
        if hits:
            self.report.fault("canary", f"{name}: {len(hits)} fresh arrays were written to, of {hits[:3]} bytes")
        if out is not None and not (out == np.asarray(-77.25, out.dtype)).all():
            self.report.fault("canary", f"{name}: out was written to after the call had returned")


def _has_bytes(array: np.ndarray) -> bool:
    whole = len(array) // 8 * 8
    return bool(array[:whole].view(np.uint64).any() or array[whole:].any())


def fork(report: Report, work: Callable[[], None]) -> int:
    """Fork a child that does some work and ends at once; the number of its process."""
    report.count("forks")
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        work()
        code = 0
    except BaseException as error:
        report.fault("exception", f"in a forked child: {type(error).__name__}: {error} ({where_of(error)})")
    finally:
        os._exit(code)


def wait_for_child(report: Report, child: int, name: str, limit: float, fine: tuple[int, ...] = (0, 1)) -> int | None:
    """The exit status of a child; one that hangs shows its threads, is killed, and gives None."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            if code not in fine:
                report.fault("crash", f"{name}: child ended with {status_name(code)}")
            return code
        report.count("beats")
        time.sleep(0.001)
    report.fault("hang", f"{name}: child still ran after {limit:g} s")
    show_threads(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def show_threads(process: int) -> None:
    """Let another process write what its threads do. The main one comes first: writing of others that run may crash."""
    for number in (signal.SIGUSR2, signal.SIGUSR1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
        time.sleep(0.5)


def status_name(code: int) -> str:
    """Exit status or signal."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def watch_for_signals() -> None:
    """Write to stderr what threads do, at a crash and where `show_threads` asks."""
    faulthandler.enable(file=sys.__stderr__, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
    faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=False)
