"""Medians of interleaved runs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import lossreg

from . import THREADS


def use_threads(count: int) -> None:
    """So many for everybody whose number can change while it runs."""
    from lossreg.ops.llvm import threads as pool

    getattr(lossreg, "set_num_threads", pool.set_num_threads)(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def seconds(call: Callable[[], Any], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def medians(calls: dict[str, Callable[[], Any]], runs: int, least: float = 0.02) -> dict[str, float]:
    """Seconds of each call. A slow moment of the machine meets all alike.

    Each turn takes at least `least` seconds. A short call is made once before its turn: its data and its own threads
    are back, and the threads of the one before, which go on looking for work for a while, have gone to sleep.
    """
    repeats = {}
    for name, call in calls.items():
        once = seconds(call)
        if once < 1:  # it may have compiled; what takes longer is slow, and warm now
            once = min(seconds(call), seconds(call))
        repeats[name] = max(1, min(2000, int(least / max(once, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            if repeats[name] > 1:
                seconds(call)
            times[name].append(seconds(call, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def copier(array: np.ndarray) -> Callable[[], Any]:
    """A copy of an array by two threads, into memory that is there: what the machine allows."""
    source = np.ascontiguousarray(array).reshape(-1)
    target = np.empty_like(source)
    if source.nbytes < 200_000:  # threads would cost more than the copy
        return lambda: np.copyto(target, source)
    pool = ThreadPoolExecutor(THREADS)
    parts = list(zip(np.array_split(target, THREADS), np.array_split(source, THREADS)))
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def arrays(result: Any) -> Iterable[np.ndarray]:
    """The numbers of (gradient, value), the first million of each array."""
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from arrays(part)
    else:
        yield np.asarray(result).reshape(-1)[:1_000_000].astype("d")


TOLERANCE = {"bfloat16": 3e-2, "float16": 1e-2, "float32": 1e-3, "float64": 1e-6}


def agree(first: Any, second: Any, dtype: str) -> bool:
    """Whether two libraries did the same work. Half-precision gradients of large means have a few bits only."""
    finest = float(np.finfo(dtype if dtype != "bfloat16" else "float32").smallest_subnormal)
    pairs = list(zip(arrays(first), arrays(second), strict=True))
    return all(np.abs(a - b).max() <= TOLERANCE[dtype] * np.abs(a).max() + 4 * finest for a, b in pairs)
