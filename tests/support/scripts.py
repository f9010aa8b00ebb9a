"""Scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
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
