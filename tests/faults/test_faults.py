"""Every kind of disturbance for a moment; `python -m tests.faults --minutes 30` is the long run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import disturb
from .disturb import Canaries, Interrupt, outcome_of
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


GROUPS = {
    "signals and threads": ("timer", "keyboard", "asynchronous", "threads", "mixed"),
    "forks and calls within calls": ("forks", "forks_in_handlers", "handlers", "finalizers", "compiling_handlers"),
    "failures": ("memory", "compiler"),
    "processes": ("first_calls", "disk", "ending"),  # by themselves: their children make the first calls
}


@pytest.mark.parametrize(("seed", "group"), list(enumerate(GROUPS)), ids=list(GROUPS))
def test_nothing_goes_wrong_when_calls_are_disturbed(seed: int, group: str, cache: Path) -> None:
    if group == "failures" and not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    result = run_worker(GROUPS[group], seed, 0.6, TREE, hang=40.0, cache=cache)
    assert not result.faults, "\n".join([*map(str, result.faults), *result.tracebacks])
    assert result.counts["calls"] > 0
    assert result.counts["interrupts"] + result.counts["forks"] > 0, "nothing was disturbed"


def test_every_kind_is_tested() -> None:
    assert sorted(KIND_NAMES) == sorted(name for names in GROUPS.values() for name in names)


# The harness sees what it looks for


PREPARED = """
import sys, time
from pathlib import Path
from faults.disturb import fork, wait_for_child, watch_for_signals
from faults.report import Report
report = Report(Path(sys.argv[1]))
"""


def found_by(code: str, folder: Path) -> Result:
    """What a script reports, with the modules of the harness."""
    path = os.pathsep.join([str(TREE), str(TREE / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + code, str(folder)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Result("script", faults=Report(folder).faults())


def test_a_late_write_into_freed_memory_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    """Whoever writes does it while the canaries wait."""
    report, zeros, fresh, out = Report(tmp_path), np.zeros, [], np.zeros(100, np.float32)

    def remember(size: int, dtype: Any) -> np.ndarray:
        fresh.append(zeros(size, dtype))
        return fresh[-1]

    def write_late(seconds: float) -> None:
        fresh[-1][-1] = out[7] = 1

    monkeypatch.setattr(np, "zeros", remember)
    Canaries(report).check("quiet", [1001], 0.0, out)
    assert not report.faults()
    monkeypatch.setattr(disturb.time, "sleep", write_late)
    Canaries(report).check("late", [1001, 12_000_003], 0.0, out)
    assert report.faults() == [
        ("canary", "late: 1 fresh arrays were written to, of [12000003] bytes"),
        ("canary", "late: out was written to after the call had returned"),
    ]


def test_a_child_that_hangs_is_killed_and_reported(tmp_path: Path) -> None:
    code = """
watch_for_signals()
assert wait_for_child(report, fork(report, lambda: time.sleep(60)), "sleeper", 0.3) is None
"""
    assert found_by(code, tmp_path).faults == [("hang", "sleeper: child still ran after 0.3 s")]


def test_an_error_that_only_follows_an_injected_one_is_reported() -> None:
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
