"""Starts workers, watches that they work, and tells how they ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .disturb import show_threads
from .report import Report

__all__ = ["KIND_NAMES", "Result", "run_worker"]

TESTS = Path(__file__).resolve().parents[1]

KIND_NAMES = (
    "timer", "keyboard", "asynchronous", "threads", "forks", "forks_in_handlers", "handlers", "finalizers",
    "compiling_handlers", "memory", "compiler", "first_calls", "disk", "ending", "mixed",
)  # fmt: skip


@dataclass
class Result:
    """What one worker, or all of a kind, did and found."""

    kind: str
    workers: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.workers += other.workers
        self.counts.update(other.counts)
        self.faults += other.faults
        self.tracebacks += other.tracebacks

    def number(self, fault: str) -> int:
        return sum(found == fault for found, _ in self.faults)


def run_worker(
    kinds: Sequence[str],
    seed: int,
    seconds: float,
    tree: Path,
    hang: float = 20.0,
    cache: Path | None = None,
    threads: int = 3,
) -> Result:
    """Run a worker in a process of its own, with lossreg of a tree: each kind for some seconds."""
    with tempfile.TemporaryDirectory(prefix="lossreg-faults-") as name:
        folder = Path(name)
        report = Report(folder)
        own_cache = folder / "cache"
        if cache is None or "disk" in kinds:
            own_cache.mkdir(mode=0o700)
            cache = own_cache
        errors = folder / "stderr.txt"
        options = [f"--seconds={seconds}", f"--seed={seed}", f"--hang={hang}", f"--folder={folder}", f"--tree={tree}"]
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "faults.worker", *kinds, *options],
                env=environment(tree, cache, seed, threads), cwd=folder, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        code = _watch(process, report, hang)
        text = errors.read_text(errors="replace")
        result = Result(" ".join(kinds), counts=Counter(report.counts()), faults=report.faults())
    if code is None:
        result.faults.append(("hang", f"no step within {hang:g} s"))
    elif code < 0:
        result.faults.append(("crash", f"signal {-code} ({signal.Signals(-code).name})"))
    elif code:
        result.faults.append(("exception", f"the worker ended with status {code}: {last_line(text)}"))
    if result.number("crash") or result.number("hang") or code:
        result.tracebacks.append(text)
    return result


def environment(tree: Path, cache: Path, seed: int, threads: int) -> dict[str, str]:
    """Threads, compiled kernels, and for every third seed allocators that fill and check memory."""
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(TESTS)]),
        "LOSSREG_CACHE_DIR": str(cache),
        "LOSSREG_JIT": "1",
        "LOSSREG_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
    }
    if seed % 3 == 2:
        found |= {"PYTHONMALLOC": "debug", "MALLOC_PERTURB_": "165"}
    return found


def _watch(process: subprocess.Popen[bytes], report: Report, hang: float) -> int | None:
    """The exit status; None for a process that made no step for so many seconds, and was killed."""
    beats, since = -1, time.monotonic()
    try:
        while True:
            try:
                return process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
            now = report.counts()["beats"]
            if now != beats:
                beats, since = now, time.monotonic()
            elif time.monotonic() - since > hang + 5.0:  # a worker finds hangs of its children and threads itself
                show_threads(process.pid)
                return None
    finally:
        # The worker leads a group of its own: its children go with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
