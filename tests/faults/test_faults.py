"""Every kind of disturbance for a second; `python -m tests.faults --minutes 30` is the long run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from .report import FAULTS, Report
from .runner import KIND_NAMES, Result, run_worker

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals"),
]
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: Any) -> Path:
    """Machine code for all workers."""
    folder: Path = tmp_path_factory.mktemp("cache")
    return folder


@pytest.mark.parametrize("seed, kind", enumerate(KIND_NAMES), ids=KIND_NAMES)
def test_nothing_goes_wrong_when_calls_are_disturbed(seed: int, kind: str, cache: Path) -> None:
    if kind in ("memory", "mixed") and not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    result = run_worker(kind, seed, 0.8, TREE, hang=20.0, cache=cache)
    assert not result.faults, "\n".join([*map(str, result.faults), *result.tracebacks])
    assert result.counts["calls"] > 0
    assert result.counts["interrupts"] + result.counts["forks"] > 0, "nothing was disturbed"


# The harness sees what it looks for


PREPARED = """
import os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from faults.disturb import Canaries, Interrupt, Timer, outcome_of, wait_for_child, fork
from faults.report import Report
report = Report(Path(sys.argv[1]))
"""


def found_by(code: str, folder: Path) -> Result:
    """What a script reports, with the modules of the harness."""
    import subprocess

    path = os.pathsep.join([str(TREE), str(TREE / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + code, str(folder)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Result("script", faults=Report(folder).faults())


def test_a_late_write_into_freed_memory_is_seen(tmp_path: Path) -> None:
    code = """
import ctypes
array = np.zeros(3_000_000, np.float32)
address = array.ctypes.data
def write_late():
    for _ in range(2000):
        ctypes.memset(address + 8_000_000, 1, 64)
        time.sleep(0.00005)
writer = threading.Thread(target=write_late)
writer.start()
del array
Canaries(report).check("late", [12_000_000], 0.05)
out = np.zeros(3_000_000, np.float32)
address = out.ctypes.data
Canaries(report).check("late", [], 0.05, out)
writer.join()
"""
    details = [detail for fault, detail in found_by(code, tmp_path).faults if fault == "canary"]
    assert details[-1] == "late: out was written to after the call had returned"


def test_a_child_that_hangs_is_killed_and_reported(tmp_path: Path) -> None:
    code = """
from faults.disturb import watch_for_signals
watch_for_signals()
assert wait_for_child(report, fork(report, lambda: time.sleep(60)), "sleeper", 0.3) is None
"""
    assert found_by(code, tmp_path).faults == [("hang", "sleeper: child still ran after 0.3 s")]


def test_an_error_that_only_follows_an_injected_one_is_reported() -> None:
    from .disturb import Interrupt, outcome_of

    def broken() -> None:
        try:
            raise Interrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    def translated() -> None:
        try:
            raise Interrupt
        except Interrupt as error:
            raise ValueError("cannot compile") from error

    assert outcome_of(translated).injected
    outcome = outcome_of(broken)
    assert not outcome.injected
    assert outcome.other is not None
    assert outcome.other.startswith("RuntimeError: cannot release un-acquired lock")


def test_every_fault_is_a_column(tmp_path: Path) -> None:
    from .__main__ import COLUMNS

    report = Report(tmp_path)
    for fault in FAULTS:
        report.fault(fault, "two\nlines")
    assert report.faults() == [(fault, "two lines") for fault in FAULTS]
    assert len(COLUMNS) == 7 + len(FAULTS)
