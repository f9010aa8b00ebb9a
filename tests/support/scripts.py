"""Scripts in processes of their own, and calls in threads of their own."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

SETUP = """
import atexit, os, signal, sys, threading, numpy as np, lossreg
loss, rng = lossreg.Huber(), np.random.default_rng(0)
x, t = rng.normal(size=400_000), rng.normal(size=400_000)
r = np.clip(x - t, -1, 1)
def helpers(): return lossreg.ops.llvm.threads._pool.helpers
def right(): return bool(np.isclose(loss.get_loss(x, t), np.mean(r * (x - t - 0.5 * r)), rtol=1e-12))
"""


def python(code: str, setup: str = SETUP, **environment: Any) -> str:
    """What a script prints in a process of its own, with three threads."""
    env = {**os.environ, "LOSSREG_JIT": "1", "LOSSREG_NUM_THREADS": "3"}
    env = {name: value for name, value in {**env, **environment}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", setup + code],
        capture_output=True, text=True, timeout=60, env=env,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Results of calls in a thread each; a deadlock fails."""
    results: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        results[i] = calls[i]()

    contexts = [contextvars.copy_context() for _ in calls]
    callers = [threading.Thread(target=c.run, args=(run, i), daemon=True) for i, c in enumerate(contexts)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    return results
