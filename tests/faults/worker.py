"""One process that disturbs calls in one way after the other: `python -m faults.worker KIND ... --seconds 10`."""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .disturb import Canaries, Outcome, Timer, watch_for_signals
from .report import Report

if TYPE_CHECKING:
    from .cases import Case

__all__ = ["Worker"]

FREE_GROWTH = 96 * 2**20
"""Bytes that a process may grow by: the C library keeps a few freed arrays of 12 to 36 MB."""


class Worker:
    """What every kind of disturbance needs: time, chance, cases, and checks after a call."""

    def __init__(self, seconds: float, seed: int, hang: float, folder: Path) -> None:
        from . import cases

        self.seconds, self.hang, self.folder = seconds, hang, folder
        self.report, self.chance = Report(folder), random.Random(seed)
        self.canaries, self.timer = Canaries(self.report), Timer(self.report, self.chance)
        self.cases = cases
        self.durations: dict[str, float] = {}
        self.end = float("inf")
        self.size_before: int | None = None
        self.tasks_before = task_count()

    def start(self) -> None:
        """Let the time of a kind begin."""
        self.end = time.monotonic() + self.seconds

    def running(self) -> bool:
        """Whether there is time left; tells who watches that this process works."""
        self.report.count("beats")
        return time.monotonic() < self.end

    @functools.cached_property
    def unprepared_cases(self) -> list[Case]:
        """Cases of which nothing has been computed."""
        return self.cases.shared_cases()

    @functools.cached_property
    def shared_cases(self) -> list[Case]:
        """Cases whose right bits are known, and how long each takes."""
        for case in self.unprepared_cases:
            self.prepared(case)
            began = time.perf_counter()
            case()
            self.durations[case.name] = time.perf_counter() - began
        return self.unprepared_cases

    def prepared(self, case: Case) -> Case:
        """A case whose right bits are known."""
        self.report.count("beats")
        return case.prepare()

    def count_call(self) -> None:
        self.report.count("calls")

    def look_at(self, case: Case, outcome: Outcome, out: Any = None, wait: float | None = None) -> None:
        """Right bits, or an injected error after which nobody writes anywhere."""
        self.count_call()
        result, outcome.result = outcome.result, None
        if outcome.other is not None:
            self.report.fault("exception", f"{case.name}: {outcome.other}")
        if result is not None and not case.is_right(result):
            self.report.fault("wrong bits", f"{case.name}: of a call that returned")
        del result
        if outcome.injected or outcome.other is not None:
            seconds = self.chance.choice([0.0005, 0.002, 0.008]) if wait is None else wait
            self.canaries.check(case.name, case.freed_sizes, seconds, out)

    def check_again(self, case: Case) -> None:
        """A call that nothing disturbs is right, and its inputs are what they were."""
        self.count_call()
        try:
            right = case.is_right(case())
        except Exception as error:
            self.report.fault("exception", f"{case.name}, undisturbed: {type(error).__name__}: {error}")
            return
        if not right:
            self.report.fault("wrong bits", f"{case.name}: of the next call, which nothing disturbed")
        if self.chance.random() < 0.1 and not case.inputs_are_unchanged():
            self.report.fault("inputs", f"{case.name}: an input was written to")

    def check_size(self) -> None:
        """The process does not grow from interrupt to interrupt; the first hundred are for warming up."""
        interrupts = self.report.counts()["interrupts"]
        if interrupts < 100 or not os.path.exists("/proc/self/statm"):
            return
        if self.size_before is None:
            self.size_before, self.interrupts_before = resident_bytes(), interrupts
        elif interrupts > self.interrupts_before + 300:
            grown = resident_bytes() - self.size_before
            if grown > FREE_GROWTH:
                after = interrupts - self.interrupts_before
                self.report.fault("memory", f"grew by {grown / 2**20:.0f} MB in {after} interrupts")
                self.size_before = None

    def check_threads(self, own: int, allowed: int) -> None:
        """No more threads than allowed, a moment after the last call."""
        if not os.path.exists("/proc/self/task"):
            return
        end = time.monotonic() + 3.0
        while (helpers := task_count() - self.tasks_before - own) > allowed - 1:
            if time.monotonic() > end:
                self.report.fault("threads", f"{helpers} helpers where {allowed - 1} are allowed")
                return
            time.sleep(0.02)


class Callers:
    """Threads that repeat something until they are told to end, whatever is raised in them."""

    def __init__(self, worker: Worker, steps: list[Callable[[], None]]) -> None:
        self.worker, self.ending = worker, threading.Event()
        self.threads: list[threading.Thread] = [self._start(step) for step in steps]
        self.steps = steps

    def _start(self, step: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._repeat, args=(step,), daemon=True)
        thread.start()
        return thread

    def _repeat(self, step: Callable[[], None]) -> None:
        while not self.ending.is_set():
            step()

    def revive(self) -> None:
        """Start again what an error between two steps has ended."""
        for i, thread in enumerate(self.threads):
            if not thread.is_alive():
                self.threads[i] = self._start(self.steps[i])

    def stop(self) -> None:
        """Wait for all; a thread that hangs ends the process, after showing where."""
        import faulthandler

        self.ending.set()
        end = time.monotonic() + self.worker.hang
        for thread in self.threads:
            while thread.is_alive() and time.monotonic() < end:
                thread.join(0.1)
                self.worker.report.count("beats")
            if thread.is_alive():
                self.worker.report.fault("hang", f"a calling thread did not end within {self.worker.hang:g} s")
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
                os._exit(0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def task_count() -> int:
    """Threads of this process, whoever started them; Python's alone where the system does not tell."""
    return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else threading.active_count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tree", type=Path, required=True)
    options = parser.parse_args()

    watch_for_signals()
    import lossreg

    if not Path(lossreg.__file__).is_relative_to(options.tree.resolve()):
        raise SystemExit(f"Wrong tree: expected lossreg of {options.tree}, got {lossreg.__file__}.")
    from .kinds import KINDS

    worker = Worker(options.seconds, options.seed, options.hang, options.folder)
    hooks = sys.unraisablehook, threading.excepthook
    for kind in options.kinds:
        worker.timer.action = worker.timer.raise_error
        sys.unraisablehook, threading.excepthook = hooks
        KINDS[kind](worker)


if __name__ == "__main__":
    main()
